"""Whole runs that the original recorded of `cnn_train`, through `cnn_train_dag`."""

import numpy as np
import pytest

import matconvnet as mcn
from matconvnet.compat.training import cnn_train_dag
from tests.golden_data import arrays, assert_close, cases

CHAIN_ONLY = ("conserveMemory", "errorFunction")


def dag_of(layers, errors):
    """The chain as a DagNN whose objective and errors are named as `cnn_train` names them."""
    net = mcn.DagNN.from_simplenn({"layers": layers})
    scores, objective = f"x{len(layers) - 1}", f"x{len(layers)}"
    net.rename_var(objective, "objective")
    kinds = {"top1err": mcn.Loss("classerror"), "top5err": mcn.Loss("topkerror", top_k=5)}
    for name in errors:
        net.add_layer(name, kinds[name], (scores, "label"), name)
    return net


@pytest.mark.parametrize("case", cases("cnn_train"), ids=lambda case: case["id"])
def test_whole_runs(case, tmp_path):
    inputs, outputs = arrays(case)["inputs"], arrays(case)["outputs"]
    options = {k: v for k, v in case["options"].items() if k not in CHAIN_ONLY}
    if options.get("train") == "NaN":
        options["train"] = float("nan")
    has_depth = "backPropDepth" in options  # counts layers, so that none are added
    errors = () if has_depth else sorted({"top1err", "top5err"} & set(outputs["stats"]["val"][0]))
    net = dag_of(inputs["layers"], errors)
    left = [np.array(batch) for batch in case["batches"]]

    def get_batch(_imdb, numbers):
        assert len(numbers) == len(left[0])
        numbers = left.pop(0)
        images, labels = inputs["images"][..., numbers - 1], inputs["labels"][:, numbers - 1]
        return ["x0", images, "label", labels]

    imdb = {"images": {"set": inputs["set"]}}
    again, stats = cnn_train_dag(
        net, imdb, get_batch, "expDir", tmp_path, options, "plotStatistics", False, progress=False
    )
    assert again is net
    assert not left
    got = [param.value for param in net.params.values()]
    want = [w for layer in outputs["layers"] for w in layer["weights"] if w is not None and w.size]
    for i, (value, wanted) in enumerate(zip(got, want, strict=True)):
        assert_close(value, wanted, case["tol"], f"parameter {i}")
    for phase in ("train", "val"):
        for one, wanted in zip(stats[phase], outputs["stats"][phase], strict=True):
            is_empty = wanted["num"] == 0
            assert list(one) == ["num", "time", *(() if is_empty else ("objective", *errors))]
            for name in set(one) - {"time"}:
                assert_close(one[name], wanted[name], case["tol"], name)
