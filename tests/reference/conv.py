"""Convolution: an output is the inner product of a filter and a patch of the zero-padded map."""

import numpy as np


def conv(x, f, b, stride=1, pad=0, dilate=1):
    """y[i,j,k,n] = b[k] + sum_{a,c,e} f[a,c,e,k] * X[i*sy + a*dy, j*sx + c*dx, g*FC + e, n].

    X is x with its padding, g the group of filter k. No filters (None) means one tap of weight 1.
    """
    f = _filters(x, f)
    X, read, y_shape = _geometry(x, f, stride, pad, dilate)
    y = np.zeros(y_shape)
    for i, j, k, n in np.ndindex(y_shape):
        y[i, j, k, n] = np.sum(f[..., k] * X[read(i, j, k, n)])
        if b is not None:
            y[i, j, k, n] += np.ravel(b)[k]
    return y


def conv_backward(x, f, b, dzdy, stride=1, pad=0, dilate=1):
    """Whatever an output has read, and multiplied with, gets its share of dzdy of that output."""
    taps = _filters(x, f)
    X, read, y_shape = _geometry(x, taps, stride, pad, dilate)
    dX, df, db = np.zeros(X.shape), np.zeros(taps.shape), np.zeros(taps.shape[3])
    for i, j, k, n in np.ndindex(y_shape):
        p = float(dzdy[i, j, k, n])
        db[k] += p
        df[..., k] += p * X[read(i, j, k, n)]
        dX[read(i, j, k, n)] += p * taps[..., k]
    top, _, left, _ = np.broadcast_to(pad, 4)
    dx = dX[top : top + x.shape[0], left : left + x.shape[1]]
    return dx, None if f is None else df, None if b is None else db.reshape(np.shape(b))


def _filters(x, f):
    return np.ones((1, 1, 1, x.shape[2])) if f is None else np.asarray(f, float)


def _geometry(x, f, stride, pad, dilate):
    """Return the padded map, the patch of it that output (i,j,k,n) reads, and the output's size."""
    (sy, sx), (dy, dx) = np.broadcast_to(stride, 2), np.broadcast_to(dilate, 2)
    top, bottom, left, right = np.broadcast_to(pad, 4)
    X = np.pad(np.asarray(x, float), ((top, bottom), (left, right), (0, 0), (0, 0)))
    FH, FW, FC, K = f.shape
    filters_per_group = K // (x.shape[2] // FC)
    extent_y, extent_x = (FH - 1) * dy + 1, (FW - 1) * dx + 1

    def read(i, j, k, n):
        g = k // filters_per_group
        rows = slice(i * sy, i * sy + extent_y, dy)
        columns = slice(j * sx, j * sx + extent_x, dx)
        return rows, columns, slice(g * FC, (g + 1) * FC), n

    Y, Z = (X.shape[0] - extent_y) // sy + 1, (X.shape[1] - extent_x) // sx + 1
    return X, read, (Y, Z, K, x.shape[3])
