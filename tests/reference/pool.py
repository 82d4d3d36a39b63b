"""Spatial pooling: the maximum or the mean of every window, clipped to the map."""

import numpy as np


def pool(x, size, stride=1, pad=0, method="max"):
    """y[i,j,c,n] = max or mean of x[u,v,c,n] over the pixels (u,v) of window (i,j) in the map."""
    x = np.asarray(x, float)
    Y, Z, window = _geometry(x, size, stride, pad)
    y = np.zeros((Y, Z, *x.shape[2:]))
    for i, j, c, n in np.ndindex(y.shape):
        pixels = x[window(i, j)][:, :, c, n]
        y[i, j, c, n] = pixels.max() if method == "max" else pixels.sum() / pixels.size
    return y


def pool_backward(x, dzdy, size, stride=1, pad=0, method="max"):
    """The mean spreads dzdy / count over its window; the maximum gives it whole to one pixel.

    Tied maxima: the first takes it, going down each column in turn.
    """
    x, dzdy = np.asarray(x, float), np.asarray(dzdy, float)
    Y, Z, window = _geometry(x, size, stride, pad)
    dx = np.zeros(x.shape)
    for i, j, c, n in np.ndindex(Y, Z, *x.shape[2:]):
        pixels, ders = x[window(i, j)][:, :, c, n], dx[window(i, j)][:, :, c, n]  # ders: a view
        if method == "max":
            column, row = np.unravel_index(pixels.T.argmax(), pixels.T.shape)
            ders[row, column] += dzdy[i, j, c, n]
        else:
            ders += dzdy[i, j, c, n] / pixels.size
    return dx


def _geometry(x, size, stride, pad):
    """Return the number of windows down and across, and the pixels of window (i,j)."""
    (PH, PW), (sy, sx) = np.broadcast_to(size, 2), np.broadcast_to(stride, 2)
    top, bottom, left, right = np.broadcast_to(pad, 4)
    H, W = x.shape[:2]

    def window(i, j):
        u, v = i * sy - top, j * sx - left
        return slice(max(0, u), min(H, u + PH)), slice(max(0, v), min(W, v + PW))

    return (H + top + bottom - PH) // sy + 1, (W + left + right - PW) // sx + 1, window
