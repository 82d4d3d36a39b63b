"""What holds for every layer, over the registry; a layer without cases here fails."""

import inspect
from dataclasses import MISSING, fields
from typing import NamedTuple

import pytest
import torch

import matconvnet as mcn
from matconvnet import executor
from matconvnet.blocks import LAYERS
from matconvnet.graph import Node, build
from matconvnet.layer import Context
from matconvnet.nets import registry, struct
from tests.helpers import MEMORY_ORDERS, assert_close, in_memory
from tests.tolerances import AUTOGRAD, REORDERED


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case(NamedTuple):
    """A layer with inputs and parameters that make every term of it matter."""

    layer: object
    inputs: tuple
    params: tuple = ()
    given_last: bool = False  # all inputs but the first are labels, regions or a reference


X = randn(6, 7, 4, 3)
LABELS = torch.randint(-1, 4, (6, 7, 1, 3), generator=torch.Generator().manual_seed(1))
SIGNS = torch.randint(-1, 2, (6, 7, 4, 3), generator=torch.Generator().manual_seed(1))
MOMENTS = torch.stack((randn(4, seed=3), randn(4, seed=4).abs() + 0.5), 1)
GRID = randn(2, 5, 3, 6, seed=5).clamp(-1.2, 1.2)
ROIS = torch.tensor([[0, 1, 2, 6, 5], [2, 0, 0, 3, 3], [1, 2, 1, 2, 1]], dtype=torch.float64).T

CASES = [
    Case(mcn.AffineGrid(3, 4), (randn(1, 1, 6, 3, seed=1),)),
    Case(mcn.BatchNorm(1e-2), (X,), (randn(4), randn(4, seed=1), MOMENTS)),
    Case(mcn.BilinearSampler(), (X, GRID)),
    Case(mcn.Concat(), (X, randn(6, 7, 2, 3, seed=1), X.flip(0))),
    Case(mcn.Concat(dim=3), (X, randn(6, 7, 4, 1, seed=1))),
    Case(mcn.Conv(pad=(1, 0, 2, 1), stride=(2, 1), dilate=(1, 2)), (X,),
         (randn(3, 2, 2, 6, seed=1), randn(6, seed=2))),
    Case(mcn.Conv(pad=1), (X,), (randn(3, 3, 4, 2, seed=1), None)),
    Case(mcn.Conv(), (X,), (randn(6, 7, 4, 5, seed=1), randn(1, 5, seed=2))),
    Case(mcn.ConvTranspose(upsample=(2, 3), crop=(1, 0, 2, 1), num_groups=2), (X,),
         (randn(3, 4, 3, 4, seed=1), randn(6, seed=2))),
    Case(mcn.Crop((1, 2)), (X, randn(3, 4, 1, 1)), given_last=True),
    Case(mcn.Dropout(0.3), (X,)),
    *(Case(mcn.Loss(kind, top_k=2, threshold=0.1),
           (torch.softmax(X, 2) if "log" in kind else X, LABELS), given_last=True)
      for kind in ("classerror", "topkerror", "log", "softmaxlog", "mhinge", "mshinge")),
    *(Case(mcn.Loss(kind, threshold=0.1),
           (torch.sigmoid(X) if kind == "binarylog" else X, SIGNS), given_last=True)
      for kind in ("binaryerror", "binarylog", "logistic", "hinge")),
    Case(mcn.Loss("hinge"), (X, SIGNS, randn(6, 7, 4, 3, seed=2).abs()), given_last=True),
    Case(mcn.LpNorm(), (X,)),
    Case(mcn.LpNorm(exponent=4, epsilon=0.5, dims=(0, 1)), (X,)),
    Case(mcn.LRN((3, 1, 0.5, 0.75)), (X,)),
    Case(mcn.LRN((4, 2, 0.7, 0.6)), (X,)),
    Case(mcn.NormOffset((0.5, 0.7)), (X,)),
    Case(mcn.PDist(p=3, no_root=True), (X, randn(6, 7, 4, 3, seed=2))),
    Case(mcn.PDist(p=1.5, aggregate=True), (X, randn(1, 1, 4, 3, seed=2))),
    Case(mcn.PDist(p=1.5), (X, randn(6, 7, 4, 3, seed=2), randn(6, 7, 1, 3, seed=3))),
    Case(mcn.Pooling(3, stride=2, pad=(0, 1, 0, 2)), (X,)),
    Case(mcn.Pooling((2, 3), stride=1), (X,)),
    Case(mcn.Pooling(3, stride=2, pad=(2, 1, 0, 2), method="avg"), (X,)),
    Case(mcn.ReLU(), (X,)),
    Case(mcn.ReLU(0.2), (X,)),
    Case(mcn.RoiPool(subdivisions=(2, 3)), (X, ROIS), given_last=True),
    Case(mcn.RoiPool("avg", subdivisions=(2, 1), flatten=True), (X, ROIS), given_last=True),
    Case(mcn.Scale(), (X,), (randn(1, 1, 4, seed=1), randn(6, 1, 1, 3, seed=2))),
    Case(mcn.Scale(has_bias=False), (X, randn(1, 7, 4, 1, seed=1))),
    Case(mcn.Scale(), (X, randn(1, 1, 4, 3, seed=1)), (randn(1, 1, 4, seed=2),)),
    Case(mcn.Scale(), (X, randn(1, 1, 4, 3, seed=1), randn(6, 7, 4, 3, seed=2))),
    Case(mcn.Sigmoid(), (X,)),
    Case(mcn.SmoothL1(sigma=1.3), (X, randn(6, 7, 4, 3, seed=2))),
    Case(mcn.SmoothL1(), (X, randn(6, 7, 4, 3, seed=2), randn(6, 7, 4, 3, seed=3))),
    Case(mcn.Softmax(), (X,)),
    Case(mcn.SoftmaxLoss(), (X, LABELS), given_last=True),
    Case(mcn.SpNorm((2, 3, 0.5, 0.8)), (X,)),
    Case(mcn.Sum(), (X, randn(6, 7, 4, 3, seed=1), X.flip(0))),
    Case(mcn.UniformGrid(3, 4), (randn(1, 1, 3, 3, seed=1),)),
]  # fmt: skip
IDS = [f"{i}-{type(case.layer).__name__}" for i, case in enumerate(CASES)]
every_case = pytest.mark.parametrize("case", CASES, ids=IDS)


def graph_of(case):
    names = tuple(f"i{k}" for k in range(len(case.inputs)))
    params = tuple(f"p{k}" for k in range(len(case.params)))
    graph = build([Node("layer", case.layer, names, ("y",), params)])
    return graph, dict(zip(names, case.inputs, strict=True)), dict(
        zip(params, case.params, strict=True)
    )  # fmt: skip


def evaluate(case, inputs=None, training=True, conserve_memory=False):
    graph, given, params = graph_of(case)
    ctx = Context(training, torch.Generator().manual_seed(0))
    inputs = inputs or given
    record = executor.forward(
        graph, params, inputs, ctx=ctx, derivative=True, conserve_memory=conserve_memory
    )
    p = randn(*record.values["y"].shape, seed=9)
    executor.backward(graph, params, record, {"y": p}, conserve_memory=conserve_memory)
    return record, p


def test_every_layer_has_cases():
    assert {type(case.layer) for case in CASES} == set(LAYERS)


@every_case
@pytest.mark.parametrize("training", [True, False], ids=["normal", "test"])
def test_derivatives_agree_with_central_differences(case, training):
    if case.given_last:
        subject = (lambda x: first_output(case, x), lambda x, p: first_derivative(case, x, p))
        report = mcn.check_derivatives(subject, case.inputs[0], max_elements=60)
    else:
        report = mcn.check_derivatives(
            case.layer, *case.inputs, params=case.params, training=training, max_elements=60
        )
    assert report.ok, f"\n{report}"


def first_output(case, x):
    return case.layer.forward((x, *case.inputs[1:]), case.params, Context())[0][0]


def first_derivative(case, x, p):
    graph, inputs, params = graph_of(case)
    record = executor.forward(graph, params, {**inputs, "i0": x}, derivative=True)
    return executor.backward(graph, params, record, {"y": p}).ders["i0"]


@every_case
def test_derivatives_agree_with_autograd_of_forward(case):
    record, p = evaluate(case)
    if isinstance(case.layer, mcn.PDist) and case.layer.p < 1:
        pytest.skip("the convention at |d| < epsilon is not the gradient")
    inputs = [t.clone().requires_grad_(t.is_floating_point()) for t in case.inputs]
    params = [None if t is None else t.clone().requires_grad_() for t in case.params]
    ctx = Context(True, torch.Generator().manual_seed(0))
    with torch.enable_grad():
        (y,), _ = case.layer.forward(tuple(inputs), tuple(params), ctx)
        if not y.requires_grad:
            assert not record.ders["i0"].any()
            return
        (y * p).sum().backward()
    for k, tensor in enumerate(inputs):
        if tensor.grad is not None and f"i{k}" in record.ders:
            assert_close(record.ders[f"i{k}"], tensor.grad, AUTOGRAD)
    for k, tensor in enumerate(params):
        averaged = k < len(case.layer.param_names) and (
            case.layer.param_names[k] in case.layer.averaged_params
        )
        if tensor is not None and not averaged:
            assert_close(record.param_ders[f"p{k}"], tensor.grad, AUTOGRAD)


@every_case
def test_arguments_are_not_modified(case):
    copies = [t if t is None else t.clone() for t in (*case.inputs, *case.params)]
    evaluate(case)
    for before, after in zip(copies, (*case.inputs, *case.params), strict=True):
        assert before is after is None or torch.equal(before, after)


@every_case
@pytest.mark.parametrize("order", MEMORY_ORDERS)
def test_memory_order_does_not_matter(case, order):
    whole, _ = evaluate(case)
    inputs = {
        f"i{k}": in_memory(t, order) if t.dim() == 4 and t.is_floating_point() else t
        for k, t in enumerate(case.inputs)
    }
    got, _ = evaluate(case, inputs)
    for name in ("values", "ders", "param_ders"):
        for key, want in getattr(whole, name).items():
            assert_close(getattr(got, name)[key], want, REORDERED)


@every_case
def test_needs_are_honest_and_derivatives_have_their_shapes(case):
    """With undeclared values withheld the derivatives are the same."""
    whole, _ = evaluate(case)
    spared, _ = evaluate(case, conserve_memory=True)
    for k, tensor in enumerate(case.inputs):
        if f"i{k}" in whole.ders:
            assert whole.ders[f"i{k}"].shape == tensor.shape
            torch.testing.assert_close(spared.ders[f"i{k}"], whole.ders[f"i{k}"], rtol=0, atol=0)
    for k, tensor in enumerate(case.params):
        if tensor is not None:
            assert whole.param_ders[f"p{k}"].shape == tensor.shape


@every_case
def test_sizes_are_predicted(case):
    record, _ = evaluate(case)
    sizes = [(*t.shape, 1, 1, 1)[:4] for t in case.inputs]
    shapes = [None if p is None else tuple(p.shape) for p in case.params]
    (predicted,) = case.layer.output_sizes(sizes, shapes)
    found = (*record.values["y"].shape, 1, 1, 1, 1)[:4]
    assert found == tuple(predicted)


@every_case
def test_structs_give_the_layer_back(case):
    if case.layer.type_name not in registry.TYPES:
        return  # two or more maps do not fit in a chain
    entry = {**struct.write_layer(case.layer), "weights": list(case.params)}
    assert struct.read_layer(struct.tidy_layer(entry, 1), 1).options() == {
        key: tuple(value) if isinstance(value, (list, tuple)) else value
        for key, value in case.layer.options().items()
    }


@every_case
def test_half_types_compute_where_torch_has_the_kernel(case):
    def half(t):
        return t.bfloat16() if t is not None and t.is_floating_point() else t

    low = Case(case.layer, tuple(map(half, case.inputs)), tuple(map(half, case.params)))
    try:
        (y,), _ = low.layer.forward(low.inputs, low.params, Context(False))
    except NotImplementedError as error:  # "not implemented for 'BFloat16'" of a torch kernel
        pytest.skip(str(error).splitlines()[0])
    (want,), _ = case.layer.forward(case.inputs, case.params, Context(False))
    assert y.dtype == torch.bfloat16
    if isinstance(case.layer, mcn.Loss) and case.layer.loss.endswith("error"):
        return  # ranks may swap where two scores round to one
    assert (y.double() - want).abs().max() <= 0.05 * want.abs().max()


def test_defaults_are_written_once():
    """Options of a block, of its derivative, and fields of its layer agree."""
    pairs = [
        (mcn.conv, mcn.conv_backward, mcn.Conv), (mcn.convt, mcn.convt_backward, mcn.ConvTranspose),
        (mcn.pool, mcn.pool_backward, mcn.Pooling), (mcn.relu, mcn.relu_backward, mcn.ReLU),
        (mcn.loss, mcn.loss_backward, mcn.Loss), (mcn.lpnorm, mcn.lpnorm_backward, mcn.LpNorm),
        (mcn.lrn, mcn.lrn_backward, mcn.LRN), (mcn.concat, mcn.concat_backward, mcn.Concat),
        (mcn.bnorm, mcn.bnorm_backward, mcn.BatchNorm),
        (mcn.pdist, mcn.pdist_backward, mcn.PDist),
        (mcn.smooth_l1, mcn.smooth_l1_backward, mcn.SmoothL1),
        (mcn.roipool, mcn.roipool_backward, mcn.RoiPool),
    ]  # fmt: skip
    deliberate = {  # the original's layers differ from its blocks here
        ("bnorm", "epsilon"): (1e-4, 1e-5),
        ("pdist", "epsilon"): (1e-6, 1e-3),
        ("roipool", "subdivisions"): ((1, 1), (6, 6)),
    }
    for forward, backward, layer in pairs:
        defaults = {
            name: p.default
            for name, p in inspect.signature(forward).parameters.items()
            if p.default is not inspect.Parameter.empty
        }
        for name, p in inspect.signature(backward).parameters.items():
            if name in defaults and p.default is not inspect.Parameter.empty:
                assert p.default == defaults[name], (backward.__name__, name)
        for f in fields(layer):
            if f.name in defaults and f.default is not MISSING:
                expected = (defaults[f.name], defaults[f.name])
                block, field = deliberate.get((forward.__name__, f.name), expected)
                assert (defaults[f.name], f.default) == (block, field), (layer.__name__, f.name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_case
def test_a_gpu_computes_the_same(case):
    def moved(t):
        return None if t is None else t.cuda()

    if isinstance(case.layer, mcn.Dropout):
        return  # its random numbers are the device's own
    there = Case(case.layer, tuple(map(moved, case.inputs)), tuple(map(moved, case.params)))
    here, _ = evaluate(case)
    graph, inputs, params = graph_of(there)
    record = executor.forward(graph, params, inputs, derivative=True)
    p = randn(*here.values["y"].shape, seed=9).cuda()
    executor.backward(graph, params, record, {"y": p})
    for name in ("values", "ders", "param_ders"):
        for key, want in getattr(here, name).items():
            assert_close(getattr(record, name)[key].cpu(), want, AUTOGRAD)
