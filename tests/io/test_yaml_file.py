"""What is written in a YAML file, and what is read: values of YAML 1.2, or one line of error."""

import itertools
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from centerarc.io.yaml_file import (
    DEEPEST,
    MOST_BYTES,
    MOST_VALUES,
    dump_yaml,
    locate,
    parse_yaml,
    read_yaml,
)

# What is written as the value of `a`, and what it is: section 10.3.2 of YAML 1.2.2 (core schema).
VALUES: list[tuple[str, Any]] = [
    # whole numbers
    ("0", 0),
    ("010", 10),
    ("-010", -10),
    ("+5", 5),
    ("08", 8),
    ("0o17", 15),
    ("0o8", "0o8"),
    ("0O17", "0O17"),
    ("-0o17", "-0o17"),
    ("0x1F", 31),
    ("0xff", 255),
    ("-0x1F", "-0x1F"),
    ("0X1F", "0X1F"),
    ("0b101", "0b101"),
    ("1_000", "1_000"),
    ("1,000", "1,000"),
    ("1:30", "1:30"),
    ("1:30:00", "1:30:00"),
    ("9" * 100, int("9" * 100)),
    # numbers with a point or an exponent
    ("1e-3", 1e-3),
    ("1.0e-3", 1e-3),
    ("1E3", 1000.0),
    ("1e+3", 1000.0),
    ("12e03", 12000.0),
    ("-2E+05", -2e5),
    ("1.", 1.0),
    (".5", 0.5),
    ("-.5", -0.5),
    ("+.5e1", 5.0),
    ("0.", 0.0),
    (".", "."),
    ("1.5.2", "1.5.2"),
    ("1e", "1e"),
    ("e3", "e3"),
    (".e3", ".e3"),
    ("1_0.5", "1_0.5"),
    ("190:20:30.15", "190:20:30.15"),
    (".inf", math.inf),
    ("-.INF", -math.inf),
    ("+.Inf", math.inf),
    (".iNf", ".iNf"),
    ("inf", "inf"),
    ("nan", "nan"),
    ("-.nan", "-.nan"),
    # words
    ("true", True),
    ("True", True),
    ("FALSE", False),
    ("tRUE", "tRUE"),
    *((word, word) for word in ("on", "On", "off", "OFF", "yes", "Yes", "no", "NO", "y", "n")),
    ("null", None),
    ("Null", None),
    ("NULL", None),
    ("~", None),
    ("", None),
    ("nULL", "nULL"),
    ("None", "None"),
    ("~/faces", "~/faces"),
    ("2024-01-01", "2024-01-01"),
    ("2024-01-01T10:00:00Z", "2024-01-01T10:00:00Z"),
    ("=", "="),
    # text, tags and collections
    ("'010'", "010"),
    ('"true"', "true"),
    ("'~'", "~"),
    (r'"\x41\u00e9"', "A\xe9"),
    (r'"a\u2028b\x85c\e"', "a\u2028b\x85c\x1b"),
    (r'"run\uDCFF"', "run\udcff"),  # a name that is no UTF-8, as Python has it
    ("! 010", "010"),
    ("!!str 010", "010"),
    ("!!str", ""),
    ("!!int '12'", 12),
    ("!!float 1", 1.0),
    ("!!bool 'true'", True),
    ("!!null ''", None),
    ("!!seq [1]", [1]),
    ("!!map {b: 1}", {"b": 1}),
    ("[1, on, 0o7]", [1, "on", 7]),
    ('{"b":1}', {"b": 1}),
    ("[]", []),
    ("|\n  on\n  010\n", "on\n010\n"),
    ("caf\xe9 \U0001f600", "caf\xe9 \U0001f600"),
    # aliases and merge keys
    ("&x 1\nb: *x", 1),
    ("[&x 1, &x 2, *x]", [1, 2, 2]),
    ("{<<: {b: 1, c: 2}, c: 3}", {"b": 1, "c": 3}),
    ("{c: 3, <<: [{b: 1}, {b: 2, d: 4}]}", {"b": 1, "c": 3, "d": 4}),
    ("{<<: []}", {}),
    ("{'<<': 1}", {"<<": 1}),
]

DEEP = DEEPEST + 10
# Small ones: each line has ten of the one before, a hundred thousand together.
CHAIN = [*itertools.pairwise("xabcde")]
LAUGHS = "\n".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]" for a, b in CHAIN)
MERGES = "\n".join(f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 10)}]}}" for a, b in CHAIN)
# What is written in a file, the line of the error and what it says.
ERRORS: list[tuple[str | bytes, int, str]] = [
    ("a: 1\na: 2\n", 2, "a is given twice, first in line 1"),
    ("a:\n  b: 1\n  c: 2\n  'b': 3\n", 4, "a.b is given twice, first in line 2"),
    ("a: {<<: {b: 1}, <<: {c: 2}}", 1, "a.<< is given twice"),
    ("a: [{b: 1, b: 2}]", 1, "a.0.b is given twice"),
    ("a: 1\n---\nb: 2\n", 2, "a second document begins; a file must hold one"),
    ("a: 1\n...\n---\n", 3, "a second document begins"),
    ("- 1\n", 1, "expected `name: value` lines, got list"),
    ("just text", 1, "expected `name: value` lines, got str"),
    ("7", 1, "expected `name: value` lines, got int"),
    ("a: !!python/name:os.system", 1, "a must have no tag, or one of !!str, !!null, !!bool,"),
    ("b:\n  a: !!python/object/apply:print [1]", 2, "got !!python/object/apply:print"),
    ("!!python/object/new:dict {}", 1, "the file must have no tag"),
    ("a: !env HOME", 1, "that fits, got !env"),
    ("a: !!binary aGk=", 1, "got !!binary"),
    ("a: !!timestamp 2024-01-01", 1, "got !!timestamp"),
    ("a: !!set {b}", 1, "got !!set"),
    ("a: !!omap [b: 1]", 1, "got !!omap"),
    ("a: !!seq {b: 1}", 1, "got !!seq"),
    ("a: !!str [b]", 1, "got !!str"),
    ("a: !!int x", 1, "a must be what its tag !!int says, got 'x'"),
    ("a: !!bool yes", 1, "a must be what its tag !!bool says, got 'yes'"),
    ("a: !!null x", 1, "a must be what its tag !!null says, got 'x'"),
    ("b: 1\na: " + "1" * 5000, 2, "a must have at most 100 digits, got 5,000"),
    ("a: 0x" + "f" * 200, 1, "a must have at most 100 digits, got 202"),
    ("a: 0." + "1" * 200, 1, "a must have at most 100 digits"),
    ("a: [1, 1e999]", 1, "a.1 must be a number below 1.8e308, got 1e999"),
    ("? [1]\n: 2\n", 1, "the name of a field must be text, got a section"),
    ("a: {1: 2}", 1, "the name of a field in a must be text, got 1; quote it"),
    ("a: 1\n~: 2", 2, "the name of a field must be text, got ~; quote it"),
    ("a:\n  ? {b: 1}\n  : 2\n", 2, "the name of a field in a must be text"),
    ("a: {<<: 3}", 1, "a.<< must be a section or a list of sections, got 3"),
    ("a: {<<: [3]}", 1, "a.<< must be a section or a list of sections, got 3"),
    ("a: &x [*x]", 1, "a.0 holds itself, by an alias such as *name"),
    ("a: &x\n  b: {<<: *x}\n", 1, "a.b.<< holds itself"),
    ("a: *y", 1, "not valid YAML: found undefined alias 'y'"),
    ("a: " + "[" * DEEP + "]" * DEEP, 1, f"sections must be nested at most {DEEPEST} deep"),
    ("a: " + "{b: " * DEEP, 1, f"sections must be nested at most {DEEPEST} deep"),
    ("- " * DEEP, 1, f"sections must be nested at most {DEEPEST} deep"),
    ("\n".join(" " * n + "a:" for n in range(DEEP)), DEEPEST, "sections must be nested at most"),
    ("x: &x [1, 2, 3]\n" + LAUGHS, 1, f"must have at most {MOST_VALUES:,} values, counted with"),
    ("x: &x {k: 1}\n" + MERGES, 2, f"must have at most {MOST_VALUES:,} values"),
    ("a: [" + "{}," * 120 + "]\nb: " + "[" * 3000, 2, "sections must be nested at most"),
    ("b: 1\na: \x00\n", 2, "the character U+0000 is not allowed in YAML"),
    ("a: \x1b[31m\n", 1, "the character U+001B is not allowed in YAML"),
    ("# \u2028a: 1\n", 1, "the character U+2028 is not allowed in YAML"),
    ('a: "\\0"', 1, "a must have no character U+0000"),
    ('a: "\\uD800"', 1, "a must have no character U+D800"),
    ('a: "\\UFFFFFFFF"', 1, "not valid YAML"),
    ('a: "\\q"', 1, "not valid YAML: found unknown escape character 'q'"),
    (b"a: 1\nb: \xff\n", 2, "the text must be UTF-8, got the byte 0xff"),
    ("a: 1\n".encode("utf-16"), 1, "the text must be UTF-8, got the byte 0xff"),
    (b"# " + b"x" * MOST_BYTES, 1, f"a YAML file must have at most {MOST_BYTES:,} bytes"),
    ("a: [1\nb: 2\n", 2, "not valid YAML: expected ',' or ']'"),
    ("a: 'x\n", 2, "not valid YAML: found unexpected end of stream"),
    ("a: 1\n\tb: 2\n", 2, "not valid YAML: found character '\\t'"),
    ("a: b: c\n", 1, "not valid YAML: mapping values are not allowed here"),
    ("a: 1\n b: 2\n", 2, "not valid YAML"),
    ("a: @x\n", 1, "not valid YAML: found character '@' that cannot start any token"),
    ("%YAML 2.0\n---\na: 1\n", 1, "not valid YAML: found incompatible YAML document"),
]


def _id(value: object) -> str | None:
    return value[:30] if isinstance(value, str | bytes) else None


@pytest.mark.parametrize(("written", "value"), VALUES, ids=_id)
def test_a_value_is_what_yaml_1_2_says_and_comes_back(written: str, value: Any) -> None:
    found = parse_yaml(f"a: {written}")["a"]
    assert found == value
    assert type(found) is type(value)
    assert parse_yaml(dump_yaml({"a": [found], "b": {"c": found}})) == {
        "a": [found],
        "b": {"c": found},
    }


def test_what_is_no_number_is_one() -> None:
    assert all(math.isnan(value) for value in parse_yaml("[.nan, .NaN, .NAN]"))
    assert math.isnan(parse_yaml(dump_yaml({"a": math.nan}))["a"])


@pytest.mark.parametrize(("written", "line", "said"), ERRORS, ids=_id)
def test_what_is_wrong_has_file_line_and_field(
    tmp_path: Path, written: str | bytes, line: int, said: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(written.encode() if isinstance(written, str) else written)
    with pytest.raises(ValueError) as error:
        read_yaml(path)
    assert re.match(rf"{re.escape(str(path))}:{line}: ", str(error.value)), str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 250


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "--- # nothing\n...\n", "\ufeff"])
def test_an_empty_file_has_no_settings(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_yaml(path) == {}


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffa: 1\r\nb: on\r\n".encode())
    assert read_yaml(path) == {"a": 1, "b": "on"}


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, said in (
        (tmp_path, "is a folder; give the path of a YAML file"),
        (tmp_path / "pipe", "is a device or pipe; give"),
        (Path("/dev/zero"), "is a device or pipe; give"),
    ):
        with pytest.raises(ValueError, match=said):
            read_yaml(place)
    with pytest.raises(FileNotFoundError, match="there is no configuration file"):
        read_yaml(tmp_path / "none.yaml")


def test_each_use_of_an_alias_is_a_copy() -> None:
    found = parse_yaml("a: &x {b: []}\nc: *x")
    found["a"]["b"].append(1)
    assert found["c"] == {"b": []}


@pytest.mark.parametrize(
    ("names", "place"),
    [
        (["a"], (1, True)),
        (["b.c"], (3, True)),
        (["b.d.1.e"], (6, True)),
        (["b.f.g.h"], (7, True)),
        (["k.c"], (3, True)),
        (["k.own"], (9, True)),
        (["none", "a"], (1, True)),
        (["b.none"], (2, False)),
        (["b.d.0.none"], (5, False)),
        (["none.at.all"], (1, False)),
    ],
)
def test_a_field_is_found_nested_or_dotted_and_through_merges(
    tmp_path: Path, names: list[str], place: tuple[int, bool]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "a: 1\nb: &b\n  c: 2\n  d:\n    - 1\n    - {e: 3}\n  f.g: {h: 4}\nk:\n  own: 1\n  <<: *b\n"
    )
    assert locate(path, names) == place
