"""Transposed convolution: every input element adds its scaled filters; the result is cropped."""

import numpy as np


def convt(x, f, b, upsample=1, crop=0, num_groups=1):
    """Y[i*uy + a, j*ux + c, g*K + k, n] += f[a,c,k,d] * x[i,j,d,n]; y = Y without its crop, + b."""
    x, f = np.asarray(x, float), np.asarray(f, float)
    size, inside, write = _geometry(x, f, upsample, crop, num_groups)
    Y = np.zeros(size)
    for i, j, d, n in np.ndindex(x.shape):
        Y[write(i, j, d, n)] += f[..., d] * x[i, j, d, n]
    y = Y[inside]
    for k in range(y.shape[2]):
        if b is not None:
            y[:, :, k] += np.ravel(b)[k]
    return y


def convt_backward(x, f, b, dzdy, upsample=1, crop=0, num_groups=1):
    """With P = dzdy embedded in zeros of the uncropped size, and g the group of channel d.

    dx[i,j,d,n] = sum_{a,c,k} f[a,c,k,d] * P[i*uy + a, j*ux + c, g*K + k, n]
    df[a,c,k,d] = sum_{i,j,n} x[i,j,d,n] * P[i*uy + a, j*ux + c, g*K + k, n]
    """
    x, f = np.asarray(x, float), np.asarray(f, float)
    size, inside, write = _geometry(x, f, upsample, crop, num_groups)
    P = np.zeros(size)
    P[inside] = dzdy
    dx, df, db = np.zeros(x.shape), np.zeros(f.shape), np.zeros(size[2])
    for i, j, d, n in np.ndindex(x.shape):
        dx[i, j, d, n] = np.sum(f[..., d] * P[write(i, j, d, n)])
        df[..., d] += x[i, j, d, n] * P[write(i, j, d, n)]
    for k in range(size[2]):
        db[k] = np.sum(P[:, :, k])
    return dx, df, None if b is None else db.reshape(np.shape(b))


def _geometry(x, f, upsample, crop, num_groups):
    """Return the uncropped size, what the crop leaves of it, and where x[i,j,d,n] writes."""
    uy, ux = np.broadcast_to(upsample, 2)
    top, bottom, left, right = np.broadcast_to(crop, 4)
    H, W, D, N = x.shape
    FH, FW, K, _ = f.shape
    Y, Z = (H - 1) * uy + FH, (W - 1) * ux + FW

    def write(i, j, d, n):
        g = d // (D // num_groups)
        rows, columns = slice(i * uy, i * uy + FH), slice(j * ux, j * ux + FW)
        return rows, columns, slice(g * K, (g + 1) * K), n

    inside = slice(top, Y - bottom), slice(left, Z - right)
    return (Y, Z, K * num_groups, N), inside, write
