"""Affine grids: a regular grid of points, mapped by six numbers per image."""

import numpy as np


def affine_grid(a, height, width):
    """The point at (v, u) moves to (a0*v + a1*u + a4, a2*v + a3*u + a5).

    v goes evenly from -1 in the first row to 1 in the last, u likewise with the columns; where
    there is one only, it is 1.
    """
    grid = np.zeros((2, height, width, a.shape[3]))
    for i, j, n in np.ndindex(grid.shape[1:]):
        v, u, p = _coordinate(i, height), _coordinate(j, width), a[0, 0, :, n]
        grid[0, i, j, n] = p[0] * v + p[1] * u + p[4]
        grid[1, i, j, n] = p[2] * v + p[3] * u + p[5]
    return grid


def affine_grid_backward(a, dzdy, height, width):
    """Each number gets dzdy times what it was multiplied with, summed over the points."""
    da = np.zeros(a.shape)
    for i, j, n in np.ndindex(height, width, a.shape[3]):
        v, u = _coordinate(i, height), _coordinate(j, width)
        p, q = float(dzdy[0, i, j, n]), float(dzdy[1, i, j, n])
        da[0, 0, :, n] += (p * v, p * u, q * v, q * u, p, q)
    return da


def _coordinate(i, count):
    return 1 - 2 * (count - 1 - i) / (count - 1) if count > 1 else 1.0
