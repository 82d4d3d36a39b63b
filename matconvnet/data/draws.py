"""Random numbers that belong to an image: the same wherever and whenever they are drawn."""

import hashlib

import numpy as np

GAMMA = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio, made odd
WORD = 2**64
DIGITS = 53  # bits of the fraction of a float64


def uniform(seed: int, indices: np.ndarray, count: int, *, stream: str = "") -> np.ndarray:
    """Draw `count` numbers for every image, out of nothing but the seed and the image's index.

        s_i = mix(mix(seed + stream) + (i + 1) * gamma)
        u_ij = floor(mix(s_i + (j + 1) * gamma) / 2^11) / 2^53        modulo 2^64

    The numbers depend neither on the other images, nor on their order, nor on `count`: threads,
    ranks and a resumed run all draw the same.

    Args:
        seed: any integer, another one for every epoch.
        indices: N integers, 0-based places in the database.
        count: numbers per image.
        stream: what the numbers are for; other words give other numbers from the same seed.
    Returns: N x count float64, uniform from 0 to below 1.
    Source: SplitMix64 of Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
        OOPSLA 2014.
    """
    salt = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8]) if stream else 0
    key = _mix(np.array([(seed + salt) % WORD], np.uint64))
    images = _mix(key + (np.asarray(indices).astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA)
    return (_mix(images[:, None] + steps) >> np.uint64(64 - DIGITS)) * 2.0**-DIGITS


def _mix(z: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64: every bit of the result depends on every bit of `z`."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
