"""`cnn_train`: MATLAB manners around the trainer."""

import copy
import json

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.compat.training import cnn_train
from matconvnet.interop.mat import read_mat, write_mat
from matconvnet.values import Struct
from tests import models
from tests.helpers import assert_close
from tests.tolerances import REFERENCE
from tests.train.common import Data, assert_identical, options, small_net, values


class Original(Data):
    """The same data as the original has it: `images.set`, numbers and labels from 1."""

    def __init__(self):
        super().__init__()
        self.codes = {"images": {"set": self.set[None].astype(float)}}
        del self.set
        self.asked = []

    def get_batch(self, imdb, batch):
        assert imdb is self.codes
        self.asked.append(batch.tolist())
        return self.images[..., batch - 1], 1.0 + self.labels[None, batch - 1]


def net_struct(in_numpy=True):
    """The small network as a struct."""
    net = small_net()
    layers = [dict(layer) for layer in net.to_struct().layers]
    for layer in layers:
        layer["weights"] = [
            w.numpy() if in_numpy and isinstance(w, torch.Tensor) else w for w in layer["weights"]
        ]
    return {"layers": layers, "meta": {"inputSize": [6, 5, 2]}}


QUIET = ("expDir", None, "batchSize", 5, "numEpochs", 2, "progress", False, "plotStatistics", False)


def run(net=None, data=None, *pairs, **changes):
    data = data or Original()
    return cnn_train(net or net_struct(), data.codes, data.get_batch, *QUIET, *pairs, **changes)


def weights(struct):
    return [w for layer in struct.layers for w in layer.weights if len(w)]


@pytest.mark.parametrize("in_numpy", [True, False])
def test_it_trains_as_the_trainer_does_and_answers_in_kind(in_numpy):
    given = net_struct(in_numpy)
    before = copy.deepcopy(given)
    data = Original()
    net, stats = run(given, data, learning_rate=0.05)

    reference, same = small_net(), Data()
    _, want = mcn.Trainer(reference, same, same.get_batch, options(num_epochs=2)).run()
    kind = np.ndarray if in_numpy else torch.Tensor
    assert all(isinstance(w, kind) for w in weights(net))
    for got, value in zip(weights(net), values(reference).values(), strict=True):
        assert torch.equal(torch.as_tensor(got), value)
    assert stats.train[1].objective == want["train"][1]["objective"]
    assert stats.val[0].top1err == want["val"][0]["top1err"]
    assert min(i for batch in data.asked for i in batch) == 1
    for layer, old in zip(given["layers"], before["layers"], strict=True):
        assert layer.keys() == old.keys()
        for w, v in zip(layer["weights"], old["weights"], strict=True):
            assert not len(v) or (w == v).all()
    assert (net.layers[0].learningRate, net.layers[0].weightDecay) == ([1, 1], [1, 1])
    assert "class" not in net.layers[-1]
    assert [layer.precious for layer in net.layers] == [False] * 4


def test_a_simplenn_is_trained_in_place():
    net = small_net()
    before = values(net)
    again, _ = run(net)
    assert again is net
    assert not torch.equal(net.values()["l1_1"], before["l1_1"])


@pytest.mark.parametrize(
    "spelled",
    [
        ("batchSize", 7), ("BATCHSIZE", 7), ("batch_size", 7.0), ({"batchSize": 7},),
        ({"batchSize": 99}, {"BatchSize": 7}),
    ],
)  # fmt: skip
def test_options_in_any_spelling_the_last_one_wins(spelled):
    data = Original()
    run(None, data, *spelled, "val", float("nan"))
    assert [len(batch) for batch in data.asked] == [7, 7] * 2


def test_numbers_of_images_from_one():
    data = Original()
    run(None, data, "train", np.array([[2.0, 4.0]]), "val", [22])
    assert sorted(data.asked[0]) == [2, 4]
    assert data.asked[1] == [22]
    with pytest.raises(ValueError, match=r"image numbers from 1; found 0"):
        run(None, None, "train", [0, 1])
    with pytest.raises(ValueError, match=r"image numbers from 1; found 1.5"):
        run(None, None, "train", [1.5, 2])


def test_nan_stands_for_no_images(tmp_path):
    _, stats = run(None, None, "train", float("nan"), expDir=tmp_path / "exp")
    assert stats.train == [{"num": 0, "time": 0}]
    assert stats.val[0].num == 8
    assert not (tmp_path / "exp").exists()
    _, stats = run(None, None, "val", np.nan)
    assert stats.val[1] == {"num": 0, "time": 0}


def test_empty_and_infinite_options():
    data = Original()
    run(
        None, data, "train", [], "val", [], "solver", [], "epochSize", float("inf"),
        "backPropDepth", np.inf, "gpus", [], "postEpochFn", [], "errorLabels", {}, "cudnn", False,
        "profile", True, "parameterServer", {"method": "mmap"}, "memoryMapFile", "x", "sync", True,
    )  # fmt: skip
    assert [len(batch) for batch in data.asked[:5]] == [5, 5, 4, 5, 3]


def test_continue(tmp_path, capsys):
    whole, _ = run(expDir=tmp_path / "a", numEpochs=3)
    run(expDir=tmp_path / "b", numEpochs=1)
    parts, stats = run(
        None, None, "expDir", tmp_path / "b", "numEpochs", 3, "continue", True, "progress", True
    )
    assert "resuming by loading epoch 1\n" in capsys.readouterr().out
    assert len(stats.train) == 3
    for got, want in zip(weights(parts), weights(whole), strict=True):
        assert (got == want).all()
    _, stats = run(None, None, "expDir", tmp_path / "b", "continue", False)
    assert len(stats.train) == 2


def test_every_checkpoint_is_kept_and_no_page_is_made(tmp_path):
    run(expDir=tmp_path, numEpochs=5)
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"net-epoch-{epoch}.safetensors" for epoch in range(1, 6)} <= names
    assert "run.html" not in names
    run(expDir=tmp_path / "few", numEpochs=3, keepLast=1, page=True)
    names = {path.name for path in (tmp_path / "few").iterdir()}
    assert {"net-epoch-3.safetensors", "run.html"} <= names
    assert len([name for name in names if name.startswith("net-epoch")]) <= 2  # it and the best


def test_checkpoints_of_the_original(tmp_path):
    whole, want = run(expDir=tmp_path / "a", numEpochs=3, learningRate=[0.05, 0.02])
    given = {"expDir": tmp_path / "b", "checkpointFormat": "mat", "learningRate": [0.05, 0.02]}
    run(None, None, given, numEpochs=2)
    parts, stats = run(None, None, given, numEpochs=3)
    for got, value in zip(weights(parts), weights(whole), strict=True):
        assert (got == value).all()
    assert [s.top1err for s in stats.val] == [s.top1err for s in want.val]
    rows = (tmp_path / "b" / "stats.jsonl").read_text().splitlines()
    assert [json.loads(row)["learning_rate"] for row in rows[::2]] == [0.05, 0.02, 0.02]


def test_a_run_of_the_original_goes_on(tmp_path):
    """Its momentum is taken up: with the same derivative, it makes the whole difference."""
    variables = read_mat(models.path("plate_epoch50"))
    velocity = variables.state.solverState[3][0]

    def train(folder, state):
        folder.mkdir()
        write_mat(folder / "net-epoch-50.mat", {**variables, "state": state})
        images = np.random.default_rng(0).standard_normal((20, 20, 1, 4)).astype("f4")
        return cnn_train(
            mcn.load(models.path("plate_epoch50")), {"set": [1] * 4},
            lambda _imdb, batch: (images[..., batch - 1], batch), *QUIET,
            numEpochs=51, expDir=folder, learningRate=100, val=np.nan,
        )  # fmt: skip

    net, stats = train(tmp_path / "a", variables.state)
    bare, _ = train(tmp_path / "b", Struct(variables.state, solverState=[]))
    assert len(stats.train) == 51
    assert (stats.train[49].num, stats.train[50].num) == (6133, 4)
    got = net.values()["l4_1"] - bare.values()["l4_1"]
    rate = net.params["l4_1"].learning_rate
    want = 100 * rate * 0.9 * torch.from_numpy(velocity)
    assert_close(got, want, REFERENCE[torch.float32])


def test_the_network_is_displayed(capsys):
    run(progress=True)
    shown = capsys.readouterr().out
    assert "softmxl" in shown
    assert "train: epoch 01:   1/  3:" in shown


def test_error_function_of_the_user():
    seen = []

    def error(params, labels, res):
        seen.append((params.batchSize, labels.tolist()[0], len(res), type(res[-2].x)))
        assert res[-2].x.shape[2:] == (3, labels.size)
        return [labels.min(), 7 * labels.size]

    _, stats = run(None, None, "errorFunction", error, "errorLabels", ["low", "sevens"])
    assert stats.train[0].sevens == 7
    assert seen[0][0] == 5
    assert {label for call in seen for label in call[1]} == {1, 2, 3}  # the labels of the user
    assert seen[0][2:] == (5, np.ndarray)


def test_unknown_options():
    with pytest.raises(TypeError, match="Unknown parameter 'batchsiz'"):
        run(None, None, "batchsiz", 3)
    with pytest.raises(ValueError, match="error_function is 'multi'; wanted one of"):
        run(None, None, "errorFunction", "multi")
    with pytest.raises(ValueError, match=r"gpus is \[1, 2\]; wanted one at most: .*torchrun"):
        run(None, None, "gpus", [1, 2])
    data = Original()
    data.codes = {}
    with pytest.raises(ValueError, match=r"imdb has no images\.set"):
        run(None, data)


def test_imdb_with_fields_in_place_of_keys():
    imdb = mcn.Imdb.from_arrays(np.zeros((1, 1, 3, 4), np.float32), [0, 1, 2, 0], [1, 2, 1, 3])
    asked = []

    def get_batch(_imdb, batch):
        asked.append(batch.tolist())
        return np.zeros((1, 1, 3, batch.size)), np.ones(batch.size)

    cnn_train({"layers": [{"type": "softmaxloss"}]}, imdb, get_batch, *QUIET, numEpochs=1)
    assert [sorted(batch) for batch in asked] == [[1, 3], [2]]


def test_post_epoch_fn_gets_what_the_original_gives():
    told = []

    def hook(net, params, state):
        told.append((params.epoch, params.learningRate, min(params.train), max(params.val)))
        assert isinstance(net.layers[0].weights[0], np.ndarray)
        assert params.getBatch.__func__ is Original.get_batch
        assert params.imdb.keys() == {"images"}
        assert set(state.solverState) == {"l1_1", "l1_2", "l3_1"}
        assert state.stats.val.num == 8
        return [] if params.epoch == 1 else 0

    _, stats = run(None, None, "numEpochs", 5, "postEpochFn", hook)
    assert told == [(1, 0.001, 1, 22), (2, 0.001, 1, 22)]
    assert len(stats.train) == 2


def half_square(layer, before, after):
    """A custom loss: half the squared distance of the scores to the labels of the user."""
    assert isinstance(before.x, np.ndarray)
    after.x = 0.5 * ((before.x[:, :, 0] - layer["class"]) ** 2).sum()[None]
    return after


def half_square_backward(layer, before, after):
    before.dzdx = np.zeros_like(before.x)
    before.dzdx[:, :, 0] = (before.x[:, :, 0] - layer["class"]) * after.dzdx
    return before


def test_a_custom_loss_reads_the_labels_in_its_field_class(tmp_path):
    given = net_struct()
    loss = {"type": "custom", "forward": half_square, "backward": half_square_backward}
    given["layers"][-1] = loss
    net, stats = run(given, None, "numEpochs", 9, expDir=tmp_path, learningRate=0.02)
    assert stats.train[-1].objective < 0.5 * stats.train[0].objective
    assert stats.train[0].top1err > 0  # classes are counted right beside a custom loss
    assert net.layers[-1] == loss
    assert "class" not in loss
    again, _ = run(given, None, "numEpochs", 9, expDir=tmp_path)
    assert (again.layers[0].weights[0] == net.layers[0].weights[0]).all()


def test_binary_labels_are_left_as_they_are():
    data = Original()
    data.labels = np.where(data.labels == 1, 0, -2)  # +1 and -1 once get_batch adds 1
    given = net_struct()
    f = given["layers"][2]["weights"][0]
    given["layers"][2]["weights"][0] = f[..., :1]
    given["layers"][3] = {"type": "loss", "loss": "logistic"}
    _, stats = run(given, data, "errorFunction", "binary", "numEpochs", 5, learningRate=0.05)
    assert list(stats.train[0]) == ["objective", "binerr", "num", "time"]
    assert stats.train[-1].objective < stats.train[0].objective
    assert 0 <= stats.train[-1].binerr <= 1


def test_label_zero_is_ignored():
    data = Original()
    data.labels[:14] = -1
    net, stats = run(None, data, weightDecay=0)
    assert stats.train[0].objective == stats.train[0].top1err == 0
    assert_identical(
        dict(enumerate(map(torch.as_tensor, weights(net)))),
        dict(enumerate(values(small_net()).values())),
    )
