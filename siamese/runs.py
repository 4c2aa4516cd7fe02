"""The run folder: who may write to it, its status, and its files, each written atomically."""

from __future__ import annotations

import json
import math
import signal
import traceback
from pathlib import Path
from typing import Any

from siamese.config import EvalConfig, TrainConfig, read_yaml, to_plain, write_yaml
from siamese.errors import ConfigError
from siamese.files import flatten, write_text_atomically


class Interrupted(BaseException):
    """SIGINT or SIGTERM was received; not an Exception, so that nothing mistakes it for a failed job."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum

    def __str__(self) -> str:
        name = signal.Signals(self.exit_code - 128).name
        return f"interrupted by {name}; the same command with resume=true and this output folder goes on"


class RunFolder:
    """Paths and records of one run; the same for a single run and for a job of a sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"
        self.history = path / "history.csv"
        self.config = path / "config.yaml"

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
        if not config.resume:
            raise ConfigError(
                f"{self.path} already holds a run ({result.get('status')}); "
                "give resume=true to go on with it, or another output folder"
            )
        if not self.config.exists():
            return  # its configuration was refused: nothing was started
        recorded, wanted = (flatten(to_plain(c)) for c in (read_yaml(self.config), config))
        differing = [key for key in wanted if key != "resume" and recorded.get(key) != wanted[key]]
        if differing:
            key = differing[0]
            raise ConfigError(
                f"{self.path} holds a run with {key}={recorded.get(key)}, not {wanted[key]}; "
                "resume=true goes on only with the same configuration"
            )

    def start(self, config: TrainConfig, **facts: Any) -> None:
        """Record the configuration, and in a fresh ``result.json`` that the run goes on."""
        self.path.mkdir(parents=True, exist_ok=True)
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


def find_run(config: EvalConfig) -> TrainConfig:
    """The configuration to score a finished run with: its own, with the data asked for.

    Raises:
        ConfigError: the folder holds no finished run, or other images than the network takes are asked for.
    """
    path = Path(config.run)
    result = RunFolder(path).result
    if result is None:
        raise ConfigError(f"run={config.run}: no run there; name a folder that holds a result.json")
    if result.get("status") != "done":
        raise ConfigError(
            f"run={config.run}: the run is not finished ({result.get('status')}); "
            "finish it with train.py, its output folder and resume=true"
        )
    trained = read_yaml(RunFolder(path).config)
    if trained.checkpoint == "none":
        raise ConfigError(f"run={config.run}: it was trained with checkpoint=none, so its weights were not kept")
    if config.data is None:
        return trained
    for key in ("image_size", "color"):
        wanted, given = getattr(trained.data, key), getattr(config.data, key)
        if wanted != given:
            raise ConfigError(f"data.{key}={given}: the run was trained with data.{key}={wanted}; give the same")
    return trained.model_copy(update={"data": config.data})
