"""The process that reads MATLAB 7.3 files: it may die, hang, lie or be missing."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from matconvnet.errors import MatFileError
from matconvnet.interop.mat import reader73, server73, worker73
from matconvnet.interop.mat.protocol73 import FRAME
from matconvnet.interop.mat.reader73 import read73
from matconvnet.interop.mat.server73 import ROOT, Answer, server
from matconvnet.interop.mat.writer73 import write73
from tests.interop.mat73_files import made, zeros

BUDGET = 1 << 26


def test_several_threads_read_at_a_time(tmp_path):
    found = {}

    def work(i):
        path = tmp_path / f"{i}.mat"
        for _ in range(5):
            found[i] = read73(path, BUDGET)

    for i in range(6):
        write73(tmp_path / f"{i}.mat", {"v": np.full((50, 7), i, np.float32)})
    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: int(v.v[0, 0]) for i, v in found.items()} == {i: i for i in range(6)}


def test_without_forks_each_file_has_a_worker(tmp_path, monkeypatch):
    server73.server.end()
    monkeypatch.setattr(server73, "FORKS", False)
    write73(tmp_path / "a.mat", {"v": 1.0})
    for _ in range(2):
        assert read73(tmp_path / "a.mat", BUDGET) == {"v": 1.0}
        assert server73.server.process is None


def test_without_h5py_the_error_says_what_to_install(tmp_path, monkeypatch):
    write73(tmp_path / "a.mat", {"v": 1.0})
    (tmp_path / "h5py.py").write_text("raise ImportError('not there')")
    server73.server.end()
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(ImportError, match=r"not there.*pip install h5py"):
            reader73.read73(tmp_path / "a.mat", BUDGET)
    finally:
        server73.server.end()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install h5py"):
        write73(tmp_path / "b.mat", {"v": 1.0})
    assert not (tmp_path / "b.mat").exists()


def run(tmp_path, code):
    """What a Python process prints that has a file of one variable at `path`."""
    write73(tmp_path / "a.mat", {"v": 1.0})
    start = (
        "import os, sys\n"
        "from matconvnet.interop.mat import server73\n"
        "from matconvnet.interop.mat.reader73 import read73\n"
        f"path = {str(tmp_path / 'a.mat')!r}\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", start + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_the_worker_ends_with_its_process_and_leaves_no_zombie(tmp_path):
    code = """
read73(path, 1 << 20)
server73.server.end()
try: os.waitpid(-1, os.WNOHANG)
except ChildProcessError: print("none")
read73(path, 1 << 20)
print(server73.server.process.pid)
"""
    none, pid = run(tmp_path, code)
    assert none == "none"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_the_worker_starts_in_a_folder_that_is_gone(tmp_path):
    code = """
import tempfile
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
print(read73(path, 1 << 20).v)
"""
    assert run(tmp_path, code) == ["1.0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_of_the_process_has_a_worker_of_its_own(tmp_path):
    code = """
read73(path, 1 << 20)
theirs = server73.server.process.pid
server73.server.lock.acquire()  # as another thread may, just then
child = os.fork()
if child: server73.server.lock.release()
found = read73(path, 1 << 20).v
is_own = (server73.server.process.pid != theirs) == (child == 0)
if not child:
    server73.server.end()
    os._exit(0 if found == 1 and is_own else 1)
print(found, is_own, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(tmp_path, code) == ["1.0", "True", "0"]


def test_the_worker_loads_no_torch():
    code = "import sys, matconvnet.interop.mat.worker73 as w; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_worker_that_dies_ends_one_reading_only(tmp_path, monkeypatch):
    path = made(tmp_path / "a.mat", lambda file: zeros(file, "v", (1 << 25,), (1 << 20,)))
    allow = Answer.allow

    def kill(answer, seconds):
        allow(answer, seconds)
        if answer.seconds != reader73.SECONDS:
            os.killpg(answer.process.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Answer, "allow", kill)
        patch.setattr(reader73, "_seconds", lambda count: 61 if count > 1 << 24 else 60)
        with pytest.raises(MatFileError, match=r"did not survive: it died with code -9"):
            read73(path, BUDGET)
    assert read73(path, BUDGET).v.shape == (1 << 25, 1)


def test_an_idle_worker_that_dies_is_replaced(tmp_path):
    write73(tmp_path / "a.mat", {"v": 1.0})
    assert read73(tmp_path / "a.mat", BUDGET).v == 1
    first = server.process
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert read73(tmp_path / "a.mat", BUDGET).v == 1
    assert server.process.pid != first.pid


def test_what_takes_too_long_is_stopped(tmp_path, monkeypatch):
    path = made(tmp_path / "a.mat", lambda file: zeros(file, "v", (1 << 31,), (1 << 20,)))
    monkeypatch.setattr(reader73, "SECONDS", 0.5)
    monkeypatch.setattr(reader73, "BYTES_PER_SECOND", 1e12)
    monkeypatch.setattr(server73, "PATIENCE", 60)
    start = time.perf_counter()
    with pytest.raises(MatFileError, match=r"it took longer than 0\.5 seconds and was stopped"):
        read73(path, 1 << 32)
    assert time.perf_counter() - start < 10
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_worker_that_does_not_even_stop_is_killed(tmp_path, monkeypatch):
    write73(tmp_path / "a.mat", {"v": 1.0})
    assert read73(tmp_path / "a.mat", BUDGET).v == 1
    monkeypatch.setattr(reader73, "SECONDS", 0.2)
    monkeypatch.setattr(server73, "PATIENCE", 0.2)
    os.kill(server.process.pid, signal.SIGSTOP)
    with pytest.raises(MatFileError, match=r"it took longer than 0\.2 seconds and was stopped"):
        read73(tmp_path / "a.mat", BUDGET)


def frame(kind, content):
    """A frame of the worker, whose content is bytes or becomes JSON."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return FRAME.pack(kind, len(data)) + data


def tree(node, fields=("v",)):
    node = {"is": "struct", "shape": [1, 1], "fields": fields, "columns": [[node]]}
    return frame(b"T", {"bytes": 0, "tree": node})


STRUCTS = {"is": "struct", "shape": [10_000, 1_000_000], "fields": [], "columns": []}
BLOCK = {"is": "array", "class": "double", "type": "f8", "complex": False, "block": [1, 1]}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (FRAME.pack(b"T", 1 << 62), "it sent 4611686018427387904 bytes of kind b'T'"),
        (frame(b"?", b""), r"it sent 0 bytes of kind b'\?'"),
        (frame(b"T", b"nope"), "it sent what makes no sense, JSONDecodeError"),
        (frame(b"T", {}), r"it sent what makes no sense, KeyError\('bytes'\)"),
        (tree(STRUCTS), r"ValueError\('values beyond the budget'\)"),
        (tree({**BLOCK, "shape": [1 << 40, 1], "offset": None}), "values beyond the budget"),
        (tree({**BLOCK, "shape": [1, 1], "type": "O", "offset": None}), r"ValueError\('O'\)"),
        (tree({**BLOCK, "shape": [-1, 1], "offset": None}), r"ValueError\(\(-1, 1\)\)"),
        (tree({**BLOCK, "shape": [1, 1], "offset": None}) + frame(b"D", b"123"), "another size"),
        (tree({"is": "cell", "shape": [2, 1], "items": []}), "0 elements of shape"),
        (tree({"is": "thing"}), r"ValueError\('thing'\)"),
        (tree(STRUCTS, fields=("a", "b")), "makes no sense"),
        (tree({"is": "cell", "shape": [0, 0], "items": []}), "it died with code 0"),
    ],
)
def test_the_worker_itself_is_not_trusted(tmp_path, monkeypatch, answer, message):
    write73(tmp_path / "a.mat", {"v": 1.0})
    (tmp_path / "fake.py").write_text(f"import os\nos.read(0, 4)\nos.write(1, {answer!r})\n")
    monkeypatch.setattr(server73, "ARGUMENTS", ["-P", str(tmp_path / "fake.py")])
    server.end()
    with pytest.raises(MatFileError, match=f"what its reader did not survive: .*{message}"):
        read73(tmp_path / "a.mat", BUDGET)
    assert server.process is None


def test_data_beyond_the_end_of_the_file_are_missed(tmp_path, monkeypatch):
    write73(tmp_path / "a.mat", {"v": 1.0})
    answer = tree({**BLOCK, "shape": [1, 1], "offset": (tmp_path / "a.mat").stat().st_size - 7})
    (tmp_path / "fake.py").write_text(f"import os\nos.read(0, 4)\nos.write(1, {answer!r})\n")
    monkeypatch.setattr(server73, "ARGUMENTS", ["-P", str(tmp_path / "fake.py")])
    server.end()
    with pytest.raises(MatFileError, match=r"at byte \d+: the end; wanted 8 bytes"):
        read73(tmp_path / "a.mat", BUDGET)


def test_each_value_and_each_block_is_given_its_time(tmp_path, monkeypatch):
    path = made(tmp_path / "a.mat", lambda file: zeros(file, "v", (1 << 23,), (1 << 20,)))
    times = []
    monkeypatch.setattr(worker73, "pulse", times.append)
    worker73.read_file({"path": str(path), "budget": BUDGET}, io.BytesIO())
    assert times == [0, 1 << 22, 1 << 22]


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such bounds")
def test_the_worker_has_bounds(tmp_path):
    code = f"""
from matconvnet.interop.mat import worker73
from matconvnet.interop.mat.worker73 import limit, pulse
limit(1 << 20)
pulse(5_000_000)
try: bytearray(1 << 29)
except MemoryError: print("memory")
try: open({str(tmp_path / "x")!r}, "wb", buffering=0).write(b"x")
except OSError: print("files")
import resource
print(resource.getrlimit(resource.RLIMIT_CPU)[0], flush=True)
worker73.SECONDS = 0.1
pulse(0)
while True: pass
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["memory", "files", "4"]
    assert done.returncode == -signal.SIGXCPU
