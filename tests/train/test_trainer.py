"""The loop: orders, sub-batches, rates, hooks, and what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch

import matconvnet as mcn
from tests.helpers import assert_close
from tests.tolerances import REORDERED
from tests.train.common import Data, assert_identical, options, small_net, train, values


def asked_for(data):
    """A get_batch, and the list of what it is asked for."""
    asked = []

    def get_batch(imdb, indices):
        assert indices.dtype == np.int64
        asked.append(indices.tolist())
        return data.get_batch(imdb, indices)

    return get_batch, asked


@pytest.mark.parametrize("parts", [2, 3, 5, 9])
def test_sub_batches_are_one_batch(parts):
    one, many = small_net(), small_net()
    train(one, Data(), batch_size=5)
    train(many, Data(), batch_size=5, num_sub_batches=parts)  # the last batch has 4 images
    for name, value in values(one).items():
        assert_close(many.values()[name], value, REORDERED, name)


def test_sub_batches_are_interleaved():
    data = Data()
    get_batch, asked = asked_for(data)
    train(
        small_net(), data, get_batch=get_batch, train=range(8), val=(), batch_size=6,
        num_sub_batches=2, num_epochs=1, permute=lambda indices, _: indices,
    )  # fmt: skip
    assert asked == [[0, 2, 4], [1, 3, 5], [6], [7]]


def test_orders_come_from_the_seed_of_the_epoch_train_before_val():
    data = Data()
    get_batch, asked = asked_for(data)
    train(small_net(), data, get_batch=get_batch, batch_size=100, num_epochs=2, random_seed=7)
    for epoch in (1, 2):
        generator = torch.Generator().manual_seed(7 + epoch)
        first = torch.randperm(14, generator=generator)
        second = 14 + torch.randperm(8, generator=generator)
        assert asked[2 * epoch - 2 : 2 * epoch] == [first.tolist(), second.tolist()]


def test_epoch_size_limits_the_shuffled_images():
    data = Data()
    get_batch, asked = asked_for(data)
    trainer = train(small_net(), data, get_batch=get_batch, val=(), epoch_size=6, num_epochs=4)
    assert [len(batch) for batch in asked] == [5, 1] * 4
    assert len({i for batch in asked for i in batch}) > 6
    assert [s["num"] for s in trainer.history.stats["train"]] == [6] * 4


def test_random_numbers_of_get_batch_are_those_of_the_epoch_and_torch_keeps_its_own():
    data = Data()

    def noisy(imdb, indices):
        x, labels = data.get_batch(imdb, indices)
        return torch.as_tensor(x) + torch.randn(x.shape, dtype=torch.float64), labels

    one, two = small_net(), small_net()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(one, data, get_batch=noisy)
    assert torch.equal(torch.rand(4), expected)
    train(two, data, get_batch=noisy)
    assert_identical(values(one), values(two))


def test_what_get_batch_draws_does_not_change_the_masks():
    data = Data()

    def drawing(imdb, indices):
        torch.rand(3)
        return data.get_batch(imdb, indices)

    one, two = small_net(dropout=0.5), small_net(dropout=0.5)
    train(one, data)
    train(two, data, get_batch=drawing)
    assert_identical(values(one), values(two))


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (0.5, [0.5] * 4),
        ([0.1, 0.2], [0.1, 0.2, 0.2, 0.2]),
        (np.r_[0.3, 0, 0, 0, 9], [0.3, 0, 0, 0]),
    ],
)
def test_schedules_are_clamped(schedule, rates):
    trainer = train(small_net(), Data(), learning_rate=schedule, num_epochs=4)
    assert trainer.history.learning_rates == rates


def test_rate_and_decay_of_parameters_multiply_the_global_ones():
    net = small_net()
    before = values(net)
    net.params["l1_1"].learning_rate = 0
    net.params["l1_1"].weight_decay = 0
    net.params["l1_2"].train_method = "none"
    train(net, Data())
    after = values(net)
    assert torch.equal(after["l1_1"], before["l1_1"])
    assert torch.equal(after["l1_2"], before["l1_2"])
    assert not torch.equal(after["l3_1"], before["l3_1"])


def test_layers_that_back_propagation_does_not_reach_are_left_alone():
    net = small_net()
    before = values(net)
    train(net, Data(), back_prop_depth=2, weight_decay=1.0)
    after = values(net)
    assert torch.equal(after["l1_1"], before["l1_1"])
    assert not torch.equal(after["l3_1"], before["l3_1"])


def test_the_derivative_of_the_data_is_not_computed(monkeypatch):
    wanted, backward = {}, mcn.Conv.backward

    def spy(layer, call, ders):
        wanted.setdefault(tuple(call.inputs[0].shape[:3]), set()).add(call.wanted)
        return backward(layer, call, ders)

    monkeypatch.setattr(mcn.Conv, "backward", spy)
    train(small_net(), Data())
    assert wanted == {(6, 5, 2): {(False,)}, (4, 4, 4): {(True,)}}


@pytest.mark.parametrize("conserve", [True, False])
def test_memory_conservation_changes_nothing(conserve):
    net, reference = small_net(bnorm=True), small_net(bnorm=True)
    train(net, Data(), conserve_memory=conserve)
    train(reference, Data())
    assert_identical(values(net), values(reference))
    assert [link.precious for link in net.layers] == [False] * 5


def test_arrays_shared_with_the_network_are_spared():
    f = np.ones((6, 5, 2, 3))
    net = mcn.SimpleNN([(mcn.Conv(), [f, None]), mcn.SoftmaxLoss()])
    train(net, Data())
    assert (f == 1).all()
    assert not torch.equal(net.params["l1_1"].value, torch.ones(6, 5, 2, 3, dtype=torch.float64))


def test_momentum_restarts_every_epoch_without_solver_state():
    kept, dropped = small_net(), small_net()
    train(kept, Data(), num_epochs=1)
    trainer = train(dropped, Data(), num_epochs=1, save_solver_state=False)
    assert_identical(values(kept), values(dropped))
    assert trainer.updater.state == {}
    train(kept, Data(), num_epochs=2)
    train(dropped, Data(), num_epochs=2, save_solver_state=False)
    assert not torch.equal(kept.params["l3_1"].value, dropped.params["l3_1"].value)


def test_a_network_that_is_only_a_loss_can_be_evaluated():
    data = Data()
    data.images = data.images.mean((0, 1), keepdims=True)[:, :, [0, 1, 1]]
    _, stats = mcn.Trainer(
        mcn.SimpleNN([mcn.SoftmaxLoss()]), data, data.get_batch, options(train=())
    ).run()
    assert stats["val"][0]["objective"] > 0


def test_evaluation_trains_nothing_and_writes_nothing(tmp_path):
    net = small_net()
    before = values(net)
    folder = tmp_path / "exp"
    trainer = train(net, Data(), folder, train=[], num_epochs=5)
    assert_identical(values(net), before)
    stats = trainer.history.stats
    assert stats["train"] == [{"num": 0, "time": 0}]
    assert [s["num"] for s in stats["val"]] == [8]
    assert not folder.exists()


class Hook:
    """A `post_epoch_fn` that returns one answer after another, and notes what it was told."""

    def __init__(self, *answers):
        self.answers, self.told = list(answers), []

    def __call__(self, net, options, epoch):
        assert isinstance(net, mcn.SimpleNN)
        self.told.append((options, epoch))
        return self.answers.pop(0) if self.answers else None


def test_post_epoch_fn_replaces_the_learning_rate():
    hook = Hook(None, [9.0, 9.0, 0.25, 0.125], None, 0.5)
    trainer = train(small_net(), Data(), learning_rate=0.05, num_epochs=5, post_epoch_fn=hook)
    assert trainer.history.learning_rates == [0.05, 0.05, 0.25, 0.125, 0.5]
    epoch = hook.told[2][1]
    assert (epoch.epoch, epoch.learning_rate) == (3, 0.25)
    assert sorted(epoch.train) == list(range(14))
    assert sorted(epoch.val) == list(range(14, 22))
    assert set(epoch.solver_state) == {"l1_1", "l1_2", "l3_1"}
    assert hook.told[1][0].learning_rate == 0.05


@pytest.mark.parametrize("zero", [0, 0.0, [0], np.zeros(1), torch.tensor(0)])
def test_post_epoch_fn_stops_training_by_zero(zero):
    trainer = train(small_net(), Data(), num_epochs=5, post_epoch_fn=Hook(None, zero))
    assert len(trainer.history.stats["train"]) == 2


def test_post_epoch_fn_is_checked():
    with pytest.raises(ValueError, match="learning_rate is -1"):
        train(small_net(), Data(), post_epoch_fn=Hook(-1))


def test_prefetch_asks_for_the_next_sub_batch():
    data = Data()
    calls = []

    def get_batch(imdb, indices, prefetch=False):
        calls.append((prefetch, indices.tolist()))
        return None if prefetch else data.get_batch(imdb, indices)

    train(
        small_net(), data, get_batch=get_batch, prefetch=True, train=range(5), val=[7, 8],
        batch_size=3, num_sub_batches=2, num_epochs=1, permute=lambda indices, _: indices,
    )  # fmt: skip
    assert calls == [
        (False, [0, 2]), (True, [1]), (False, [1]), (True, [3]), (False, [3]), (True, [4]),
        (False, [4]), (False, [7]), (True, [8]), (False, [8]),
    ]  # fmt: skip


def test_logistic_regression_of_two_gaussian_classes():
    """The acceptance test of the original: 1 epoch, error < 0.35, objective < 0.5."""
    rng = np.random.default_rng(0)
    data = Data(count=200, train=200)
    data.labels = np.repeat([0, 1], 100)
    means = rng.standard_normal((2, 15, 10, 5, 1))
    data.images = means[data.labels, ..., 0] + 2 * rng.standard_normal((200, 15, 10, 5))
    data.images = data.images.transpose(1, 2, 3, 0)
    net = mcn.SimpleNN(
        [(mcn.Conv(), [1e-3 * rng.standard_normal((15, 10, 5, 2)), np.zeros(2)]), mcn.SoftmaxLoss()]
    )
    trainer = train(net, data, batch_size=10, learning_rate=0.001, num_epochs=1)
    stats = trainer.history.stats["train"][0]
    assert stats["top1err"] < 0.35
    assert stats["objective"] < 0.5


def refuse(match, error=ValueError, data=None, **changes):
    data = data or Data()
    with pytest.raises(error, match=match) as caught:
        train(small_net(), data, **changes)
    return "\n".join(getattr(caught.value, "__notes__", []))


def test_bad_indices():
    refuse("no images in train nor in val", train=(), val=())
    refuse("train spans 3 to 22; wanted indices from 0 to 21", train=[3, 22])
    refuse("val spans -1 to 3", val=[-1, 3])
    refuse("val is float64 of shape", TypeError, val=[0.0, 1.0])
    refuse("train is bool of shape", TypeError, train=np.ones(22, bool))
    data = Data()
    del data.set
    refuse("train is None and imdb has no `set`", data=data)


def batches(change):
    """A get_batch whose images and labels are changed."""
    data = Data()

    def get_batch(imdb, indices):
        return change(*data.get_batch(imdb, indices))

    return {"data": data, "get_batch": get_batch}


def test_bad_batches():
    notes = refuse("returned 4 images", **batches(lambda x, c: (x[..., 1:], c)))
    assert "in epoch 1, train batch 1, images [" in notes
    refuse(r"labels of shape \(4,\) for 5 images", **batches(lambda x, c: (x, c[1:])))
    refuse("returned NoneType; wanted", TypeError, **batches(lambda x, c: None))
    refuse("holds torch.uint8", TypeError, **batches(lambda x, c: (x.astype(np.uint8), c)))
    refuse("f has 2 input channels, x has 1", **batches(lambda x, c: (x[:, :, :1], c)))


def test_labels_out_of_range_name_layer_and_images():
    data = Data()
    data.labels[3] = 3
    notes = refuse(
        "labels between 0 and 3; wanted whole numbers up to 2",
        data=data,
        permute=lambda indices, _: indices,
    )
    assert "in layer 'layer4' (SoftmaxLoss)" in notes
    assert "in epoch 1, train batch 1, images [0, 1, 2, 3, 4]" in notes


def test_prefetch_needs_a_get_batch_that_knows_it():
    refuse("no parameter `prefetch`", TypeError, prefetch=True)


def test_unknown_train_method():
    net = small_net()
    net.params["l1_1"].train_method = "magic"
    with pytest.raises(ValueError, match="train_method of 'l1_1' is 'magic'"):
        train(net, Data())


def test_the_built_in_get_batch_and_database():
    data = Data()
    imdb = mcn.Imdb.from_arrays(data.images.astype(np.float32), data.labels, data.set)
    net = small_net(dtype=torch.float32)
    _, stats = mcn.Trainer(net, imdb, options=options(num_epochs=4)).run()
    assert stats["train"][-1]["objective"] < stats["train"][0]["objective"]
    with pytest.raises(TypeError, match="unknown"):
        dataclasses.replace(options(), unknown=1)


def test_a_schedule_of_the_user_is_asked_before_each_update_and_checked():
    asked = []

    def halving(progress):
        asked.append((progress.epoch, progress.done))
        return 0.1 * 0.5**progress.done

    trainer = train(small_net(), Data(), learning_rate=halving, num_epochs=2)
    assert asked == [(1, 0.0), (1, 1 / 3), (1, 2 / 3), (2, 1.0), (2, 1 + 1 / 3), (2, 1 + 2 / 3)]
    assert trainer.history.learning_rates == [0.1 * 0.5 ** (2 / 3), 0.1 * 0.5 ** (1 + 2 / 3)]
    with pytest.raises(ValueError, match=r"learning_rate gave nan for Progress\(epoch=1"):
        train(small_net(), Data(), learning_rate=lambda _: float("nan"))
