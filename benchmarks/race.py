"""A race: sides in processes of their own, compared, then timed in turn."""

import os
import pickle
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sides import SETUPS
from worker import Job

import matconvnet

HERE = Path(__file__).parent
TUNED = "+malloc"
"""After the name of a side: the C library keeps large blocks that were freed."""
MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736"}
OURS = ("fast", "explicit")
"""The first that runs is what the others are compared with."""

TOLERANCES = {
    "fp32": {"scores": 1e-4, "loss": 1e-4, "derivative": 5e-2},
    "tf32": {"scores": 1e-2, "loss": 1e-2, "derivative": 1e-1},
    "bf16": {"scores": 1e-1, "loss": 5e-2, "derivative": 5e-1},
}
"""Of the norm: what a side may differ by from our explicit result in float64."""

NOISE = dict.fromkeys([("resnet-50", "bf16"), ("dncnn", "bf16")], "derivative")
"""Of a network and a precision, what is not compared. Many layers with batch normalisation and
fresh weights amplify roundings of bfloat16 until no two sides agree in a filter's derivative."""

BLOCK = 0.2  # seconds that a side runs without a pause, if a step is not longer
MOST_STEPS = 50  # of a block
ROUNDS = (5, 40)  # at least and at most
PAUSE = 0.02  # seconds between sides, in which idle threads stop spinning
REFERENCE_TIMEOUT = 900  # seconds
EXPLICIT = ("blocks", "nets", "zoo")
"""Folders of the package that the reference depends on, beside the modules on top."""


class FailedError(Exception):
    """A side that cannot run, and why."""


class Course(NamedTuple):
    """What all races of a run have in common.

    seconds: for which a side runs, about; budget: seconds that its preparation may take.
    """

    sides: tuple[str, ...]
    precision: str
    device: str
    threads: int
    seconds: float
    budget: float


class Process:
    """A worker."""

    def __init__(self, threads: int, tuned: bool = False):
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": str(HERE / "results" / "inductor"),
            "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        (HERE / "results").mkdir(exist_ok=True)
        with (HERE / "results" / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py")], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, env=environment | (MALLOC if tuned else {}),
                start_new_session=True,
            )  # fmt: skip

    def ask(self, *request: Any, timeout: float = 600) -> Any:
        """The answer to a request.

        Raises: FailedError, if it is an error, or does not come in time.
        """
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None
        assert answers is not None
        try:
            pickle.dump(request, requests)
            requests.flush()
            if not select.select([answers], [], [], timeout)[0]:
                raise FailedError(f"no answer in {timeout:.0f} s")
            answer = pickle.load(answers)
        except (EOFError, BrokenPipeError):
            raise FailedError(f"the process ended with status {self.process.wait()}") from None
        if isinstance(answer, Exception):
            raise FailedError(str(answer))
        return answer

    def stop(self) -> None:
        """End it, and the processes that it started to compile."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Racer(NamedTuple):
    """A side that is ready."""

    name: str
    process: Process
    ready: dict[str, Any]


def peaks(course: Course) -> dict[str, float]:
    """The fields of `Peaks`, measured in a process of its own."""
    return _alone(course, "peaks", Job("", "", 0, "", *course[1:4]))


def layers(network: str, batch: int, course: Course) -> dict[str, Any]:
    """See `layers.measure`; measured in a process of its own."""
    return _alone(course, "layers", Job("", network, batch, "", *course[1:4]), course.seconds)


def _alone(course: Course, *request: Any) -> Any:
    process = Process(course.threads)
    try:
        return process.ask(*request, timeout=course.budget)
    finally:
        process.stop()


def race(network: str, batch: int, task: str, course: Course, tell=print) -> dict[str, Any]:
    """Compare and time all sides.

    Returns: "work", the multiply-adds of a step; "ours", the side that is compared with; and
        "sides": for each by name its "error", or "ms" (median a step), "low" and "high"
        (quartiles), "ratio" (low, median, high) of its time to ours in the same round, "memory" in
        bytes, "prepared" in seconds, "note".
    """
    job = Job("explicit", network, batch, task, *course[1:4])
    found = _reference(job._replace(precision="fp64"), course)
    results: dict[str, Any] = {}
    left, heat = list(course.sides), dict[str, Racer]()
    try:
        while left:
            name = left.pop(0)
            try:
                heat[name] = _start(name, job, course, found["evidence"])
            except FailedError as error:
                results[name] = {"error": str(error)}
                tell(f"  {name}: {error}")
            if heat and (not left or (len(heat) > 1 and _is_full(heat.values()))):
                ours = next((side for side in OURS if side in heat), next(iter(heat)))
                for side, result in _run(heat, ours, course.seconds).items():
                    results.setdefault(side, result)
                for side in [side for side in heat if side != ours or not left]:
                    heat.pop(side).process.stop()
    finally:
        for racer in heat.values():
            racer.process.stop()
    raced = [name for name, result in results.items() if "error" not in result]
    ours = next((side for side in OURS if side in raced), None)
    sides = {name: results[name] for name in course.sides}
    return {"work": found["work"], "ours": ours, "sides": sides}


def _reference(job: Job, course: Course) -> dict[str, Any]:
    """Our explicit result, kept while no line of what computes it changes."""
    package = Path(matconvnet.__file__).parent
    sources = [HERE / "problems.py", HERE / "sides.py", *package.glob("*.py")]
    sources += [p for folder in EXPLICIT for p in (package / folder).rglob("*.py")]
    code = zlib.crc32(b"".join(p.read_bytes() for p in sorted(sources)))
    file = (
        HERE / "results" / "reference" / f"{job.network}-{job.batch}-{job.task}-{code:08x}.pickle"
    )
    if not file.exists():
        found = _alone(course._replace(budget=REFERENCE_TIMEOUT), "build", job)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(found))
    return pickle.loads(file.read_bytes())


def _start(name: str, job: Job, course: Course, want: Mapping[str, np.ndarray]) -> Racer:
    """Build a side, and compare what it computes."""
    side = name.removesuffix(TUNED)
    if side in SETUPS and SETUPS[side].compiler and not _compiler():
        raise FailedError("no C++ compiler, which torch.compile needs")
    process = Process(course.threads, tuned=name.endswith(TUNED))
    try:
        ready = process.ask("build", job._replace(side=side), timeout=course.budget)
        noise = NOISE.get((job.network, course.precision))
        compared = {what: value for what, value in want.items() if what != noise}
        _compare(ready.pop("evidence"), compared, TOLERANCES[course.precision])
    except BaseException:
        process.stop()
        raise
    return Racer(name, process, ready)


def _compiler() -> str | None:
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _compare(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray],
             tolerances: Mapping[str, float]) -> None:  # fmt: skip
    for what, value in want.items():
        error = np.linalg.norm(got[what] - value.reshape(got[what].shape)) / np.linalg.norm(value)
        if not error <= tolerances[what]:
            raise FailedError(
                f"refused: its {what} differs by {error:.1e}, wanted {tolerances[what]}"
            )


def _is_full(racers: Iterable[Racer]) -> bool:
    """Whether another side might not find memory: as much as the largest took, twice."""
    racers = list(racers)
    largest = max(racer.process.ask("peak") for racer in racers)
    return racers[-1].ready["free"] < 2 * largest + (1 << 30)


def _run(heat: Mapping[str, Racer], ours: str, budget: float) -> dict[str, Any]:
    """Let all run in turn, there and back."""
    steps, spent = {}, []
    for name, racer in heat.items():
        seconds = racer.ready["seconds"]
        steps[name] = max(1, min(MOST_STEPS, round(BLOCK / seconds)))
        spent.append(steps[name] * seconds)
    rounds = max(ROUNDS[0], min(ROUNDS[1], round(budget / statistics.mean(spent))))
    times: dict[str, list[float]] = {name: [] for name in heat}
    results: dict[str, Any] = {}
    for i in range(rounds + 1):
        for name in [*times] if i % 2 else reversed([*times]):
            time.sleep(PAUSE)
            try:
                seconds = heat[name].process.ask("run", steps[name])
            except FailedError as error:
                results[name] = {"error": str(error)}
                del times[name]
                continue
            if i:  # the first warms up
                times[name].append(seconds)
    if ours not in times:
        raise FailedError(f"{ours}: {results[ours]['error']}")
    for name in times:
        racer = heat[name]
        low, median, high = statistics.quantiles(times[name], n=4)
        ratios = [a / b for a, b in zip(times[name], times[ours], strict=True)]
        results[name] = {
            "ms": 1e3 * median, "low": 1e3 * low, "high": 1e3 * high,
            "ratio": statistics.quantiles(ratios, n=4), "memory": racer.process.ask("peak"),
            "prepared": racer.ready["prepared"], "note": racer.ready["note"], "rounds": rounds,
        }  # fmt: skip
    return results
