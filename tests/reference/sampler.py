"""Bilinear resampling of a map at the points of a grid; the map is zero outside."""

import math

import numpy as np


def sampler(x, grid):
    """y[i,j,c,m] = sum over the four pixels around point (i,j,m) of weight * pixel.

    grid[0] is the vertical, grid[1] the horizontal coordinate, -1 the first pixel, +1 the last;
    grid m looks at image m // (grids per image).
    """
    y = np.zeros((grid.shape[1], grid.shape[2], x.shape[2], grid.shape[3]))
    for i, j, m, n, corners in _points(x, grid):
        for u, v, weight, _, _ in corners:
            y[i, j, :, m] += weight * _pixel(x, u, v, n)
    return y


def sampler_backward(x, grid, dzdy):
    """A pixel gets weight * dzdy, the grid dzdy times the slope of the weights.

    On a pixel the slope is the one towards larger coordinates.
    """
    H, W = x.shape[:2]
    dx, dgrid = np.zeros(x.shape), np.zeros(grid.shape)
    for i, j, m, n, corners in _points(x, grid):
        p = np.asarray(dzdy[i, j, :, m], float)
        for u, v, weight, slope_down, slope_across in corners:
            if 0 <= u < H and 0 <= v < W:
                dx[u, v, :, n] += weight * p
            along = np.sum(p * _pixel(x, u, v, n))
            dgrid[0, i, j, m] += (H - 1) / 2 * slope_down * along
            dgrid[1, i, j, m] += (W - 1) / 2 * slope_across * along
    return dx, dgrid


def _points(x, grid):
    """Yield output pixel and grid, image, and the corners of the cell that the point lies in.

    A corner is its row, its column, its weight, and the slopes of the weight down and across.
    Points that are not finite are left out: they give zero everywhere.
    """
    H, W, _, N = x.shape
    _, Y, Z, grids = grid.shape
    for i, j, m in np.ndindex(Y, Z, grids):
        row = 0.5 * (float(grid[0, i, j, m]) + 1) * (H - 1)
        column = 0.5 * (float(grid[1, i, j, m]) + 1) * (W - 1)
        if not (math.isfinite(row) and math.isfinite(column)):
            continue
        u, v = math.floor(row), math.floor(column)
        a, b = row - u, column - v
        corners = (
            (u, v, (1 - a) * (1 - b), -(1 - b), -(1 - a)),
            (u + 1, v, a * (1 - b), 1 - b, -a),
            (u, v + 1, (1 - a) * b, -b, 1 - a),
            (u + 1, v + 1, a * b, b, a),
        )
        yield i, j, m, m // (grids // N), corners


def _pixel(x, u, v, n):
    inside = 0 <= u < x.shape[0] and 0 <= v < x.shape[1]
    return np.asarray(x[u, v, :, n], float) if inside else np.zeros(x.shape[2])
