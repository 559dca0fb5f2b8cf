"""Pickles of images and answers, read without running anything that they ask for."""

import codecs
import mmap
import os
import pickle
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.formats.pickle_opcodes import (
    UnsafePickleError,
    check_name,
    check_opcodes,
    short,
)


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
