"""A network as a torch.export program: its forward pass in test mode, in operations of PyTorch."""

import io
import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from matconvnet import executor
from matconvnet.files import write_atomic
from matconvnet.interop.torch_module import Layout
from matconvnet.layer import Context
from matconvnet.layout import from_pixels, hwcn, nchw, pixels
from matconvnet.nets.example import input_sizes
from matconvnet.nets.network import Network
from matconvnet.nets.own import ModuleLayer


def export(net: Network, example: Tensor, *, layout: Layout = "nchw") -> ExportedProgram:
    """Record how a network predicts, as a program for any number of images.

        program = export(net, images)
        program.module()(images)
        torch.export.save(program, "net.pt2")

    The program holds the parameters, and calls nothing but PyTorch's aten operations: it runs
    without this package.

    Args:
        net: the network.
        example: images, N x C x H x W; the program takes any N, but only this C, H and W.
        layout: of the maps that the program takes and returns: "nchw", or "hwcn", H x W x C x N.

    Returns: the program. It returns the variable `net.prediction`.
    Raises: ValueError, if `example` has not four axes, or the prediction reads other inputs too.
    """
    if example.dim() != 4:
        raise ValueError(f"example has shape {tuple(example.shape)}; wanted four axes, {layout}")
    axis = layout.index("n")
    if example.shape[axis] < 2:  # sizes 0 and 1 are taken for constants
        example = torch.cat([example] * 2, axis)
    with torch.no_grad():
        return torch.export.export(
            Forward(net, layout), (example,), dynamic_shapes=({axis: Dim("images")},)
        )


def save_program(
    net: Network, path: str | os.PathLike[str], *, input_size: Sequence[int] | None = None
) -> None:
    """Write what `export` records to a file, atomically; `torch.export.load` reads it.

    Args:
        net: the network.
        path: the file, by custom `*.pt2`.
        input_size: (H, W, C) of the images; None: what the meta data tell, or the smallest that
            the network accepts.

    Raises: as `export`; ValueError, if no size is found; OSError.
    """
    size = input_sizes(net)[net.input][:3] if input_size is None else input_size
    like = next((v for v in net.values().values() if v is not None), torch.empty(0))
    program = export(net, nchw(like.new_zeros((*size, 2))))
    content = io.BytesIO()
    torch.export.save(program, content)
    write_atomic(path, lambda temporary: temporary.write_bytes(content.getbuffer()))


class Forward(nn.Module):
    """The forward pass of a network, in plain sight of whoever traces it.

    Its buffers are contiguous, as files of programs want them: filters lie there as rows of
    channels, K*H*W x C, the memory of a channels-last bank.
    """

    def __init__(self, net: Network, layout: Layout):
        super().__init__()
        self.net, self.layout = net, layout
        for i, value in enumerate(net.values().values()):
            if value is not None:
                value = pixels(value) if value.dim() == 4 else value
                self.register_buffer(f"p{i}", value.contiguous())
        layers = (node.layer for node in net.graph.nodes)
        self.own = nn.ModuleList(x.module for x in layers if isinstance(x, ModuleLayer))

    def _values(self) -> dict[str, Tensor | None]:
        values = self.net.values()
        for i, (name, value) in enumerate(values.items()):
            if value is not None:
                rows = getattr(self, f"p{i}")
                size = value.shape
                values[name] = (
                    from_pixels(rows, size[0], size[1], size[3]) if len(size) == 4 else rows
                )
        return values

    def forward(self, x: Tensor) -> Tensor:
        """The prediction for `x`."""
        net, is_torch = self.net, self.layout == "nchw"
        record = executor.forward(
            net.graph, self._values(), {net.input: hwcn(x) if is_torch else x},
            ctx=Context(False), conserve_memory=True, precious=(net.prediction,),
        )  # fmt: skip
        if net.prediction not in record.values:
            raise ValueError(
                f"{net.prediction!r} does not follow from {net.input!r} alone; "
                f"wanted a network of one input, it has {net.graph.inputs}"
            )
        y = record.values[net.prediction]
        return nchw(y) if is_torch and y.dim() == 4 else y
