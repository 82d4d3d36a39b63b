"""Smooth L1 loss: the parabola near the target, straight lines far from it."""

import numpy as np


def smooth_l1(x, x0, instance_weights=None, sigma=1.0):
    """Sum of w * f(x - x0), f(d) = (sigma*d)^2 / 2, from |d| = 1/sigma^2 on |d| - 1/(2 sigma^2)."""
    w, y = _weights(x, instance_weights), 0.0
    for at in np.ndindex(x.shape):
        d = abs(float(x[at]) - float(x0[at]))
        y += w[at] * ((sigma * d) ** 2 / 2 if d <= sigma**-2 else d - sigma**-2 / 2)
    return np.asarray(y)


def smooth_l1_backward(x, x0, dzdy, instance_weights=None, sigma=1.0):
    """Return dx and dx0 = -dx: sigma^2 * d on the parabola, the sign of d on the lines."""
    w, dx = _weights(x, instance_weights), np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        d = float(x[at]) - float(x0[at])
        slope = sigma**2 * d if abs(d) <= sigma**-2 else np.sign(d)
        dx[at] = float(dzdy) * w[at] * slope
    return dx, -dx


def _weights(x, weights):
    """One weight per element; of a smaller array the first axes are given."""
    if weights is None:
        weights = 1.0
    weights = np.reshape(weights, np.shape(weights) + (1,) * (4 - np.ndim(weights)))
    return np.broadcast_to(weights, x.shape)
