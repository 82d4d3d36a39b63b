"""Thousands of damaged MAT files: values or a MatFileError, no crash, no hang, no memory eaten."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.fuzz_mat import Mutator

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits of processes want POSIX")


def fuzz(tmp_path, *options):
    command = [sys.executable, ROOT / "scripts" / "fuzz_mat.py", f"--keep={tmp_path}", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)


def check(done, count, at_least):
    """Fail unless nothing was found, and enough mutants became values for the test to mean much."""
    assert done.returncode == 0, done.stdout + done.stderr
    total, values, errors = map(int, re.findall(r"\d+", done.stdout))
    assert total == values + errors == count
    assert values > at_least


def test_mutants_of_version_5(tmp_path):
    check(fuzz(tmp_path, "--count=20000"), 20_000, at_least=1000)
    assert list(tmp_path.iterdir()) == []


def test_mutants_of_version_73(tmp_path):
    pytest.importorskip("h5py")
    check(fuzz(tmp_path, "--count=1000", "--format=7.3"), 1000, at_least=100)


BAD_READERS = {
    "crashes": "the process died: SIGSEGV",
    "hangs": "the process died: SIGALRM",
    "eats_memory": "MemoryError",
    "hides_that_memory_was_eaten": "MemoryError",
    "raises_another_error": "IndexError: out of bounds",
    "exceeds_the_budget": "MemoryError: 33554440 bytes of values",
    "returns_something_foreign": "a value of <class 'object'>",
}


@pytest.mark.parametrize("reader", BAD_READERS)
def test_the_harness_notices(tmp_path, reader):
    name = f"tests.interop.bad_readers:{reader}"
    done = fuzz(tmp_path, "--count=2", "--seconds=1", f"--reader={name}")
    assert done.returncode == 1, done.stderr
    assert done.stdout.count(BAD_READERS[reader]) == 2, done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5-0-0.mat", "5-0-1.mat"]


def test_mutants_are_the_same_on_every_run():
    a, b, other = Mutator("5", 0), Mutator("5", 0), Mutator("5", 1)
    assert [a.mutant(i) for i in range(50)] == [b.mutant(i) for i in range(50)]
    assert [a.mutant(i) for i in range(50)] != [other.mutant(i) for i in range(50)]
