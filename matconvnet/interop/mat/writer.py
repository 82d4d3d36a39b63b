"""Which version of the format to write."""

import os
from collections.abc import Mapping
from typing import Any, Literal

from matconvnet.files import write_atomic
from matconvnet.interop.mat.writer5 import TooLargeError, encode, write5

Version = Literal["6", "7", "7.3"]


def write_mat(
    path: str | os.PathLike[str], variables: Mapping[str, Any], *, version: Version | None = None
) -> None:
    """Write a `.mat` file that MATLAB, Octave and SciPy read; the file is replaced at once or not.

    Args:
        path: the file.
        variables: by name, in the forms that `matconvnet.values` lists.
        version: "6", "7" (compressed) or "7.3" (HDF5, wants h5py); by default "7", or "7.3" where
            a variable takes more than 2 GB.

    Raises: TypeError, ValueError, naming the place of a value that the file cannot hold; OSError.
    """
    if version not in ("6", "7", "7.3", None):
        raise ValueError(f"version is {version!r}; wanted '6', '7', '7.3' or None")
    if version != "7.3":
        try:
            elements = encode(variables)
        except TooLargeError:
            if version is not None:
                raise
        else:
            write_atomic(path, lambda file: write5(file, elements, compress=version != "6"))
            return
    from matconvnet.interop.mat.writer73 import write73

    write73(path, variables)
