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
from pathlib import Path

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program
    BuildHookInterface = object

FOLDER = Path(__file__).parent / "matconvnet" / "fast" / "kernels"
FLAGS = "-O3 -std=gnu11 -fPIC -shared -fvisibility=hidden -fopenmp -fno-math-errno -Wall"
LEVELS = {"x86_64": {"avx512": "-march=skylake-avx512 -mprefer-vector-width=512",
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
    sources, made = sorted(map(str, FOLDER.glob("*.c"))), []
    stamp = f"-DSTAMP={stamp_of(FOLDER)}"
    for level, flags in LEVELS.get(platform.machine(), {"base": ""}).items():
        library = FOLDER / f"kernels-{level}.so"
        fresh = library.with_suffix(f".{os.getpid()}")
        command = [
            *compiler, *FLAGS.split(), *flags.split(), stamp, *sources, "-lm", "-o", str(fresh)
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"no kernels for {level}: {done.stderr[-2000:]}", file=sys.stderr)
            continue
        fresh.replace(library)
        made.append(library)
    return made


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
