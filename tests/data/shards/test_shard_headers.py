"""Headers are those of Python's tarfile, to the byte."""

import tarfile

from hypothesis import example, given
from hypothesis import strategies as st

from centerarc.data.shards.headers import member_header

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=120)
plain = st.text(st.characters(max_codepoint=127), max_size=120)
sizes = st.integers(0, 8**11 + 10) | st.integers(0, 100_000)


@given(names | plain, sizes)
@example("", 0)
@example("a" * 100, 8**11 - 1)
@example("a" * 101, 0)
@example("p/" + "a" * 98 + ".jpg", 512)
@example("é.jpg", 1)
@example("a\0b", 1)
@example("folder/", 8**11)
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert member_header(name, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
