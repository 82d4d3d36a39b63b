"""Every option of vl_simplenn by its effect, custom layers, and what wrong input is told."""

import numpy as np
import pytest
import torch

import matconvnet as mcn


def randn(*shape, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def chain(**last):
    """conv pool conv pool conv relu conv softmaxloss; the loss sees a 2 x 2 map of 10 classes."""

    def conv(h, c, k, seed):
        weights = [randn(h, h, c, k, seed=seed, scale=0.1), np.zeros((1, k), np.float32)]
        return {"type": "conv", "weights": weights, "pad": 0, "stride": 1}

    pool = {"type": "pool", "method": "max", "pool": [2, 2], "stride": 2}
    layers = [
        conv(5, 1, 4, 1), pool, conv(5, 4, 5, 2), dict(pool), conv(3, 5, 6, 3), {"type": "relu"},
        conv(2, 6, 10, 4), {"type": "softmaxloss", "class": np.arange(20) % 10 + 1, **last},
    ]  # fmt: skip
    return mcn.vl_simplenn_tidy({"layers": layers})


X = randn(32, 32, 1, 20)


def held(res):
    """Which of x, d(zdx), w (dzdw) each entry holds, as in the table of the specification."""
    return [
        "".join(letter for letter, value in zip("xdw", (e.x, e.dzdx, e.dzdw), strict=True)
                if value is not None)
        for e in res
    ]  # fmt: skip


def test_forward_keeps_every_value_and_backward_every_derivative():
    assert held(mcn.vl_simplenn(chain(), X)) == ["x"] * 9
    assert held(mcn.vl_simplenn(chain(), X, 1)) == [
        "xdw", "xd", "xdw", "xd", "xdw", "xd", "xdw", "xd", "xd",
    ]  # fmt: skip


def test_conserve_memory_drops_what_is_used_up():
    res = mcn.vl_simplenn(chain(), X, None, None, "conserveMemory", True)
    assert held(res) == [""] * 8 + ["x"]
    res = mcn.vl_simplenn(chain(), X, 1, None, "ConserveMemory", True)
    assert held(res) == ["xdw", "", "w", "", "w", "", "w", "", "xd"]
    whole = mcn.vl_simplenn(chain(), X, 1)
    for i in (0, 2, 4, 6):
        for got, want in zip(res[i].dzdw, whole[i].dzdw, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_precious_layers_keep_value_and_derivative_of_their_output():
    net = chain()
    net.layers[2].precious = True
    assert held(mcn.vl_simplenn(net, X, conserve_memory=True))[3] == "x"
    assert held(mcn.vl_simplenn(net, X, 1, conserve_memory=True))[3] == "xd"


def test_back_prop_depth_counts_layers_from_the_last():
    res = mcn.vl_simplenn(chain(), X, 1, None, "backPropDepth", 3)
    assert held(res) == ["x", "x", "x", "x", "x", "xd", "xdw", "xd", "xd"]
    whole = mcn.vl_simplenn(chain(), X, 1)
    np.testing.assert_array_equal(res[6].dzdw[0], whole[6].dzdw[0])
    assert held(mcn.vl_simplenn(chain(), X, 1, None, "backPropDepth", np.inf)) == held(whole)


def test_accumulate_adds_to_derivatives_of_weights_and_replaces_those_of_values():
    net = chain()
    first = mcn.vl_simplenn(net, X, 1)
    kept = first[0].dzdw[0].copy()
    second = mcn.vl_simplenn(net, X, 1, first, "accumulate", True)
    np.testing.assert_allclose(second[0].dzdw[0], 2 * first[0].dzdw[0], rtol=1e-5)
    np.testing.assert_allclose(second[3].dzdx, first[3].dzdx, rtol=1e-6)
    np.testing.assert_array_equal(first[0].dzdw[0], kept)
    fresh = mcn.vl_simplenn(net, X, 1, None, "accumulate", True)  # nothing there counts as zero
    np.testing.assert_allclose(fresh[0].dzdw[0], first[0].dzdw[0], rtol=1e-6)


def test_what_is_not_computed_again_survives_in_res():
    net = chain()
    first = mcn.vl_simplenn(net, X, 1)
    second = mcn.vl_simplenn(net, X, None, first)
    assert held(second) == held(first)
    np.testing.assert_array_equal(second[0].dzdw[0], first[0].dzdw[0])


def test_skip_forward_repeats_the_backward_pass_alone():
    net = chain()
    whole = mcn.vl_simplenn(net, torch.from_numpy(X), 1)
    forward = mcn.vl_simplenn(net, torch.from_numpy(X))
    again = mcn.vl_simplenn(net, torch.from_numpy(X), 1, forward, "skipForward", True)
    assert held(again) == held(whole)
    for got, want in zip(again, whole, strict=True):
        assert torch.equal(got.x, want.x)
        assert torch.equal(got.dzdx, want.dzdx)


def test_skip_forward_uses_the_values_in_res_even_if_they_were_changed():
    net = {"layers": [{"type": "pool", "pool": 2, "stride": 2}]}
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None]
    res = mcn.vl_simplenn(net, x)
    res[0].x = x.flip(0)
    again = mcn.vl_simplenn(net, x, torch.ones(1, 1, 1, 1), res, skipForward=True)
    assert again[0].dzdx.flatten().tolist() == [0, 1, 0, 0]


def test_skip_forward_over_dropped_values_is_refused():
    net = chain()
    res = mcn.vl_simplenn(net, X, None, None, "conserveMemory", True)
    with pytest.raises(mcn.RecordError, match="freed"):
        mcn.vl_simplenn(net, X, 1, res, "skipForward", True)
    with pytest.raises(ValueError, match="skipForwardNoBackwPass"):
        mcn.vl_simplenn(net, X, None, res, "skipForward", True)
    with pytest.raises(ValueError, match="skipForwardEmptyRes"):
        mcn.vl_simplenn(net, X, 1, None, "skipForward", True)


def test_relu_is_differentiated_by_its_output_when_its_input_was_dropped():
    for leak in (0, 0.2):
        net = {"layers": [{"type": "relu", "leak": leak}, {"type": "sigmoid"}]}
        res = mcn.vl_simplenn(net, X, X)
        dropped = [mcn.Entry(x=e.x) for e in res]
        dropped[0].x = None
        again = mcn.vl_simplenn(net, X, X, dropped, skipForward=True)
        np.testing.assert_array_equal(again[0].dzdx, res[0].dzdx)


def test_mode_changes_dropout_and_bnorm():
    net = mcn.vl_simplenn_tidy({"layers": [
        {"type": "bnorm", "weights": [np.ones(1, np.float32), np.zeros(1, np.float32),
                                      np.array([[0.5, 2.0]], np.float32)]},
        {"type": "dropout", "rate": 0.5},
    ]})  # fmt: skip
    test = mcn.vl_simplenn(net, X, None, None, "mode", "TEST")
    np.testing.assert_allclose(test[2].x, (X - 0.5) / 2, rtol=1e-5, atol=1e-6)
    assert test[2].aux is None
    normal = mcn.vl_simplenn(net, X, X)
    assert abs(normal[1].x.mean()) < 1e-5
    assert set(np.unique(normal[2].aux)) == {0, 2}
    np.testing.assert_allclose(normal[1].dzdx, X * normal[2].aux, rtol=1e-6)
    moments = np.array([X.mean(), np.sqrt(X.var() + 1e-5)])
    np.testing.assert_allclose(normal[0].dzdw[2][0], 20 * moments, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="Unknown mode 'train'"):
        mcn.vl_simplenn(net, X, None, None, "mode", "train")


def test_dropout_is_repeatable_with_a_generator():
    net = {"layers": [{"type": "dropout"}]}
    masks = [
        mcn.vl_simplenn(net, X, generator=torch.Generator().manual_seed(s))[1].aux
        for s in (1, 1, 2)
    ]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


def test_parameter_server_is_fed_during_the_pass_in_backward_order():
    net, whole = chain(), mcn.vl_simplenn(chain(), X, 1)
    server = mcn.RecordingServer()
    mcn.vl_simplenn_start_parserv(net, server)
    assert list(server.slots) == ["l1_1", "l1_2", "l3_1", "l3_2", "l5_1", "l5_2", "l7_1", "l7_2"]
    first = mcn.vl_simplenn(net, X, 1, None, "parameterServer", server, "holdOn", True)
    assert server.pushed == []
    np.testing.assert_array_equal(first[0].dzdw[0], whole[0].dzdw[0])
    res = mcn.vl_simplenn(net, X, 1, first, "accumulate", True, "parameterServer", server)
    assert server.pushed == ["l7_1", "l7_2", "l5_1", "l5_2", "l3_1", "l3_2", "l1_1", "l1_2"]
    assert res[0].dzdw == [None, None]
    server.sync()
    np.testing.assert_allclose(server.pull("l1_1"), 2 * whole[0].dzdw[0], rtol=1e-4, atol=1e-5)
    server.stop()


def test_a_push_arrives_before_the_layers_below_are_differentiated():
    seen = []

    class Watching(mcn.LocalServer):
        def push(self, name, value):
            super().push(name, value)
            seen.append(name)

    def backward(layer, before, after):
        seen.append("custom")
        before.dzdx = after.dzdx
        return before

    def forward(layer, before, after):
        after.x = before.x
        return after

    net = chain()
    net.layers.insert(2, mcn.Struct(type="custom", forward=forward, backward=backward))
    server = Watching()
    mcn.vl_simplenn_start_parserv(net, server)
    mcn.vl_simplenn(net, X, 1, parameterServer=server)
    assert seen.index("l4_1") < seen.index("custom") < seen.index("l1_1")


def test_sync_and_times():
    res = mcn.vl_simplenn(chain(), X, 1, None, "sync", True, "cudnn", False)
    assert all(e.time > 0 and e.backwardTime > 0 for e in res[:-1])
    assert res[-1].time == 0


def scale_forward(layer, before, after):
    after.x = layer["weights"][0] * before.x
    after.aux = "kept"
    return after


def scale_backward(layer, before, after):
    assert after.aux == "kept"
    before.dzdx = layer["weights"][0] * after.dzdx
    before.dzdw = [(before.x * after.dzdx).sum().reshape(1)]
    return before


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_custom_layers_with_weights_take_part_in_everything(kind):
    layer = {"type": "custom", "forward": scale_forward, "backward": scale_backward,
             "weights": [kind(np.array([3.0], np.float32))]}  # fmt: skip
    net = mcn.vl_simplenn_tidy({"layers": [{"type": "sigmoid"}, layer, {"type": "relu"}]})
    x = kind(X)
    res = mcn.vl_simplenn(net, x, x, None, "conserveMemory", True)
    assert type(res[3].x) is type(x)
    y = 1 / (1 + np.exp(-X))
    np.testing.assert_allclose(res[3].x, 3 * y, rtol=1e-6)
    np.testing.assert_allclose(res[1].dzdw[0], (y * X).sum(), rtol=1e-4)
    np.testing.assert_allclose(res[0].dzdx, 3 * X * y * (1 - y), rtol=1e-5, atol=1e-6)
    more = mcn.vl_simplenn(net, x, x, res, "accumulate", True)
    np.testing.assert_allclose(more[1].dzdw[0], 2 * (y * X).sum(), rtol=1e-4)


def test_custom_layers_may_keep_parameters_in_fields_of_their_own():
    def backward(layer, before, after):
        before.dzdx = layer["factor"] * after.dzdx
        before.dzdw = [before.x.sum()]
        return before

    def forward(layer, before, after):
        after.x = layer["factor"] * before.x
        return after

    net = {"layers": [{"type": "custom", "forward": forward, "backward": backward, "factor": 2}]}
    res = mcn.vl_simplenn(net, X, X)
    np.testing.assert_allclose(res[0].dzdw[0], X.sum(), rtol=1e-4)


def test_a_custom_layer_that_is_a_layer_class():
    class Square(mcn.Layer):
        type_name = "square"

        def forward(self, inputs, params, ctx):
            return (inputs[0] ** 2,), None

        def backward(self, call, der_outputs):
            return (2 * call.inputs[0] * der_outputs[0],), ()

    net = mcn.SimpleNN([Square(), mcn.ReLU()])
    res = mcn.vl_simplenn(net, X, X)
    np.testing.assert_allclose(res[0].dzdx, 2 * X * X, rtol=1e-6)


def test_a_network_is_not_modified_by_its_evaluation():
    net = chain()
    before = [np.copy(layer.weights[0]) for layer in net.layers if layer.weights]
    keys = [sorted(layer) for layer in net.layers]
    mcn.vl_simplenn(net, X, 1, conserveMemory=True)
    assert keys == [sorted(layer) for layer in net.layers]
    after = [layer.weights[0] for layer in net.layers if layer.weights]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_loss_layers_in_the_middle_keep_their_value_in_a_forward_pass():
    net = {"layers": [
        {"type": "relu"}, {"type": "softmaxloss", "class": np.ones(20)}, {"type": "relu"},
    ]}  # fmt: skip
    res = mcn.vl_simplenn(net, X, conserveMemory=True)
    assert [e.x is not None for e in res] == [False, False, True, True]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mcn.vl_simplenn(chain(), X, 1, None, "speed", 2), TypeError, "Unknown parameter"),
        (lambda: mcn.vl_simplenn(chain(), X, 1, None, "backPropDepth", 0), ValueError, "backProp"),
        (lambda: mcn.vl_simplenn({"layers": [{"type": "lstm"}]}, X), mcn.FormatError,
         "Unknown layer type 'lstm'"),
        (lambda: mcn.vl_simplenn({"layers": [{"type": "pool"}]}, X), mcn.FormatError, "'pool'"),
        (lambda: mcn.vl_simplenn({"layers": [{"name": "a"}]}, X), mcn.FormatError, "field 'type'"),
        (lambda: mcn.vl_simplenn({"type": "relu"}, X), mcn.FormatError, "field 'layers'"),
        (lambda: mcn.vl_simplenn(chain(**{"class": []}), X), ValueError, "set its field 'class'"),
        (lambda: mcn.vl_simplenn(chain(**{"class": np.full(20, 11)}), X), ValueError, "10"),
        (lambda: mcn.vl_simplenn(chain(), X.astype(np.uint8)), TypeError, "x holds torch.uint8"),
        (lambda: mcn.vl_simplenn(chain(), X[:, :, :, None]), ValueError, "1 to 4 axes"),
        (lambda: mcn.vl_simplenn(chain(), randn(32, 32, 3, 2)), ValueError, "channels"),
        (lambda: mcn.vl_simplenn(chain(), X.astype(np.float64)), TypeError, "same type"),
        (lambda: mcn.vl_simplenn({"layers": [{"type": "relu", "leak": -1}]}, X), ValueError,
         "leak is -1"),
        (lambda: mcn.vl_simplenn(chain(), X, randn(3, 3)), ValueError, "dzdy"),
    ],
)  # fmt: skip
def test_wrong_input_is_told_what_was_wanted(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_empty_batch_gives_empty_values_and_zero_derivatives():
    net = chain(**{"class": np.zeros(0)})
    res = mcn.vl_simplenn(net, X[..., :0], 1)
    assert res[7].x.shape == (2, 2, 10, 0)
    assert not res[0].dzdw[0].any()


def test_nan_input_passes_through():
    res = mcn.vl_simplenn(chain(), np.full_like(X, np.nan))
    assert np.isnan(res[-1].x)


def test_custom_layers_that_forget_their_result_are_told():
    def forgets(layer, before, after):
        return None

    def keeps(layer, before, after):
        after.x = before.x

    layer = {"type": "custom", "forward": keeps, "backward": forgets}
    with pytest.raises(ValueError, match="left dzdx empty"):
        mcn.vl_simplenn({"layers": [layer]}, X, X)
    with pytest.raises(ValueError, match="left x empty"):
        mcn.vl_simplenn({"layers": [{**layer, "forward": forgets}]}, X)
    with pytest.raises(TypeError, match="backward of a custom layer is None"):
        mcn.vl_simplenn({"layers": [{"type": "custom", "forward": keeps}]}, X, X)
