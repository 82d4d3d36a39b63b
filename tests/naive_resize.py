"""Resampling of images by loops: the text book of `resize`."""

from math import ceil, floor

import numpy as np


def triangle(d):
    return max(0.0, 1 - abs(d))


def cubic(d):
    d = abs(d)
    if d <= 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d <= 2 else 0.0


KERNELS = {"bilinear": (triangle, 1), "bicubic": (cubic, 2)}


def resize(image, size, box, method):
    """See matconvnet.images.resize; `box` is (top, left, height, width)."""
    image = image.astype(np.float64)
    image = along_rows(image, box[0], box[2], size[0], *KERNELS[method])
    image = along_rows(image.swapaxes(0, 1), box[1], box[3], size[1], *KERNELS[method])
    return image.swapaxes(0, 1)


def along_rows(image, first, length, new_length, kernel, half_width):
    out = np.empty((new_length, *image.shape[1:]))
    a = length / new_length
    s = max(1.0, a)
    for v in range(new_length):
        u = a * v + (a - 1) / 2 + first
        total, weights = 0.0, 0.0
        for k in range(floor(u - half_width * s), ceil(u + half_width * s) + 1):
            weight = kernel((u - k) / s)
            total = total + weight * image[min(max(k, 0), len(image) - 1)]
            weights += weight
        out[v] = total / weights
    return out
