"""What a pickle may hold that is made of plain bytes, numbers and arrays."""

import mmap
import pickletools

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
