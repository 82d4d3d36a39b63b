"""What the tests of several networks share: counts, and derivatives of whole networks."""

import torch

from matconvnet import geometry
from matconvnet.nets.example import example_inputs
from tests.helpers import assert_close, randn
from tests.tolerances import CENTRAL_DIFFERENCE


def learned(net):
    """The parameters that training moves along derivatives, by name."""
    return {n: p for n, p in net.params.items() if p.train_method == "gradient" and has_value(p)}


def has_value(param):
    return param.value is not None


def count(net):
    """Learnable numbers."""
    return sum(p.value.numel() for p in learned(net).values())


def variable_sizes(net, size):
    """Sizes (H, W, C, N) of all variables, for one image of `size`, by the layers alone."""
    return geometry.variable_sizes(net.graph, {net.input: (*size, 1)}, shapes(net))


def shapes(net):
    return {n: None if v is None else tuple(v.shape) for n, v in net.values().items()}


def work(net, size):
    """Multiply-adds for one image of `size`, by name of a layer, where there are any."""
    sizes, known = variable_sizes(net, size), shapes(net)
    found = {
        node.name: node.layer.multiply_adds(
            [sizes[v] for v in node.inputs], [known[p] for p in node.params]
        )
        for node in net.graph.nodes
    }
    return {name: number for name, number in found.items() if number}


def check_derivatives_are_there(net, output, batch=2):
    """Of colour images of 0..255, less an average: every parameter learns.

    Not so biases before a normalisation, which takes them away again, to rounding.
    """
    normalised = {n.inputs[0] for n in net.graph.nodes if n.layer.type_name == "bnorm"}
    idle = {p for n in net.graph.nodes if n.outputs[0] in normalised for p in n.params[1:]}
    generator = torch.Generator().manual_seed(1)
    inputs = example_inputs(net, batch=batch, labels=True, generator=generator)
    inputs[net.input] *= 60
    record = net.eval(
        inputs, {output: 1}, conserve_memory=True, wanted_inputs=(), generator=generator
    )
    ders = record.param_ders
    assert ders.keys() >= learned(net).keys()
    for name, param in learned(net).items():
        assert ders[name].shape == param.value.shape
        assert ders[name].isfinite().all(), name
        assert name in idle or ders[name].any(), name


def check_derivative(net, inputs, output, step=1e-7):
    """Along a direction, of the whole network in training, against a central difference."""
    net.to(torch.float64)
    start = {n: p.value.clone() for n, p in learned(net).items()}
    sizes = {n: v.std(correction=0) or 1.0 for n, v in start.items()}  # constants move by 1
    direction = {n: sizes[n] * randn(v.shape, seed=i) for i, (n, v) in enumerate(start.items())}
    ders = dict(net.eval(inputs, {output: 1}).param_ders)
    got = sum((ders[n] * direction[n]).sum() for n in start)
    ends = []
    for sign in (1, -1):
        for n, v in start.items():
            net.params[n].value.copy_(v + sign * step * direction[n])
        ends.append(net.eval(inputs, mode="normal", precious=[output]).values[output])
    assert_close(got, (ends[0] - ends[1]) / (2 * step), CENTRAL_DIFFERENCE)
