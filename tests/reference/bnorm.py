"""Batch normalisation: every channel to zero mean and unit deviation, then times g, plus b."""

import math

import numpy as np


def bnorm(x, g, b, epsilon=1e-4, moments=None):
    """y = g * (x - mu) / sigma + b per channel; returns y and the moments, C x 2: mu, sigma.

    mu = sum(x) / M and sigma = sqrt(sum((x - mu)^2) / M + epsilon), M elements per channel.
    """
    x = np.asarray(x, float)
    if moments is None:
        moments = _moments(x, epsilon)
    y = np.zeros(x.shape)
    for k in range(x.shape[2]):
        mu, sigma = moments[k]
        y[:, :, k] = np.ravel(g)[k] * (x[:, :, k] - mu) / sigma + np.ravel(b)[k]
    return y, moments


def bnorm_backward(x, g, b, dzdy, epsilon=1e-4, moments=None):
    """Return dx, dg, db, moments; given moments are taken for those of x, not for constants.

    db = sum(p), dg = sum(p * (x - mu)) / sigma
    dx = (g / sigma) * (p - db / M - ((x - mu) / sigma) * dg / M)
    """
    x = np.asarray(x, float)
    if moments is None:
        moments = _moments(x, epsilon)
    C = x.shape[2]
    dx, dg, db = np.zeros(x.shape), np.zeros(C), np.zeros(C)
    for k in range(C):
        mu, sigma = moments[k]
        p, xhat = np.asarray(dzdy[:, :, k], float), (x[:, :, k] - mu) / sigma
        db[k], dg[k] = np.sum(p), np.sum(p * xhat)
        dx[:, :, k] = np.ravel(g)[k] / sigma * (p - db[k] / p.size - xhat * dg[k] / p.size)
    return dx, dg.reshape(np.shape(g)), db.reshape(np.shape(b)), moments


def _moments(x, epsilon):
    moments = np.zeros((x.shape[2], 2))
    for k in range(x.shape[2]):
        v = x[:, :, k]
        mu = np.sum(v) / v.size
        moments[k] = mu, math.sqrt(np.sum((v - mu) ** 2) / v.size + epsilon)
    return moments
