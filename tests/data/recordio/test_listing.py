"""The .lst: both kinds, and the fast way reads what the careful way does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.data.recordio.labels import parse_line, read_listing

folders = st.text("ab ./\\é\udcff\t\r", max_size=5)
labels = st.one_of(st.integers(0, 99).map(str), st.sampled_from(["3.000000", "4.", "-1", "5.5"]))


@given(
    st.lists(st.tuples(st.integers(-1, 99), labels, folders, st.booleans()), min_size=1, max_size=9)
)
def test_a_whole_file_reads_as_its_lines_do(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, str, str, bool]]
) -> None:
    lines = [
        f"{key}\t{label}\t{folder}{'/' if slash else ''}1.jpg".encode("utf-8", "surrogateescape")
        for key, label, folder, slash in parts
    ]
    path = tmp_path_factory.mktemp("lst") / "train.lst"
    path.write_bytes(b"\n".join(lines))
    try:
        wanted = [parse_line(line) for line in lines]
    except ValueError:
        with pytest.raises(ValueError, match=r"train\.lst, line [1-9]: "):
            read_listing(path)
        return
    found = read_listing(path)
    assert found.keys is not None
    read = zip(found.keys, found.labels, [found.names[n] for n in found.folders], strict=True)
    assert list(read) == wanted


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b"5\t2.000000\ta/b/1.jpg", (5, 2, "b")),
        (b"5\t2.000000\t0.5\t7\ta b/1.jpg\r", (5, 2, "a b")),
        (b"5\t2\t.\\b\\1.jpg", (5, 2, "b")),
        (b"5\t2\t./1.jpg", (5, 2, "")),
        (b"5\t2\t1.jpg", (5, 2, "")),
        (b"1\t/x/b/1.jpg\t2", (None, 2, "b")),
        (b"0\tb/1.jpg\t2\t10\t20\t30\t40", (None, 2, "b")),
    ],
)
def test_both_kinds_are_read(line: bytes, wanted: tuple[int | None, int, str]) -> None:
    assert tuple(parse_line(line)) == wanted


@pytest.mark.parametrize("line", [b"", b"1\t2", b"a\t2\tb/1.jpg", b"1\tb/1.jpg\tc", b"1 2 b/1.jpg"])
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"is no line of a \.lst file"):
        parse_line(line)
