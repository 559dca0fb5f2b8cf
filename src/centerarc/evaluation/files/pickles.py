"""Pickles of plain bytes, numbers and arrays, read without running anything that they ask for."""

import codecs
import mmap
import os
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

# What plain data is made of. Not here: persistent ids, the extension registry, buffers from
# elsewhere, instances, dicts, sets.
_OPCODES = frozenset(
    """PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG
    LONG1 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE
    GLOBAL STACK_GLOBAL REDUCE BUILD""".split()  # noqa: SIM905
)
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
# Bytes that a length in front of an argument takes.
_WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_BY_CODE = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_KINDS = frozenset({"u1", "b1", "i1", "i2", "i4", "i8", "u2", "u4", "u8"})
_SHOWN = 60  # a text of a hostile file is shown up to here


class UnsafePickleError(ValueError):
    """A pickle asks for something other than plain bytes, numbers and arrays."""


def short(text: str) -> str:
    """Returns the beginning of a text from a file, for a message."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


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
            try:
                _check_opcodes(data, size)
                data.seek(0)
                found = _PlainUnpickler(data, size).load()
                if isinstance(found, list | tuple):  # as deep as a set of pairs goes
                    return [_arrays_out(part) for part in found]
                return _arrays_out(found)
            except UnsafePickleError:
                raise
            except Exception as error:  # of damaged data the unpickler raises almost anything
                reason = short(" ".join(str(error).split()))
                raise ValueError(f"no pickle, or it is cut off or damaged: {reason}") from error


def _check_opcodes(data: mmap.mmap, size: int) -> None:
    """Walks over all opcodes up to STOP before any is obeyed; lengths are checked on the way."""
    count, name = 0, ""
    while name != "STOP":
        start = data.tell()
        opcode = _BY_CODE.get(data[start]) if start < size else None
        if opcode is None:
            raise ValueError(f"byte {start} of {size} is not an opcode")
        data.seek(start + 1)
        name, kind = opcode.name, opcode.arg
        argument: Any = None
        if kind is not None and kind.n in _WIDTHS:  # a length and so many bytes, passed over
            length = int.from_bytes(data.read(_WIDTHS[kind.n]), "little")
            if length > size - data.tell():
                raise ValueError(f"{name} at byte {start} is not all there")
            data.seek(length, os.SEEK_CUR)
        elif name in ("STRING", "UNICODE"):  # of any bytes; pickletools takes ASCII alone
            data.readline()
        elif kind is not None:
            argument = kind.reader(data)  # type: ignore[arg-type]
        if name in ("GLOBAL", "INST"):
            _check_name(*argument.split(" ", 1))
        if name not in _OPCODES:
            raise UnsafePickleError(
                f"the pickle holds {name} at byte {start}, which plain bytes and arrays never need"
            )
        # What is remembered stands in a table, which grows to the largest number that is put in.
        if name in _PUTS and argument > count:
            raise UnsafePickleError(
                f"the pickle remembers something under number {argument} at byte {start}, though "
                f"only {count} steps were taken"
            )
        if name == "FRAME" and data.tell() + argument > size:
            raise ValueError(f"the frame at byte {start} is not all there")
        count += 1


def _check_name(module: str, name: str = "") -> None:
    if f"{module} {name}" not in _STAND_INS and (module, name) != ("_codecs", "encode"):
        raise UnsafePickleError(
            f"the pickle asks for {short(f'{module}.{name}')!r}, which plain bytes and arrays "
            "never need; nothing of it was run"
        )


# What the names stand for.


class _StandIn:
    """Stands for what a pickle names; has no state that the pickle could set."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name = name
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickleError(f"the pickle sets the state of {self.name}")


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

    def __init__(self, code: Any, *flags: Any) -> None:
        text = code.decode("ascii", "replace") if isinstance(code, bytes) else code
        dtype = np.dtype(text) if isinstance(text, str) and text[-2:] in _KINDS else None
        if dtype is None:
            shown = repr(short(text)) if isinstance(text, str) else type(code).__name__
            raise UnsafePickleError(
                f"the pickle holds an array of dtype {shown}; it must be bool, uint8 or a whole "
                "number"
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


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _NDARRAY:
        raise UnsafePickleError("the pickle reconstructs something that is not a numpy.ndarray")
    return _Array()


def _scalar(kind: Any, data: Any) -> npt.NDArray[Any]:
    return _array(data, kind, (), "C")


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    if order not in ("C", "F") or axes is not None:
        raise UnsafePickleError("the pickle holds an array in an unusual order of axes")
    return _array(data, kind, shape, order)


def _array(data: Any, kind: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
    if not isinstance(kind, _Kind):
        raise UnsafePickleError("the pickle holds an array without a plain dtype")
    if isinstance(data, str):  # a state of Python 2 that was written again after latin-1
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise UnsafePickleError(f"the pickle holds an array of {type(data).__name__}, not of bytes")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise UnsafePickleError("the pickle holds an array whose shape is not a tuple of numbers")
    array = np.frombuffer(data, dtype=kind.dtype).reshape(shape, order=order)
    array.flags.writeable = False
    return array


def _arrays_out(found: Any) -> Any:
    if isinstance(found, _Array):
        if found.value is None:
            raise UnsafePickleError("the pickle holds an array without a state")
        return found.value
    if isinstance(found, list | tuple):
        return [part.value if isinstance(part, _Array) else part for part in found]
    return found


_NDARRAY = _StandIn("ndarray", lambda: None)
_STAND_INS = {
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _StandIn("dtype", _Kind),
    # How Python 3 writes empty bytes for protocols 0 to 2.
    "__builtin__ bytes": _StandIn("bytes", lambda: b""),
    "builtins bytes": _StandIn("bytes", lambda: b""),
}
for _core in ("core", "_core"):
    _STAND_INS |= {
        f"numpy.{_core}.multiarray _reconstruct": _StandIn("_reconstruct", _reconstruct),
        f"numpy.{_core}.multiarray scalar": _StandIn("scalar", _scalar),
        f"numpy.{_core}.numeric _frombuffer": _StandIn("_frombuffer", _from_buffer),
    }


class _PlainUnpickler(pickle.Unpickler):
    """Gives stand-ins of this module for the names it knows, and refuses all others."""

    def __init__(self, file: Any, size: int) -> None:
        super().__init__(file, fix_imports=False, encoding="bytes")
        # Each byte of the file pays for one; a text encoded again and again runs out.
        self._left = size
        self._encoder = _StandIn("encode", self._encode)

    def find_class(self, module: str, name: str) -> Any:
        _check_name(module, name)
        return self._encoder if name == "encode" else _STAND_INS[f"{module} {name}"]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise UnsafePickleError("the pickle refers to something outside it by a persistent id")

    def _encode(self, text: Any, codec: Any) -> bytes:
        """`_codecs.encode(text, "latin1")`: how Python 3 writes bytes for protocols 0 to 2."""
        latin = isinstance(codec, str) and codec.lower() in ("latin1", "latin-1")
        if not isinstance(text, str) or not latin:
            raise UnsafePickleError("the pickle calls _codecs.encode for something but latin1")
        self._left -= len(text)
        if self._left < 0:
            raise UnsafePickleError("the pickle asks for more bytes than its file holds")
        return codecs.latin_1_encode(text)[0]
