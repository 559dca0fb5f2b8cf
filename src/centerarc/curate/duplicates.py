"""Pictures that are there more than once, and everything that one image alone shows."""

from collections.abc import Iterator
from hashlib import blake2b
from io import BytesIO
from itertools import combinations
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from centerarc.data.decode import Image, decode_image, opened_image
from centerarc.data.source import FaceSource
from centerarc.evaluation.same_pictures import SIDE, picture_digest, thumbnail
from centerarc.io.parallel import Tick

# Images that look almost alike, found among millions without comparing each with each.
#
# Not the `imagehash` library: it needs SciPy, hashes one image at a time, and its bits are compared
# with a median within the image, by which most aligned faces agree in most bits.

BITS = 63
SURE_BITS = 6  # pairs that differ in so many bits or fewer are all found
_MOST_BITS = 10  # pairs that differ in more are not looked at
_BLOCKS = 9
_EQUAL_BLOCKS = _BLOCKS - SURE_BITS
# With fewer images the medians would be those of the pairs that are looked for.
_ENOUGH_FOR_MEDIANS = 1000
_LONGEST_RUN = 256
_EQUAL_HASHES = 8
_LEAST_CORRELATION = 0.9
_AT_ONCE = 1 << 16

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Thumbnails = npt.NDArray[np.uint8]


def perceptual_hashes(thumbnails: Thumbnails) -> npt.NDArray[np.uint64]:
    """Hashes thumbnails so that those that look alike differ in few of 63 bits.

    The bits are the signs of the 63 lowest frequencies of the cosine transform, of which the
    mean is left out and the length taken to be 1, so that brightness and contrast do not count.
    With 1,000 images and more each frequency is compared with its median over the images: aligned
    faces have the eyes in one place, and without that most of them would agree in most bits.
    """
    if not len(thumbnails):
        return np.zeros(0, dtype=np.uint64)
    parts = [
        _frequencies(thumbnails[start : start + _AT_ONCE])
        for start in range(0, len(thumbnails), _AT_ONCE)
    ]
    values = np.concatenate(parts)
    enough = len(values) >= _ENOUGH_FOR_MEDIANS
    middle = np.median(values, axis=0) if enough else np.zeros(BITS, dtype=np.float32)
    hashes = np.zeros(len(values), dtype=np.uint64)
    for bit in range(BITS):
        hashes |= (values[:, bit] > middle[bit]).astype(np.uint64) << np.uint64(bit)
    return hashes


def _frequencies(thumbnails: Thumbnails) -> npt.NDArray[np.float16]:
    k, x = np.mgrid[:SIDE, :SIDE]
    cosines = np.cos(np.pi * (x + 0.5) * k / SIDE).astype(np.float32)
    cosines[0] /= np.sqrt(2)
    order = np.lexsort(((k - x).ravel(), (k**2 + x**2).ravel()))[1 : BITS + 1]
    every = cosines @ thumbnails.astype(np.float32) @ cosines.T
    values = every.reshape(len(thumbnails), -1)[:, order]
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(length, 1e-3), dtype=np.float16)


def close_pairs(hashes: npt.NDArray[np.uint64]) -> Ints:
    """Finds the pairs of (N,) hashes that differ in few bits, by multi-index hashing.

    The 63 bits are cut into 9 blocks of 7. Two hashes that differ in at most 6 bits agree in at
    least 3 blocks, so they meet in one of the 84 tables that are each sorted by 3 of the blocks.
    Most pairs that differ in 7 to 10 bits meet as well and are returned too. In a crowd each is
    compared with the next 256 that share 3 blocks, and with the next 8 of the same hash.

    Returns (P, 2) numbers, the smaller one first, sorted, each pair once.
    """
    by_hash = np.argsort(hashes, kind="stable")
    ordered = hashes[by_hash]
    width = BITS // _BLOCKS
    mask = np.uint64((1 << width) - 1)
    blocks = [((ordered >> np.uint64(i * width)) & mask).astype(np.uint32) for i in range(_BLOCKS)]
    found = [np.zeros((0, 2), dtype=np.int64)]
    for chosen in combinations(range(_BLOCKS), _EQUAL_BLOCKS):
        keys = np.zeros(len(hashes), dtype=np.uint32)
        for number in chosen:
            keys = keys << np.uint32(width) | blocks[number]
        # A pair that agrees in more blocks meets in several tables; the first one has it.
        before = [blocks[i] for i in range(chosen[-1]) if i not in chosen]
        for step, first, second in _with_equal_keys(keys):
            apart = np.bitwise_count(ordered[first] ^ ordered[second])
            near = (apart <= _MOST_BITS) & ((apart > 0) | (step <= _EQUAL_HASHES))
            first, second = first[near], second[near]
            new = np.ones(len(first), dtype=bool)
            for block in before:
                new &= block[first] != block[second]
            found.append(np.stack([by_hash[first[new]], by_hash[second[new]]], axis=1))
    pairs = np.sort(np.concatenate(found), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _with_equal_keys(keys: npt.NDArray[np.uint32]) -> Iterator[tuple[int, Ints, Ints]]:
    """Yields how far apart in their order, and the positions with equal keys."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    at = np.arange(len(keys))
    for step in range(1, _LONGEST_RUN + 1):
        at = at[at < len(keys) - step]
        at = at[ordered[at] == ordered[at + step]]
        if not len(at):
            return
        yield step, order[at], order[at + step]


def differences(thumbnails: Thumbnails, pairs: Ints) -> Floats:
    """Measures how much of two images cannot be explained by a change of light or framing.

    One thumbnail is predicted from the other by least squares, allowing a change of brightness,
    of contrast, a small shift and a small zoom (to first order, from its gradients). The
    difference is the part of the variance that is left, the better of the two directions.

    Returns (P,) from 0, the same but for light and framing, to 1; 1 for pairs whose correlation is
    below 0.9, which are not looked at more closely.
    """
    result = np.ones(len(pairs))
    for start in range(0, len(pairs), _AT_ONCE):
        rows = pairs[start : start + _AT_ONCE]
        a, b = (thumbnails[rows[:, side]].astype(np.float32) for side in (0, 1))
        worth = np.flatnonzero(_correlation(a, b) >= _LEAST_CORRELATION)
        for first in range(0, len(worth), 1024):
            some = worth[first : first + 1024]
            left = np.minimum(_unexplained(a[some], b[some]), _unexplained(b[some], a[some]))
            result[start + some] = left
    return result


def _correlation(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    flat = [values.reshape(len(values), SIDE * SIDE) for values in (a, b)]
    flat = [values - values.mean(axis=1, keepdims=True) for values in flat]
    lengths = np.linalg.norm(flat[0], axis=1) * np.linalg.norm(flat[1], axis=1)
    product = np.einsum("np,np->n", *flat)
    return np.asarray(product / np.maximum(lengths, 1e-3), dtype=np.float32)


def _unexplained(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Floats:
    down, right = np.gradient(a.astype(np.float64), axis=(1, 2))
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    # Brightness, contrast, shift in x and y, zoom in x and y.
    terms = np.stack([np.ones_like(right), a, right, down, right * x, down * y], axis=-1)
    inner = slice(2, -2)  # a crop leaves nothing to compare with at the rim
    design = terms[:, inner, inner].reshape(len(a), -1, 6)
    wanted = b[:, inner, inner].reshape(len(b), -1).astype(np.float64)
    squares = np.einsum("npi,npj->nij", design, design) + 1e-3 * np.eye(6)
    weights = np.linalg.solve(squares, np.einsum("npi,np->ni", design, wanted)[..., None])
    rest = wanted - np.einsum("npi,ni->np", design, weights[..., 0])
    spread = wanted - wanted.mean(axis=1, keepdims=True)
    return np.asarray((rest**2).sum(axis=1) / np.maximum((spread**2).sum(axis=1), 1e-3))


# Everything that one image alone shows: whether it decodes, what is odd, its fingerprints.

# JPEG rounds: a picture of one color, or of no color, may be a few levels off it.
_ROUNDING = 3
_EXTENSIONS = {
    "JPEG": {"jpg", "jpeg", "jpe", "jfif"},
    "MPO": {"jpg", "jpeg", "jpe", "mpo"},
    "PNG": {"png", "apng"},
    "WEBP": {"webp"},
    "BMP": {"bmp", "dib"},
    "DIB": {"bmp", "dib"},
    "TIFF": {"tif", "tiff"},
    "GIF": {"gif"},
}
_ANY = frozenset().union(*_EXTENSIONS.values())


class Examined:
    """What some images of a source showed; row r belongs to the r-th of them.

    Hashes of files (0 where there is none) and of pixels, (n, 2) each; thumbnails, (n, 16, 16)
    luma; which images are readable and which blank; and (row, kind of problem, detail).
    """

    def __init__(self, size: int) -> None:
        self.files = np.zeros((size, 2), dtype=np.uint64)
        self.pixels = np.zeros((size, 2), dtype=np.uint64)
        self.thumbnails = np.zeros((size, SIDE, SIDE), dtype=np.uint8)
        self.readable = np.zeros(size, dtype=bool)
        self.blank = np.zeros(size, dtype=bool)
        self.found: list[tuple[int, str, str]] = []

    def put(self, start: int, part: "Examined") -> None:
        """Puts what a part of the images showed where these images are."""
        rows = slice(start, start + len(part.readable))
        for name in ("files", "pixels", "thumbnails", "readable", "blank"):
            getattr(self, name)[rows] = getattr(part, name)
        self.found += [(start + row, kind, detail) for row, kind, detail in part.found]


def examine(source: FaceSource, numbers: range, tick: Tick, *, min_side: int) -> Examined:
    """Decodes some images of a source and notes what is wrong or odd with each."""
    result = Examined(len(numbers))
    for row, number in enumerate(numbers):
        tick()
        data = None
        try:
            data = source.encoded(number)
            if data is not None:
                result.files[row] = _hash(data)
                result.found += [(row, *odd) for odd in _file_oddities(data, source, number)]
            image = source.image(number) if data is None else decode_image(data)
        except (OSError, ValueError) as error:
            kind = "unreadable" if data is None else damage(data)
            result.found.append((row, kind, " ".join(str(error).split())))
            continue
        result.readable[row] = True
        result.pixels[row] = picture_digest(image)
        result.thumbnails[row] = thumbnail(image)
        for kind, detail in _pixel_oddities(image, min_side):
            result.blank[row] |= kind == "blank"
            result.found.append((row, kind, detail))
    return result


def damage(data: bytes) -> str:
    """Returns the kind of problem of a file that does not decode."""
    if not data:
        return "empty"
    if data[:3] == b"\xff\xd8\xff":
        # Within its pixels a JPEG has no such bytes; a preview in front of them ends before them.
        complete = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        complete = b"IEND" in data
    elif data[:4] == b"RIFF":
        complete = len(data) >= 8 + int.from_bytes(data[4:8], "little")
    else:
        return "unreadable"
    return "unreadable" if complete else "truncated"


def _hash(data: bytes) -> npt.NDArray[np.uint64]:
    return np.frombuffer(blake2b(data, digest_size=16).digest(), dtype=np.uint64)


def _file_oddities(data: bytes, source: FaceSource, number: int) -> Iterator[tuple[str, str]]:
    """What the header of a file that may be trained on shows."""
    suffix = PurePosixPath(source.place(number)).suffix.lower().removeprefix(".")
    if data[:3] == b"\xff\xd8\xff" and suffix in _EXTENSIONS["JPEG"]:
        return
    try:
        with opened_image(BytesIO(data)) as picture:
            format_, frames = picture.format or "", getattr(picture, "n_frames", 1)
    except ValueError:  # decoding says what is wrong with it
        return
    if suffix in _ANY and suffix not in _EXTENSIONS.get(format_, {suffix}):
        yield "wrong extension", f"{format_} named .{suffix}"
    # The second picture of an MPO is a camera's preview.
    if frames > 1 and format_ != "MPO":
        yield "animated", f"{frames} pictures in one {format_}"


def _pixel_oddities(image: Image, min_side: int) -> Iterator[tuple[str, str]]:
    height, width = image.shape[:2]
    if min(height, width) < min_side:
        yield "tiny", f"{width} x {height} pixels"
    # A few pixels settle both for nearly every image.
    if all(_is_blank(part) for part in (image[::16, ::16], image)):
        middle = ", ".join(str(int(value)) for value in image[height // 2, width // 2])
        yield "blank", f"every pixel is RGB ({middle})"
    elif all(_is_gray(part) for part in (image[:4], image)):
        yield "grey", ""


def _is_blank(image: Image) -> bool:
    return not (image.max(axis=(0, 1)) - image.min(axis=(0, 1)) > _ROUNDING).any()


def _is_gray(image: Image) -> bool:
    red, green, blue = (image[..., channel].astype(np.int16) for channel in range(3))
    return bool(max(np.abs(red - green).max(), np.abs(green - blue).max()) <= _ROUNDING)


# Pictures that are there more than once, within one identity and across identities.

# Measured on 10,562 aligned photographs: all pairs below 0.05 show one photograph or one moment,
# the first that does not comes at 0.052. Of copies that were saved again, resized, darkened or made
# gray all are found, of those cropped by 1, 2, 3 and 5%, 100, 98, 84 and 24 in a hundred.
MOST_DIFFERENCE = 0.04

# (image, kind of problem, the image that it repeats, particulars)
Finding = tuple[int, str, int, str]


def find_duplicates(examined: Examined, labels: Ints) -> list[Finding]:
    """Finds equal and nearly equal pictures among the readable, non-blank ones.

    Returns of equal pictures under several identities every one; of equal pictures within one
    identity, and of nearly equal ones within it, all but the first; of nearly equal ones across
    identities both. Each image comes at most once for each kind.
    """
    worth = np.flatnonzero(examined.readable & ~examined.blank)
    findings: list[Finding] = []
    firsts = []
    for group in _equal(examined.pixels[worth]):
        images = worth[group]
        firsts.append(int(images[0]))
        if len(images) > 1:
            findings += _of_group(images, examined, labels)
    return findings + _near(np.array(sorted(firsts), dtype=np.int64), examined, labels)


def _equal(hashes: npt.NDArray[np.uint64]) -> Iterator[Ints]:
    """Yields the rows of each different hash, ascending."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    starts = np.flatnonzero((ordered[1:] != ordered[:-1]).any(axis=1)) + 1
    yield from np.split(order, starts) if len(order) else ()


def _of_group(images: Ints, examined: Examined, labels: Ints) -> Iterator[Finding]:
    across = len(np.unique(labels[images])) > 1
    for position, image in enumerate(images.tolist()):
        if across:
            # Shown with it: the first one of someone else.
            other = int(images[labels[images] != labels[image]][0])
            kind = "duplicate across identities"
        elif position:
            other, kind = int(images[0]), "duplicate"
        else:
            continue
        file, of_other = examined.files[image], examined.files[other]
        same_file = file.any() and (file == of_other).all()
        yield image, kind, other, "same file as" if same_file else "same pixels as"


def _near(images: Ints, examined: Examined, labels: Ints) -> list[Finding]:
    thumbnails = examined.thumbnails[images]
    pairs = close_pairs(perceptual_hashes(thumbnails))
    amount = differences(thumbnails, pairs)
    near = np.flatnonzero(amount <= MOST_DIFFERENCE)
    # Of an image only the closest pair is reported.
    best: dict[tuple[int, str], Finding] = {}
    for row in near[np.argsort(amount[near], kind="stable")]:
        first, second = (int(image) for image in images[pairs[row]])
        detail = f"differs by {100 * amount[row]:.1f}% from"
        if labels[first] == labels[second]:
            kind = "near duplicate"
        else:
            kind = "near duplicate across identities"
            best.setdefault((first, kind), (first, kind, second, detail))
        best.setdefault((second, kind), (second, kind, first, detail))
    return list(best.values())
