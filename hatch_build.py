"""Compile the CPU kernels of `matconvnet/fast/kernels` while the package is built or installed.

    python hatch_build.py        compile them where they stand, as after a change of their source

No compiler is needed to install: without one, or if it fails, the package has no kernels and
computes with torch alone. One library is made for each level of the instruction set, and the one
that fits is chosen when it is loaded. `CC` names another compiler than `cc`.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program
    BuildHookInterface = object

FOLDER = Path(__file__).parent / "matconvnet" / "fast" / "kernels"
FLAGS = "-O3 -std=gnu11 -fPIC -fvisibility=hidden -fopenmp -fno-math-errno -Wall"
WIDE = "-mprefer-vector-width=512"
LEVELS = {"x86_64": {"avx512_bf16": f"-march=cooperlake {WIDE}",
                     "avx512": f"-march=skylake-avx512 {WIDE}",
                     "avx2": "-march=haswell", "base": ""}}  # fmt: skip


def stamp_of(folder: Path) -> int:
    """A number that changes with the source, as `matconvnet.fast.native` computes it, too."""
    return zlib.crc32(b"".join(p.read_bytes() for p in sorted(folder.glob("*.[ch]"))))


def compile_kernels() -> list[Path]:
    """Compile every level; returns the libraries. Says why, if there are none."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not sys.platform.startswith("linux") or shutil.which(compiler[0]) is None:
        print(f"no kernels: compiler {compiler[0]!r} not found, or no Linux", file=sys.stderr)
        return []
    levels = LEVELS.get(platform.machine(), {"base": ""})
    with TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        build = Build(compiler, Path(folder), pool)
        return [
            library for level, flags in levels.items() if (library := build.level(level, flags))
        ]


class Build(NamedTuple):
    """A compiler at work in a folder, on several files at a time."""

    compiler: list[str]
    folder: Path
    pool: ThreadPoolExecutor

    def level(self, level: str, flags: str) -> Path | None:
        """Compile the library of a level, every file for float32 and for bfloat16 maps."""
        library = FOLDER / f"kernels-{level}.so"
        flags = f"{FLAGS} {flags} -DSTAMP={stamp_of(FOLDER)}"
        jobs = [
            ([*flags.split(), *half, "-c", str(source)], f"{source.stem}{''.join(half)}.{level}.o")
            for source in sorted(FOLDER.glob("*.c"))
            for half in ([], ["-DHALF"])
        ]
        objects = [str(self.folder / name) for _, name in jobs]
        done = list(self.pool.map(lambda job: self._run(*job), jobs))
        fresh = f"{library.stem}.fresh"
        done.append(self._run([*FLAGS.split(), "-shared", *objects, "-lm"], fresh))
        if wrong := [text for text in done if text]:
            print(f"no kernels for {level}: {wrong[0][-2000:]}", file=sys.stderr)
            return None
        beside = library.with_suffix(f".{os.getpid()}")  # replaced at once: others may load it
        shutil.move(self.folder / fresh, beside)
        return beside.replace(library)

    def _run(self, arguments: list[str], output: str) -> str:
        """Make a file of the folder; returns what went wrong."""
        command = [*self.compiler, *arguments, "-o", str(self.folder / output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stderr or "failed" if done.returncode else ""


class CustomBuildHook(BuildHookInterface):
    """Hatchling's door to `compile_kernels`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict) -> None:
        """Compile, and make the wheel one of this platform if that succeeds."""
        if self.target_name == "wheel" and compile_kernels():
            build_data.update(pure_python=False, tag=f"py3-none-{_platform_tag()}")
            build_data["artifacts"].append("matconvnet/fast/kernels/*.so")


def _platform_tag() -> str:
    import sysconfig

    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    for path in compile_kernels():
        print(path)
