"""From the steps of a file to the layers of a network, with every problem reported at once."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from matconvnet.blocks import Softmax
from matconvnet.errors import FormatError
from matconvnet.interop.caffe.importer import Importer
from matconvnet.interop.caffe.layers import LAYERS, LOSSES
from matconvnet.interop.caffe.wiring import Step


def convert(net: Importer, path: Path) -> None:
    """Add every step; those that follow from a failed one are not tried.

    Raises: FormatError, naming all layers that are not known or not supported; or if there is no
        network at all, or the weights are those of another one.
    """
    problems: list[str] = []
    failed: set[str] = set()
    for step in net.wired.steps:
        try:
            _add(net, step, is_tried=failed.isdisjoint(step.inputs))
        except ValueError as error:
            problems.append(f"layer {step.entry.name!r} ({step.type}): {error}")
            failed.update(step.outputs)
        else:
            if not failed.isdisjoint(step.inputs):
                failed.update(step.outputs)
    if problems:
        raise FormatError(
            "\n  ".join([f"{path} cannot be imported:", *problems])
            + "\n(layers that the wanted `outputs` do not need are left out)"
        )
    if not net.nodes:
        raise FormatError(f"{path} has no layer that computes anything")
    _check_weights(net, path)


def _add(net: Importer, step: Step, is_tried: bool) -> None:
    if step.type in LOSSES and net.options.remove_loss:
        return
    if step.type not in LAYERS:
        raise FormatError("no layer here does this")
    if is_tried:
        LAYERS[step.type](net, step)


def _check_weights(net: Importer, path: Path) -> None:
    """Note which layers have no weights; raise FormatError, if none has."""
    missing = list(net.without_weights)
    if missing and not any(param.value is not None for param in net.params.values()):
        raise FormatError(f"the caffemodel has no weights of any layer of {path}, as of {missing}")
    if missing:
        net.notes.append(f"the caffemodel has no weights of layers {missing}: draw or set them")


def add_softmax(net: Importer, layers: Sequence[str]) -> None:
    """Add a Softmax after each of some layers, by Caffe's names; one alone is called `prob`.

    Raises: ValueError, for a layer that writes nothing.
    """
    steps = {step.entry.name: step for step in net.wired.steps if step.outputs}
    unknown = [name for name in layers if name not in steps]
    if unknown:
        raise ValueError(f"append_softmax names {unknown}; wanted among {list(steps)}")
    for name in layers:
        step = steps[name]
        suffix = "" if len(layers) == 1 else f"_{step.name}"
        prob = net.fresh(f"prob{suffix}")
        added = step._replace(name=f"softmax{suffix}")
        net.add(added, Softmax(), step.outputs[:1], [prob])


def summary(net: Importer) -> Iterator[str]:
    """A line for each layer of the file: what it became."""
    for step in net.wired.steps:
        names = net.mapped.get(step.name, ())
        made = [f"{name} ({type(net.nodes[name].layer).__name__})" for name in names]
        inputs = [v for v in step.outputs if v in net.inputs]
        what = ", ".join([*made, *(f"input {v}" for v in inputs)]) or "nothing"
        yield f"{step.entry.name} ({step.type}) -> {what}"
