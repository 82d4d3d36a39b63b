"""`load` and `save`: networks in files of every format that we know, told by their suffix."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from matconvnet.errors import FormatError
from matconvnet.nets.network import Network


class Format(NamedTuple):
    """A kind of file: its suffix, what it is, and how it is read and written, if it can be."""

    suffix: str
    title: str
    load: Callable[..., Any] | None
    save: Callable[..., None] | None


def _load_mat(path: Path, **options: Any) -> Any:
    from matconvnet.interop.mat.networks import load_mat

    return load_mat(path, **options)


def _save_mat(net: Network, path: Path, **options: Any) -> None:
    from matconvnet.interop.mat.networks import save_mat

    save_mat(net, path, **options)


def _load_safetensors(path: Path) -> Any:
    from matconvnet.interop.safetensors import load_network

    return load_network(path)


def _save_safetensors(net: Network, path: Path) -> None:
    from matconvnet.interop.safetensors import save_network

    save_network(net, path)


def _load_onnx(path: Path, **options: Any) -> Any:
    from matconvnet.interop.onnx import load_onnx

    return load_onnx(path, **options)


def _save_onnx(net: Network, path: Path, **options: Any) -> None:
    from matconvnet.interop.onnx import save_onnx

    save_onnx(net, path, **options)


def _load_caffe(path: Path, **options: Any) -> Any:
    from matconvnet.interop.caffe import load_caffe

    weights = path.with_suffix(".caffemodel")
    if weights.is_file():
        options.setdefault("caffemodel", weights)
    return load_caffe(path, **options)


def _save_program(net: Network, path: Path, **options: Any) -> None:
    from matconvnet.interop.torch_export import save_program

    save_program(net, path, **options)


FORMATS = {
    it.suffix: it
    for it in (
        Format(".mat", "MatConvNet", _load_mat, _save_mat),
        Format(".safetensors", "safetensors", _load_safetensors, _save_safetensors),
        Format(".onnx", "ONNX", _load_onnx, _save_onnx),
        Format(".prototxt", "Caffe", _load_caffe, None),
        Format(".pt2", "torch.export", None, _save_program),
    )
}
"""The formats by suffix."""


def load(path: str | PathLike[str], **options: Any) -> Any:
    """Read a network from a file.

    Args:
        path: a file of one of these kinds.

            .mat: MatConvNet: a SimpleNN or DagNN of any age, alone or in a checkpoint; or an
                image database.
            .safetensors: our own, see `save`.
            .onnx: ONNX.
            .prototxt: Caffe; its weights are in the .caffemodel file beside it, or in the one that
                the option `caffemodel` names.

            Any other suffix is read as .mat.
        **options: of `load_mat`, `load_onnx` or `load_caffe`.

    Returns: a SimpleNN or a DagNN, to be evaluated in either mode; a Struct for a database.
    Raises: FormatError (a ValueError), and for `.mat` MatFileError (a FormatError), if the file
        does not hold what it should; OSError.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower(), FORMATS[".mat"])
    if kind.load is None:
        raise FormatError(f"{path} is a program of {kind.title}, which cannot be read back")
    return kind.load(path, **options)


def save(net: Network, path: str | PathLike[str], **options: Any) -> None:
    """Write a network to a file, atomically.

    Args:
        net: the network.
        path: its suffix tells the format: .mat (what MatConvNet reads), .safetensors (all there is
            of a network, without code), .onnx (the network in test mode, for other programs), .pt2
            (the same as a program of torch.export).
        **options: of `save_mat`, `save_onnx` or `save_program`.

    Raises: FormatError, for another suffix; TypeError, ValueError, naming what the format cannot
        hold; OSError.
    """
    path = Path(path)
    writer(path)(net, path, **options)


def writer(path: Path) -> Callable[..., None]:
    """The function that writes files of this suffix; raises FormatError, if there is none."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None or kind.save is None:
        known = ", ".join(it.suffix for it in FORMATS.values() if it.save)
        raise FormatError(f"{path} has suffix {path.suffix!r}; wanted one of {known}")
    return kind.save
