"""A side of a race in a process of its own: it answers requests on its standard input.

The parent sends pickled tuples and reads pickled answers, one at a time: ("build", job) measures
nothing yet; ("run", steps) answers seconds a step; ("peak",) the memory; ("peaks", job) what the
machine can do; ("layers", job, seconds) where the time of a step goes. Between requests the process
sleeps. What libraries print goes to standard error.
"""

import ctypes
import gc
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

WARM_UP = 3  # steps


class Job(NamedTuple):
    """What to build. precision: "fp64" is that of the reference, which is not timed."""

    side: str
    network: str
    batch: int
    task: str
    precision: str
    device: str
    threads: int


class Worker:
    """One side, and its process's memory."""

    def build(self, job: Job) -> dict[str, Any]:
        """Compute what is compared; then build the side that is timed, and warm it up."""
        import torch
        from problems import has_dropout, problem
        from sides import SIDES

        self._set(job)
        self.device = job.device

        def given(dropout: bool, network: str = job.network, batch: int = job.batch):
            return problem(network, batch, dropout=dropout).to(job.device)

        def made(problem):
            return SIDES[job.side](problem, job.task, job.precision)

        start = time.perf_counter()
        if job.precision == "fp64":
            precise = given(False).to(torch.float64)
            return {"evidence": made(precise).evidence(), "work": precise.work(job.task)}
        made(given(False, "lenet", 1)).step()  # loads libraries
        self._trim()
        self.before = self._resident("VmRSS")
        self.side = made(given(False))
        evidence = self.side.evidence()
        if job.task == "train" and has_dropout(job.network):
            del self.side
            self.side = made(given(True))
        self.side.prepare()
        for _ in range(WARM_UP):
            self.side.step()
        prepared = time.perf_counter() - start
        seconds = self.run(1)
        self._trim()
        if job.device == "cpu":
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            available = Path("/proc/meminfo").read_text().split("MemAvailable:")[1]
            free = 1024 * int(available.split()[0])
        else:
            torch.cuda.reset_peak_memory_stats()
            free = torch.cuda.mem_get_info()[0]
        return {
            "evidence": evidence, "seconds": seconds, "free": free, "prepared": prepared,
            "note": self.side.note,
        }  # fmt: skip

    def run(self, steps: int) -> float:
        """Seconds a step."""
        self._wait()
        start = time.perf_counter()
        for _ in range(steps):
            self.side.step()
        self._wait()
        return (time.perf_counter() - start) / steps

    def peak(self) -> int:
        """Bytes that the steps took at most, above what the process had before the network."""
        if self.device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated()
        return self._resident("VmHWM") - self.before

    def peaks(self, job: Job) -> dict[str, float]:
        """What the machine can do: the fields of `Peaks`."""
        import torch

        from matconvnet.fast.peaks import measure_peaks

        self._set(job)
        dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
        return measure_peaks(job.device, dtype)._asdict()

    def layers(self, job: Job, seconds: float) -> dict[str, Any]:
        """See `layers.measure`."""
        from layers import measure
        from problems import problem

        self._set(job)
        return measure(problem(job.network, job.batch), job.precision, seconds)

    def _set(self, job: Job) -> None:
        import torch

        torch.set_num_threads(job.threads)
        torch.backends.cudnn.allow_tf32 = job.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = job.precision == "tf32"

    def _wait(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def _trim(self) -> None:
        """Give back what nobody uses."""
        gc.collect()
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()
        else:
            ctypes.CDLL(None).malloc_trim(0)

    @staticmethod
    def _resident(kind: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(kind))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the requests end; what goes wrong is an answer, too."""
    worker = Worker()
    while True:
        try:
            name, *arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = getattr(worker, name)(*arguments)
        except Exception as error:
            answer = RuntimeError(f"{type(error).__name__}: {error}"[:500])
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        # Job is pickled as worker.Job, whatever this module is called when it runs.
        sys.modules["worker"] = sys.modules["__main__"]
        serve(sys.stdin.buffer, out)
