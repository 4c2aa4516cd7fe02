"""Load the networks and back ends of finished runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from siamese.config.backend import BackendConfig
from siamese.config.schema import TrainConfig
from siamese.data.dataset import PairDataset
from siamese.errors import DataError
from siamese.evaluation.calibration import Calibration
from siamese.evaluation.decision import Decision
from siamese.files import replacing
from siamese.models.backends import BACKENDS, CohortHead, WeightedL1Head
from siamese.models.build import network_of
from siamese.models.siamese import SiameseNetwork
from siamese.runs.finished import FinishedRun
from siamese.runs.records import Result
from siamese.scoring.device import pick_device
from siamese.scoring.fit import fit_backend
from siamese.scoring.precision import recorded_arithmetic

UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError
)  # fmt: skip
"""What reading a checkpoint raises that is none, is cut short, or holds code."""


def load_network(source: Path | dict[str, Any], config: TrainConfig, dft: bool = False) -> SiameseNetwork:
    """The network of a run with the weights of a checkpoint, on the CPU, in evaluation mode.

    Where the checkpoint has an average of the weights, that is it.

    Args:
        source: a checkpoint file, or what was read from one.
        config: of the run.
        dft: compute costly convolutions through spectra.

    Raises:
        DataError: the file is missing, is no checkpoint, holds more than plain data, or has other weights than
            the configuration describes.
    """
    try:
        checkpoint = source if isinstance(source, dict) else torch.load(source, map_location="cpu", weights_only=True)
        state = checkpoint["state_dict"]
    except FileNotFoundError:
        raise DataError(f"{source}: no such checkpoint; name the folder of a run that kept its weights") from None
    except UNREADABLE as error:
        raise DataError(f"{source}: is no checkpoint that can be loaded safely ({first_line(error)})") from None
    prefix = "average.module." if "average.n_averaged" in state else "network."
    weights = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    with torch.device("meta"):  # nothing is allocated or drawn: the checkpoint's tensors become the parameters
        network = network_of(config, dft, pretrained=False)
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DataError(f"{source}: its weights do not fit the run's config.yaml ({first_line(error)})") from None
    return network.eval()


def save_backend(head: nn.Module, file: Path) -> None:
    """Write a fitted head (`siamese.models.backends`) all or nothing; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        torch.save(head.state_dict(), temporary)


def load_backend(file: Path, config: BackendConfig, embedding_dim: int) -> nn.Module:
    """The head that `save_backend` wrote.

    Raises:
        DataError: the file is missing, damaged, or of another kind or size.
    """
    name, bare = config.name, BACKENDS[config.name](embedding_dim)
    head: nn.Module = bare
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        if config.cohort:
            assert not isinstance(bare, WeightedL1Head)
            head = CohortHead(bare, config.cohort, size=len(state["key"]))
        head.load_state_dict(state)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; give backend={name} to eval.py, which fits it anew") from None
    except UNREADABLE as error:
        raise DataError(f"{file}: is no fitted backend={name} ({first_line(error)}); give it to eval.py") from None
    return head


def first_line(error: BaseException) -> str:
    """The first sentence of an error's message, at most 300 characters."""
    return " ".join(str(error).split(". ")[0].split())[:300] or type(error).__name__


def load_scorer(run: FinishedRun, refit: bool = False, data: PairDataset | None = None) -> SiameseNetwork:
    """Load the best network of a run with the head that scores.

    Args:
        run: the run and the configuration to score it with.
        refit: fit the back end to the training images of ``data`` instead of loading the one that the run saved.
        data: data set of the run; needed to refit.

    Raises:
        DataError: a file of the run cannot be used.
    """
    arithmetic, backend = recorded_arithmetic(run.result), run.config.backend
    network = load_network(run.folder.best, run.config, arithmetic.dft)
    if backend.name == "network":
        return network
    if refit:
        assert data is not None
        network.head = fit_backend(run.config, network, data, pick_device(run.config), arithmetic.bf16)
    else:
        network.head = load_backend(run.folder.backend, backend, network.encoder.embedding_dim)
    return network


def recorded_decision(result: Result) -> Decision:
    """The calibration and the threshold that were chosen when the run was trained."""
    slope, intercept, threshold = result.calibration_slope, result.calibration_intercept, result.threshold
    assert slope is not None
    assert intercept is not None
    assert threshold is not None
    return Decision(Calibration(slope, intercept), threshold)
