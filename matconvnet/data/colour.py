"""Random changes of the colours of a picture."""

from collections.abc import Sequence
from math import cos, log, pi, sin, sqrt

import numpy as np

ROWS = 32  # that are mixed at a time, so that they stay in the cache


def normals(draws: Sequence[float]) -> np.ndarray:
    """Standard normal numbers of pairs of uniform ones in [0, 1), by the method of Box-Muller."""
    numbers = []
    for u, v in zip(draws[::2], draws[1::2], strict=True):
        radius = sqrt(-2 * log(1 - u))
        numbers += [radius * cos(2 * pi * v), radius * sin(2 * pi * v)]
    return np.array(numbers)


def change_colours(
    v: np.ndarray, shift: np.ndarray, contrast: float = 1.0, saturation: float = 1.0
) -> None:
    """Change contrast and saturation of a picture about its own mean, and shift it, in place.

        d_k = shift_k + (1 - c) mean(v_k)
        d   = s d + (1 - s) mean_k(d)
        v_k = c s v_k + c (1 - s) mean_k(v) + d_k

    with c the contrast and s the saturation: the contrast neither scales the shift nor moves the
    mean; values are not clipped.

    Args:
        v: H x W x C float32, changed. The saturation of a single channel has no effect.
        shift: C numbers, or H x W x C: b - average, the drawn brightness less the average image.
        contrast, saturation: c and s, 1 for no change.
    Source: vl_imreadjpeg.
    """
    channels = v.shape[2]
    d = shift
    if contrast != 1:
        # A sum of rows first, since a mean of all in float32 loses digits.
        d = shift + (1 - contrast) * v.mean(axis=0).mean(axis=0, dtype=np.float64)
    if saturation != 1 and channels > 1:
        d = saturation * d + (1 - saturation) * d.mean(axis=-1, keepdims=True)
        mix = saturation * np.eye(channels) + (1 - saturation) / channels
        mix = (contrast * mix).astype(np.float32)
        for i in range(0, len(v), ROWS):
            v[i : i + ROWS] = v[i : i + ROWS] @ mix
    elif contrast != 1:
        v *= np.float32(contrast)
    if d.ndim == 1:
        d = np.tile(d, v.shape[1]).reshape(v.shape[1:])  # NumPy adds long rows faster
    v += d.astype(np.float32)
