"""Readers that do to mutants what must not happen; the harness has to notice."""

import functools
import os
import signal
import time

import numpy as np

from matconvnet.errors import MatFileError
from matconvnet.interop.mat import read_mat


def for_mutants(reader):
    """Read the first file, the healthy one, as it should be."""
    paths = []

    @functools.wraps(reader)
    def read(path, *, budget):
        paths.append(path)
        return reader(budget) if len(paths) > 1 else read_mat(path, budget=budget)

    return read


@for_mutants
def crashes(budget):
    os.kill(os.getpid(), signal.SIGSEGV)


@for_mutants
def hangs(budget):
    time.sleep(60)


@for_mutants
def eats_memory(budget):
    return {"x": np.ones(1 << 28)}


@for_mutants
def hides_that_memory_was_eaten(budget):
    try:
        np.ones(1 << 28)
    except MemoryError:
        raise MatFileError("no memory") from None


@for_mutants
def raises_another_error(budget):
    raise IndexError("out of bounds")


@for_mutants
def exceeds_the_budget(budget):
    return {"x": np.ones(budget // 8 + 1)}


@for_mutants
def returns_something_foreign(budget):
    return {"x": object()}
