"""Find and call the compiled library of functions on feature maps (``kernels.cpp``).

It is compiled when the package is installed on a machine with a C++ compiler. PyTorch's layers compute the same without
it, on a GPU, in double precision, and in a graph that is compiled or exported.

Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import logging
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

NAMES = (
    "moments", "pool", "sums", "gradient", "scale", "scale_sums", "scale_gradient", "stem", "stem_sums", "spread",
    "columns",
)  # fmt: skip

FUNCTIONS = [f"{name}_{dtype}" for name in NAMES for dtype in DTYPES.values()]
FUNCTIONS += ["taps_float32", "winograd_float32", "winograd_gradients_float32"]
"""The functions of the library."""


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Load the compiled library; None if it was not built or cannot be loaded."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        file = Path(__file__).with_name(f"_kernels{suffix}")
        if file.is_file():
            try:
                loaded = ctypes.CDLL(str(file))
                for name in FUNCTIONS:
                    getattr(loaded, name)
                return loaded
            except (OSError, AttributeError) as error:  # the second: built from an older version
                log.warning("%s cannot be used, PyTorch's layers are used instead; install again: %s", file, error)
    return None


def fits(x: Tensor) -> bool:
    """Whether the library computes a layer on these feature maps."""
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if traced or torch.compiler.is_compiling():  # other programs can only run a graph of PyTorch's own layers
        return False
    return x.device.type == "cpu" and x.dtype in DTYPES and x.dim() == 4 and x.numel() > 0 and library() is not None


def call(name: str, x_BCHW: Tensor, *arguments: Tensor | float | int | None, dtype: torch.dtype | None = None) -> None:
    """Call a function of the library for feature maps with the shape and, unless ``dtype`` is given, dtype of x."""
    function = getattr(library(), f"{name}_{DTYPES[dtype or x_BCHW.dtype]}")
    batch, channels, height, width = x_BCHW.shape
    shape = (ctypes.c_long * 4)(batch, height, width, channels)
    function(shape, *map(_c_argument, arguments), ctypes.c_int(torch.get_num_threads()))


def _c_argument(argument: Tensor | float | int | None) -> ctypes.c_void_p | ctypes.c_float | ctypes.c_long | None:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    return None if argument is None else ctypes.c_float(argument)


def channels_last(x: Tensor) -> Tensor:
    """Return x [B, C, H, W] with the channels of a pixel next to each other in memory."""
    return x.contiguous(memory_format=torch.channels_last)
