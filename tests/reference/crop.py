"""Cropping: rows and columns taken off the borders of a map."""

import numpy as np


def crop(x, crop):
    """y[i,j,c,n] = x[top + i, left + j, c, n], with crop = (top, bottom, left, right)."""
    top, bottom, left, right = crop
    H, W, C, N = x.shape
    y = np.zeros((H - top - bottom, W - left - right, C, N))
    for i, j, c, n in np.ndindex(y.shape):
        y[i, j, c, n] = x[top + i, left + j, c, n]
    return y


def crop_backward(x, dzdy, crop):
    """dzdy where x was kept, zero on the borders."""
    top, _, left, _ = crop
    dx = np.zeros(x.shape)
    for i, j, c, n in np.ndindex(dzdy.shape):
        dx[top + i, left + j, c, n] = dzdy[i, j, c, n]
    return dx
