"""Option pairs: `parse_options` and `vl_argparse`."""

import pytest

from matconvnet.compat.options import given_options, parse_options, vl_argparse

DEFAULTS = {"stride": 1, "numSubBatches": 1, "top_k": 5}


@pytest.mark.parametrize(
    ("pairs", "keywords", "changed"),
    [
        ((), {}, {}),
        (("Stride", 2), {}, {"stride": 2}),
        (("STRIDE", 2, "topK", 3), {}, {"stride": 2, "top_k": 3}),
        (({"Stride": 2, "num_sub_batches": 4},), {}, {"stride": 2, "numSubBatches": 4}),
        (("stride", 2, {"stride": 3}, "TOP_K", 1), {}, {"stride": 3, "top_k": 1}),
        ((), {"num_sub_batches": 2, "topK": 1}, {"numSubBatches": 2, "top_k": 1}),
        (("stride", 2), {"stride": 3}, {"stride": 3}),
        (("stride", "top_k"), {}, {"stride": "top_k"}),
        (("stride", None), {}, {"stride": None}),
    ],
)
def test_names_ignore_case_and_underscores(pairs, keywords, changed):
    assert parse_options(DEFAULTS, pairs, keywords) == {**DEFAULTS, **changed}


def test_defaults_are_not_modified():
    defaults = dict(DEFAULTS)
    parse_options(defaults, ("stride", 2), {"top_k": 1})
    assert defaults == DEFAULTS


@pytest.mark.parametrize(
    ("pairs", "keywords", "message"),
    [
        (("stride",), {}, "option 'stride' has no value; wanted pairs"),
        (("strides", 2), {}, "Unknown parameter 'strides'; wanted one of stride, numSub"),
        (({"pad": 2},), {}, "Unknown parameter 'pad'; wanted one of"),
        ((), {"pad": 2}, "Unknown parameter 'pad'; wanted one of"),
        ((2, "stride"), {}, "found 2 in place of an option name; wanted a string"),
        (([1], 2), {}, "found a list in place of an option name; wanted a string"),
        (("stride", 1, "top_k"), {}, "option 'top_k' has no value"),
    ],
)
def test_errors(pairs, keywords, message):
    with pytest.raises(TypeError, match=message):
        parse_options(DEFAULTS, pairs, keywords)


@pytest.mark.parametrize(
    ("pairs", "given"),
    [
        (("Flag",), {"flag": True}),
        (("flag", "value", 2), {"flag": True, "value": 2}),
        (("flag", False, "value", 2), {"flag": False, "value": 2}),
        (("value", 2, "flag"), {"value": 2, "flag": True}),
        (("flag", {"value": 2}), {"flag": True, "value": 2}),
    ],
)
def test_flags_need_no_value(pairs, given):
    names = {"flag": "flag", "value": "value"}
    assert given_options(names, pairs, {}, {"flag"}) == given


NESTED = {"rate": 1, "plot": {"show": True, "size": {"width": 3, "height": 4}}, "extra": {}}


@pytest.mark.parametrize(
    ("args", "path", "value"),
    [
        (["RATE", 2], ("rate",), 2),
        (["rate", 2, "rate", 3], ("rate",), 3),
        ([{"Rate": 2}], ("rate",), 2),
        (["plot.show", False], ("plot", "show"), False),
        (["plot.size.WIDTH", 5], ("plot", "size", "width"), 5),
        (["Plot", {"size": {"width": 5}}], ("plot", "size", "width"), 5),
        (["plot", {"size.width": 5}], ("plot", "size", "width"), 5),
        (["extra", {"a": 1}], ("extra", "a"), 1),
        (["extra", 7], ("extra",), 7),
        (["rate", {"a": 1}], ("rate",), {"a": 1}),
    ],
)
def test_argparse_assigns(args, path, value):
    result = vl_argparse(NESTED, args)
    *parents, last = path
    at, old = result, NESTED
    for key in parents:
        assert at.keys() >= old.keys()
        assert {k: v for k, v in at.items() if k not in path} == {
            k: v for k, v in old.items() if k not in path
        }
        at, old = at[key], old[key]
    assert at[last] == value


def test_argparse_leaves_its_arguments_alone():
    before = repr(NESTED)
    args = ["plot", {"size": {"width": 5}}, "rate", 2]
    vl_argparse(NESTED, args)
    assert repr(NESTED) == before
    assert args == ["plot", {"size": {"width": 5}}, "rate", 2]


@pytest.mark.parametrize(
    ("args", "flags", "message"),
    [
        (["speed", 2], (), "Unknown parameter 'speed'; wanted one of rate, plot, extra"),
        ([{"speed": 2}], (), "Unknown parameter 'speed'"),
        (["plot", {"colour": 1}], (), "Unknown parameter 'colour'; wanted one of show, size"),
        (["plot.size.depth", 1], (), "Unknown parameter 'depth'; wanted one of width, height"),
        (["plot", 1], (), "Cannot assign a non-struct value to the struct parameter 'plot'"),
        (["rate"], (), "parameter 'rate' has no value"),
        ([3, 4], (), "found 3 in place of a parameter name"),
        ([{"rate": 2}], ("nonrecursive",), "found a dict in place of a parameter name"),
        (["plot.show", 1], ("nonrecursive",), "Unknown parameter 'plot.show'"),
        (["rate", 1], ("recursive",), "flags are .*; wanted 'merge', 'nonrecursive' or none"),
    ],
)
def test_argparse_errors(args, flags, message):
    with pytest.raises(TypeError, match=message):
        vl_argparse(NESTED, args, *flags)


def test_argparse_returns_what_it_does_not_know():
    args = ["rate", 2, "speed", 3, {"plot": {"show": False}, "depth": 4}, "plot", {"colour": 5}]
    result, rest = vl_argparse(NESTED, args, return_rest=True)
    assert result["rate"] == 2
    assert result["plot"]["show"] is False
    assert rest == ["speed", 3, {"depth": 4}, "plot", {"colour": 5}]


def test_argparse_rest_can_be_parsed_again():
    _, rest = vl_argparse({"a": 1}, ["b.c", 2, "a", 3], return_rest=True)
    assert vl_argparse({"b": {"c": 0, "d": 1}}, rest) == {"b": {"c": 2, "d": 1}}


def test_argparse_merge():
    result = vl_argparse(NESTED, ["speed", 2, "plot.colour", 3, "new.deep", 4], "MERGE")
    assert result["speed"] == 2
    assert result["plot"] == {**NESTED["plot"], "colour": 3}
    assert result["new"] == {"deep": 4}
    assert vl_argparse(NESTED, ["speed", 2], "merge", return_rest=True)[1] == []


def test_argparse_nonrecursive():
    result = vl_argparse(NESTED, ["Plot", {"anything": 1}], "nonrecursive")
    assert result == {**NESTED, "plot": {"anything": 1}}
