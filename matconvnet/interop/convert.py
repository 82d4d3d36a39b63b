"""`convert`: a network from a file of one format to that of another, proven before it is there."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from matconvnet.errors import FormatError
from matconvnet.interop import formats
from matconvnet.interop.mapping import (
    Mapped,
    map_layers,
    missing_fields,
    missing_layers,
    names_in_deployed,
    operators,
    types_in,
)
from matconvnet.interop.proof import (
    Proof,
    prove_deployed,
    prove_equal,
    prove_onnx,
    prove_program,
    random_inputs,
)
from matconvnet.nets import deploy as deployment
from matconvnet.nets.network import Network

PROOFS = {".onnx": prove_onnx, ".pt2": prove_program}
"""Files that other programs run; the others are read back."""
CAFFE_LAYER = re.compile(r".+ \((?P<type>\w+)\) -> (?P<made>.*)")  # as load_caffe logs it
Path_ = str | os.PathLike[str]


class Conversion(NamedTuple):
    """What `convert` did.

    mapping: layer by layer. left_out: what the target does not hold, in words. proofs: what was
    compared, first the deployed network with the original, if it was deployed, then the file.
    """

    mapping: tuple[Mapped, ...]
    left_out: tuple[str, ...]
    proofs: tuple[Proof, ...]

    @property
    def deviation(self) -> float:
        """The largest difference that was found, over the largest value of its variable."""
        return max(proof.deviation for proof in self.proofs)


def convert(
    source: Network | Path_,
    target: Path_,
    *,
    deploy: bool = False,
    softmax: bool | None = None,
    input_size: Sequence[int] | None = None,
    load_options: Mapping[str, Any] | None = None,
    save_options: Mapping[str, Any] | None = None,
) -> Conversion:
    """Write a network to a file of another format, and prove that the file holds it.

    The file is read back, or run by onnxruntime, and compared with the network on random input in
    test mode: `.mat` and `.safetensors` must be equal, bit for bit; the others, and what is
    deployed, to 1e-5 of the largest value. Only then it takes its place; until then an older file
    stays.
    Layers that cannot run, of types that nobody registered, are kept without being evaluated.

    Args:
        source: a file that `load` reads, or a network.
        target: a file; its suffix tells the format: .mat, .safetensors, .onnx or .pt2.
        deploy: leave out losses and dropout, and merge batch normalisation; see `deploy`.
        softmax: whether a deployed network ends in a softmax; None: if its loss has one in it.
        input_size: (H, W, C) of the input, where the source leaves it free; it becomes fixed in an
            ONNX file.
        load_options, save_options: of `load` and `save`.

    Returns: what became of each layer, what was left out, and how far apart the two are.

    Raises: ValueError, naming the first variable that departs; whatever `load`, `save` and `deploy`
        raise.
    """
    if softmax is not None and not deploy:
        raise ValueError("softmax is given without deploy; wanted both")
    target, kinds = Path(target), {}
    write = formats.writer(target)
    if isinstance(source, Network):
        net = source
    else:
        options = {**_sizes(Path(source), input_size), **(load_options or {})}
        net = _load(Path(source), options, kinds)
    ready = net
    if deploy:
        ready = deployment.deploy(net, softmax=softmax)  # pyright: ignore[reportArgumentType]
    inputs = random_inputs(ready, input_size)
    proofs = [prove_deployed(net, ready, inputs)] if deploy else []
    with _staged(target) as file:
        write(ready, file, **{**_sizes(target, input_size), **(save_options or {})})
        prove = PROOFS.get(target.suffix.lower())
        read: Any = None if prove else formats.load(file)
        try:
            proof = prove(ready, file, inputs) if prove else prove_equal(ready, read, inputs)
        except FormatError as error:
            text = str(error).removeprefix(f"{file} ")
            raise FormatError(f"{target} is not written, for it would be wrong: {text}") from error
        made = types_in(ready, read) if read else operators(ready, file)
    names = names_in_deployed(net) if deploy else {}
    mapping = tuple(map_layers(net, ready, names, made, kinds))
    left_out = (*missing_layers(net, mapping), *missing_fields(net, read, names))
    return Conversion(mapping, left_out, (*proofs, proof))


def _sizes(path: Path, size: Sequence[int] | None) -> dict[str, Any]:
    """The option of `load` or `save` that tells the size of the input, if it is known."""
    if size is None:
        return {}
    options = {".onnx": {"input_sizes": (*size, None)}, ".pt2": {"input_size": size}}
    return options.get(path.suffix.lower(), {})


def _load(path: Path, options: dict[str, Any], kinds: dict[str, str]) -> Network:
    """The network in a file; `kinds` takes the types of its layers, where they have others."""
    lines: list[str] = []
    if path.suffix.lower() == ".prototxt":
        options.setdefault("log", lines.append)
    net = formats.load(path, **options)
    if not isinstance(net, Network):
        raise FormatError(f"{path} holds an image database; wanted a network")
    for line in filter(None, map(CAFFE_LAYER.fullmatch, lines)):
        for name in re.findall(r"(\w+) \(\w+\)", line["made"]):
            kinds[name] = line["type"]
    return net


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A path of the same name in a new folder; what is written there goes to `target` at the end.

    If the block ends with an error, nothing does.
    """
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; wanted a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent} is no folder; wanted one to write {target} to")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None
    try:
        yield folder / target.name
        for file in sorted(folder.iterdir(), reverse=True):  # weights before what refers to them
            os.replace(file, target.with_name(file.name))
    finally:
        shutil.rmtree(folder)
