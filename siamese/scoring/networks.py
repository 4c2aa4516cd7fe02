"""Load the networks and back ends of finished runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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
"""Errors of reading a file that is not a checkpoint, is incomplete, or contains code."""


class _NothingDrawn(TorchFunctionMode):
    """Context that leaves initial weights as they are. Drawing them on the device ``meta`` imports torch's compiler."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return args[0] if function in (Tensor.normal_, Tensor.uniform_) else function(*args, **(kwargs or {}))


def load_network(source: Path | dict[str, Any], config: TrainConfig, dft: bool = False) -> SiameseNetwork:
    """Load the network of a run from a checkpoint, on the CPU, in evaluation mode.

    If the checkpoint contains averaged weights (``ema_decay``), the network has these.

    Args:
        source: a checkpoint file, or its contents.
        config: configuration of the run.
        dft: compute large convolutions by Fourier transform.

    Raises:
        DataError: the file is missing or is not a checkpoint of plain data, or its weights do not fit the
            configuration.
    """
    try:
        checkpoint = source if isinstance(source, dict) else torch.load(source, map_location="cpu", weights_only=True)
        state = checkpoint["state_dict"]
    except FileNotFoundError:
        raise DataError(f"{source}: no such checkpoint; give the folder of a run that kept its weights") from None
    except UNREADABLE as error:
        raise DataError(f"{source}: is not a checkpoint that can be loaded safely ({first_sentence(error)})") from None
    prefix = "average.module." if "average.n_averaged" in state else "network."
    weights = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    with torch.device("meta"), _NothingDrawn():  # the tensors of the checkpoint become the parameters
        network = network_of(config, dft, pretrained=False)
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DataError(f"{source}: the weights do not fit the run's config.yaml ({first_sentence(error)})") from None
    return network.eval()


def initial_network(config: TrainConfig, start: FinishedRun | None, dft: bool = False) -> SiameseNetwork:
    """Build the network that training starts from, which averages no views.

    Its weights are those of the run ``start_from``, or of ``model.weights``, or random. A head is taken over if both
    runs train the same kind of head.

    Raises:
        DataError: the weights cannot be loaded.
    """
    network = network_of(config, dft, one_view=True)
    if start is not None:
        trained = load_network(start.folder.best, start.config, dft)
        network.encoder.load_state_dict(trained.encoder.state_dict())
        if type(network.head) is type(trained.head):
            network.head.load_state_dict(trained.head.state_dict())
    return network


def save_backend(head: nn.Module, file: Path) -> None:
    """Write a fitted back end (`siamese.models.backends`) atomically; creates the folder if it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        torch.save(head.state_dict(), temporary)


def load_backend(file: Path, config: BackendConfig, embedding_dim: int) -> nn.Module:
    """Load a back end that `save_backend` wrote.

    Args:
        file: the file.
        config: configuration of the back end.
        embedding_dim: dimensions of an embedding.

    Raises:
        DataError: the file is missing or damaged, or holds a back end of another kind or size.
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
        raise DataError(f"{file}: no such file; fit the back end again: eval.py backend={name}") from None
    except UNREADABLE as error:
        raise DataError(
            f"{file}: is not a fitted backend={name} ({first_sentence(error)}); fit it again: eval.py backend={name}"
        ) from None
    return head


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error message, at most 300 characters."""
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
    """Return the calibration and the threshold that were chosen when the run was trained."""
    slope, intercept, threshold = result.calibration_slope, result.calibration_intercept, result.threshold
    assert slope is not None
    assert intercept is not None
    assert threshold is not None
    return Decision(Calibration(slope, intercept), threshold)
