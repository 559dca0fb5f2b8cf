"""Verification sets in insightface's `.bin` files, read without running what a pickle asks for."""

import codecs
import mmap
import os
import pickle
import pickletools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from centerarc.data.source import EncodedSource
from centerarc.evaluation.files.lfw_pairs import rows_of_folds
from centerarc.evaluation.scores import BoolArray, IntArray, StrArray

# What a pickle may hold that is made of plain bytes, numbers and arrays.

# Not here: persistent ids, the extension registry, buffers from elsewhere, instances, dicts, sets.
_CONTROL = {"PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK"}
_NUMBERS = {"NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # of Python 2
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_LISTS = {"EMPTY_LIST", "LIST", "APPEND", "APPENDS"}
_TUPLES = {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_MEMORY = _PUTS | {"GET", "BINGET", "LONG_BINGET", "MEMOIZE"}
_ARRAYS = {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"}
_OPCODES = _CONTROL | _NUMBERS | _STRINGS | _BYTES | _TEXTS | _LISTS | _TUPLES | _MEMORY | _ARRAYS

_NAMES = {
    *(f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")),
    *(f"numpy.{core}.multiarray scalar" for core in ("core", "_core")),
    *(f"numpy.{core}.numeric _frombuffer" for core in ("core", "_core")),
    "numpy ndarray",
    "numpy dtype",
    "_codecs encode",  # how Python 3 writes bytes for protocols 0 to 2, and the empty ones:
    "__builtin__ bytes",
    "builtins bytes",
}

_BY_CODE = {opcode.code: opcode for opcode in pickletools.opcodes}
# Bytes that a length in front of an argument takes.
_WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
# A text of a hostile file is shown up to here.
_SHOWN = 60


class UnsafePickleError(ValueError):
    """A pickle asks for something other than plain bytes, numbers and arrays."""


def check_name(module: str, name: str = "") -> None:
    """Refuses what is none of the names that arrays and old byte strings need."""
    if f"{module} {name}" not in _NAMES:
        raise UnsafePickleError(
            f"the pickle asks for {short(f'{module}.{name}')!r}, which plain bytes and arrays "
            "never need; nothing of it was run"
        )


def short(text: str) -> str:
    """The beginning of a text from a file, for a message."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def check_opcodes(data: mmap.mmap, size: int) -> None:
    """Walks over all opcodes up to STOP without taking their arguments apart.

    Args:
        data: The file.
        size: Its length in bytes.

    Raises:
        UnsafePickleError: If there is an opcode or a name that plain data never needs, or
            something is remembered under a number that would make a table of any size.
        ValueError: If the file is cut off or damaged.
    """
    at, count, name = 0, 0, ""
    while name != "STOP":
        start = at
        opcode = _BY_CODE.get(chr(data[start])) if start < size else None
        if opcode is None:
            what = "cut off" if start >= size else "damaged or no pickle"
            raise ValueError(f"the file is {what} at byte {start} of {size}")
        name = opcode.name
        lines = 2 if name in ("GLOBAL", "INST") else 1
        at = _end(data, start + 1, None if opcode.arg is None else opcode.arg.n, lines)
        if at > size:
            raise ValueError(f"the file is cut off: {name} at byte {start} goes on to byte {at}")
        argument = slice(start + 1, at)
        if lines == 2:
            check_name(*data[argument].decode("latin-1").split("\n")[:2])
        if name not in _OPCODES:
            raise UnsafePickleError(
                f"the pickle holds {name} at byte {start}, which plain bytes and arrays never need"
            )
        # What is remembered stands in a table, which grows to the largest number that is put in.
        if name in _PUTS and _number(name, data[argument]) > count:
            raise UnsafePickleError(
                f"the pickle remembers something under number {_number(name, data[argument])} at "
                f"byte {start}, though only {count} steps were taken"
            )
        if name == "FRAME" and at + _number(name, data[argument]) > size:
            raise ValueError(f"the file is cut off: the frame at byte {start} is not all there")
        count += 1


def _end(data: mmap.mmap, at: int, length: int | None, lines: int) -> int:
    """Where an argument ends that starts at a byte; past the end of the data if it is cut off."""
    if length is None:
        return at
    if length >= 0:
        return at + length
    if length == pickletools.UP_TO_NEWLINE:
        for _ in range(lines):
            at = data.find(b"\n", at) + 1
            if not at:
                return len(data) + 1
        return at
    width = _WIDTHS[length]
    # A length below 0 is refused as one that no file holds.
    return at + width + int.from_bytes(data[at : at + width], "little")


def _number(name: str, argument: bytes) -> int:
    if name != "PUT":
        return int.from_bytes(argument, "little")
    # By length first: int() itself refuses thousands of digits.
    digits = argument.strip()
    if not digits.isdigit() or len(digits) > 19:
        raise UnsafePickleError("the pickle remembers something under what is no number")
    return int(digits)


# Pickles of images and answers, read without running anything that they ask for.


def read_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """Reads a pickle of lists, tuples, bytes, texts, whole numbers and plain numpy arrays.

    The file's opcodes are looked through first. What it names is not imported: the few names that
    arrays and old byte strings need (`numpy...multiarray._reconstruct`, `.scalar`,
    `numpy...numeric._frombuffer`, `numpy.ndarray`, `numpy.dtype`, `_codecs.encode`, `bytes`)
    stand for functions of this module, so none of numpy's own unpickling runs either. Memory is
    bounded by a small multiple of the file.

    Args:
        path: A pickle of protocol 0 to 5, of Python 2 or 3, numpy 1 or 2.

    Returns:
        What it holds. Byte strings of Python 2 are bytes; arrays and scalars of numpy are
        read-only arrays of bool, uint8 or whole numbers.

    Raises:
        UnsafePickleError: If it asks for anything else; the message names it.
        ValueError: If the file is empty, cut off or damaged. Messages leave the file's name out.
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise ValueError("the file is empty")
        # A map hands out what is there, however much is asked for; a file makes room first.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            check_opcodes(data, size)
            data.seek(0)
            try:
                return _value(_PlainUnpickler(data, size).load())
            except UnsafePickleError:
                raise
            except Exception as error:  # of damaged data the unpickler raises almost anything
                raise ValueError(f"the pickle is damaged: {short(str(error))}") from error


class _Refusing:
    """Has no state that a pickle could set; a `BUILD` on it is refused."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickleError(f"the pickle sets the state of {type(self).__name__.strip('_')}")


class _Array:
    """What `_reconstruct` makes: empty until its state comes, then a plain array."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: npt.NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise UnsafePickleError("the pickle sets an array's state to what no array has")
        shape, kind, column_major, data = state[-4:]
        self.value = _array(data, kind, shape, "F" if column_major else "C")


class _Kind:
    """A plain dtype, such as `|u1`, and the byte order that its state may bring."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any) -> None:
        text = code.decode("ascii", "replace") if isinstance(code, bytes) else code
        dtype = np.dtype(text) if isinstance(text, str) and text[-2:] in _KINDS else None
        if dtype is None:
            shown = repr(short(text)) if isinstance(text, str) else type(code).__name__
            raise UnsafePickleError(
                f"the pickle holds an array of dtype {shown}; bool, uint8 and whole numbers are "
                "read"
            )
        self.dtype: np.dtype[Any] = dtype

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, sub-array, names, fields, ...): none of the latter is plain.
        plain = isinstance(state, tuple) and len(state) > 4 and state[2:5] == (None,) * 3
        order = state[1] if plain else None
        order = order.decode("ascii", "replace") if isinstance(order, bytes) else order
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise UnsafePickleError("the pickle holds an array of structures or of sub-arrays")
        if self.dtype.itemsize > 1:
            self.dtype = np.dtype(order + self.dtype.str[1:])


class _Dtype(_Refusing):
    __slots__ = ()

    def __call__(self, code: Any, *flags: Any) -> _Kind:
        return _Kind(code)


class _Ndarray(_Refusing):
    __slots__ = ()


class _Reconstruct(_Refusing):
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        if not isinstance(kind, _Ndarray):
            raise UnsafePickleError("the pickle reconstructs something that is no numpy.ndarray")
        return _Array()


class _Scalar(_Refusing):
    __slots__ = ()

    def __call__(self, kind: Any, data: Any) -> npt.NDArray[Any]:
        return _array(data, kind, (), "C")


class _FromBuffer(_Refusing):
    __slots__ = ()

    def __call__(
        self, data: Any, kind: Any, shape: Any, order: Any, axes: Any = None
    ) -> npt.NDArray[Any]:
        if order not in ("C", "F") or axes is not None:
            raise UnsafePickleError("the pickle holds an array in an unusual order of axes")
        return _array(data, kind, shape, order)


class _Bytes(_Refusing):
    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


class _Encode(_Refusing):
    """`_codecs.encode(text, "latin1")`: how Python 3 writes bytes for protocols 0 to 2."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        # Each byte of the file pays for one; a text encoded again and again runs out.
        self.left = left

    def __call__(self, text: Any, codec: Any) -> bytes:
        latin = isinstance(codec, str) and codec.lower() in ("latin1", "latin-1")
        if not isinstance(text, str) or not latin:
            raise UnsafePickleError("the pickle calls _codecs.encode for something but latin1")
        self.left -= len(text)
        if self.left < 0:
            raise UnsafePickleError("the pickle asks for more bytes than its file holds")
        return codecs.latin_1_encode(text)[0]


_KINDS = frozenset({"u1", "b1", "i1", "i2", "i4", "i8", "u2", "u4", "u8"})
_STAND_INS = {
    "_reconstruct": _Reconstruct(),
    "scalar": _Scalar(),
    "_frombuffer": _FromBuffer(),
    "bytes": _Bytes(),
    "ndarray": _Ndarray(),
    "dtype": _Dtype(),
}


class _PlainUnpickler(pickle.Unpickler):
    """Gives stand-ins of this module for the names it knows, and refuses all others."""

    def __init__(self, file: Any, size: int) -> None:
        super().__init__(file, fix_imports=False, encoding="bytes")
        self._encode = _Encode(size)

    def find_class(self, module: str, name: str) -> Any:
        check_name(module, name)
        return self._encode if name == "encode" else _STAND_INS[name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise UnsafePickleError("the pickle refers to something outside it by a persistent id")


def _array(data: Any, kind: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
    if not isinstance(kind, _Kind):
        raise UnsafePickleError("the pickle holds an array without a plain dtype")
    if isinstance(data, str):  # a state of Python 2 that was written again after latin-1
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise UnsafePickleError(f"the pickle holds an array of {type(data).__name__}, not of bytes")
    sizes = shape if isinstance(shape, tuple) else ()
    if shape is not sizes or not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise UnsafePickleError("the pickle holds an array whose shape is no tuple of numbers")
    flat = np.frombuffer(data, dtype=kind.dtype)
    array = flat.reshape(sizes, order=order)
    array.flags.writeable = False
    return array


def _value(found: Any) -> Any:
    """Takes arrays out of what stood in for them, two levels deep, as far as a set goes."""
    if isinstance(found, list | tuple):
        return [_item(part) for part in found]
    return _item(found)


def _item(found: Any) -> Any:
    if isinstance(found, _Array):
        if found.value is None:
            raise UnsafePickleError("the pickle holds an array without a state")
        return found.value
    if isinstance(found, list | tuple):
        return [part.value if isinstance(part, _Array) else part for part in found]
    return found


# Verification sets in insightface's `.bin` files: encoded images and which pairs match.

NUM_FOLDS = 10


class BinSet(EncodedSource):
    """The images of a `.bin` verification set, each of them once, and its pairs; a `PairSet`.

    The file is a pickle of a list of 2 P encoded images, of which entries 2 i and 2 i + 1 are
    pair i, and a list of P answers. It is read by `read_plain_pickle`, which runs nothing. An
    image that comes several times, as most of LFW's do, is kept and embedded once. Folds are 10
    runs of pairs in the file's order, equally long up to one pair, as insightface has them.

    The file does not say who is on an image. Labels gather what genuine pairs link: two images
    of one label show one person, but a person may have several labels. So `people` is None, and
    no interval over people can be given.

    Args:
        path: The file.
        folds: Folds to keep, of 1 to 10; None keeps all.
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Attributes:
        labels: `(len,)` int64, a number for each set of images that genuine pairs link.
        identities: A made-up name for each label.
        index_a: `(P,)` the first image of each pair.
        index_b: `(P,)` the second one.
        same: `(P,)` whether both show one person.
        fold: `(P,)` fold of each pair, from 1.
        people: None.
        people_note: Why.
        columns: Empty.
        entries: `(len,)` int64, the first entry of the file's list that holds each image, from 0.

    Raises:
        UnsafePickleError: If the pickle asks for anything but bytes and plain arrays.
        ValueError: If the file is cut off or damaged, is no pair of lists, the lists do not fit,
            or an entry is no encoded image or no answer; the message names file and entry.
        OSError: If it cannot be read.
    """

    people: tuple[StrArray, StrArray] | None = None
    people_note = "a .bin file does not say who is on an image"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        folds: Iterable[int] | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__(image_size)
        self.path = Path(path)
        try:
            images, same = _lists(read_plain_pickle(path))
            fold = _contiguous_folds(same.size)
            rows = rows_of_folds(fold, folds)
            used = np.stack([2 * rows, 2 * rows + 1], axis=1).ravel()
            number, self.entries, distinct = _distinct(images, used)
        except OSError as error:
            raise OSError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
        except ValueError as error:
            kind = UnsafePickleError if isinstance(error, UnsafePickleError) else ValueError
            raise kind(f"{str(path)!r}: {error}") from error
        del images
        # One array for all: workers share it, and copy no page to count references.
        self._ends = np.cumsum([len(image) for image in distinct], dtype=np.int64)
        self._data = np.frombuffer(b"".join(distinct), dtype=np.uint8)
        self.index_a: IntArray = number[0::2]
        self.index_b: IntArray = number[1::2]
        self.same: BoolArray = same[rows]
        self.fold: IntArray = fold[rows]
        self.columns: dict[str, StrArray] = {}
        self.labels = _linked(self.index_a[self.same], self.index_b[self.same], len(distinct))
        self.identities = [f"unknown {label}" for label in range(int(self.labels.max()) + 1)]

    def __repr__(self) -> str:
        return f"BinSet({str(self.path)!r}: {self.same.size} pairs of {len(self)} images)"

    def encoded(self, index: int) -> bytes:
        """Returns the image file of image `index`; see `EncodedSource.encoded`."""
        start = int(self._ends[index - 1]) if index else 0
        return self._data[start : int(self._ends[index])].tobytes()

    def place(self, index: int) -> str:
        """Returns the file's name and the image's first entry in it, such as `lfw.bin[17]`."""
        return f"{self.path.name}[{self.entries[index]}]"


def _lists(found: Any) -> tuple[list[Any], BoolArray]:
    if not isinstance(found, list) or len(found) != 2:
        raise ValueError("the pickle must hold two lists, of images and of answers")
    images, answers = found
    if not isinstance(images, list) or not isinstance(answers, list | np.ndarray):
        kinds = " and ".join(type(part).__name__ for part in found)
        raise ValueError(
            f"the pickle must hold two lists, of images and of answers; it has {kinds}"
        )
    if isinstance(answers, np.ndarray) and answers.ndim != 1:
        raise ValueError(f"the answers are an array of shape {answers.shape}; it must be (P,)")
    if not len(answers):
        raise ValueError("there is no pair")
    if len(images) != 2 * len(answers):
        raise ValueError(
            f"{len(images)} images and {len(answers)} answers do not fit: each answer needs two "
            "images"
        )
    same = np.zeros(len(answers), dtype=np.bool_)
    for pair, answer in enumerate(answers):
        plain = answer.item() if isinstance(answer, np.ndarray | np.generic) else answer
        if not isinstance(plain, int) or plain not in (0, 1):
            shown = short(str(plain)) if isinstance(plain, int) else type(plain).__name__
            raise ValueError(f"answer {pair} is {shown}; it must be True or False")
        same[pair] = bool(plain)
    return images, same


def _contiguous_folds(num_pairs: int) -> IntArray:
    sizes = np.full(NUM_FOLDS, num_pairs // NUM_FOLDS)
    sizes[: num_pairs % NUM_FOLDS] += 1
    return np.repeat(np.arange(1, NUM_FOLDS + 1, dtype=np.int64), sizes)


def _distinct(images: list[Any], used: IntArray) -> tuple[IntArray, IntArray, list[bytes]]:
    """Numbers the images by content; where each comes first; their bytes."""
    number_of: dict[bytes, int] = {}
    # One object may be listed many times: it is turned into bytes once.
    known: dict[int, int] = {}
    numbers = np.empty(used.size, dtype=np.int64)
    first: list[int] = []
    for row, entry in enumerate(used.tolist()):
        image = images[entry]
        number = known.get(id(image))
        if number is None:
            number = number_of.setdefault(_bytes(image, entry), len(number_of))
            known[id(image)] = number
            if number == len(first):
                first.append(entry)
        numbers[row] = number
    return numbers, np.array(first, dtype=np.int64), list(number_of)


def _bytes(image: Any, entry: int) -> bytes:
    if isinstance(image, str):  # bytes of Python 2 that were read as latin-1 and written again
        try:
            image = image.encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError(f"image {entry} is a text, not the bytes of an image file") from None
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 1:
            raise ValueError(
                f"image {entry} is an array of {image.dtype} of shape {image.shape}; an image "
                "file's bytes, uint8 (n,), are read"
            )
        image = image.tobytes()
    if not isinstance(image, bytes | bytearray):
        raise ValueError(f"image {entry} is {type(image).__name__}; it must be bytes")
    if not image:
        raise ValueError(f"image {entry} is empty")
    return bytes(image)


def _linked(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """Numbers the sets of images that genuine pairs link, in order of first use."""
    parent = list(range(count))

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    label_of: dict[int, int] = {}
    return np.array(
        [label_of.setdefault(root(image), len(label_of)) for image in range(count)], dtype=np.int64
    )
