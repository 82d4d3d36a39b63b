"""Who may import whom: parsed from the files, so that no edge can hide in a function."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import matconvnet

PACKAGE = Path(matconvnet.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

LEVELS = (
    ("_version", "errors", "files", "window", "layout", "values"),
    ("layer", "images", "parallel"),
    ("data", "blocks", "graph"),
    ("geometry", "recompute"),
    ("executor",),
    ("nets",),
    ("interop", "explore", "fast"),
    ("train",),
    ("zoo",),
    ("compat",),
    ("cli",),
    ("__main__",),
)
"""Parts of the package, from the bottom up: a part imports from itself and from lower levels."""

LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}

ONLY = {
    "": {"_version"},
    "parallel": {"errors", "layout"},
    "data": {"errors", "files", "images", "layout", "values"},
    "__main__": {"cli"},
}
"""Parts that import less than their level allows; "" is the package itself."""

NEVER = {("executor", "blocks"), ("geometry", "blocks")}
"""Edges that the levels would allow: what runs a graph knows no block."""

USERS = {
    "data": {"interop", "train", "zoo", "compat", "cli"},
    "parallel": {"nets", "train", "zoo", "compat", "cli"},
}
"""The only parts that import these."""


def part_of(path: Path) -> str:
    """The part a file of the package belongs to: its folder, or its own name."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported_parts(source: str, path: Path) -> set[str]:
    """The parts of the package that a file imports, anywhere in it."""
    parts = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import in line {node.lineno}"
            # `from matconvnet import executor` names a part; deeper paths begin with it.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, *rest = name.split(".")
            if package == "matconvnet":
                parts.add(rest[0] if rest else "")
    return parts


def wrong_edges(source: str, path: Path) -> list[str]:
    """The imports of a file that the house forbids."""
    part = part_of(path)
    return [
        f"{part or 'matconvnet'} imports {other or 'matconvnet'}"
        for other in sorted(imported_parts(source, path))
        if other != part and not is_allowed(part, other)
    ]


def is_allowed(part: str, other: str) -> bool:
    """True, if the house allows an import of `other` in `part`."""
    if part in ONLY:
        return other in ONLY[part]
    if (part, other) in NEVER or other not in LEVEL:
        return False
    if part not in USERS.get(other, {part}):
        return False
    return LEVEL[other] < LEVEL[part]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path):
    assert wrong_edges(path.read_text(), path) == []


def test_every_part_has_a_level():
    assert {part_of(path) for path in MODULES} - {""} <= LEVEL.keys()


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("graph.py", "from matconvnet.blocks.pool import pool"),
        ("executor.py", "import matconvnet.blocks"),
        ("executor.py", "def f():\n    from matconvnet import nets"),
        ("blocks/pool.py", "from matconvnet.graph import Graph"),
        ("data/imdb.py", "from matconvnet.layer import Layer"),
        ("nets/simplenn.py", "from matconvnet.data.imdb import Imdb"),
        ("zoo/lenet.py", "from matconvnet.compat.vl import vl_nnconv"),
        ("compat/vl.py", "from matconvnet import conv"),
        ("__init__.py", "import matconvnet.blocks.conv"),
    ],
)
def test_forbidden_imports_are_found(file, source):
    assert wrong_edges(source, PACKAGE / file)


def modules_after(*argv: str) -> set[str]:
    """The modules that a Python process has loaded after running `argv`."""
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('\\nmodules', *sys.modules))\n"
        f"sys.argv = {list(argv)!r}\n"
        "if argv := sys.argv[1:2]: runpy.run_module(sys.argv[0], run_name='__main__')\n"
        "else: exec(sys.argv[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "command",
    [
        "",
        "train",
        "evaluate",
        "predict",
        "show",
        "runs",
        "profile",
        "data",
        "convert",
        "parity",
        "check",
    ],
)
def test_help_loads_no_torch(command):
    loaded = modules_after("matconvnet", *command.split(), "--help")
    assert "matconvnet.cli.app" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "matplotlib", "PIL"})


def test_the_package_alone_loads_no_torch():
    loaded = modules_after("import matconvnet")
    assert "matconvnet" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "matplotlib", "typer", "rich"})


def test_a_block_loads_torch_but_neither_plots_nor_the_command_line():
    loaded = modules_after("import matconvnet; matconvnet.conv")
    assert "torch" in loaded
    assert loaded.isdisjoint({"matplotlib", "typer", "rich", "PIL"})
