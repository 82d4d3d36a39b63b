"""What is done to a picture, by loops in float64: the text book of `PictureOptions.prepare`."""

from math import floor, log, sqrt

import numpy as np

from tests.naive_resize import resize


def half_up(number):
    return floor(number + 0.5)


def output_size(height, width, resize_to):
    if resize_to is None:
        return height, width
    if len(resize_to) == 2:
        return tuple(resize_to)
    s = max(resize_to[0] / width, resize_to[0] / height)
    return max(1, half_up(s * height)), max(1, half_up(s * width))


def place(height, width, resize_to, crop_size, anisotropy, location, u):
    """Section "Geometry" of the reader: (Ho, Wo), (top, left, height, width)."""
    ho, wo = output_size(height, width, resize_to)
    if min(anisotropy) == 0:
        a = (width / height) / (wo / ho)
    else:
        a = np.exp(log(anisotropy[0]) + u[0] * (log(anisotropy[1]) - log(anisotropy[0])))
    cw, ch = wo * sqrt(a), ho / sqrt(a)
    m = min(width / cw, height / ch)
    r = sqrt(crop_size[0] ** 2 * (1 - u[1]) + crop_size[1] ** 2 * u[1])
    w = max(1, min(width, half_up(m * r * cw)))
    h = max(1, min(height, half_up(m * r * ch)))
    if location == "center":
        return (ho, wo), (floor((height - h) / 2), floor((width - w) / 2), h, w)
    return (ho, wo), (floor(u[3] * (height - h + 1)), floor(u[2] * (width - w + 1)), h, w)


def colour(v, average, b, c, s):
    """Section "Colour": `average` is H x W x K, b has K numbers."""
    height, width, channels = v.shape
    out = np.empty(v.shape)
    mean = [sum(v[i, j, k] for i in range(height) for j in range(width)) for k in range(channels)]
    for i, j in np.ndindex(height, width):
        d = [
            b[k] - average[i, j, k] + (1 - c) * mean[k] / (height * width) for k in range(channels)
        ]
        grey, grey_d = sum(v[i, j]) / channels, sum(d) / channels
        for k in range(channels):
            d_k = s * d[k] + (1 - s) * grey_d
            out[i, j, k] = c * s * v[i, j, k] + c * (1 - s) * grey + d_k
    return out


def picture(pixels, method, geometry, flip, average, b, c, s):
    """The whole of it; `geometry` are the arguments of `place` after the size of the picture."""
    size, part = place(*pixels.shape[:2], *geometry)
    v = resize(pixels, size, part, method, flip)
    return colour(v, np.broadcast_to(average, v.shape), b, c, s)
