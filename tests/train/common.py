"""A small network and a small database for the tests of training."""

import numpy as np
import torch

import matconvnet as mcn
from matconvnet.train.options import TrainOptions

CLASSES = 3


class Data:
    """Random images in float64, labels from 0, and the codes of the sets."""

    def __init__(self, count=22, train=14, seed=0):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, CLASSES, count)
        self.images = rng.standard_normal((6, 5, 2, count))
        self.images += self.labels  # so that there is something to learn
        self.set = np.where(np.arange(count) < train, 1, 2)

    def get_batch(self, imdb, indices):
        assert imdb is self
        return self.images[..., indices], self.labels[indices]


def small_net(*, dropout=0.0, bnorm=False, dtype=torch.float64, loss=None):
    """Two convolutions with what is asked for in between."""
    generator = torch.Generator().manual_seed(1)

    def randn(*size):
        return 0.3 * torch.randn(size, generator=generator, dtype=dtype)

    layers = [(mcn.Conv(), [randn(3, 2, 2, 4), randn(4)])]
    if bnorm:
        weights = [torch.ones(4), torch.zeros(4), torch.zeros(4, 2)]
        layers.append((mcn.BatchNorm(), [w.to(dtype) for w in weights]))
    layers.append(mcn.ReLU())
    if dropout:
        layers.append(mcn.Dropout(dropout))
    layers.append((mcn.Conv(), [randn(4, 4, 4, CLASSES), None]))
    layers.append(loss or mcn.SoftmaxLoss())
    return mcn.SimpleNN(layers)


def options(folder=None, **changes):
    """Options for a short and silent run; without a folder, one that leaves no files."""
    given = {
        "exp_dir": folder, "num_epochs": 3, "batch_size": 5, "learning_rate": 0.05,
        "plot_statistics": False, "page": False, "progress": False,
    }  # fmt: skip
    return TrainOptions(**{**given, **changes})


def train(net, data, folder=None, **changes):
    """Train, and return the trainer."""
    arguments = {k: changes.pop(k) for k in ("permute", "world", "get_batch") if k in changes}
    arguments.setdefault("get_batch", data.get_batch)
    trainer = mcn.Trainer(net, data, options=options(folder, **changes), **arguments)
    trainer.run()
    return trainer


def values(net):
    """Copies of the parameters."""
    return {name: value.clone() for name, value in net.values().items() if value is not None}


def assert_identical(got, want):
    """Bit by bit."""
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert torch.equal(got[name], value), name
