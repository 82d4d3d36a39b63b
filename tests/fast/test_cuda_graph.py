"""CUDA graphs: what is recorded and what is not, and that results are those of the network.

Without a GPU a stand-in records: like a CUDA graph it computes into the same memory every time.
"""

import pytest
import torch

from matconvnet import executor
from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.loss import Loss
from matconvnet.blocks.relu import ReLU
from matconvnet.fast.cuda_graph import Captured, Replaying
from matconvnet.fast.loss_scale import LossScale
from matconvnet.fast.precision import with_precision
from matconvnet.fast.recording import MOST_SHAPES, Recording, RecordingError
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.simplenn import SimpleNN
from tests.helpers import assert_close, randn
from tests.tolerances import REWRITTEN

ONE = {"objective": 1}


class StandIn:
    """Computes a function again at each replay, and writes its results over those of before."""

    made_ones = 0

    def __init__(self, function, tensors, device, generator=None, older=None):
        type(self).made_ones += 1
        self.function, self.generator = function, generator
        self.inputs = {name: t.clone() for name, t in tensors.items()}
        state = None if generator is None else generator.get_state()
        self.made = function(self.inputs)
        if generator is not None:
            generator.set_state(state)

    def replay(self, tensors):
        for name, t in tensors.items():
            self.inputs[name].copy_(t)
        new = self.function(self.inputs)
        pairs = [(self.made, new)]
        if isinstance(new, executor.Record):
            pairs = [(getattr(self.made, k), getattr(new, k))
                     for k in ("values", "ders", "param_ders")]  # fmt: skip
        for old, found in pairs:
            assert old.keys() == found.keys()
            for name, t in found.items():
                old[name].copy_(t)
        return self.made


class Refusal(StandIn):
    def __init__(self, *args, **options):
        type(self).made_ones += 1
        raise RecordingError("operation not permitted when stream is capturing")


@pytest.fixture
def stand_in():
    return type("Fresh", (StandIn,), {"made_ones": 0})


def network():
    net = DagNN({"inputSize": ["x", [6, 5, 2]]})
    net.add_layer("c1", Conv(size=(3, 3, 2, 4), pad=1), "x", "a", ("f1", "b1"))
    net.add_layer("n", BatchNorm(num_channels=4), "a", "n", ("g", "o", "m"))
    net.add_layer("r", ReLU(), "n", "b")
    net.add_layer("d", Dropout(0.25), "b", "e")
    net.add_layer("c2", Conv(size=(6, 5, 4, 3)), "e", "y", ("f2", "b2"))
    net.add_layer("loss", Loss(), ("y", "label"), "objective")
    net.init_params(0)
    net.params["m"].value[:, 1] = 1
    return net


def batch(images=4, seed=0, device="cpu"):
    x = randn((6, 5, 2, images), seed).float()
    return {"x": x.to(device), "label": (torch.arange(images) % 3).to(device)}


def said(captured):
    return "; ".join(step.what for step in captured.report)


def assert_same(record, wanted):
    for kind in ("values", "ders", "param_ders"):
        got, want = getattr(record, kind), getattr(wanted, kind)
        assert got.keys() == want.keys()
        for name, t in want.items():
            assert_close(got[name].cpu(), t.cpu(), REWRITTEN[torch.float32], f"{kind} {name}")


def test_results_are_those_of_the_network_and_recorded_once(stand_in):
    net = network()
    captured = Captured(net, stand_in)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    for seed in range(3):
        got = captured.eval(batch(seed=seed), ONE, generator=generators[0])
        assert net.record is got
        wanted = net.eval(batch(seed=seed), ONE, generator=generators[1])
        assert_same(got, wanted)
        net.params["f1"].value.mul_(0.9)  # what is written into parameters is seen
    assert stand_in.made_ones == 1
    assert "recorded in mode 'normal' for inputs of 6 x 5 x 2 x 4, 4" in said(captured)


def test_derivatives_are_pushed_in_the_order_of_the_backward_pass(stand_in):
    orders = []
    for net in (network(), Captured(network(), stand_in)):
        pushed = {}
        generator = torch.Generator().manual_seed(3)
        record = net.eval(batch(), ONE, on_param=pushed.__setitem__, generator=generator)
        assert record.param_ders == {}
        orders.append(pushed)
    assert list(orders[0]) == list(orders[1])
    for name, der in orders[0].items():
        assert_close(orders[1][name], der, REWRITTEN[torch.float32], name)


def test_sub_batches_are_added_though_they_share_memory(stand_in):
    results = []
    net = network()
    for evaluator in (net, Captured(net, stand_in)):
        generator, record = torch.Generator().manual_seed(3), None
        for seed in range(3):
            record = evaluator.eval(
                batch(seed=seed), ONE, generator=generator, record=record,
                accumulate=record is not None,
            )  # fmt: skip
        results.append(dict(record.param_ders))
    for name, der in results[0].items():
        assert_close(results[1][name], der, REWRITTEN[torch.float32], name)
    assert stand_in.made_ones == 1


def test_what_asks_for_a_recording_of_its_own(stand_in):
    net = network()
    captured = Captured(net, stand_in)
    generator = torch.Generator()
    for count, options in enumerate(
        [
            {},
            {"mode": "test"},
            {"mode": "test", "precious": ["a"]},
            {"mode": "test", "wanted_inputs": ()},
            {"generator": generator},
            {"depth": 2},
        ],
        1,
    ):
        for _ in range(2):
            captured.eval(batch(), ONE, **options)
            assert stand_in.made_ones == count
    captured.eval(batch(), mode="test", conserve_memory=False)
    assert stand_in.made_ones == count  # a fourth of mode "test"
    captured.eval(batch(2))
    assert stand_in.made_ones == count
    assert MOST_SHAPES == 3
    assert "inputs of more than 3 kinds in mode 'normal'" in said(captured)
    assert "inputs of more than 3 kinds in mode 'test'" in said(captured)
    captured.eval(batch(), ONE, generator=generator)  # those that are there still serve
    assert stand_in.made_ones == count


def test_other_parameters_or_structure_are_recorded_anew(stand_in):
    net = network()
    captured = Captured(net, stand_in)
    captured.eval(batch(), mode="test")
    net.params["f1"].value = net.params["f1"].value * 2
    got = captured.eval(batch(), mode="test")
    assert stand_in.made_ones == 2
    assert_same(got, net.eval(batch(), mode="test"))
    net.remove_layer("r")
    net.rename_var("n", "b")
    assert_same(captured.eval(batch(), mode="test"), net.eval(batch(), mode="test"))
    assert stand_in.made_ones == 3
    for _ in range(4):
        net.params["f1"].value = net.params["f1"].value.clone()
        captured.eval(batch(), mode="test")
    assert "change again and again" in said(captured)
    assert stand_in.made_ones < 6


def test_what_is_evaluated_as_usual_and_why(stand_in):
    net = network()
    captured = Captured(net, stand_in)
    captured.eval(batch(), ONE, sync=True)
    captured.eval(batch(), ONE, recompute=True)
    assert "time of each layer" in said(captured)
    assert "old states of the random generator" in said(captured)
    half = Captured(with_precision(network(), "fp16", LossScale()), stand_in)
    half.eval(batch(), ONE)
    assert "scale of derivatives" in said(half)
    assert stand_in.made_ones == 0


def test_where_there_is_no_gpu():
    net = network()
    captured = Captured(net)
    for _ in range(2):
        got = captured.eval(batch(), ONE, mode="test")
    assert_same(got, net.eval(batch(), ONE, mode="test"))
    (step,) = captured.report
    assert step.what == "the network is on the device 'cpu', which has no CUDA graphs"


def test_workers_that_sum_derivatives_meanwhile(stand_in, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    captured = Captured(network(), stand_in)
    pushed = {}
    captured.eval(batch(), ONE, on_param=pushed.__setitem__)
    assert said(captured).startswith("2 workers sum derivatives")
    assert pushed
    captured.eval(batch(), mode="test")  # nothing is summed
    assert stand_in.made_ones == 1


def test_what_cannot_be_recorded_is_tried_once():
    refusal = type("Fresh", (Refusal,), {"made_ones": 0})
    net = network()
    captured = Captured(net, refusal)
    for images in (4, 2, 4):
        got = captured.eval(batch(images), ONE, mode="test")
        assert_same(got, net.eval(batch(images), ONE, mode="test"))
    assert refusal.made_ones == 1
    assert said(captured) == (
        "cannot be recorded: operation not permitted when stream is capturing"
    )


def test_errors_of_the_network_are_its_own(stand_in):
    captured = Captured(network(), stand_in)
    with pytest.raises(ValueError, match="f has 2 input channels"):
        captured.eval({"x": randn((6, 5, 3, 4)).float(), "label": torch.zeros(4)}, mode="test")
    with pytest.raises(KeyError, match="which are no variables"):
        captured.eval({"nothing": randn((6, 5, 2, 4)).float()})


def test_a_chain_and_arrays(stand_in):
    net = SimpleNN([Conv(size=(6, 5, 2, 3)), ReLU()])
    x = randn((6, 5, 2, 4)).float()
    captured = Captured(net, stand_in)
    for seed in range(2):
        x = randn((6, 5, 2, 4), seed).float()
        der = randn((1, 1, 3, 4), seed + 5).float()
        got = captured.eval({"x0": x.numpy()}, {"x2": der.numpy()})
        assert_same(got, net.eval({"x0": x}, {"x2": der}))
    assert stand_in.made_ones == 1


def test_outputs_of_a_replay_are_safe_from_the_next(stand_in):
    class Doubling:
        def eval(self, inputs):
            return {"y": inputs["x"] * 2}

    replaying = Replaying(Doubling(), stand_in)
    first = replaying.eval({"x": torch.ones(3)})["y"]
    second = replaying.eval({"x": torch.full((3,), 4.0)})["y"]
    assert first.tolist() == [2, 2, 2]
    assert second.tolist() == [8, 8, 8]
    assert stand_in.made_ones == 1
    for images in range(4, 9):
        assert replaying.eval({"x": torch.ones(images)})["y"].sum() == 2 * images
    assert stand_in.made_ones == 3
    assert "more than 3 kinds" in said(replaying)


def on_gpu(net):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    net.to("cuda")
    return net


@pytest.mark.gpu
@pytest.mark.parametrize("where", ["cuda", "cpu", "pinned"])
def test_gpu_training_steps_are_those_of_the_network(where):
    net = on_gpu(network())
    captured = Captured(net)
    generators = [torch.Generator("cuda").manual_seed(3) for _ in range(2)]
    for seed in range(5):
        on_device = batch(seed=seed, device="cuda")
        given = on_device if where == "cuda" else batch(seed=seed)
        if where == "pinned":
            given = {v: t.pin_memory() for v, t in given.items()}
        wanted = net.eval(on_device, ONE, generator=generators[1])
        assert_same(captured.eval(given, ONE, generator=generators[0]), wanted)
        for param in net.params.values():
            param.value.mul_(0.99)
    assert "recorded in mode 'normal'" in said(captured)
    assert "cannot" not in said(captured)


@pytest.mark.gpu
def test_gpu_several_recordings_share_memory_and_stay_right():
    net = on_gpu(network())
    captured = Captured(net)
    for seed in range(3):
        for images in (4, 2, 7):
            for mode in ("normal", "test"):
                inputs = batch(images, seed, "cuda")
                got = captured.eval(inputs, ONE, mode=mode, precious=["n"], depth=1)
                assert_same(got, net.eval(inputs, ONE, mode=mode, precious=["n"], depth=1))
    assert len(captured.report) == 6


@pytest.mark.gpu
def test_gpu_a_layer_that_waits_for_the_device_is_left_alone():
    def waiting(x):
        return x * float(x.sum() != 0)

    net = on_gpu(network())
    net.add_layer("waits", waiting, "y", "z")
    captured = Captured(net)
    for seed in range(3):
        inputs = batch(seed=seed, device="cuda")
        got = captured.eval(inputs, mode="test")
        assert_same(got, net.eval(inputs, mode="test"))
    assert "cannot be recorded" in said(captured)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


@pytest.mark.gpu
def test_gpu_a_recording_leaves_the_generators_where_they_were():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    generator = torch.Generator("cuda").manual_seed(1)
    states = generator.get_state(), torch.cuda.get_rng_state()

    def draw(tensors):
        return tensors["x"].clone().uniform_(generator=generator)

    x = {"x": torch.zeros(64, device="cuda")}
    recording = Recording(draw, x, torch.device("cuda", 0), generator)
    assert torch.equal(generator.get_state(), states[0])
    assert torch.equal(torch.cuda.get_rng_state(), states[1])
    first, second = recording.replay(x).clone(), recording.replay(x).clone()
    assert not torch.equal(first, second)
    again = torch.Generator("cuda").manual_seed(1)
    assert torch.equal(first, torch.zeros(64, device="cuda").uniform_(generator=again))
