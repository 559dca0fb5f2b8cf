"""insightface's .bin sets: every way they were written is read, and nothing in them is run."""

import os
import pickle
import struct
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.evaluation.files import BinSet, UnsafePickleError, open_pair_set, read_plain_pickle


def png(value: int) -> bytes:
    out = BytesIO()
    PIL.Image.new("RGB", (8, 8), (value, value, value)).save(out, "PNG")
    return out.getvalue()


IMAGES = [png(value) for value in range(10, 50)]
SAME = [True, False] * 10


def put(tmp_path, content, name="lfw.bin"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def values(source: BinSet, index: np.ndarray) -> list[int]:
    return [int(source.image(int(i))[0, 0, 0]) for i in index]


def check(source: BinSet) -> None:
    assert len(source) == 40
    assert values(source, source.index_a) == list(range(10, 50, 2))
    assert values(source, source.index_b) == list(range(11, 50, 2))
    assert source.same.dtype == np.bool_
    assert source.same.tolist() == SAME
    assert source.fold.tolist() == np.repeat(np.arange(1, 11), 2).tolist()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        [np.frombuffer(image, np.uint8).copy() for image in IMAGES],
        [np.frombuffer(image, np.uint8).reshape(-1, 1).copy() for image in IMAGES],
    ],
    ids=["bytes", "arrays", "columns"],
)
@pytest.mark.parametrize(
    "same",
    [SAME, [*map(int, SAME)], [*map(np.bool_, SAME)], np.array(SAME), np.array(SAME, np.int64)],
    ids=["bools", "ints", "scalars", "array", "int array"],
)
def test_whatever_python_3_wrote_is_read(tmp_path, protocol, images, same):
    check(BinSet(put(tmp_path, pickle.dumps((images, same), protocol=protocol))))


def test_byte_arrays_are_read(tmp_path):
    images = [bytearray(image) for image in IMAGES]
    check(BinSet(put(tmp_path, pickle.dumps((images, SAME), protocol=5))))


def test_the_text_protocol_of_python_2_is_read(tmp_path):
    parts = [b"((lp0\n"]
    for n, image in enumerate(IMAGES, 1):  # as repr of a byte string in Python 2
        parts.append(b"S'" + b"".join(b"\\x%02x" % byte for byte in image) + b"'\np%d\na" % n)
    parts.append(b"(lp41\n")
    parts += [b"I01\na" if answer else b"I00\na" for answer in SAME]
    check(BinSet(put(tmp_path, b"".join(parts) + b"tp42\n.")))


def test_the_binary_protocol_of_python_2_is_read(tmp_path):
    parts = [b"\x80\x02]q\x00("]
    for n, image in enumerate(IMAGES):
        parts.append(b"T" + struct.pack("<i", len(image)) + image + b"q" + bytes([n + 1]))
    parts.append(b"e]q\x29(" + b"".join(b"\x88" if answer else b"\x89" for answer in SAME))
    check(BinSet(put(tmp_path, b"".join(parts) + b"e\x86q\x2a.")))


def test_numpy_answers_of_python_2_are_read(tmp_path):
    """An array as numpy 1 pickled it under Python 2: names and dtypes are byte strings there."""
    images = pickle.dumps(IMAGES, protocol=2)[2:-1]
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(I20\nt"
        b"cnumpy\ndtype\n(U\x02b1I0\nI1\ntR(I3\nU\x01|NNNI-1\nI-1\nI0\ntbI00\nU\x14"
        + bytes(SAME)
        + b"tb"
    )
    check(BinSet(put(tmp_path, b"\x80\x02" + images + array + b"\x86.")))


def test_bytes_that_were_read_as_latin_1_and_written_again_are_read(tmp_path):
    texts = [image.decode("latin-1") for image in IMAGES]
    check(BinSet(put(tmp_path, pickle.dumps((texts, SAME)))))
    with pytest.raises(ValueError, match=r"lfw\.bin'?: image 0 is a text"):
        BinSet(put(tmp_path, pickle.dumps((["\u4eba", "b"], [True]))))


def test_an_image_that_comes_often_is_kept_once(tmp_path):
    a, b, c, d = IMAGES[:4]
    copies = [bytes(bytearray(image)) for image in (a, b, a, c, d, b, c, d)]
    source = BinSet(put(tmp_path, pickle.dumps((copies, [True, False, True, False]))))
    assert len(source) == 4
    assert source.entries.tolist() == [0, 1, 3, 4]
    assert values(source, source.index_a) == [10, 10, 13, 12]
    assert values(source, source.index_b) == [11, 12, 11, 13]
    assert [source.place(i) for i in range(4)] == [f"lfw.bin[{n}]" for n in (0, 1, 3, 4)]
    # a-b and b-d are genuine, so a, b and d are one person; nothing links c to anybody.
    assert source.labels.tolist() == [0, 0, 1, 0]
    assert len(source.identities) == 2
    assert source.people is None
    assert "does not say who" in source.people_note


def test_folds_are_ten_runs_of_pairs_and_can_be_chosen(tmp_path):
    images = [png(value) for value in range(2 * 23)]
    same = [bool(n % 3) for n in range(23)]
    path = put(tmp_path, pickle.dumps((images, same)))
    fold = BinSet(path).fold
    # The first of ten folds are longer by one, as in scikit-learn's KFold, which insightface uses.
    assert fold.tolist() == [1] * 3 + [2] * 3 + [3] * 3 + np.repeat(np.arange(4, 11), 2).tolist()
    chosen = BinSet(path, folds=[2, 10])
    rows = np.flatnonzero(np.isin(fold, [2, 10]))
    assert chosen.fold.tolist() == fold[rows].tolist()
    assert chosen.same.tolist() == [same[row] for row in rows]
    assert values(chosen, chosen.index_b) == [2 * row + 1 for row in rows]
    assert len(chosen) == 2 * len(rows)
    with pytest.raises(ValueError, match=r"lfw\.bin.*some of \[1, 2, .*10\], got \[11\]"):
        BinSet(path, folds=[1, 11])


def test_images_are_resized_and_survive_a_trip_to_another_process(tmp_path):
    source = BinSet(put(tmp_path, pickle.dumps((IMAGES[:2], [True]))), image_size=4)
    again = pickle.loads(pickle.dumps(source))
    assert again.image(1).shape == (4, 4, 3)
    assert again.encoded(0) == IMAGES[0]


def test_a_damaged_image_is_named_with_its_entry(tmp_path):
    source = BinSet(put(tmp_path, pickle.dumps(([IMAGES[0], IMAGES[1][:30]], [True]))))
    with pytest.raises(ValueError, match=r"lfw\.bin\[1\]"):
        source.image(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IMAGES[:3], [True]), "3 images and 1 answers do not fit"),
        ((IMAGES[:4], [True]), "4 images and 1 answers do not fit"),
        (([], []), "there is no pair"),
        (IMAGES, "must hold two lists"),
        ((IMAGES[:2], [True], 3), "must hold two lists"),
        ((3, [True]), "must hold two lists"),
        ((IMAGES[:2], [2]), "answer 0 is 2; it must be True or False"),
        ((IMAGES[:4], [True, None]), "answer 1 is NoneType"),
        ((IMAGES[:2], [b"1"]), "answer 0 is bytes"),
        (([IMAGES[0], b""], [True]), "image 1 is empty"),
        (([IMAGES[0], None], [True]), "image 1 is NoneType; it must be bytes"),
        (([IMAGES[0], np.zeros((8, 8, 3), np.uint8)], [True]), r"image 1 is an array of uint8 of"),
        (([IMAGES[0], np.zeros(8, np.int32)], [True]), "image 1 is an array of int32"),
        ((IMAGES[:2], np.ones((1, 1), bool)), r"answers are an array of shape \(1, 1\)"),
    ],
)
def test_a_file_that_is_no_set_says_what_it_is(tmp_path, content, message):
    for protocol in (0, 2, 4, 5):
        with pytest.raises(ValueError, match=f"lfw.bin.*{message}"):
            BinSet(put(tmp_path, pickle.dumps(content, protocol=protocol)))


@pytest.mark.parametrize("protocol", range(6))
def test_a_file_that_is_cut_off_anywhere_says_so(tmp_path, protocol):
    whole = pickle.dumps(([b"\xff\xd8", b"\xff\xd9"], np.array([True])), protocol=protocol)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"lfw\.bin.*(cut off|damaged|empty)"):
            BinSet(put(tmp_path, whole[:length]))


VALID = [
    pickle.dumps(content, protocol=protocol)
    for protocol in range(6)
    for content in (
        ([b"\xff\xd8", b"\xff\xd9"], [True]),
        ([np.frombuffer(b"abc", np.uint8).copy()] * 2, np.array([False])),
    )
]


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
)
def test_any_damage_is_a_set_or_one_clear_error(tmp_path_factory, content, changes):
    damaged = bytearray(content)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    path = put(tmp_path_factory.getbasetemp(), bytes(damaged), "damaged.bin")
    message = "damaged.bin"
    try:
        assert BinSet(path).same.size == 1
    except ValueError as error:
        message = str(error)
    assert "damaged.bin" in message
    assert "\n" not in message


def test_a_file_that_is_absent_or_no_pickle_is_named(tmp_path):
    with pytest.raises(OSError, match=r"cannot read '.*lfw\.bin'"):
        BinSet(tmp_path / "lfw.bin")
    with pytest.raises(
        ValueError, match=r"lfw\.bin.*no pickle, or it is cut off or damaged: byte 0 of"
    ):
        BinSet(put(tmp_path, b"\xff\xd8\xff\xe0 a picture"))


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *args, state=None) -> None:
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


RAN: list[str] = []


def run_me(*args: object) -> str:
    RAN.append("ran")
    return "harm"


def by_hand(module: str, name: str, *rest: bytes) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode() + b"".join(rest) + b"."


def stack_global(module: str, name: str) -> bytes:
    texts = b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name))
    return b"\x80\x04" + texts + b"\x93)R."


HOSTILE = {
    "os.system": (pickle.dumps(Calls(os.system, "touch {ran}"), protocol=4), "posix.system"),
    "eval": (pickle.dumps(Calls(eval, "__import__('os').mkdir('{ran}')")), "builtins.eval"),
    "exec in the text protocol": (pickle.dumps(Calls(exec, "1"), protocol=0), "__builtin__.exec"),
    "a function of a module": (pickle.dumps(Calls(run_me)), "test_bin_set.run_me"),
    "getattr of something allowed": (
        pickle.dumps(Calls(getattr, np.ndarray, "tofile")),
        "builtins.getattr",
    ),
    "a dotted name": (stack_global("numpy", "ndarray.tofile"), "numpy.ndarray.tofile"),
    "another dotted name": (stack_global("numpy.core", "multiarray._reconstruct"), "numpy.core"),
    "a name that looks like one that is allowed": (
        stack_global("numpy.core.multiarray", "fromfile"),
        "numpy.core.multiarray.fromfile",
    ),
    "copyreg": (pickle.dumps(Path("x"), protocol=0), "copy_reg._reconstructor|pathlib"),
    "numpy's loader": (by_hand("numpy", "load", b"(U\x01xtR"), "numpy.load"),
    "instances": (b"(ios\nsystem\n.", "os.system"),
    "instances of what is allowed": (b"(inumpy\nndarray\n.", "INST"),
    "new objects": (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
    "persistent ids": (b"Pid\n.", "PERSID"),
    "binary persistent ids": (b"\x80\x02K\x01Q.", "BINPERSID"),
    "the extension registry": (b"\x80\x02\x82\x01.", "EXT1"),
    "buffers from elsewhere": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "an object array": (pickle.dumps(np.array([b"x", None], dtype=object)), "dtype 'O8'"),
    "an object array with a call": (
        pickle.dumps(np.array([Calls(run_me)], dtype=object)),
        "dtype 'O8'|run_me",
    ),
    "structures": (pickle.dumps(np.zeros(2, dtype=[("a", "u1")])), "dtype 'V1'|EMPTY_DICT"),
    "texts": (pickle.dumps(np.array(["x"])), "dtype 'U1'"),
    "a dtype with a state of fields": (
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R(K\x03X\x01\x00\x00\x00|N(l}tb.",
        "EMPTY_DICT|structures",
    ),
    "a state set on a function": (
        by_hand("numpy", "dtype", b"(N(ltb"),
        "sets the state of dtype",
    ),
    "another codec": (
        by_hand("_codecs", "encode", b"(X\x01\x00\x00\x00xX\x03\x00\x00\x00zipt", b"R"),
        "latin1",
    ),
    "something else reconstructed": (
        by_hand("numpy.core.multiarray", "_reconstruct", b"(cnumpy\ndtype\n(tU\x01btR"),
        "not a numpy.ndarray",
    ),
    "an array without a state": (
        by_hand("numpy.core.multiarray", "_reconstruct", b"(cnumpy\nndarray\n(I0\ntU\x01btR"),
        "without a state",
    ),
    "a table of any size": (b"\x80\x02Nr\xff\xff\xff\x7f.", "number 2147483647"),
    "a table of any size, in text": (b"Np99999999999\n.", "number 99999999999"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_with_the_reason_and_runs_nothing(tmp_path, kind):
    content, reason = HOSTILE[kind]
    RAN.clear()
    with pytest.raises(UnsafePickleError, match=f"lfw.bin.*({reason})"):
        BinSet(put(tmp_path, content.replace(b"{ran}", b"ran12")))
    assert not RAN
    assert [path.name for path in tmp_path.iterdir()] == ["lfw.bin"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",  # bytes
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"x.",  # a bytearray
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",  # a frame
        b"\x80\x02T\xff\xff\xff\xffx.",  # a length below 0
        b"\x80\x02\x8b\xff\xff\xff\x7fx.",  # a number of 2 GB
        b"Np" + b"9" * 5000 + b"\n.",  # a table of any size
    ],
)
def test_lengths_that_no_file_holds_take_no_memory(tmp_path, content):
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"cut off|LONG4"):
        BinSet(put(tmp_path, content))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_text_that_is_encoded_again_and_again_runs_out(tmp_path):
    text = b"X" + struct.pack("<I", 10_000) + b"x" * 10_000 + b"q\x01"
    codec = b"X\x06\x00\x00\x00latin1q\x02"
    encode = b"c_codecs\nencode\nq\x03"
    once = b"h\x03h\x01h\x02\x86R"
    content = b"\x80\x02](" + text + codec + encode + once * 1000 + b"e."
    with pytest.raises(UnsafePickleError, match="more bytes than its file holds"):
        read_plain_pickle(put(tmp_path, content))


def test_arrays_of_both_byte_orders_and_layouts_keep_their_values(tmp_path):
    for dtype in (">i4", "<i4", ">u2", "<i8", "|i1", "|u1", "|b1"):
        for order in "CF":
            array = np.asarray(np.arange(6).reshape(2, 3) % 2, dtype=dtype, order=order)
            for protocol in range(6):
                path = put(tmp_path, pickle.dumps(array, protocol=protocol))
                np.testing.assert_array_equal(read_plain_pickle(path), array)


@pytest.mark.parametrize("struct_of_bytes", [False, True])
@pytest.mark.parametrize("answers", [SAME, [*map(int, SAME)]])
def test_pairs_in_parquet_with_their_images(tmp_path, struct_of_bytes, answers):
    images = [{"bytes": image, "path": None} if struct_of_bytes else image for image in IMAGES]
    columns = {"image_1": images[0::2], "image_2": images[1::2], "is_same": answers}
    path = tmp_path / "lfw.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    source = open_pair_set(path)
    assert isinstance(source, BinSet)
    check(source)
    assert (source.people, source.place(3)) == (None, "lfw.parquet[3]")
    assert open_pair_set(path, folds=[2]).same.tolist() == SAME[2:4]
    with pytest.raises(ValueError, match="holds its own images: leave it out"):
        open_pair_set(path, images=tmp_path)
    columns["fold"] = [1] * 8 + [2] * 12
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert open_pair_set(path).fold.tolist() == columns["fold"]
    columns["is_same"] = [3] * 20
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(ValueError, match="row 1: is_same must be 0, 1, true or false, got '3'"):
        open_pair_set(path)
