"""Predicted memory: against the bytes that live in earnest, and against the process."""

import json
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from matconvnet.blocks import BatchNorm, Concat, Conv, Dropout, Loss, PDist, Pooling, ReLU, Sum
from matconvnet.nets import _ledger
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.memory import (
    explain_out_of_memory,
    fit_sub_batches,
    is_out_of_memory,
    memory_plan,
    parse_memory,
)
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.zoo import NETWORKS
from tests.tolerances import MEMORY

IMAGES = torch.randn(6, 16, 16, 3).permute(1, 2, 3, 0)


def chain():
    """Every way of keeping something: outputs, inputs, winners, masks, moments."""
    return SimpleNN([
        Conv(pad=1, size=(3, 3, 3, 16)), BatchNorm(num_channels=16), ReLU(),
        Conv(pad=(1, 0, 1, 0), size=(2, 2, 16, 16)), ReLU(), Pooling(2, stride=2), Dropout(),
        Conv(size=(8, 8, 16, 10)), Loss(),
    ])  # fmt: skip


def dag():
    """Branches that are joined and summed, two losses, and a measure of error."""
    net = DagNN()
    net.add_layer("a", Conv(pad=1, size=(3, 3, 3, 8)), "x", "a", ("af", "ab"))
    net.add_layer("b", Conv(size=(1, 1, 3, 8)), "x", "b", ("bf", "bb"))
    net.add_layer("relu", ReLU(), "a", "ar")
    net.add_layer("sum", Sum(), ("ar", "b"), "s")
    net.add_layer("join", Concat(), ("s", "b", "ar"), "j")
    net.add_layer("pool", Pooling(16, method="avg"), "j", "p")
    net.add_layer("score", Conv(size=(1, 1, 24, 5)), "p", "y", ("f", "g"))
    net.add_layer("loss", Loss(), ("y", "label"), "objective")
    net.add_layer("distance", PDist(2), ("p", "target"), "d")
    net.add_layer("error", Loss(loss="classerror"), ("y", "label"), "err")
    net.init_params()
    return net


class Live(TorchDispatchMode):
    """Bytes of real tensors that live, and the most there were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return made

    def add(self, tensor):
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.known:
            self.known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.drop, key, storage.nbytes())

    def drop(self, key, size):
        self.known.discard(key)
        self.now -= size


def really_taken(net, inputs, parts, **options):
    """Peak of a step: parameters, derivatives of the batch before, and the evaluation."""
    spare = {n: torch.zeros_like(v) for n, v in net.values().items() if v is not None}
    kept, record, complete = [], None, {}
    with Live() as live:
        for value in [*net.values().values(), *spare.values()]:
            live.add(value)
        for part in range(parts):
            kept.append({name: value.clone() for name, value in inputs.items()})
            record = net.eval(
                kept[-1], dict.fromkeys(losses(net), 1), wanted_inputs=(), record=record,
                accumulate=part > 0, out=None if part else spare,
                on_param=complete.__setitem__ if part + 1 == parts else None, **options,
            )  # fmt: skip
    return live.peak


def losses(net):
    return ["objective"] if isinstance(net, DagNN) else [net.output]


@pytest.fixture
def bare(monkeypatch):
    """Plans of tensors alone, without the memory of kernels."""
    monkeypatch.setattr(_ledger, "scratch", lambda *_: 0)
    monkeypatch.setattr(_ledger, "compiled", lambda *_: (None, 0))


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("conserve_memory", [True, False], ids=["conserving", "keeping"])
@pytest.mark.parametrize("build", [chain, dag])
@pytest.mark.usefixtures("bare")
def test_a_plan_counts_the_tensors_that_live(build, conserve_memory, recompute, parts):
    net, options = build(), {"conserve_memory": conserve_memory, "recompute": recompute}
    inputs = {net.input: IMAGES, "label": torch.zeros(6, dtype=torch.int64)}
    if build is dag:
        inputs["target"] = torch.randn(6, 1, 1, 24).permute(1, 2, 3, 0)
    plan = memory_plan(
        net, (16, 16, 3), 6 * parts, num_sub_batches=parts, solver_state=0, copies=0,
        device="cuda", ders=losses(net), **options,
    )  # fmt: skip
    assert plan.peak == pytest.approx(really_taken(net, inputs, parts, **options), rel=2e-3)


@pytest.mark.usefixtures("bare")
def test_an_evaluation_without_derivatives():
    net = chain()
    inputs = {"x0": IMAGES, "label": torch.zeros(6, dtype=torch.int64)}
    with Live() as live:
        for value in net.values().values():
            live.add(value)
        net.eval({k: v.clone() for k, v in inputs.items()}, mode="test", conserve_memory=True)
    plan = memory_plan(net, (16, 16, 3), 6, training=False, device="cuda")
    assert plan.peak == pytest.approx(live.peak, rel=2e-3)
    assert plan.solver_state == plan.derivatives == 0


MEASURE = """
import ctypes, gc, json, pathlib, sys, torch
from matconvnet.zoo import NETWORKS
torch.set_num_threads(1)

def step(net, size, batch):
    inputs = {"x0": torch.rand(batch, *size).permute(1, 2, 3, 0),
              "label": torch.zeros(batch, dtype=torch.int64)}
    ders = {}
    net.eval(inputs, {net.output: 1}, conserve_memory=True, wanted_inputs=(),
             on_param=ders.__setitem__)
    return ders

def status(kind):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(kind))

step(NETWORKS["lenet"](), (28, 28, 1), 2)
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
before = status("VmRSS")
net = NETWORKS["cifar-nin"]()
pathlib.Path("/proc/self/clear_refs").write_text("5")
step(net, (32, 32, 3), 24)
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_plan_is_what_a_process_takes():
    """Without solver, and without derivatives of a batch before: these are counted, not guessed."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], env={"MALLOC_MMAP_THRESHOLD_": "65536"}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    net = NETWORKS["cifar-nin"]()
    plan = memory_plan(net, (32, 32, 3), 24, solver_state=0, copies=0, device="cpu")
    assert plan.peak - plan.parameters == pytest.approx(json.loads(done.stdout), rel=MEMORY)


def test_parts_of_the_peak_add_up():
    plan = chain().memory_plan((16, 16, 3), 32, solver_state=2)
    parts = (plan.parameters, plan.solver_state, plan.derivatives, plan.values, plan.scratch)
    assert plan.peak == sum(parts) == max(moment.peak for moment in plan.timeline)
    assert all(part > 0 for part in parts)
    assert plan.solver_state == 3 * plan.parameters
    assert plan.parameters == sum(v.nbytes for v in chain().values().values())


def test_the_timeline_names_the_layers_and_what_is_computed_again():
    net = chain()
    names = [node.name for node in net.graph.nodes]
    plan = net.memory_plan((16, 16, 3), 4)
    assert [(m.phase, m.layer) for m in plan.timeline] == [
        *(("forward", name) for name in names), *(("backward", name) for name in names[::-1])
    ]  # fmt: skip
    again = net.memory_plan((16, 16, 3), 4, recompute=True).timeline
    assert {m.layer for m in again if m.phase == "again"} == {
        "layer2", "layer3", "layer6", "layer7"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["alexnet", "vgg-f-bnorm"])
def test_recomputation_takes_less(name):
    """What lives when the forward pass is over is what it is about."""
    net = NETWORKS[name]()

    def after_forward(recompute):
        plan = net.memory_plan(None, 8, recompute=recompute)
        last = next(m for m in reversed(plan.timeline) if m.phase == "forward")
        return last.after - plan.parameters - plan.solver_state - plan.derivatives, plan.peak

    (kept, peak), (fewer, lower) = after_forward(False), after_forward(True)
    assert fewer < 0.85 * kept
    assert lower <= 1.01 * peak  # what is made again is there beside the rest


def test_a_table_tells_the_peak():
    plan = chain().memory_plan((16, 16, 3), 64, num_sub_batches=2)
    lines = plan.table().splitlines()
    (marked,) = [line for line in lines if "<- peak" in line]
    assert plan.phase in marked
    assert plan.layer in marked
    assert lines[-1].startswith("64 images in 2 sub-batches: ")
    assert "parameters" in lines[-1]


def test_planning_leaves_no_trace():
    net, before = chain(), torch.get_rng_state()
    values = {name: value.clone() for name, value in net.values().items()}
    net.memory_plan((16, 16, 3), 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(values[name], value) for name, value in net.values().items())


def test_layers_of_ones_own_are_taken_to_make_their_outputs():
    """NumPy cannot compute with tensors that have no memory."""

    def double(x):
        return 2 * np.asarray(x)

    def double_backward(x, dzdy):
        return 2 * np.asarray(dzdy)

    net = SimpleNN([Conv(size=(16, 16, 3, 2)), (double, double_backward), Loss()])
    plain = SimpleNN([Conv(size=(16, 16, 3, 2)), ReLU(), Loss()])
    got, want = (n.memory_plan((16, 16, 3), 16).peak for n in (net, plain))
    assert got == pytest.approx(want, rel=0.01)


def test_parameters_that_are_not_drawn_yet_count():
    net = dag()
    want = net.memory_plan((16, 16, 3), 4).peak
    for param in net.params.values():
        param.value = None
    assert net.memory_plan((16, 16, 3), 4).peak == want


def test_sizes_may_come_by_variable_or_from_the_network():
    net, lenet = dag(), NETWORKS["lenet"]()
    by_name = {"x": (16, 16, 3), "target": (1, 1, 24, 4)}
    assert net.memory_plan(by_name, 4).peak == net.memory_plan((16, 16, 3), 4).peak
    assert lenet.memory_plan(None, 7).peak == lenet.memory_plan((28, 28, 1), 7).peak


def test_a_fit_is_the_smallest_number_that_fits():
    net, size = chain(), (16, 16, 3)
    peaks = {s: net.memory_plan(size, 8, num_sub_batches=s).peak for s in (1, 2, 3, 4, 8)}
    for wanted, peak in peaks.items():
        assert fit_sub_batches(net, size, 8, peak) == wanted
    assert fit_sub_batches(net, size, 8, 2 * peaks[1]) == 1
    with pytest.raises(ValueError, match=r"does not suffice: with one image at a time .* takes"):
        fit_sub_batches(net, size, 8, peaks[8] - 1)


@pytest.mark.parametrize(
    ("text", "size"),
    [(123, 123), ("123", 123), ("8GB", 8 * 10**9), ("512MiB", 512 * 2**20), ("1.5 g", 3 * 2**29),
     ("2T", 2**41), (" 64kb ", 64_000), ("7B", 7)],
)  # fmt: skip
def test_memory_is_parsed(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GB", "8XB", "-1", "8 GB of it", "1e9", "0", "nan"])
def test_forms_of_memory_that_are_wanted_are_named(text):
    with pytest.raises(ValueError, match=r"memory is .*; wanted .*'8GB', '512MiB', '1.5G'"):
        parse_memory(text)


@pytest.mark.parametrize("value", [True, None, 1.5])
def test_memory_is_a_number_or_a_text(value):
    with pytest.raises(TypeError, match=r"memory is .*; wanted"):
        parse_memory(value)


def test_running_out_of_memory_is_explained():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    plan = chain().memory_plan((16, 16, 3), 64)
    text = explain_out_of_memory(caught.value, plan, budget=parse_memory("1GiB"))
    assert f"{1 << 60} bytes more were asked for" in text
    assert f"predicted were {plan}" in text
    assert "the budget is 1GB" in text
    assert "recompute=True" in text
    assert "num_sub_batches=2 (it is 1)" in text
    assert "batch_size (it is 64)" in text


def test_what_does_not_help_is_not_advised():
    plan = chain().memory_plan((16, 16, 3), 2, num_sub_batches=2, recompute=True)
    text = explain_out_of_memory(torch.OutOfMemoryError("Tried to allocate 2.50 GiB. GPU 0"), plan)
    assert "2.50 GiB more were asked for" in text
    assert "recompute=True" not in text
    assert "num_sub_batches=" not in text


def test_other_errors_are_not_about_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_wrong_arguments_are_named():
    net = chain()
    with pytest.raises(ValueError, match="batch is 0; wanted"):
        net.memory_plan((16, 16, 3), 0)
    with pytest.raises(ValueError, match="num_sub_batches is 0; wanted"):
        net.memory_plan((16, 16, 3), 4, num_sub_batches=0)
    with pytest.raises(KeyError, match="input_sizes names"):
        net.memory_plan({"image": (16, 16, 3)}, 4)
    with pytest.raises(KeyError, match="ders names"):
        net.memory_plan((16, 16, 3), 4, ders=["x99"])
