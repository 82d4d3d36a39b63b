"""The sides of a race behind one interface: ours, PyTorch in its configurations, two runtimes.

A side is built for a problem and a task, "train" or "infer". `step` runs it once; `evidence`
returns what it computes, to be compared with the others before anything is timed.
"""

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peers import twin
from problems import DECAY, MOMENTUM, RATE, Problem
from torch import Tensor

from matconvnet.executor import Record
from matconvnet.fast.evaluator import FastEvaluator
from matconvnet.fast.inference import compile_for_inference
from matconvnet.fast.precision import with_precision
from matconvnet.interop.onnx import save_onnx
from matconvnet.layout import nchw
from matconvnet.parallel.server import LocalServer
from matconvnet.train.options import TrainOptions
from matconvnet.train.update import Updater

Evidence = dict[str, np.ndarray]
"""Either "scores", N x anything; or "loss", the mean, and "derivative", that of the first filters,
K x C x H x W."""


class Side(ABC):
    """One side, ready for its task."""

    def __init__(self, problem: Problem, task: str, precision: str):
        self.batch, self.task, self.precision = problem.batch, task, precision
        self.note = ""

    def prepare(self) -> None:
        """Choose among ways by measurement, if there are several."""
        return

    def step(self) -> None:
        """Train on the batch, and read the loss as a number; or infer."""
        if self.task == "train":
            self.train()
        else:
            self.infer()

    def evidence(self) -> Evidence:
        """What a step computes."""
        if self.task == "infer":
            return {"scores": _array(self.infer().reshape(self.batch, -1))}
        loss, derivative = self.differentiate()
        return {"loss": np.array(loss), "derivative": _array(derivative)}

    @abstractmethod
    def infer(self) -> Tensor:
        """Scores, images first."""

    def train(self) -> None:
        """Forward, backward, update."""
        raise ValueError(f"{type(self).__name__} does not train")

    def differentiate(self) -> tuple[float, Tensor]:
        """The mean loss, and its derivative with respect to the first filters."""
        raise ValueError(f"{type(self).__name__} does not differentiate")


def _array(value: Tensor) -> np.ndarray:
    return value.detach().double().cpu().numpy()


class Explicit(Side):
    """Our executor, layer by layer, with the steps of the trainer."""

    def __init__(self, problem: Problem, task: str, precision: str):
        super().__init__(problem, task, precision)
        self.problem, self.prediction = problem, problem.net.prediction
        options = TrainOptions(momentum=MOMENTUM, weight_decay=DECAY, exp_dir=None)
        self.updater = Updater(problem.net, options, LocalServer()).__enter__()
        self.eval = self.evaluator()

    def evaluator(self) -> Callable[..., Record]:
        """What evaluates: the arguments of `Network.eval`."""
        if self.precision == "fp64":  # the type of the parameters
            return self.problem.net.eval
        return with_precision(self.problem.net, self.precision).eval

    def train(self) -> None:
        """One step of the trainer."""
        self._train()

    def _train(self) -> float:
        """A step; the objective."""
        p = self.problem
        record = self.eval(
            p.inputs, {p.output: 1}, mode="normal", on_param=self.updater.push,
            conserve_memory=True, precious=(self.prediction,), wanted_inputs=(),
            out=self.updater.spare,
        )  # fmt: skip
        objective, ders = record.values[p.output].item(), self.updater.pull()
        assert self.updater.are_finite(ders), "a derivative is not finite"
        self.updater.update(ders, self.batch, RATE)
        return objective

    def differentiate(self) -> tuple[float, Tensor]:
        """By the first step: then the momentum is the derivative, with the weight decay."""
        param = self.problem.net.params[self.problem.first]
        assert param.value is not None
        decay = DECAY * param.weight_decay * param.value
        loss = self._train() / self.batch
        return loss, -nchw(self.updater.state[self.problem.first] + decay)

    def infer(self) -> Tensor:
        """The prediction."""
        p = self.problem
        record = self.eval({p.net.input: p.x}, mode="test", conserve_memory=True,
                           precious=(self.prediction,))  # fmt: skip
        return nchw(record.values[self.prediction])


class Fast(Explicit):
    """Our fast path, as the trainer takes it.

    lean: cheap values are not kept for the backward pass, but made again.
    """

    def __init__(self, problem: Problem, task: str, precision: str, lean: bool = False):
        super().__init__(problem, task, precision)
        self.lean = lean
        if task == "infer":
            self.compiled = compile_for_inference(
                problem.net, precision=precision, batch=problem.batch
            )

    def evaluator(self) -> Callable[..., Record]:
        """Programs, which update parameters within the backward pass."""
        self.programs = FastEvaluator(self.problem.net, self.precision)
        return self._eval

    def _eval(self, *args: Any, **options: Any) -> Record:
        self.programs.stepping = self.updater.within(self.batch, RATE)
        return self.programs.eval(*args, **options, recompute=self.lean)

    def infer(self) -> Tensor:
        """The prediction."""
        record = self.compiled.eval({self.problem.net.input: self.problem.x})
        return nchw(record.values[self.prediction])


class FastFp32(Fast):
    """Our fast path in float32, as a peer of that in another precision."""

    def __init__(self, problem: Problem, task: str, precision: str):
        super().__init__(problem, task, "fp32")


@dataclass(frozen=True)
class Setup:
    """A configuration of PyTorch; compiler: arguments of torch.compile, None: eager."""

    channels_last: bool = False
    compiler: Mapping[str, Any] | None = None


class Torch(Side):
    """The twin in PyTorch."""

    def __init__(self, problem: Problem, task: str, precision: str, setup: Setup):
        super().__init__(problem, task, precision)
        order = torch.channels_last if setup.channels_last else torch.contiguous_format
        # The problem itself is not kept: its weights would count as memory of this side.
        self.module, self.weights = twin(problem)
        self.first, params = problem.first, problem.net.params
        self.rules = {
            name: (RATE * params[name].learning_rate, DECAY * params[name].weight_decay)
            for name, weight in self.weights.items()
            if weight.requires_grad
        }
        self.module = self.module.to(problem.x.device).to(memory_format=order)
        self.module.train(task == "train")
        self.x, self.target = nchw(problem.x).contiguous(memory_format=order), problem.target
        if self.target.is_floating_point():  # a map; labels have one axis
            self.target = nchw(self.target).contiguous(memory_format=order)
        self.device = problem.x.device.type
        self.compiled = setup.compiler is not None
        if task == "train":
            self.solver = self._solver(fused=True)
            self.update = self.solver.step
            self.objective = self._compile(self._objective, setup)
            return
        if precision == "bf16":
            self.module, self.x = self.module.to(torch.bfloat16), self.x.to(torch.bfloat16)
        self.module.requires_grad_(False)
        self.scores = self._compile(self.module, setup)

    def _compile(self, function: Callable[..., Any], setup: Setup) -> Callable[..., Any]:
        if setup.compiler is None:
            return function
        return torch.compile(function, fullgraph=True, dynamic=False, **setup.compiler)

    def _objective(self, x: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            scores = self.module(x)
            if target.is_floating_point():
                return 0.5 * F.mse_loss(scores.float(), target, reduction="sum") / len(x)
            return F.cross_entropy(scores, target)

    def _solver(self, **options: bool) -> torch.optim.SGD:
        """Parameters of the same rate and decay are a group."""
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for name, (rate, decay) in self.rules.items():
            group = {"params": [], "lr": rate, "weight_decay": decay}
            groups.setdefault((rate, decay), group)["params"].append(self.weights[name])
        return torch.optim.SGD(list(groups.values()), lr=RATE, momentum=MOMENTUM, **options)

    def prepare(self) -> None:
        """Compile the update too, if that is faster than PyTorch's fused kernel."""
        if self.task == "infer" or not self.compiled:
            return
        self._backward()
        compiled = torch.compile(self._solver(foreach=True).step)
        seconds = {step: self._seconds(step) for step in (self.update, compiled)}
        self.update = min(seconds, key=seconds.__getitem__)
        self.note = f"update {'compiled' if self.update is compiled else 'fused'}"

    def _seconds(self, step: Callable[[], object]) -> float:
        """The fastest of a few, after one."""
        times = []
        for _ in range(6):
            start = time.perf_counter()
            step()
            if self.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    def _backward(self) -> float:
        if self.compiled and self.device == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        for weight in self.weights.values():
            weight.grad = None
        loss = self.objective(self.x, self.target)
        loss.backward()
        return loss.item()

    def train(self) -> None:
        """Forward, backward, update."""
        self._backward()
        self.update()

    def differentiate(self) -> tuple[float, Tensor]:
        """By autograd."""
        loss, grad = self._backward(), self.weights[self.first].grad
        assert grad is not None
        return loss, grad

    def infer(self) -> Tensor:
        """The module in evaluation mode."""
        with torch.inference_mode():
            return self.scores(self.x)


class Onnxruntime(Side):
    """ONNX Runtime on the CPU, with our export."""

    def __init__(self, problem: Problem, task: str, precision: str):
        super().__init__(problem, task, precision)
        if task == "train" or precision != "fp32" or problem.x.device.type != "cpu":
            raise ValueError("raced for inference in float32 on a CPU only")
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with _exported(problem) as file:
            self.session = ort.InferenceSession(str(file), options, ["CPUExecutionProvider"])
        self.feed = {problem.net.input: nchw(problem.x).contiguous().numpy()}

    def infer(self) -> Tensor:
        """A run of the session."""
        return torch.from_numpy(self.session.run(None, self.feed)[0])


class Openvino(Side):
    """OpenVINO on the CPU, with our export."""

    def __init__(self, problem: Problem, task: str, precision: str):
        super().__init__(problem, task, precision)
        if task == "train" or problem.x.device.type != "cpu":
            raise ValueError("raced for inference on a CPU only")
        import openvino as ov

        options = {
            "PERFORMANCE_HINT": "LATENCY",  # one request at a time
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        with _exported(problem) as file:
            self.compiled = ov.Core().compile_model(str(file), "CPU", options)
        self.x = nchw(problem.x).contiguous().numpy()

    def infer(self) -> Tensor:
        """A request; no copies of input or output."""
        out = self.compiled(self.x, share_inputs=True, share_outputs=True)
        return torch.from_numpy(np.asarray(out[0]))


@contextmanager
def _exported(problem: Problem) -> Iterator[Path]:
    """The network as an ONNX file with fixed sizes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.onnx"
        sizes = tuple(problem.x.shape)
        save_onnx(problem.net, file, input_sizes=sizes, outputs=[problem.net.prediction])
        yield file


DEFAULT = {"mode": "default"}
AUTOTUNE = {"mode": "max-autotune"}
GRAPHS = {"mode": "reduce-overhead"}
FREEZE = {"options": {"freezing": True}}
AUTOTUNE_FREEZE = {"options": {"freezing": True, "max_autotune": True}}

SETUPS = {
    "eager": Setup(),
    "channels-last": Setup(True),
    "compile": Setup(False, DEFAULT),
    "compile-cl": Setup(True, DEFAULT),
    "graphs": Setup(False, GRAPHS),
    "graphs-cl": Setup(True, GRAPHS),
    "autotune": Setup(False, AUTOTUNE),
    "autotune-cl": Setup(True, AUTOTUNE),
    "freeze": Setup(False, FREEZE),
    "freeze-cl": Setup(True, FREEZE),
    "autotune-freeze-cl": Setup(True, AUTOTUNE_FREEZE),
}

SIDES: dict[str, Callable[[Problem, str, str], Side]] = {
    "fast": Fast,
    "fast-lean": partial(Fast, lean=True),
    "explicit": Explicit,
    "fast-fp32": FastFp32,
    **{name: partial(Torch, setup=setup) for name, setup in SETUPS.items()},
    "onnxruntime": Onnxruntime,
    "openvino": Openvino,
}
