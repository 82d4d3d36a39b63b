"""Losses: one number for the scores of all pixels and images, compared with their labels.

Categorical losses have one label per pixel, the class from 0, -1 where there is none. Attribute
losses have one per score: +1 or -1, 0 where there is none.
"""

import numpy as np

ATTRIBUTE = {"binaryerror", "binarylog", "logistic", "hinge"}


def loss(x, c, loss="softmaxlog", instance_weights=None, threshold=0, top_k=5):
    """y = sum over labelled pixels of weight * t(scores, label); see `_value` for t."""
    y = 0.0
    for scores, label, weight in _labelled(x, c, loss.lower(), instance_weights):
        y += weight * _value(loss.lower(), np.asarray(x[scores], float), label, threshold, top_k)
    return y


def loss_backward(x, c, dzdy, loss="softmaxlog", instance_weights=None, threshold=0, top_k=5):
    """dx = dzdy * weight * dt/dscores; see `_slope`. Errors, which use the last two, have none."""
    dx = np.zeros(x.shape)
    for scores, label, weight in _labelled(x, c, loss.lower(), instance_weights):
        dx[scores] = dzdy * weight * _slope(loss.lower(), np.asarray(x[scores], float), label)
    return dx


def _labelled(x, c, loss, weights):
    """Yield for every label: where its scores are, the label itself, its weight.

    A categorical label belongs to all channels of a pixel, an attribute label to one of them.
    """
    H, W, D, N = x.shape
    attribute = loss in ATTRIBUTE
    channels, ignored = (D, 0) if attribute else (1, -1)
    if np.size(c) == N:
        c = np.reshape(c, (1, 1, 1, N))
    c = np.broadcast_to(c, (H, W, channels, N))
    weights = np.asarray(1.0 if weights is None else weights, float)
    weights = weights.reshape(weights.shape + (1,) * (4 - weights.ndim))  # axes missing at the end
    weights = np.broadcast_to(weights, c.shape)
    for i, j, d, n in np.ndindex(c.shape):
        if c[i, j, d, n] != ignored:
            scores = (i, j, d if attribute else slice(None), n)
            yield scores, int(c[i, j, d, n]), weights[i, j, d, n]


def _value(loss, x, c, threshold, top_k):
    """The loss t of one label: x is one score (attributes) or the scores of all classes."""
    match loss:
        case "classerror":
            return float(x.argmax() != c)
        case "topkerror":
            ranking = np.argsort(-x, kind="stable")  # equal scores: lower class first
            return float(c not in ranking[:top_k])
        case "log":
            with np.errstate(divide="ignore"):
                return -np.log(x[c])
        case "softmaxlog":
            return x.max() + np.log(np.sum(np.exp(x - x.max()))) - x[c]
        case "mhinge":
            return max(0, 1 - x[c])
        case "mshinge":
            return max(0, 1 - x[c] + _rival(x, c)[1])
        case "binaryerror":
            return float(np.sign(x - threshold) != c)
        case "binarylog":
            with np.errstate(divide="ignore"):
                return -np.log(c * (x - 0.5) + 0.5)
        case "logistic":
            return np.logaddexp(0, -c * x)  # log(1 + exp(-c*x))
        case "hinge":
            return max(0, 1 - c * x)
    raise ValueError(f"loss is {loss!r}")


def _slope(loss, x, c):
    """Derivative of `_value` with respect to x; at the kink of a hinge it is 0."""
    dx = np.zeros(x.shape)
    match loss:
        case "log":
            dx[c] = -1 / max(x[c], 1e-8)
        case "softmaxlog":
            dx = np.exp(x - x.max()) / np.sum(np.exp(x - x.max()))
            dx[c] -= 1
        case "mhinge":
            dx[c] = -1 if x[c] < 1 else 0
        case "mshinge":
            q, score = _rival(x, c)
            if x[c] - score < 1:
                dx[c], dx[q] = -1, 1
        case "binarylog":
            with np.errstate(divide="ignore"):
                dx = -1 / (x + (c - 1) / 2)
        case "logistic":
            dx = -c * np.exp(-np.logaddexp(0, c * x))  # -c / (1 + exp(c*x))
        case "hinge":
            dx = -c if c * x < 1 else 0
    return dx


def _rival(x, c):
    """The best class that is not c (the first of several), and its score: -inf without classes."""
    others = x.copy()
    others[c] = -np.inf
    return others.argmax(), others.max()
