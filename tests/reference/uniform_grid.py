"""Uniform grids: a regular grid of points, zoomed and shifted by three numbers per image."""

import numpy as np


def uniform_grid(a, height, width):
    """The point at (v, u) moves to (s*v + ty, s*u + tx), with (s, ty, tx) = a[0, 0, :, n].

    v goes evenly from -1 in the first row to 1 in the last, u likewise with the columns; where
    there is one only, it is 1.
    """
    grid = np.zeros((2, height, width, a.shape[3]))
    for i, j, n in np.ndindex(grid.shape[1:]):
        s, ty, tx = a[0, 0, :, n]
        grid[0, i, j, n] = s * _coordinate(i, height) + ty
        grid[1, i, j, n] = s * _coordinate(j, width) + tx
    return grid


def uniform_grid_backward(a, dzdy, height, width):
    """Each number gets dzdy times what it was multiplied with, summed over the points."""
    da = np.zeros(a.shape)
    for i, j, n in np.ndindex(height, width, a.shape[3]):
        p, q = float(dzdy[0, i, j, n]), float(dzdy[1, i, j, n])
        da[0, 0, 0, n] += p * _coordinate(i, height) + q * _coordinate(j, width)
        da[0, 0, 1, n] += p
        da[0, 0, 2, n] += q
    return da


def _coordinate(i, count):
    return 1 - 2 * (count - 1 - i) / (count - 1) if count > 1 else 1.0
