"""Options are checked when they are made."""

import json

import numpy as np
import pytest

from matconvnet.train.options import TrainOptions


@pytest.mark.parametrize(
    ("option", "error", "match"),
    [
        ({"batch_size": 0}, ValueError, "batch_size is 0; wanted 1 or more"),
        ({"batch_size": 2.5}, TypeError, "batch_size is 2.5; wanted a whole number"),
        ({"num_sub_batches": -1}, ValueError, "num_sub_batches is -1"),
        ({"epoch_size": 0}, ValueError, "epoch_size is 0"),
        ({"back_prop_depth": 0}, ValueError, "back_prop_depth is 0"),
        ({"num_epochs": -1}, ValueError, "num_epochs is -1; wanted 0 or more"),
        ({"num_epochs": True}, TypeError, "num_epochs is True"),
        ({"learning_rate": []}, ValueError, "learning_rate is empty"),
        (
            {"learning_rate": [0.1, -1]},
            ValueError,
            "learning_rate is -1; wanted a finite number >= 0",
        ),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate is nan"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate is 'fast'; wanted a number"),
        ({"momentum": -0.9}, ValueError, "momentum is -0.9"),
        ({"keep_last": 0}, ValueError, "keep_last is 0; wanted 1 or more"),
        ({"checkpoint_every": 1.5}, TypeError, "checkpoint_every is 1.5; wanted a whole number"),
        ({"checkpoint_minutes": 0}, ValueError, "checkpoint_minutes is 0; wanted a number > 0"),
        ({"clip_norm": -1.0}, ValueError, "clip_norm is -1.0; wanted a number > 0"),
        ({"average": 1.0}, ValueError, "average is 1.0; wanted a decay between 0 and 1"),
        ({"checkpoint_format": "hdf5"}, ValueError, "checkpoint_format is 'hdf5'; wanted one of"),
        (
            {"checkpoint_format": "mat", "average": 0.9},
            ValueError,
            "average is 0.9; a checkpoint in .mat has no place",
        ),
        ({"weight_decay": None}, TypeError, "weight_decay is None"),
        ({"error_function": "multi"}, ValueError, "error_function is 'multi'; wanted one of mul"),
        ({"batchSize": 3}, TypeError, "batchSize"),
    ],
)
def test_errors(option, error, match):
    with pytest.raises(error, match=match):
        TrainOptions(**option)


def test_defaults_are_those_of_the_original():
    o = TrainOptions()
    assert (o.batch_size, o.num_sub_batches, o.num_epochs, o.random_seed) == (256, 1, 300, 0)
    assert (o.learning_rate, o.weight_decay, o.momentum) == (0.001, 0.0005, 0.9)
    assert (o.resume, o.save_solver_state, o.conserve_memory) == (True, True, True)
    assert o.errors == ("top1err", "top5err")


def test_names_of_errors():
    assert TrainOptions(error_function="binary").errors == ("binerr",)
    assert TrainOptions(error_function="none").errors == ()
    assert TrainOptions(error_function="binary", error_labels=["e"]).errors == ("e",)
    assert TrainOptions(error_function=print).errors == ()


def test_plain_options_say_how_many_images():
    plain = TrainOptions(train=range(7), val=np.arange(3), exp_dir="x").plain()
    assert (plain["train"], plain["val"], plain["exp_dir"]) == (7, 3, "x")
    json.dumps(plain)
