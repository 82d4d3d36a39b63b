"""A published network trained further, with what its author published and nothing else."""

import numpy as np
import pytest
import torch

import matconvnet as mcn
from tests import models

NAN = float("nan")


def get_batch(imdb, batch):
    images = imdb.images
    return images.data[:, :, :, batch - 1], images.label[:, batch - 1]


def train(net, imdb, **options):
    given = {"exp_dir": None, "progress": False, "batch_size": 50} | options
    return mcn.cnn_train(net, imdb, get_batch, **given)


def test_landcover():
    net = mcn.load(models.path("landcover_now_epoch100"))
    imdb = mcn.load(models.path("landcover_imdb"))
    recorded = net.beside["stats"].val[-1]
    _, stats = train(net, imdb, train=NAN)
    assert stats.val[0].top1err == recorded.top1err == 0.02
    assert stats.val[0].objective == pytest.approx(0.081926, abs=1e-6)
    before = {name: value.clone() for name, value in net.values().items()}
    rest = np.flatnonzero(imdb.images.set.ravel() == 3) + 1  # patches it was not trained on
    net, stats = train(net, imdb, train=rest, num_epochs=5, learning_rate=0.01)
    assert stats.train[0].objective < 0.123
    assert stats.train[-1].objective < 0.95 * 0.121819  # of these patches, as it was published
    assert stats.val[-1].top1err <= 0.03
    assert all(not torch.equal(before[name], value) for name, value in net.values().items())


def test_landcover_with_a_new_end_learns_again(tmp_path):
    """Transfer: the last convolution drawn anew, the others as published, slower."""
    path, imdb = models.path("landcover_now_epoch100"), mcn.load(models.path("landcover_imdb"))
    mcn.save(mcn.load(path), tmp_path / "net.mat")
    struct = mcn.load(tmp_path / "net.mat").to_struct()
    last = struct.layers[-2]
    last.weights = [torch.randn(1, 1, 20, 2, generator=torch.Generator().manual_seed(0)) * 0.1,
                    torch.zeros(2)]  # fmt: skip
    for layer in struct.layers[:-2]:
        layer.learningRate = [0.1 * rate for rate in layer.get("learningRate", [])]
    net, stats = train(struct, imdb, num_epochs=10, learning_rate=0.01)
    errors = [epoch.top1err for epoch in stats.val]
    assert errors[-1] <= 0.05
    assert np.shape(net.layers[0].weights[0]) == (3, 3, 1, 10)
