"""The run folder: who may write to it, its status, and its files, each written atomically."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from siamese.config import (
    HOW_IT_IS_STARTED,
    EvalConfig,
    HoldoutProtocol,
    OwnData,
    TrainConfig,
    View1Protocol,
    read_yaml,
    to_plain,
    write_yaml,
)
from siamese.errors import ConfigError
from siamese.files import flatten, remove_unfinished, write_text_atomically
from siamese.signals import Interrupted, was_requeued

log = logging.getLogger(__name__)

MEMBERSHIP_COLUMNS = ("image", "person", "split")
"""The columns of ``split.csv``."""

_held: dict[Path, FileLock] = {}


SWEEP_PROCESS = "SIAMESE_SWEEP_PROCESS"
"""Environment variable with the number of the process that runs a sweep or a search, for the ones that it starts."""

ORPHANS_MAY_TAKE = 60.0
"""Seconds in which a job whose sweep or search was killed stops and saves; one that goes on waits so long for it."""


class RunFolder:
    """Paths and records of one run; the same for a single run and for a job of a sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"
        self.backend = self.checkpoints / "backend.ckpt"
        self.history = path / "history.csv"
        self.config = path / "config.yaml"
        self.split = path / "split.csv"

    @property
    def result(self) -> dict[str, Any] | None:
        """The recorded ``result.json``; None when there is none.

        Raises:
            ConfigError: it is there but is no JSON object.
        """
        file = self.path / "result.json"
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file}: cannot be read ({error}); restore it or choose another folder") from None
        if not isinstance(result, dict):
            raise ConfigError(f"{file}: is no JSON object; restore it or choose another folder")
        return result

    @property
    def memberships(self) -> list[tuple[str, str, str]] | None:
        """The rows of ``split.csv``, the sets of one's own images: (image, person, split); None when there is no file.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            with self.split.open(encoding="utf-8", newline="") as file:
                return [(row["image"], row["person"], row["split"]) for row in csv.DictReader(file)]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise ConfigError(f"{self.split}: cannot be read ({error}); restore it or choose another folder") from None

    @property
    def is_done(self) -> bool:
        """Whether a finished run is recorded here."""
        return (self.result or {}).get("status") == "done"

    def check(self, config: TrainConfig) -> None:
        """Make sure that a run with this configuration may use the folder.

        Raises:
            ConfigError: it holds a run and ``resume`` is false, a run with another configuration, or what is left
                of one.
        """
        result = self.result
        if result is None:
            if self.path.exists() and not self.path.is_dir():
                raise ConfigError(f"{self.path} is a file; give another output folder")
            if self.last.exists() or self.best.exists():
                raise ConfigError(
                    f"{self.checkpoints} holds checkpoints, but no result.json tells of which run; delete them or "
                    "give another output folder"
                )
            return
        if not config.resume and not was_requeued():
            raise ConfigError(
                f"{self.path} already holds a run ({result.get('status')}); "
                "give resume=true to go on with it, or another output folder"
            )
        if not self.config.exists():
            return  # its configuration was refused: nothing was started
        recorded, wanted = (flatten(to_plain(c)) for c in (read_yaml(self.config), config))
        differing = [k for k in wanted if k not in HOW_IT_IS_STARTED and recorded.get(k) != wanted[k]]
        if differing:
            key = differing[0]
            raise ConfigError(
                f"{self.path} holds a run with {key}={recorded.get(key)}, not {wanted[key]}; "
                "resume=true goes on only with the same configuration"
            )

    def start(self, config: TrainConfig, **facts: Any) -> None:
        """Record the configuration, and in a fresh ``result.json`` that the run goes on.

        What a killed process left half written is removed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.checkpoints):
            remove_unfinished(folder)
        write_text_atomically(self.config, write_yaml(config))
        self._write_result({"status": "running", **facts})

    def record(self, **facts: Any) -> dict[str, Any]:
        """Add facts to ``result.json`` and return the whole record; NaN, which JSON lacks, becomes null."""
        return self._write_result({**(self.result or {}), **facts})

    def _write_result(self, result: dict[str, Any]) -> dict[str, Any]:
        result = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in result.items()}
        self.path.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.path / "result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
        return result

    def record_failure(self, error: BaseException, log_name: str = "train.log") -> None:
        """Record why the run ended, and append the traceback to the log file (the terminal gets one line)."""
        interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        self.record(status="interrupted" if interrupted else "failed", error=reason)
        with (self.path / log_name).open("a", encoding="utf-8") as log:
            log.write("".join(traceback.format_exception(error)))


def is_first() -> bool:
    """Whether this process is the first of those that a launcher has started, if one has."""
    ranks = ("RANK", "LOCAL_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") in ("", "0") for name in ranks)


def is_main(processes: int) -> bool:
    """Whether this process may write: of several that train together the first."""
    return processes == 1 or is_first()


def claim(folder: Path, wait: float = 0.0) -> None:
    """Hold a folder, which is made when missing, for this process until `release` or its end, however it ends.

    Args:
        folder: of a run or of a sweep.
        wait: seconds to wait for another process that holds it.

    Raises:
        ConfigError: another process holds it, or it cannot be written.
    """
    key = folder.resolve()
    if key in _held:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=wait)
    except Timeout:
        raise ConfigError(
            f"{folder} is in use by another process; wait until that has ended, or give another output folder"
        ) from None
    except NotImplementedError:
        log.warning("%s: the file system has no locks; make sure that no other process uses this folder", folder)
        return
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); give another output folder") from None
    _held[key] = lock


def release(folder: Path) -> None:
    """Let others have a folder that this process has claimed."""
    lock = _held.pop(folder.resolve(), None)
    if lock is not None:
        lock.release()


PREPROCESSING = ("image_size", "color", "crop", "interpolation")
"""What of `siamese.config.ImageOptions` decides how a photo becomes the network's input."""


LISTED = (
    "name", "root", "list", "split", "split_seed", "val_fraction", "test_fraction", "train_pairs", "val_pairs",
    "test_pairs",
)  # fmt: skip
"""Keys of the data that decide which pairs there are."""


class Member(NamedTuple):
    """A finished run to be scored.

    Attributes:
        folder: where it lies.
        result: what is recorded of it.
        config: to score it with.
        test_only: whether that is on photos of one's own that the run has not seen, all of which are for the test.
        foreign: whether it is on another kind of data than the run was trained on, or on other photos of one's own.
    """

    folder: RunFolder
    result: dict[str, Any]
    config: TrainConfig
    test_only: bool = False
    foreign: bool = False


def find_runs(config: EvalConfig) -> list[Member]:
    """The finished runs that are to be scored, each with its own configuration but for the data asked for.

    Raises:
        ConfigError: a folder holds no finished run with weights, the protocol asked for would score people that the run
            was trained on, other images than the network takes are asked for, or runs that do not go together.
    """
    names = [config.run] if isinstance(config.run, str) else config.run
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"run={list(names)}: name one folder, or several different ones")
    members = [_find_run(name, config) for name in names]
    first = members[0]
    if first.test_only and (config.scores_anew or len(members) > 1):
        what = "an ensemble is calibrated" if len(members) > 1 else "what is scored anew is fitted and calibrated"
        raise ConfigError(
            f"data={first.config.data.name}: {what} on training and validation pairs, which other data lacks; leave it "
            "out"
        )
    for member in members[1:]:
        for key in LISTED:
            own, others = (getattr(one.config.data, key, None) for one in (member, first))
            if own != others:
                raise ConfigError(
                    f"run={member.folder.path}: its data.{key}={own}, that of {first.folder.path} is {others}; an "
                    "ensemble needs the same pairs"
                )
        if member.config.protocol != first.config.protocol:
            raise ConfigError(
                f"run={member.folder.path}: trained in another protocol or setting than {first.folder.path}; an "
                "ensemble needs the same"
            )
    return members


def _find_run(name: str, config: EvalConfig) -> Member:
    folder = RunFolder(Path(name))
    result = folder.result
    if result is None:
        raise ConfigError(f"run={name}: no run there; name a folder that holds a result.json")
    if result.get("status") != "done":
        raise ConfigError(
            f"run={name}: the run is not finished ({result.get('status')}); "
            "finish it with train.py, its output folder and resume=true"
        )
    trained = read_yaml(folder.config)
    # What was trained on GPUs can be scored without, and by one process.
    accelerator = "auto" if trained.trainer.accelerator == "gpu" else trained.trainer.accelerator
    alone = {"accelerator": accelerator, "devices": 1, "nodes": 1}
    trained = trained.model_copy(update={"trainer": trained.trainer.model_copy(update=alone)})
    if "folds" in result:
        raise ConfigError(f"run={name}: it holds a network for each fold; name the folder of one, as {name}/fold_01")
    if trained.checkpoint.keep == "none":
        raise ConfigError(f"run={name}: it was trained with checkpoint=none, so its weights were not kept")
    own = isinstance(trained.data if config.data is None else config.data, OwnData)
    if own != isinstance(trained.data, OwnData):  # tested on another kind of data than it was trained on
        holdout, view1 = HoldoutProtocol(name="holdout", setting=trained.protocol.setting), View1Protocol(name="view1")
        trained = trained.model_copy(update={"protocol": holdout if own else view1})
    wanted = config.protocol.name if config.protocol else trained.protocol.name
    if wanted != trained.protocol.name and not (wanted == "oneshot" and trained.protocol.name in ("view1", "holdout")):
        raise ConfigError(
            f"protocol={wanted}: the run was trained in {trained.protocol.name}, on people that {wanted} tests; train "
            f"anew with protocol={'view1' if wanted == 'oneshot' else wanted}"
        )
    # Fold and setting are the run's; what the group of options gives by itself asks for nothing. One's own data brings
    # its setting.
    for key, unasked in () if own else (("setting", "restricted"), ("fold", None)):
        asked, given = getattr(config.protocol, key, unasked), getattr(trained.protocol, key, None)
        if asked not in (unasked, given):
            raise ConfigError(f"protocol.{key}={asked}: the run was trained with protocol.{key}={given}; leave it out")
    if config.backend is not None:
        changed = {"backend": config.backend, "calibration": "auto"}  # that of another back end need not fit
        trained = trained.model_copy(update=changed)
    views = {key: getattr(config, key) for key in ("flip_average", "crop_average")}
    trained = trained.model_copy(update={key: value for key, value in views.items() if value is not None})
    if config.data is None:
        return Member(folder, result, trained)
    # How a photo becomes the network's input is the run's, and so are its validation pairs where the lists are LFW's:
    # whom it was trained on does not change with the images.
    listed = () if own or isinstance(trained.data, OwnData) else ("split", "val_fraction", "split_seed")
    kept = {key: getattr(trained.data, key) for key in (*PREPROCESSING, *listed)}
    for key in PREPROCESSING:
        given = getattr(config.data, key)
        if given not in (kept[key], type(config.data).model_fields[key].default):
            raise ConfigError(f"data.{key}={given}: the run was trained with data.{key}={kept[key]}; leave it out")
    foreign = own or isinstance(trained.data, OwnData)
    return Member(
        folder, result, trained.model_copy(update={"data": config.data.model_copy(update=kept)}), own, foreign
    )
