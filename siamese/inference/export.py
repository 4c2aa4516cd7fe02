"""A finished run as files for other programs: ONNX, or what `torch.export` saves.

Two graphs, so that each photo is embedded once: the encoder, from pixels to embeddings, and the scorer, from two
embeddings to the score and the calibrated probability. How a photo becomes pixels stands beside them in
``preprocessing.json``.

Shapes: N photos or pairs, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siamese.data.dataset import to_float
from siamese.errors import ConfigError, TrainingError
from siamese.files import replacing, write_bytes_atomically, write_text_atomically
from siamese.inference.verifier import Verifier
from siamese.models import norm_pool

log = logging.getLogger(__name__)

AGREES = 1e-4
"""Most that an exported graph may differ from PyTorch: share of the largest number, or of a probability of 1."""

LARGEST_BATCH = 2**20

FORMATS = ("onnx", "pt2")


class ExportedEncoder(nn.Module):
    """Pixels, uint8 [N, C, H, W] -> embeddings, float32 [N, D]; mirror images and windows averaged as in the run."""

    def __init__(self, verifier: Verifier) -> None:
        super().__init__()
        self.network = verifier.network

    def forward(self, pixels: Tensor) -> Tensor:
        """As above."""
        return self.network.embed(to_float(pixels)).float()


class ExportedScorer(nn.Module):
    """Embeddings of both photos of each pair, float32 [N, D] -> scores and probabilities of "same", float32 [N]."""

    def __init__(self, verifier: Verifier) -> None:
        super().__init__()
        self.head = verifier.network.head
        self.slope, self.intercept = verifier.decision.calibration

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """As above."""
        score = self.head(first, second)
        return score.float(), torch.sigmoid(self.slope * score + self.intercept).float()


def export(run: Path, folder: Path, kind: str = "onnx") -> dict[str, float]:
    """Write ``encoder``, ``scorer`` and ``preprocessing.json`` of a run into a folder, which is made when missing.

    Every graph takes any number of photos or pairs. What was written is loaded again and compared with PyTorch on three
    batches, of sizes other than the one it was traced with.

    Args:
        run: the folder of a finished run.
        folder: where to.
        kind: one of `FORMATS`.

    Returns:
        by how much each graph differs from PyTorch, in the units of `AGREES`.

    Raises:
        UserError: the run cannot be used, or the packages that write the format are missing.
        TrainingError: a graph differs by more than `AGREES`.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind}: give one of {', '.join(FORMATS)}")
    if kind == "onnx":
        try:
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"--format onnx needs {error.name}; pip install 'siamese[export]'") from None
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder")
    verifier = Verifier.load(run, plain=True)
    verifier.network.to("cpu")
    folder.mkdir(parents=True, exist_ok=True)
    options, dimensions = verifier.options, verifier.network.encoder.embedding_dim
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
        differences[name] = max(_difference(file, module, inputs(n)) for n in (1, 3, 8))
        if not differences[name] <= AGREES:
            raise TrainingError(f"{file}: differs from PyTorch by {differences[name]:.1e}, more than {AGREES:.0e}")
        log.info("%s: differs from PyTorch by at most %.1e", file, differences[name])
    facts = {key: getattr(options, key) for key in ("image_size", "color", "crop", "interpolation")}
    facts |= {
        "threshold": verifier.decision.threshold,
        "embedding_dim": dimensions,
        "layout": "NCHW uint8, RGB or grey",
    }
    write_text_atomically(folder / "preprocessing.json", json.dumps(facts, indent=2) + "\n")
    return differences


def _write(file: Path, module: nn.Module, inputs: tuple[Tensor, ...], outputs: list[str]) -> None:
    n = torch.export.Dim("n", min=1, max=LARGEST_BATCH)
    with torch.no_grad(), plain_layers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what tracing says of our layers is checked below
        program = torch.export.export(module, inputs, dynamic_shapes=tuple({0: n} for _ in inputs))
        if file.suffix == ".pt2":
            content = io.BytesIO()
            try:
                torch.export.save(program, content)
            except Exception as error:  # of a private class; torch 2.6 cannot write a batch of any size
                raise ConfigError(
                    f"--format pt2: torch {torch.__version__} cannot save this network ({type(error).__name__}); "
                    "install a newer torch, or give --format onnx"
                ) from error
            write_bytes_atomically(file, content.getvalue())
        else:
            names = ["pixels"] if len(inputs) == 1 else ["first", "second"]
            with contextlib.redirect_stdout(io.StringIO()):  # it tells each step
                graph = torch.onnx.export(
                    program, dynamo=True, input_names=names, output_names=outputs, external_data=False
                )
            assert graph is not None
            with replacing(file) as temporary:
                graph.save(temporary, external_data=False)


def _difference(file: Path, module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    with torch.no_grad():
        expected = module(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = load_graph(file)(*(tensor.numpy() for tensor in inputs))
    return max(
        float(np.abs(one - other.numpy()).max() / max(1.0, float(other.abs().max())))
        for one, other in zip(found, expected, strict=True)
    )


def load_graph(file: Path) -> Any:
    """An exported file as a function of arrays that gives a list of arrays, on the CPU."""
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
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


@contextlib.contextmanager
def plain_layers() -> Iterator[None]:
    """Within, layers of our own that are compiled are torch's, which other programs know too; the same numbers."""
    fits = norm_pool._fits
    norm_pool._fits = lambda x: False
    try:
        yield
    finally:
        norm_pool._fits = fits
