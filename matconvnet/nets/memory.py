"""How much memory an evaluation will take: predicted from the graph, without allocating it.

The prediction runs the executor itself on meta tensors, which have sizes but no memory, under a
ledger of what lives at every moment; so the two cannot disagree about what is kept.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from matconvnet.geometry import Size, full_size
from matconvnet.nets._ledger import Moment
from matconvnet.nets._rehearsal import SIMULATED, Rehearsal, Settings
from matconvnet.nets.example import input_sizes
from matconvnet.nets.network import Network
from matconvnet.nets.tables import memory_text, table_text
from matconvnet.recompute import Recompute

InputSize = Sequence[int] | Mapping[str, Sequence[int]] | None
"""(H, W, C) of the images, or sizes by variable; None: what the network tells of itself."""


@dataclass(frozen=True)
class MemoryPlan:
    """Predicted memory of one device, in bytes.

    peak: the most at a time. Of it, parameters: their values; solver_state: copies of them that
    the solver and the trainer keep; derivatives: of the parameters; values: of variables, their
    derivatives, and what layers keep; scratch: of the kernel. phase, layer: where the peak is
    reached. timeline: every layer as it is evaluated. batch: images of all `num_sub_batches`.
    recompute: whether layers are evaluated again.
    """

    peak: int
    parameters: int
    solver_state: int
    derivatives: int
    values: int
    scratch: int
    phase: str
    layer: str
    timeline: tuple[Moment, ...]
    batch: int
    num_sub_batches: int
    recompute: bool

    def __str__(self) -> str:
        """One sentence."""
        parts = ", ".join(f"{memory_text(getattr(self, name))} {what}" for name, what in PARTS)
        return f"{memory_text(self.peak)} at the {self.place}: {parts}"

    @property
    def place(self) -> str:
        """Where the peak is reached, in words."""
        words = {"forward": "forward pass", "backward": "derivative", "again": "recomputation"}
        return f"{words[self.phase]} of layer {self.layer!r}"

    def table(self) -> str:
        """The timeline as text: per layer what lives at most, and what is left; then the parts."""
        lines: list[list[str] | None] = [["pass", "layer", "peak", "left", ""], None]
        for moment in self.timeline:
            is_peak = (moment.phase, moment.layer) == (self.phase, self.layer)
            mark = "<- peak" if is_peak and moment.peak == self.peak else ""
            sizes = memory_text(moment.peak), memory_text(moment.after)
            lines.append([moment.phase, moment.layer, *sizes, mark])
        of = f"{self.batch} images"
        if self.num_sub_batches > 1:
            of += f" in {self.num_sub_batches} sub-batches"
        return f"{table_text(lines)}{of}: {self}\n"


PARTS = (
    ("parameters", "parameters"),
    ("solver_state", "solver state"),
    ("derivatives", "derivatives of parameters"),
    ("values", "values"),
    ("scratch", "scratch"),
)

NO_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "ALLOC_FAILED")
"""What errors of PyTorch and its libraries say when memory ran out."""


def memory_plan(
    net: Network,
    input_size: InputSize = None,
    batch: int = 32,
    training: bool = True,
    *,
    num_sub_batches: int = 1,
    conserve_memory: bool = True,
    recompute: Recompute = False,
    solver_state: int = 1,
    copies: int = 1,
    precious: Iterable[str] = (),
    depth: int | None = None,
    ders: Iterable[str] | None = None,
    device: torch.device | str | None = None,
) -> MemoryPlan:
    """Predict the memory that a step of training, or an evaluation, takes on its device.

        peak = parameters + solver state + derivatives of parameters + values + scratch

    Counted are tensors and the scratch memory of kernels; what Python, PyTorch and its libraries
    take before the first evaluation is not, nor what an allocator has freed but not given back.

    Args:
        net: the network.
        input_size: (H, W, C) of the images in pixels; or sizes by variable, (H, W, C) of maps or
            all four numbers; None: those of the meta data.
        batch: images a step.
        training: a step with derivatives; else an evaluation in test mode.
        num_sub_batches: parts that the batch is evaluated in, one after another.
        conserve_memory, recompute, precious, depth: as in `Network.eval`.
        solver_state: copies of the parameters that the solver keeps: 1 for momentum, 2 for adam.
        copies: further ones: the trainer's derivatives divided by the batch; one more for a moving
            average of the parameters, one more for the buckets of several workers.
        ders: variables that are differentiated; None: the losses that have a derivative, or else
            the outputs of the network.
        device: where it will run; None: where the parameters are.

    Raises:
        ValueError: sizes or numbers that do not fit the network.
        KeyError: `input_size`, `ders` or `recompute` names what the network does not have.
    """
    for name, value in (("batch", batch), ("num_sub_batches", num_sub_batches)):
        if value < 1:
            raise ValueError(f"{name} is {value}; wanted a whole number >= 1")
    part = math.ceil(batch / num_sub_batches)
    where = torch.device(device) if device is not None else _device(net)
    settings = Settings(
        num_sub_batches, conserve_memory, recompute, frozenset({*net.precious, *precious}), depth,
        _outputs(net, ders),
    )  # fmt: skip
    run = Rehearsal(net, _sizes(net, input_size, part), where.type)
    if training:
        run.train(settings)
    else:
        run.test(settings)
        solver_state = copies = 0
    fixed = (solver_state + copies) * run.parameters
    # The inputs of sub-batches that were not evaluated are there as well.
    more = max(batch - SIMULATED * part, 0) * run.input_bytes() // part
    timeline = tuple(moment.raised(fixed + more) for moment in run.ledger.moments)
    top = max(timeline, key=lambda moment: moment.peak)
    values = top.peak - run.parameters - fixed - top.derivatives - top.scratch
    return MemoryPlan(
        top.peak, run.parameters, fixed, top.derivatives, values, top.scratch, top.phase,
        top.layer, timeline, batch, num_sub_batches, bool(recompute),
    )  # fmt: skip


def fit_sub_batches(
    net: Network, input_size: InputSize, batch_size: int, budget: int, **options: Any
) -> int:
    """The smallest number of sub-batches with which a step of training fits into a budget.

    Args:
        net, input_size: as in `memory_plan`.
        batch_size: images a step.
        budget: bytes; see `parse_memory`.
        options: of `memory_plan`.

    Raises: ValueError, if even sub-batches of one image do not fit, saying what they take.
    """

    def plan(parts: int) -> MemoryPlan:
        return memory_plan(net, input_size, batch_size, num_sub_batches=parts, **options)

    # Derivatives are added up from two parts on, which takes memory; from there more parts take
    # less, but for the second and third, which are told apart.
    for parts in range(1, min(SIMULATED, batch_size) + 1):
        if plan(parts).peak <= budget:
            return parts
    low, high = SIMULATED + 1, max(batch_size, SIMULATED + 1)
    least = plan(batch_size)
    if least.peak > budget:
        advice = "" if options.get("recompute") else "recompute=True, "
        raise ValueError(
            f"a budget of {memory_text(budget)} does not suffice: with one image at a time the "
            f"network takes {least}; wanted a larger budget, {advice}a smaller batch_size "
            f"(it is {batch_size}) or smaller images"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if plan(middle).peak <= budget else (middle + 1, high)
    return low


def parse_memory(size: int | str) -> int:
    """Bytes, from a number of bytes or a text such as "8GB", "512 MiB", "1.5g".

    K, M, G, T are powers of 1024 with or without "iB"; with "B" alone, powers of 1000.

    Raises: ValueError, TypeError, naming the forms that are wanted.
    """
    wanted = "wanted bytes, or a number with a unit: '8GB', '512MiB', '1.5G'"
    if isinstance(size, bool) or not isinstance(size, int | str):
        raise TypeError(f"memory is {size!r}; {wanted}")
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?)(i?b)?\s*", str(size).lower())
    if match is None:
        raise ValueError(f"memory is {size!r}; {wanted}")
    number, prefix, ending = match.groups()
    base = 1000 if ending == "b" else 1024
    count = int(float(number) * base ** " kmgt".index(prefix or " "))
    if count < 1:
        raise ValueError(f"memory is {size!r}; {wanted}, more than nothing")
    return count


def is_out_of_memory(error: BaseException) -> bool:
    """True, if memory ran out, on a GPU or in the computer."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)


def explain_out_of_memory(
    error: BaseException, plan: MemoryPlan | None = None, *, budget: int | None = None
) -> str:
    """What was predicted, what happened and what to change, when memory ran out.

    Args:
        error: one for which `is_out_of_memory` is true.
        plan: what was predicted for the step in which it happened, if anything was.
        budget: what the plan was made to fit into, in bytes.
    """
    asked = re.search(r"allocate ([\d.]+) (GiB|MiB|KiB|bytes)", str(error))
    happened = "memory ran out"
    if asked is not None:
        number, unit = asked.groups()
        happened += f" when {number} {unit} more were asked for"
    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_initialized():
        taken, (free, total) = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()
        happened += (
            f"; of the {memory_text(total)} of the GPU this process holds {memory_text(taken)}, "
            f"and {memory_text(free)} are free"
        )
    told = [happened]
    if plan is not None:
        told.append(f"predicted were {plan}")
    if budget is not None:
        told.append(f"the budget is {memory_text(budget)}")
    return f"{'; '.join(told)}. What helps: {', or '.join(_changes(plan))}."


def _changes(plan: MemoryPlan | None) -> list[str]:
    """What to change so that a step takes less memory, the least harm first."""
    changes = []
    if plan is None or not plan.recompute:
        changes.append("recompute=True (the same numbers, a little slower)")
    if plan is None:
        changes.append("a larger num_sub_batches")
    elif plan.num_sub_batches < plan.batch:
        more = min(2 * plan.num_sub_batches, plan.batch)
        changes.append(f"num_sub_batches={more} (it is {plan.num_sub_batches})")
    now = "" if plan is None else f" (it is {plan.batch})"
    return [*changes, f"a smaller batch_size{now}"]


def _device(net: Network) -> torch.device:
    values = (value for value in net.values().values() if value is not None)
    return next((value.device for value in values), torch.device("cpu"))


def _outputs(net: Network, ders: Iterable[str] | None) -> tuple[str, ...]:
    """The variables that are differentiated."""
    if ders is not None:
        names = tuple(ders)
        if unknown := [v for v in names if v not in net.graph.producer]:
            raise KeyError(f"ders names {unknown}; wanted some of {list(net.graph.producer)}")
        return names
    losses = [
        v
        for node in net.graph.nodes
        if node.layer.is_loss and not getattr(node.layer, "is_error", False)
        for v in node.outputs
    ]
    return tuple(losses) or net.graph.outputs


def _sizes(net: Network, input_size: InputSize, batch: int) -> dict[str, Size]:
    """Sizes of the inputs, with `batch` images where the number is not given."""
    if input_size is None:
        return {v: full_size(size, v) for v, size in input_sizes(net, batch).items()}
    if not isinstance(input_size, Mapping):
        input_size = {net.input: tuple(input_size)[:3]}
    sizes = {}
    for v, size in input_size.items():
        numbers = tuple(size)
        name = f"input_size of {v!r}"
        sizes[v] = full_size(
            numbers if len(numbers) == 4 else (*full_size(numbers, name)[:3], batch), name
        )
    return sizes
