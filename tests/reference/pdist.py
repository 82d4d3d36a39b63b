"""p-distance between the channels of x and those of a target x0, pixel by pixel."""

import numpy as np


def pdist(x, x0, p, no_root=False, epsilon=1e-6, aggregate=False, instance_weights=None):
    """y = w * S^(1/p), or w * S without root, with S = sum_d |x[d] - x0[d]|^p.

    x0 is as large as x, or 1 x 1 x D x N. With aggregate, the sum of y over pixels and images.
    epsilon has a part in the derivative only.
    """
    y, w = _output(x), _weights(x, instance_weights)
    difference = np.asarray(x, float) - np.asarray(x0, float)
    for i, j, n in _pixels(x):
        S = np.sum(np.abs(difference[i, j, :, n]) ** p)
        y[i, j, 0, n] = w[i, j, 0, n] * (S if no_root else S ** (1 / p))
    return y.sum() if aggregate else y


def pdist_backward(
    x, x0, dzdy, p, no_root=False, epsilon=1e-6, aggregate=False, instance_weights=None
):
    """Return dx and dx0 = -dx, summed to the shape of x0.

    epsilon bounds S from below for p > 1, |d| for p < 1. Where d = 0 the derivative is 0.
    """
    w = _weights(x, instance_weights)
    g = np.full(w.shape, float(dzdy)) if aggregate else np.asarray(dzdy, float)
    difference = np.asarray(x, float) - np.asarray(x0, float)
    dx, dx0 = np.zeros(x.shape), np.zeros(np.shape(x0))
    for i, j, n in _pixels(x):
        slope = _slope(difference[i, j, :, n], p, no_root, epsilon)
        dx[i, j, :, n] = g[i, j, 0, n] * w[i, j, 0, n] * slope
        dx0[i % dx0.shape[0], j % dx0.shape[1], :, n] -= dx[i, j, :, n]  # % 1: the only pixel of x0
    return dx, dx0


def _slope(d, p, no_root, epsilon):
    """Derivative of the distance with respect to d."""
    size, sign = np.abs(d), np.sign(d)
    S = np.sum(size**p)
    if p == 1:
        return sign
    if p < 1:
        power = np.maximum(size, epsilon) ** (p - 1) * sign
        return p * power if no_root else S ** ((1 - p) / p) * power
    power = size ** (p - 1) * sign
    return p * power if no_root else max(S, epsilon) ** ((1 - p) / p) * power


def _pixels(x):
    return np.ndindex(x.shape[0], x.shape[1], x.shape[3])


def _output(x):
    return np.zeros((x.shape[0], x.shape[1], 1, x.shape[3]))


def _weights(x, weights):
    """One weight per pixel and image; of a smaller array the first axes are given."""
    if weights is None:
        weights = 1.0
    weights = np.reshape(weights, np.shape(weights) + (1,) * (4 - np.ndim(weights)))
    return np.broadcast_to(weights, _output(x).shape)
