"""DagNN: edits of the wiring, names of attributes, sizes and receptive fields."""

import copy
import gc
import weakref

import pytest
import torch

from matconvnet.blocks import (
    AffineGrid,
    BatchNorm,
    BilinearSampler,
    Conv,
    ConvTranspose,
    Crop,
    PDist,
    Pooling,
    ReLU,
    RoiPool,
    Scale,
    Sigmoid,
    Sum,
)
from matconvnet.errors import GraphError
from matconvnet.layer import Field
from matconvnet.nets.dagnn import DagNN
from tests.dagnets import batch, residual
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE

EXACT = REFERENCE[torch.float64]


def test_layers_come_in_the_order_of_their_height():
    net = DagNN()
    wiring = {"A": "xa", "B": "cb", "C": "ac", "D": "xd", "E": "ye"}
    for name, (source, target) in wiring.items():
        net.add_layer(name, Sigmoid(), source, target)
    assert net.get_layer_execution_order() == ["A", "C", "B", "D", "E"]
    assert list(net.layers) == ["A", "B", "C", "D", "E"]


def test_records_are_found_by_name_and_by_position():
    net = residual()
    assert net.vars["a"] is net.vars[1] is net.get_var("a")
    assert net.params[-1].name == "f2"
    assert [layer.name for layer in net.layers[["c2", 0]]] == ["c2", "c1"]
    assert [layer.name for layer in net.layers[:2]] == ["c1", "re"]
    assert net.get_layer_index("sum") == 3
    assert net.get_param_index(["b1", "none"]) == [1, None]
    assert net.get_var_index("none") is None
    assert "a" in net.vars
    assert "none" not in net.vars
    assert list(net.params) == ["f1", "b1", "f2"]


def test_what_is_read_and_written_is_counted_with_multiplicity():
    net = DagNN()
    net.add_layer("sum", Sum(), ("x", "x"), "y")
    net.add_layer("scale", Scale(size=(1, 1, 1, 1)), "y", "z", ("p", "p"))
    assert (net.vars["x"].fanin, net.vars["x"].fanout) == (0, 2)
    assert (net.vars["y"].fanin, net.vars["y"].fanout) == (1, 1)
    assert net.params["p"].fanout == 2
    assert net.get_inputs() == ["x"]
    assert net.get_outputs() == ["z"]


def test_data_and_predictions_are_told_from_labels_and_losses():
    net = residual()
    assert (net.input, net.prediction) == ("x", "d")
    late = DagNN()
    late.add_layer("pd", PDist(), ("x", "target", "weights"), "y")
    assert (late.input, late.prediction) == ("x", "x")
    coder = DagNN()
    coder.add_layer("code", Sigmoid(), "x", "y")
    coder.add_layer("pd", PDist(), ("y", "x"), "objective")
    assert (coder.input, coder.prediction) == ("x", "y")
    with pytest.raises(GraphError, match="no input for data"):
        _ = DagNN().input
    with pytest.raises(GraphError, match="no input for data"):
        _ = DagNN().prediction


def test_parameters_are_named_and_learn_as_their_layer_says():
    net = DagNN()
    net.add_layer("conv1", Conv(size=(3, 3, 1, 2)), "x", "a")
    net.add_layer("bn1", BatchNorm(num_channels=2), "a", "b")
    net.add_layer("up", ConvTranspose(size=(2, 2, 1, 2), has_bias=False), "b", "c")
    net.add_layer("mul", Scale(size=(1, 1, 2)), ("b", "s"), "d")
    assert list(net.params) == ["conv1f", "conv1b", "bn1m", "bn1b", "bn1x", "upf", "mul_b"]
    moments = net.params["bn1x"]
    assert (moments.train_method, moments.learning_rate) == ("average", 0.1)
    assert (net.params["bn1m"].train_method, net.params["bn1m"].learning_rate) == (
        "gradient",
        1,
    )
    assert all(param.value is None and param.weight_decay == 1 for param in net.params.values())


def test_layers_of_your_own_bring_their_values():
    net = DagNN()
    module = torch.nn.Conv2d(2, 3, 1)
    net.add_layer("mine", module, "x", "y")
    net.add_layer("half", lambda y: y / 2, "y", "z")
    assert torch.equal(net.params["mine_bias"].value, module.bias)
    x = randn((4, 4, 2, 1), dtype=torch.float32)
    net.eval({"x": x})
    want = module(x.permute(3, 2, 0, 1)).detach().permute(2, 3, 1, 0) / 2
    assert_close(net.vars["z"].value, want, REFERENCE[torch.float32])


def test_a_name_taken_or_wrong_is_an_error_and_changes_nothing():
    net = residual()
    with pytest.raises(ValueError, match="a layer is named 'c1' already"):
        net.add_layer("c1", ReLU(), "d", "e")
    with pytest.raises(TypeError, match="name is 3; wanted a string"):
        net.add_layer("r", ReLU(), "d", ["e", 3])
    with pytest.raises(TypeError, match="names are 3"):
        net.add_layer("r", ReLU(), 3, "e")
    with pytest.raises(TypeError, match="no layer"):
        net.add_layer("r", 3, "d", "e")
    with pytest.raises(ValueError, match=r"layer 'r' \(ReLU\) is given 1 parameters"):
        net.add_layer("r", ReLU(), "d", "e", "w")
    assert (len(net.layers), len(net.vars), len(net.params)) == (6, 8, 3)


def test_two_writers_and_cycles_name_the_layers():
    net = residual()
    net.set_layer_outputs("re", "a")
    with pytest.raises(GraphError, match="'a' is written by layers 'c1' and 're'"):
        net.rebuild()
    with pytest.raises(GraphError, match="'a' is written"):
        net.eval({"x": randn((1, 1, 2, 1))})
    net.set_layer_outputs("re", "b")
    net.set_layer_inputs("c1", "d")
    with pytest.raises(GraphError, match=r"cycle through layers \['c1'"):
        net.rebuild()
    net.set_layer_inputs("c1", "x")
    net.rebuild()


def test_a_removed_layer_takes_along_what_nothing_uses_any_more():
    net = residual()
    net.eval(batch(), {"objective": 1})
    net.remove_layer(["loss", "err"])
    assert list(net.vars) == ["x", "a", "b", "c", "d"]
    assert "label" not in net.record.values
    net.remove_layer("c2")
    assert list(net.params) == ["f1", "b1"]
    assert "f2" not in net.record.param_ders
    assert net.get_inputs() == ["x", "c"]
    with pytest.raises(KeyError, match="there is no layer 'r'; did you mean 're'"):
        net.remove_layer("r")


def test_what_has_gone_does_not_come_back_with_its_name():
    net = residual()
    net.vars["b"].precious = True
    net.remove_layer(["re", "c2"])
    net.add_layer("c2", Conv(size=(5, 5, 3, 1), has_bias=False), "b", "c", "f2")
    assert net.params["f2"].value is None
    assert net.precious == []
    net.set_layer_params("c1", ("f1", "b2"))
    net.set_layer_params("c1", ("f1", "b1"))
    assert net.params["b1"].value is None


def test_a_chain_is_joined_where_a_layer_was_removed():
    net, inputs = residual(), batch()
    net.remove_layer("re")
    net.rename_var("b", "a", quiet=True)
    assert list(net.vars) == ["x", "a", "c", "d", "label", "objective", "error"]
    assert net.layers["c2"].inputs == ("a",)
    net.eval(inputs, precious=["d"])
    a = torch.einsum("ijcn,ck->ijkn", inputs["x"], net.params["f1"].value[1, 1])
    assert_close(net.record.values["d"], a + mixed(a, net), EXACT)


def test_a_renamed_variable_keeps_its_place_its_value_and_its_privilege():
    net = residual()
    net.conserve_memory = False
    net.vars["b"].precious = True
    net.eval(batch(), {"objective": 1})
    value, der = net.vars["b"].value, net.vars["b"].der
    net.rename_var("b", "new")
    assert list(net.vars)[2] == "new"
    assert net.vars["new"].value is value
    assert net.vars["new"].der is der
    assert net.precious == ["new"]
    assert (net.layers["re"].outputs, net.layers["c2"].inputs) == (("new",), ("new",))


def test_renamed_parameters_and_layers_keep_what_was_computed():
    net = residual()
    net.eval(batch(), {"objective": 1})
    der, time = net.params["f2"].der, net.layers["c2"].forward_time
    net.rename_param("f2", "mix")
    net.rename_layer("c2", "mixer")
    assert net.params["mix"].der is der
    assert net.layers["mixer"].params == ("mix",)
    assert net.layers["mixer"].forward_time == time > 0
    assert net.get_layer_index("mixer") == 2


@pytest.mark.parametrize("kind", ["layer", "var", "param"])
def test_an_unknown_name_to_rename_is_a_warning_unless_quiet(kind):
    rename = getattr(residual(), f"rename_{kind}")
    with pytest.warns(UserWarning, match=f"no {kind} 'none' to rename") as caught:
        rename("none", "new")
    assert caught[0].filename == __file__
    rename("none", "new", quiet=True)
    rename("none", "new", "Quiet", True)


def test_a_new_name_that_is_taken_is_an_error_except_for_variables():
    net = residual()
    with pytest.raises(ValueError, match="a layer is named 're' already"):
        net.rename_layer("c1", "re")
    with pytest.raises(ValueError, match="a param is named 'b1' already"):
        net.rename_param("f1", "b1")
    net.rename_layer("c1", "c1")
    assert "c1" in net.layers


def test_other_inputs_outputs_and_params_are_made_when_new():
    net = residual()
    net.set_layer_inputs("sum", ["c", "other"])
    net.set_layer_outputs("sum", "total")
    net.set_layer_params("c2", "g")
    assert net.layers["sum"].inputs == ("c", "other")
    assert net.get_inputs() == ["x", "d", "label", "other"]
    assert list(net.params) == ["f1", "b1", "g"]
    assert net.params["g"].value is None


def test_another_block_may_be_assigned_but_not_other_names():
    net, inputs = residual(), batch()
    net.eval(inputs)
    net.layers["re"].block = ReLU(leak=1)
    net.eval(inputs, precious=["a", "b"])
    assert torch.equal(net.vars["a"].value, net.vars["b"].value)
    with pytest.raises(TypeError, match="no layer"):
        net.layers["re"].block = 3
    with pytest.raises(AttributeError, match="inputs"):
        net.layers["re"].inputs = ("x",)
    with pytest.raises(AttributeError, match="value"):
        net.vars["a"].value = randn((1, 1, 1, 1))


def test_a_copy_is_a_network_of_its_own():
    net = residual()
    net.meta["classes"] = ["cat"]
    net.vars["a"].precious = True
    net.params["f2"].learning_rate = 3
    net.layers["re"].extra["opts"] = ["x"]
    net.eval(batch(), {"objective": 1})
    other = net.copy()
    assert net.copy().record.values == {}
    other.meta["classes"].append("dog")
    other.params["f1"].value.zero_()
    other.rename_var("a", "z")
    other.layers["re"].extra["opts"].append("y")
    assert net.meta == {"classes": ["cat"]}
    assert net.params["f1"].value.any()
    assert net.layers["re"].extra == {"opts": ["x"]}
    assert list(net.vars)[1] == "a"
    assert (other.precious, other.params["f2"].learning_rate) == (["z"], 3)
    deep = copy.deepcopy(net)
    assert torch.equal(deep.vars["objective"].value, net.vars["objective"].value)
    deep.eval(batch(seed=4), {"objective": 1})
    assert not torch.equal(deep.vars["objective"].value, net.vars["objective"].value)


def test_networks_are_equal_if_they_are_one():
    net = DagNN()
    assert net != DagNN()
    assert {net: 1}[net] == 1


def test_a_network_that_nobody_holds_frees_its_memory_at_once():
    net = residual()
    net.eval(batch(), {"objective": 1})
    watched = [weakref.ref(net.params["f1"].value), weakref.ref(net.record.values["objective"])]
    gc.disable()
    try:
        del net
        assert [watch() for watch in watched] == [None, None]
    finally:
        gc.enable()


def test_matconvnets_spelling_works():
    net = DagNN()
    net.addLayer("c1", Conv(size=(1, 1, 2, 3)), "x", "y", ["f", "b"], "skipRebuild", True)
    net.initParams()
    net.conserveMemory = False
    net.accumulateParamDers = True
    net.params["f"].learningRate = 2
    assert (net.conserve_memory, net.accumulate_param_ders) == (False, True)
    assert (net.params["f"].learning_rate, net.params["f"].trainMethod) == (2, "gradient")
    assert net.getVarIndex("y") == 1
    assert net.layers["c1"].forwardTime == 0
    assert DagNN.fromSimpleNN == DagNN.from_simplenn
    net.mode = "train"
    assert net.mode == "normal"


def test_what_is_spelt_wrong_is_an_error():
    net = residual()
    with pytest.raises(AttributeError, match="no attribute 'conserveMemroy'; did you mean"):
        net.conserveMemroy = False
    with pytest.raises(AttributeError, match="no attribute 'precius'; did you mean 'precious'"):
        net.vars["a"].precius = True
    with pytest.raises(AttributeError, match="no attribute 'learning_rat'"):
        net.params["f1"].learning_rat = 0
    with pytest.raises(AttributeError, match="no attribute 'evaluate'"):
        net.evaluate()
    with pytest.raises(AttributeError, match="no attribute 'getvarsizes'; did you mean 'get_v"):
        net.getvarsizes({})
    with pytest.raises(AttributeError, match="no attribute 'loadObject'"):
        _ = DagNN.loadObject
    with pytest.raises(TypeError, match="rename_var has no option 'quite'; did you mean"):
        net.rename_var("a", "z", "quite", True)
    with pytest.raises(TypeError, match="wanted pairs of an option's name and its value"):
        net.rename_var("a", "z", True)
    with pytest.raises(TypeError, match="wanted pairs of an option's name and its value"):
        net.rename_var("a", "z", "quiet")
    with pytest.raises(ValueError, match="mode is 'tset'; wanted 'normal'"):
        net.mode = "tset"
    with pytest.raises(KeyError, match="there is no param 'f'; did you mean 'f2' or 'f1'"):
        _ = net.params["f"]
    with pytest.raises(IndexError):
        _ = net.vars[99]


def test_an_attribute_error_inside_a_property_is_not_hidden():
    net = residual()
    net._latest = None
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'record'"):
        _ = net.record


def test_sizes_are_known_before_there_are_parameters():
    net = DagNN()
    net.add_layer("conv", Conv(size=(3, 3, 2, 5)), "x", "y")
    net.add_layer("up", ConvTranspose(size=(4, 4, 3, 5), upsample=2, crop=1), "y", "z")
    assert net.get_var_sizes(["x", (8, 6, 2)]) == {
        "x": (8, 6, 2, 1), "y": (6, 4, 5, 1), "z": (12, 8, 3, 1)
    }  # fmt: skip
    net.init_params()
    assert net.get_var_sizes({"x": (8, 6, 2, 7)})["z"] == (12, 8, 3, 7)
    assert net.get_var_sizes({"x": ()})["x"] == (0, 0, 0, 0)
    with pytest.raises(KeyError, match=r"input_sizes names \['q'\]"):
        net.get_var_sizes({"q": (1, 2)})


def test_receptive_fields_of_the_example():
    """The offsets of the original, less one."""
    net = DagNN()
    net.add_layer("c3", Conv(size=(3, 3, 1, 1), pad=1), "x", "a")
    net.add_layer("c5", Conv(size=(5, 5, 1, 1), pad=2), "x", "b")
    net.add_layer("sum", Sum(), ["a", "b"], "c")
    net.add_layer("pool", Pooling(2, stride=2), "c", "d")
    net.add_layer("up", ConvTranspose(size=(4, 4, 1, 1), upsample=2, crop=1), "d", "e")
    fields = net.get_var_receptive_fields("x")
    assert {name: field.size[0] for name, field in fields.items()} == {
        "x": 1, "a": 3, "b": 5, "c": 5, "d": 6, "e": 9
    }  # fmt: skip
    assert fields["d"] == Field((6, 6), (2, 2), (0.5, 0.5))
    assert fields["e"] == Field((9, 9), (1, 1), (0, 0))
    assert net.get_var_receptive_fields(["x", "d"])["d"]["e"].size == (2.5, 2.5)


def test_they_can_be_asked_for_every_variable():
    net = DagNN()
    net.add_layer("loc", Conv(size=(5, 5, 2, 6)), "x", "theta")
    net.add_layer("grid", AffineGrid(4, 3), "theta", "g")
    net.add_layer("sample", BilinearSampler(), ["x", "g"], "y")
    net.add_layer("roi", RoiPool(), ["y", "rois"], "r")
    net.add_layer("crop", Crop(), ["x", "y"], "cropped")
    net.add_layer("dist", PDist(), ["r", "target", "weights"], "objective")
    fields = net.get_var_receptive_fields(list(net.vars))
    assert set(fields) == set(net.vars)
    assert fields["x"]["y"] is None
    assert fields["x"]["cropped"] == Field()
    assert "rois" not in fields["x"]
    with pytest.raises(KeyError, match="variable is"):
        net.get_var_receptive_fields("q")


def mixed(a, net):
    """What layer c2 makes of a."""
    return torch.einsum("ijcn,ck->ijkn", a, net.params["f2"].value[0, 0])
