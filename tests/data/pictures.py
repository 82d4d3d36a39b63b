"""Picture files that tests read, whole and damaged ones, and a database of them."""

import io
import struct
from types import SimpleNamespace

import numpy as np
from PIL import Image


def photograph(height=48, width=64, seed=0):
    """A smooth H x W x 3 picture, which JPEG keeps nearly as it is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = rng.uniform(0.5, 2, (3, 2))
    phases = rng.uniform(0, 6, 3)
    planes = [np.sin(a * x + b * y + p) for (a, b), p in zip(waves, phases, strict=True)]
    return (127.5 + 100 * np.stack(planes, 2)).astype(np.uint8)


def encoded(pixels, kind="JPEG", mode=None, **options):
    """The content of a file."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    memory = io.BytesIO()
    options = {"quality": 95} | options if kind == "JPEG" else options
    (image.convert(mode) if mode else image).save(memory, kind, **options)
    return memory.getvalue()


def huge(content, height=65000, width=65000):
    """A JPEG file whose header tells of more pixels."""
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def damaged(content, number, rng):
    """Content that is damaged beyond repair, in one of several ways, by number."""
    kind = number % 6
    if kind == 0:
        return content[: rng.integers(1, len(content) * 3 // 4)]
    if kind == 1:
        return b""
    if kind == 2:
        return rng.bytes(rng.integers(1, 5000))
    if kind == 3:
        return huge(content)
    if kind == 4:
        return b"this is a text, whatever its name says\n" * 9
    return content[:2] + rng.bytes(len(content) - 2)


def flipped(content, rng, bits=9):
    """Content with some bits turned; it may be read or not."""
    array = np.frombuffer(content, np.uint8).copy()
    for at in rng.integers(0, len(array), bits):
        array[at] ^= 1 << rng.integers(0, 8)
    return array.tobytes()


def database(folder, contents, labels=None, codes=None):
    """Write files, and list them as an image database."""
    names = [f"{k:04d}.jpg" for k in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        if content is not None:
            (folder / name).write_bytes(content)
    count = len(names)
    return SimpleNamespace(
        folder=folder,
        names=tuple(names),
        labels=np.arange(count) % 3 if labels is None else np.asarray(labels),
        set=np.ones(count, np.int64) if codes is None else np.asarray(codes),
    )
