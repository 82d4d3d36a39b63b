"""Region-of-interest pooling: every region, whatever its size, becomes SH x SW tiles."""

import math

import numpy as np


def roipool(x, rois, method="max", subdivisions=(1, 1), transform=1):
    """y[i,j,c,k] = max or mean of x over tile (i,j) of region k; 0 for a tile outside the map.

    rois is 5 x K: image, left, top, right, bottom, all from 0, the corners within the region.
    """
    SH, SW = np.broadcast_to(subdivisions, 2)
    y = np.zeros((SH, SW, x.shape[2], rois.shape[1]))
    for i, j, c, k in np.ndindex(y.shape):
        n, rows, columns = _tile(x, rois[:, k], i, j, SH, SW, transform)
        pixels = np.asarray(x[rows, columns, c, n], float)
        if pixels.size > 0:
            y[i, j, c, k] = pixels.max() if method == "max" else pixels.sum() / pixels.size
    return y


def roipool_backward(x, rois, dzdy, method="max", subdivisions=(1, 1), transform=1):
    """As in pooling: dzdy / count to the whole tile, or dzdy to its maximum; regions add up."""
    SH, SW = np.broadcast_to(subdivisions, 2)
    dzdy, dx = np.asarray(dzdy, float), np.zeros(x.shape)
    for i, j, c, k in np.ndindex(dzdy.shape):
        n, rows, columns = _tile(x, rois[:, k], i, j, SH, SW, transform)
        pixels, ders = x[rows, columns, c, n], dx[rows, columns, c, n]  # ders: a view
        if pixels.size == 0:
            continue
        if method == "max":
            column, row = np.unravel_index(pixels.T.argmax(), pixels.T.shape)
            ders[row, column] += dzdy[i, j, c, k]
        else:
            ders += dzdy[i, j, c, k] / pixels.size
    return dx


def _tile(x, roi, i, j, SH, SW, transform):
    """Return the image of a region, and the rows and columns of its tile (i,j)."""
    H, W, _, N = x.shape
    image, left, top, right, bottom = (float(number) for number in roi)
    n = min(max(math.trunc(image), 0), N - 1)
    A = _matrix(transform)
    w0, h0 = (_nearest_pixel(u, x.dtype) for u in A @ (left, top, 1))
    w1, h1 = (_nearest_pixel(u, x.dtype) for u in A @ (right, bottom, 1))
    rows = _part(h0, max(h1 - h0 + 1, 1), i, SH, H, x.dtype)
    return n, rows, _part(w0, max(w1 - w0 + 1, 1), j, SW, W, x.dtype)


def _matrix(transform):
    """A scaling, a pair (horizontal, vertical) of them, or a 2 x 3 matrix on (u, v, 1)."""
    if np.size(transform) == 6:
        return np.asarray(transform, float)
    su, sv = np.broadcast_to(transform, 2)
    return np.array([[su, 0, 0], [0, sv, 0]], float)


def _nearest_pixel(u, dtype):
    """Round half away from zero, where zero is one pixel before the first (the ancestor's 0)."""
    u = float(dtype.type(u + 1))
    whole = math.trunc(u)
    if abs(u - whole) >= 0.5:
        whole += 1 if u > 0 else -1
    return whole - 1


def _part(start, length, i, parts, limit, dtype):
    """Return part i of `parts`, clipped to the map.

    The products are taken in the type of x: its rounding decides whether a last tile overshoots.
    """
    step = dtype.type(length / parts)
    first = start + math.floor(dtype.type(i) * step)
    end = start + math.ceil(dtype.type(i + 1) * step)
    return slice(min(max(first, 0), limit), min(max(end, 0), limit))
