"""Score a finished run: ``python eval.py run=outputs/DATE/TIME``."""

from siamese.command.memory import keep_freed_memory
from siamese.runs.signals import end_on_signals

if __name__ == "__main__":
    keep_freed_memory()
    end_on_signals()

import hydra

from siamese.command.hydra_app import run_app
from siamese.command.jobs import eval_job
from siamese.config.load import Composed


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(cfg: Composed) -> float:
    """Run one evaluation; returns the test accuracy."""
    return eval_job(cfg)


if __name__ == "__main__":
    run_app(main, "eval")
