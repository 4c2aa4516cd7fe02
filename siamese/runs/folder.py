"""The run folder: paths, status, and the check that a run may use it."""

from __future__ import annotations

import math
import shutil
import traceback
from pathlib import Path
from typing import Any

from siamese.config.schema import HOW_IT_IS_STARTED, TrainConfig
from siamese.config.section import to_plain
from siamese.errors import ConfigError
from siamese.files import flatten, remove_unfinished, write_text_atomically
from siamese.runs.continuing import EARLIER, RAISED, ended_anyway, raised, remove_result, set_aside
from siamese.runs.moved import PLACES, moved_data
from siamese.runs.records import Result, config_text, read_config, read_result, write_result
from siamese.runs.signals import Interrupted, was_requeued
from siamese.runs.tables import Membership, read_history, read_memberships


class RunFolder:
    """Paths and records of one run: a single run, a job of a sweep, a fold of View 2, or an evaluation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"
        self.backend = self.checkpoints / "backend.ckpt"
        self.domain = self.checkpoints / "domain.npz"
        self.config = path / "config.yaml"
        self.history = path / "history.csv"
        self.predictions = path / "predictions.csv"
        self.excluded = path / "excluded.csv"
        self.split = path / "split.csv"
        self.folds = path / "folds.csv"
        self.groups = path / "groups.csv"
        self.page = path / "report.html"
        self.earlier = path / EARLIER

    @property
    def result(self) -> Result | None:
        """The recorded ``result.json``; None if there is none.

        Raises:
            ConfigError: the file is damaged.
        """
        return read_result(self.path / "result.json")

    @property
    def memberships(self) -> list[Membership] | None:
        """The rows of ``split.csv``; None if there is no such file.

        Raises:
            ConfigError: the file is damaged.
        """
        return read_memberships(self.split)

    @property
    def is_done(self) -> bool:
        """Whether the folder holds a finished run."""
        result = self.result
        return result is not None and result.status == "done"

    def check(self, config: TrainConfig) -> None:
        """Make sure that a run with this configuration may use the folder.

        Raises:
            ConfigError: the folder holds a run and ``resume`` is false, a run with another configuration, a finished
                run that cannot be trained further, or checkpoints without a ``result.json``.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file; give another output folder")
        result = self.result
        if result is None:
            if self.last.exists() or self.best.exists():
                raise ConfigError(
                    f"{self.checkpoints} holds checkpoints, but there is no result.json; delete the checkpoints or "
                    "give another output folder"
                )
            return
        if not config.resume and not was_requeued():
            raise ConfigError(
                f"{self.path} already holds a run ({result.status}); "
                "give resume=true to resume it, or another output folder"
            )
        if not self.config.exists():
            return  # the run ended before training, with an error in its configuration
        before = read_config(self.config)
        recorded, wanted = (flatten(to_plain(c)) for c in (before, config))
        differing = [k for k in wanted if k not in (*HOW_IT_IS_STARTED, *RAISED) and recorded.get(k) != wanted[k]]
        moved = set(differing) <= set(PLACES) and moved_data(self.memberships or [], before.data, config.data)
        if differing and not moved:
            key = differing[0]
            raise ConfigError(
                f"{self.path} holds a run with {key}={recorded.get(key)}, not {wanted[key]}; "
                "resume=true needs the same configuration"
            )
        keys = raised(self.path, before, config)
        if keys and result.status == "done" and not all(part.last.exists() for part in self.parts):
            wish = " ".join(f"{key}={'null' if value is None else value}" for key, value in keys.items())
            raise ConfigError(
                f"{self.path} holds a finished run without checkpoints/last.ckpt, so it cannot be trained further with "
                f"{wish}; train a new run"
                + ("" if before.checkpoint.keep == "all" else ", with checkpoint=all to train it further later")
            )

    def fold(self, number: int) -> RunFolder:
        """Return the folder of a fold of View 2, numbered from 1."""
        return RunFolder(self.path / f"fold_{number:02d}")

    @property
    def parts(self) -> list[RunFolder]:
        """The folders that hold a network: those of the folds of View 2, or this one."""
        names = {file.parent.name for file in self.path.glob("fold_*/result.json")}
        numbers = sorted({int(name[5:]) for name in names if name[5:].isdigit()})
        return [fold for number in numbers if (fold := self.fold(number)).path.name in names] or [self]

    def why_ended(self, config: TrainConfig) -> str | None:
        """Whether a finished run is trained further with a configuration that `check` accepts.

        Returns:
            None: it is trained further. Otherwise why it is not although a key was raised; empty if none was.
        """
        if not self.config.exists():
            return ""
        recorded = read_config(self.config)
        if not raised(self.path, recorded, config):
            return ""
        results = [result for part in self.parts if (result := part.result) is not None]
        reasons = [ended_anyway(result, recorded, config) for result in results]
        return reasons[0] if all(reasons) else None

    def start(self, config: TrainConfig, **facts: Any) -> None:
        """Record the configuration and a fresh ``result.json`` with the status ``running``.

        Also remove the temporary files that a killed process left. The result of a finished run moves to ``earlier``,
        until the new result is complete.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.checkpoints):
            remove_unfinished(folder)
        if continued := self._continued_after(config):
            facts["continued_after"] = continued
        continues = self.is_done
        if continues:
            set_aside(self.path, self.earlier)
        self._write({"status": "running", **facts})
        if continues:  # not before: if the process is killed, a finished run is complete
            remove_result(self.path)
        # After the result: a helper process must not see a finished run with this configuration.
        write_text_atomically(self.config, config_text(config))

    def _continued_after(self, config: TrainConfig) -> list[int]:
        """The epochs after which ``max_epochs`` was raised, including now."""
        result = self.result
        if result is None or not self.config.exists():
            return []
        known = result.continued_after or []
        if config.max_epochs == read_config(self.config).max_epochs or not self.history.exists():
            return known
        return sorted({*known, len(read_history(self.history))})

    def accept(self, config: TrainConfig) -> None:
        """Record a configuration with which the finished run would have ended in the same way."""
        if config.scheduler.name != "cosine":  # its learning rates depend on max_epochs
            write_text_atomically(self.config, config_text(config))

    def record(self, **facts: Any) -> Result:
        """Add facts to ``result.json`` and return the whole record.

        Args:
            facts: keys of ``result.json`` (``test/acc``); NaN becomes null.

        Raises:
            pydantic.ValidationError: a key is not documented in `Result`, or a value has the wrong type.
        """
        result = self.result
        written = self._write({**(result.as_dict() if result else {}), **facts})
        if written.status == "done":
            shutil.rmtree(self.earlier, ignore_errors=True)
        return written

    def record_failure(self, error: BaseException, log_name: str = "train.log") -> None:
        """Record why the run ended, and append the traceback to the log file (the terminal gets one line)."""
        interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        self.record(status="interrupted" if interrupted else "failed", error=reason)
        with (self.path / log_name).open("a", encoding="utf-8") as log:
            log.write("".join(traceback.format_exception(error)))

    def _write(self, facts: dict[str, Any]) -> Result:
        # JSON has no NaN.
        finite = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in facts.items()}
        result = Result.model_validate(finite)
        write_result(self.path / "result.json", result)
        return result
