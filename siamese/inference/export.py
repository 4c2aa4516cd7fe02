"""Export a finished run for other programs, as ONNX or in the format of `torch.export`.

There are two graphs, so that each photo is embedded once: the encoder computes embeddings from pixels, and the scorer
computes scores and calibrated probabilities from pairs of embeddings. ``preprocessing.json`` describes how a photo
becomes pixels, and what the graphs do with them.

Shapes: N photos or pairs, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siamese.data.dataset import to_float
from siamese.errors import ConfigError, MissingPackageError, TrainingError
from siamese.files import replacing, write_bytes_atomically, write_text_atomically
from siamese.inference.preprocessing import describe_preprocessing
from siamese.inference.verifier import Verifier

log = logging.getLogger(__name__)

LARGEST_BATCH = 2**20
"""Upper limit of the batch size of a graph."""

FORMATS = ("onnx", "pt2")

Graph = Callable[..., list[NDArray[Any]]]
"""Arrays -> list of arrays."""


class ExportedEncoder(nn.Module):
    """The encoder, with pixels as input and the views of the run (``flip_average``, ``crop_average``)."""

    def __init__(self, verifier: Verifier) -> None:
        super().__init__()
        self.network = verifier.network

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed pixels, uint8 [N, C, H, W] -> float32 [N, D]."""
        return self.network.embed(to_float(pixels)).float()


class ExportedScorer(nn.Module):
    """The head or back end, followed by the calibration."""

    def __init__(self, verifier: Verifier) -> None:
        super().__init__()
        self.head = verifier.network.head
        self.slope, self.intercept = verifier.decision.calibration

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Score embeddings, float32 [N, D] twice -> scores and probabilities of "same person", float32 [N] each."""
        score = self.head(first, second)
        return score.float(), torch.sigmoid(self.slope * score + self.intercept).float()


def export(run: Path, folder: Path, kind: str = "onnx") -> dict[str, float]:
    """Write the encoder, the scorer and ``preprocessing.json`` of a run into a folder.

    The graphs take any number of photos or pairs. Each file is loaded again and compared with PyTorch on batches of
    three sizes, none of which is the traced one.

    Args:
        run: folder of a finished run.
        folder: output folder, created if missing.
        kind: one of `FORMATS`.

    Returns:
        name of the graph -> largest difference from PyTorch, relative to the largest output (at least 1).

    Raises:
        UserError: the run cannot be used, or a package that the format needs is missing.
        TrainingError: a graph differs from PyTorch by more than rounding can cause (`Encoder.rounding`).
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind}: give one of {', '.join(FORMATS)}")
    if kind == "onnx":
        try:
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise MissingPackageError("--format onnx", str(error.name), "export") from None
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; give a folder")
    verifier = Verifier.load(run, direct=True)
    verifier.network.to("cpu")
    folder.mkdir(parents=True, exist_ok=True)
    options = verifier.options
    shape = (options.channels, options.image_size, options.image_size)
    numbers = torch.Generator().manual_seed(0)

    def pixels(n: int) -> tuple[Tensor, ...]:
        return (torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=numbers),)

    encoder = ExportedEncoder(verifier).eval()

    def embeddings(n: int) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(encoder(*pixels(2 * n)).chunk(2))

    differences = {}
    for name, module, inputs, outputs in (
        ("encoder", encoder, pixels, ["embedding"]),
        ("scorer", ExportedScorer(verifier).eval(), embeddings, ["score", "probability"]),
    ):
        file = folder / f"{name}.{kind}"
        _write(file, module, inputs(2), outputs)
        graph = load_graph(file)
        differences[name] = max(difference_from_pytorch(graph, module, inputs(n)) for n in (1, 3, 8))
        if not differences[name] <= verifier.network.encoder.rounding:
            file.unlink()
            raise TrainingError(
                f"{file}: differs from PyTorch by {differences[name]:.1e}, more than rounding can cause"
            )
        log.info("%s: differs from PyTorch by at most %.1e", file, differences[name])
    facts = describe_preprocessing(verifier)
    write_text_atomically(folder / "preprocessing.json", json.dumps(facts, indent=2) + "\n")
    return differences


def _write(file: Path, module: nn.Module, inputs: tuple[Tensor, ...], outputs: list[str]) -> None:
    n = torch.export.Dim("n", min=1, max=LARGEST_BATCH)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the tracer; the file is compared with PyTorch afterwards
        program = torch.export.export(module, inputs, dynamic_shapes=tuple({0: n} for _ in inputs))
        if file.suffix == ".pt2":
            content = io.BytesIO()
            try:
                torch.export.save(program, content)
            except Exception as error:  # its class is private; torch 2.6 cannot save a graph for any batch size
                raise ConfigError(
                    f"--format pt2: torch {torch.__version__} cannot save this network ({type(error).__name__}); "
                    "install a newer torch, or give --format onnx"
                ) from error
            write_bytes_atomically(file, content.getvalue())
        else:
            names = ["pixels"] if len(inputs) == 1 else ["first", "second"]
            with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
                graph = torch.onnx.export(
                    program, dynamo=True, input_names=names, output_names=outputs, external_data=False
                )
            assert graph is not None
            with replacing(file) as temporary:
                graph.save(temporary, external_data=False)


def difference_from_pytorch(graph: Graph, module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Run a graph and its module on the same inputs; returns the largest difference, as `export` does."""
    with torch.no_grad():
        expected = module(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = graph(*(tensor.numpy() for tensor in inputs))
    return max(
        float(np.abs(one - other.numpy()).max() / max(1.0, float(other.abs().max())))
        for one, other in zip(found, expected, strict=True)
    )


def load_graph(file: Path) -> Graph:
    """Load an exported file as a function of arrays, which runs on the CPU."""
    if file.suffix == ".pt2":
        module = torch.export.load(file).module()

        def call(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
            with torch.no_grad():
                found = module(*(torch.from_numpy(array) for array in arrays))
            return [tensor.numpy() for tensor in (found if isinstance(found, tuple | list) else (found,))]

        return call
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = session.run(None, dict(zip(names, arrays, strict=True)))
        return outputs

    return run
