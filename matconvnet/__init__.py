"""MatConvNet for Python: convolutional networks made of blocks whose backward pass you can see.

`import matconvnet as mcn` is the one import users need. The names are listed in `__init__.pyi`, and
each is imported when it is first used, so that the command line answers without loading torch.
"""

import lazy_loader

from matconvnet._version import __version__ as __version__

__getattr__, __dir__, _exported = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted(  # pyright: ignore[reportUnsupportedDunderAll]
    [*_exported, "__version__"], key=str.casefold
)
