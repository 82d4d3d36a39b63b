"""Resampling of images by loops: the text book of `resize`."""

from fractions import Fraction
from math import ceil, floor, pi, sin

import numpy as np


def box(d):
    return 1.0 if -0.5 <= d < 0.5 else 0.0


def triangle(d):
    return max(0.0, 1 - abs(d))


def cubic(d):
    d = abs(d)
    if d <= 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d <= 2 else 0.0


def lanczos(n):
    def kernel(d):
        if abs(d) >= n:
            return 0.0
        return (sin(pi * d) * sin(pi * d / n) + 1e-5) / (pi**2 * d**2 / n + 1e-5)

    return kernel


KERNELS = {
    "box": (box, 0.5),
    "bilinear": (triangle, 1),
    "bicubic": (cubic, 2),
    "lanczos2": (lanczos(2), 2),
    "lanczos3": (lanczos(3), 3),
}


def resize(image, size, part, method, flip=False):
    """See matconvnet.images.resize; `part` is (top, left, height, width)."""
    image = image.astype(np.float64)
    image = along_rows(image, part[0], part[2], size[0], *KERNELS[method])
    image = along_rows(image.swapaxes(0, 1), part[1], part[3], size[1], *KERNELS[method])
    image = image.swapaxes(0, 1)
    return image[:, ::-1] if flip else image


def along_rows(image, first, length, new_length, kernel, half_width):
    out = np.empty((new_length, *image.shape[1:]))
    a = Fraction(length, new_length)  # exact: kernels may jump at their ends
    s = max(Fraction(1), a)
    for v in range(new_length):
        u = a * v + (a - 1) / 2 + first
        total, weights = 0.0, 0.0
        for k in range(floor(u - half_width * s), ceil(u + half_width * s) + 1):
            weight = kernel(float((u - k) / s))
            total = total + weight * image[min(max(k, 0), len(image) - 1)]
            weights += weight
        out[v] = total / weights
    return out
