"""DagNN: what an evaluation computes, and what it leaves behind."""

import itertools
import weakref

import pytest
import torch

from matconvnet.blocks import (
    Concat,
    Conv,
    Dropout,
    ReLU,
    Scale,
    Sigmoid,
    Sum,
)
from matconvnet.nets.dagnn import DagNN
from matconvnet.parallel.server import RecordingServer
from tests.dagnets import batch, double, kept, residual
from tests.helpers import assert_close, central_difference, randn
from tests.tolerances import CENTRAL_DIFFERENCE, REFERENCE

EXACT = REFERENCE[torch.float64]


def test_a_forward_pass_leaves_the_outputs():
    net = residual()
    net.eval(batch())
    assert kept(net, "value") == {"objective", "error"}
    assert kept(net, "der") == set()


def test_a_backward_pass_leaves_inputs_outputs_and_what_is_precious():
    net = residual()
    net.vars["a"].precious = True
    net.eval(batch(), {"objective": 1})
    assert kept(net, "value") == {"x", "label", "objective", "error", "a"}
    assert kept(net, "der") == {"x", "objective", "a"}
    assert all(param.der is not None for param in net.params.values())


def test_everything_is_kept_if_memory_is_not_conserved():
    net = residual()
    net.conserve_memory = False
    net.eval(batch(), {"objective": 1})
    assert kept(net, "value") == set(net.vars)
    assert kept(net, "der") == set(net.vars) - {"label", "error"}


@pytest.mark.parametrize("accumulate", [False, True])
def test_the_last_evaluation_does_not_outlive_the_next(accumulate):
    net = residual()
    net.accumulate_param_ders = accumulate
    net.conserve_memory = False
    old, seen = [], []

    def watch(d):
        seen.extend(value() for value in old)
        return d

    net.add_layer("watch", watch, "d", "e")
    old.append(weakref.ref(net.eval(batch()).values["a"]))
    net.eval(batch())
    assert seen == [None]


def test_a_derivative_may_start_at_a_variable_that_would_have_been_freed():
    net, inputs, p = residual(), batch(), randn((1, 1, 3, 4), 7)
    net.eval(inputs, {"c": p})
    ders = {name: param.der for name, param in net.params.items()}
    net.conserve_memory = False
    net.eval(inputs, {"c": p})
    for name, der in ders.items():
        assert torch.equal(der, net.params[name].der)
    net.conserve_memory = True
    net.eval(inputs, {"c": p})
    assert kept(net, "der") == {"x"}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_relu_in_each_position_of_a_fan_out(order):
    """Its input may go only when no other derivative reads it."""
    readers = [("relu", ReLU()), ("sigmoid", Sigmoid()), ("conv", Conv(size=(1, 1, 3, 3)))]
    net = DagNN()
    net.add_layer("first", Conv(size=(1, 1, 2, 3)), "x", "a")
    for i in order:
        name, block = readers[i]
        net.add_layer(name, block, "a", name)
    net.add_layer("again", ReLU(leak=0.1), "relu", "twice")
    net.add_layer("sum", Sum(), ["twice", "sigmoid", "conv", "a"], "y")
    assert_conserving_changes_nothing(double(net), {"x": randn((2, 3, 2, 2))}, "y")


def test_relu_after_relu():
    net = DagNN()
    for i, leak in enumerate((0, 0.1, 0)):
        net.add_layer(f"relu{i}", ReLU(leak), f"x{i}", f"x{i + 1}")
    assert_conserving_changes_nothing(net, {"x0": randn((3, 2, 2, 2))}, "x3")


def assert_conserving_changes_nothing(net, inputs, output):
    """Derivatives with and without conserving memory are equal, and right."""
    p = randn(net.eval(inputs).values[output].shape, 9)
    whole = net.eval(inputs, {output: p}, conserve_memory=False)
    lean = net.eval(inputs, {output: p}, conserve_memory=True)
    assert set(lean.param_ders) == set(whole.param_ders) == set(net.params)
    for name, der in whole.param_ders.items():
        assert torch.equal(lean.param_ders[name], der)
    for name, x in inputs.items():
        assert torch.equal(lean.ders[name], whole.ders[name])

        def run(x, name=name):
            return net.eval({**inputs, name: x}).values[output]

        numerical = central_difference(run, x, p)
        assert_close(lean.ders[name], numerical, CENTRAL_DIFFERENCE)


def test_a_repeated_input_gets_its_derivative_twice():
    net = DagNN()
    net.add_layer("sig", Sigmoid(), "x", "a")
    net.add_layer("sum", Sum(), ["a", "a"], "b")
    net.add_layer("cat", Concat(), ["b", "a", "b"], "y")
    assert_conserving_changes_nothing(net, {"x": randn((2, 2, 1, 2))}, "y")


def test_scale_with_inputs_and_parameters():
    """Derivatives of a and b are summed over the axes where one of them serves all of x."""
    for axis in range(4):
        shape = [3, 2, 4, 2]
        shape[axis] = 1
        net = DagNN()
        net.add_layer("s1", Scale(size=tuple(shape)), "x", "y", ("a", "b"))
        net.add_layer("s2", Scale(), ("y", "c", "d"), "z")
        double(net)
        net.params["a"].value = randn(shape, 3)
        x, c, d = randn((3, 2, 4, 2)), randn(shape, 1), randn(shape, 2)
        inputs = {"x": x, "c": c, "d": d}
        assert_conserving_changes_nothing(net, inputs, "z")
        net.eval(inputs, {"z": torch.ones_like(x)})
        assert_close(net.params["b"].der, c * (x.numel() // c.numel()), EXACT)
        assert_close(net.params["a"].der, (c * x).sum(axis, keepdim=True), EXACT)


def test_a_shared_parameter_gets_the_sum_and_accumulates():
    net = DagNN()
    net.add_layer("one", Conv(size=(1, 1, 2, 2)), "x", "a", ("f", "b"))
    net.add_layer("two", Conv(size=(1, 1, 2, 2)), "a", "y", ("f", "b"))
    net.add_layer("alone", Conv(size=(1, 1, 2, 2)), "x", "z", ("g", "h"))
    double(net)
    x, p = randn((2, 3, 2, 2)), randn((2, 3, 2, 2), 1)
    net.eval({"x": x}, {"y": p})
    f, b, once = (net.params[name].value for name in "fb"), None, net.params["f"].der
    f, b = f
    a = torch.einsum("ijcn,ck->ijkn", x, f[0, 0]) + b[:, None]
    first = torch.einsum("ijcn,ijkn->ck", x, torch.einsum("ijkn,ck->ijcn", p, f[0, 0]))
    assert_close(once[0, 0], first + torch.einsum("ijcn,ijkn->ck", a, p), EXACT)
    assert net.params["g"].der is None
    net.accumulate_param_ders = True
    net.eval({"x": x}, {"y": p})
    assert_close(net.params["f"].der, 2 * once, EXACT)
    net.eval({"x": x})
    net.eval({"x": x}, {"z": p})
    assert_close(net.params["f"].der, 2 * once, EXACT)
    alone = net.params["g"].der
    net.accumulate_param_ders = False
    net.eval({"x": x}, {"z": p})
    assert torch.equal(net.params["g"].der, alone)
    assert net.params["f"].der is None


def test_successive_calls_with_other_output_derivatives_are_independent():
    net, inputs, p = residual(), batch(), randn((1, 1, 3, 4), 7)
    net.conserve_memory = False
    whole = {}
    for ders in ({"objective": 1}, {"c": p}, {"objective": 1, "c": p}):
        fresh = residual()
        fresh.conserve_memory = False
        fresh.eval(inputs, ders)
        net.eval(inputs, ders)
        assert kept(net, "der") == kept(fresh, "der")
        for name, param in net.params.items():
            assert torch.equal(param.der, fresh.params[name].der)
        whole[tuple(ders)] = net.params["f1"].der
    assert_close(
        whole["objective", "c"], whole["objective",] + whole["c",], EXACT
    )  # several outputs with a derivative each


def test_a_part_of_the_network_is_evaluated_with_a_part_of_the_inputs():
    net = residual()
    net.conserve_memory = False
    net.eval(batch(), {"objective": 1})
    x = batch(seed=5)["x"]
    net.eval({"x": x})
    assert kept(net, "value") == {"x", "a", "b", "c", "d"}
    net.eval({"x": x}, {"d": randn((1, 1, 3, 4))})
    assert kept(net, "der") == {"x", "a", "b", "c", "d"}
    net.eval(["b", randn((1, 1, 3, 4))])
    assert kept(net, "value") == {"b", "c"}
    assert all(param.der is None for param in net.params.values())


def test_inputs_and_derivatives_come_by_name_or_in_a_flat_list():
    net, inputs = residual(), batch()
    record = net.eval([item for pair in inputs.items() for item in pair], ["objective", 1])
    assert record is net.record
    der = net.params["f1"].der
    net.eval({name: value.numpy() for name, value in inputs.items()}, {"objective": 1.0})
    assert torch.equal(net.params["f1"].der, der)
    net.eval(inputs, {})
    assert net.params["f1"].der is None
    net.eval(inputs, [])
    assert net.record.ders == {}


def test_wrong_inputs_are_named():
    net, inputs = residual(), batch()
    with pytest.raises(KeyError, match=r"inputs names \['y', 'z'\], which are no variables"):
        net.eval({**inputs, "y": 1, "z": 2})
    with pytest.raises(KeyError, match=r"ders names \['objectiv'\].*did you mean 'objective'"):
        net.eval(inputs, {"objective": 1, "objectiv": 1})
    with pytest.raises(KeyError, match=r"ders names \['objective'\], not evaluated"):
        net.eval({"x": inputs["x"]}, {"objective": 1})
    with pytest.raises(TypeError, match="inputs is Tensor; wanted a dictionary, or a list"):
        net.eval(inputs["x"])
    with pytest.raises(TypeError, match="ders is str"):
        net.eval(inputs, "objective")
    with pytest.raises(ValueError, match="inputs is a list that is not name, value"):
        net.eval(["x", inputs["x"], "label"])
    with pytest.raises(TypeError, match="x is str; wanted a tensor"):
        net.eval({"x": "cat"})
    with pytest.raises(ValueError, match="mode is 'tset'"):
        net.eval(inputs, mode="tset")


def test_a_parameter_without_a_value_is_named_only_where_it_is_needed():
    net = residual()
    net.params["f2"].value = None
    with pytest.raises(ValueError, match="parameter 'f2' of layer 'c2' has no value; call in"):
        net.eval(batch())
    net.eval({"d": randn((1, 1, 3, 2)), "label": torch.zeros(2)})
    assert kept(net, "value") == {"objective", "error"}


def test_what_was_given_is_differentiated_no_further():
    """A layer that was not evaluated takes no part, even if its output has a derivative."""
    net = residual()
    inputs = {"d": randn((1, 1, 3, 2)), "label": torch.zeros(2)}
    for conserve_memory in (False, True):
        net.eval(inputs, {"objective": 1}, conserve_memory=conserve_memory)
        assert kept(net, "der") == {"d", "objective"}
        assert net.record.param_ders == {}


def test_an_error_in_a_layer_names_it_and_leaves_no_record():
    net = residual()
    net.eval(batch())
    with pytest.raises(ValueError) as caught:
        net.eval({"x": randn((1, 1, 5, 1))})
    assert any("in layer 'c1' (Conv)" in note for note in caught.value.__notes__)
    assert net.record.values == {}


def test_test_mode_is_that_of_the_network_or_of_the_call():
    net = DagNN()
    net.add_layer("drop", Dropout(0.5), "x", "y")
    x = randn((4, 4, 2, 2)) + 9
    net.eval({"x": x})
    assert not torch.equal(net.vars["y"].value, x)
    assert torch.equal(net.eval({"x": x}, mode="test").values["y"], x)
    assert not torch.equal(net.eval({"x": x}).values["y"], x)
    net.mode = "test"
    assert torch.equal(net.eval({"x": x}, {"y": x}).ders["x"], x)


@pytest.mark.parametrize("conserve_memory", [True, False])
def test_frozen_dropout_repeats_its_first_mask_until_reset(conserve_memory):
    net = DagNN()
    net.add_layer("drop", Dropout(0.5, frozen=True), "x", "y")
    net.add_layer("free", Dropout(0.5), "x", "z")
    net.conserve_memory = conserve_memory
    ones = torch.ones(8, 8, 2, 2)
    first, free = (net.eval({"x": ones}, {"y": ones}).values[v] for v in "yz")
    again = net.eval({"x": 2 * ones}, {"y": ones})
    assert torch.equal(again.values["y"], 2 * first)
    assert torch.equal(again.ders["x"], first)
    assert not torch.equal(again.values["z"], 2 * free)
    assert torch.equal(net.eval({"x": ones}, mode="test").values["y"], ones)
    assert torch.equal(net.eval({"x": ones}).values["y"], first)
    assert net.copy().layers["drop"].block == Dropout(0.5, frozen=True)
    assert not torch.equal(net.copy().eval({"x": ones}).values["y"], first)
    net.reset()
    assert net.record.values == {}
    assert not net.layers["drop"].block.frozen
    assert not torch.equal(net.eval({"x": ones}).values["y"], first)


def test_the_generator_decides_the_masks():
    net = DagNN()
    net.add_layer("drop", Dropout(0.5), "x", "y")
    ones = torch.ones(8, 8, 2, 2)
    runs = [
        net.eval({"x": ones}, generator=torch.Generator().manual_seed(s)).values["y"]
        for s in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_parameters_are_drawn_from_a_seed():
    net, other = residual(), residual()
    assert torch.equal(net.params["f1"].value, other.params["f1"].value)
    other.init_params(1)
    assert not torch.equal(net.params["f1"].value, other.params["f1"].value.double())
    net.add_layer("odd", Conv(size=(1, 1, 3, 2)), "d", "e", "of")
    with pytest.raises(ValueError, match=r"'odd' \(Conv\) draws 2 parameters; it is given 1"):
        net.init_params()
    net.layers["odd"].block = Conv()
    with pytest.raises(ValueError, match="Conv has no size"):
        net.init_params()


def test_moving():
    net = residual()
    net.eval(batch(), {"objective": 1})
    net.move("cpu")
    assert net.record.values == {}
    assert net.device == torch.device("cpu")
    with pytest.raises(ValueError, match="device is 'tpu9'; wanted 'cpu' or 'gpu'"):
        net.move("tpu9")


def test_derivatives_go_to_the_server_as_they_are_complete():
    net, inputs = residual(), batch()
    net.eval(inputs, {"objective": 1})
    ders = dict(net.record.param_ders)
    server = RecordingServer()
    net.set_parameter_server(server)
    assert list(server.slots) == ["f1", "b1", "f2"]
    net.eval(inputs, {"objective": 1})
    assert server.pushed == ["f2", "f1", "b1"]
    assert all(param.der is None for param in net.params.values())
    for name, der in ders.items():
        assert torch.equal(server.pull(name), der)


def test_sub_batches_hold_on_until_the_last():
    net, inputs = residual(), batch()
    net.eval(inputs, {"objective": 1})
    ders = dict(net.record.param_ders)
    server = RecordingServer()
    net.set_parameter_server(server)
    net.eval(inputs, {"objective": 1}, "holdOn", True)
    assert server.pushed == []
    assert net.params["f1"].der is not None
    net.accumulate_param_ders = True
    net.eval(inputs, {"objective": 1})
    for name, der in ders.items():
        assert_close(server.pull(name), 2 * der, EXACT)


def test_another_taker_goes_before_the_server():
    net, taken = residual(), []
    server = RecordingServer()
    net.set_parameter_server(server)
    net.eval(batch(), {"objective": 1}, on_param=lambda name, der: taken.append(name))
    assert (taken, server.pushed) == (["f2", "f1", "b1"], [])


def test_a_server_is_stopped_by_reset_and_by_another():
    net, server = residual(), RecordingServer()
    net.set_parameter_server(server)
    net.set_parameter_server(RecordingServer())
    assert not server.started
    second = net.parameter_server
    net.reset()
    assert net.parameter_server is None
    assert not second.started
    net.params["b1"].value = None
    with pytest.raises(ValueError, match="parameter 'b1' has no value"):
        net.set_parameter_server(RecordingServer())
