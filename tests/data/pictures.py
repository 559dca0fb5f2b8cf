"""Small image files that can be told apart, and tar files by hand."""

import io
import struct
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image


def picture(value: int, kind: str = "png", size: int = 8) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (size, size), (value, value, value)).save(file, kind)
    return file.getvalue()


def put(path: Path, value: int = 0, size: int = 8) -> Path:
    """Writes a picture of one gray, whatever its name says, and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(value, "jpeg" if path.suffix == ".jpg" else "png", size))
    return path


def tar(
    path: Path, members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sampled_jpeg(
    width: int, height: int, factors: Sequence[tuple[int, int]], before: bytes = b""
) -> bytes:
    """A JPEG of flat blocks whose channels are sampled as asked, horizontally and vertically.

    Pillow lends its tables; each block is the difference of its mean to the one before it and an
    end mark. `before` comes in front of the frame, such as EXIF data.
    """
    lender = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(lender, "JPEG", quality=90, subsampling=0)
    start = lender.getvalue()
    scan = start.index(b"\xff\xda")
    frame = start.index(b"\xff\xc0")
    tables = start[2:frame] + start[frame + 19 : scan]
    at = tables.index(b"\xff\xc4\x00\x1f\x00") + 5  # the codes of differences of luma
    lengths, symbols = tables[at : at + 16], tables[at + 16 : at + 28]
    codes, code, number = {}, 0, 0
    for length, count in enumerate(lengths, 1):
        for _ in range(count):
            codes[symbols[number]] = f"{code:0{length}b}"
            code, number = code + 1, number + 1
        code <<= 1
    wide, high = (max(side) for side in zip(*factors, strict=True))
    random = np.random.default_rng(0)
    bits, last = "", [0] * len(factors)
    for _ in range(-(-width // (8 * wide)) * -(-height // (8 * high))):
        for channel, (h, v) in enumerate(factors):
            for _ in range(h * v):
                mean = int(random.integers(-150, 150) if channel == 0 else random.integers(-40, 40))
                step, last[channel] = mean - last[channel], mean
                size = abs(step).bit_length()
                digits = step if step > 0 else step + (1 << size) - 1
                # 1010 ends a block in the standard table of luma
                bits += codes[size] + (f"{digits:0{size}b}" if size else "") + "1010"
    bits += "1" * (-len(bits) % 8)
    pixels = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    count = len(factors)
    frame_of = b"".join(bytes((c, h << 4 | v, 0)) for c, (h, v) in enumerate(factors, 1))
    scan_of = b"".join(bytes((c, 0)) for c in range(1, count + 1))
    return b"".join(
        (
            b"\xff\xd8" + before + tables,
            b"\xff\xc0" + struct.pack(">HBHHB", 8 + 3 * count, 8, height, width, count) + frame_of,
            b"\xff\xda" + struct.pack(">HB", 6 + 2 * count, count) + scan_of + b"\0\x3f\0",
            pixels + b"\xff\xd9",
        )
    )
