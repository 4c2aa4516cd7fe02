"""The error rates of the groups that the key ``groups`` names, from the predictions of a run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siamese.data.attributes import check_attributes, pair_values, read_attributes
from siamese.data.lists import Pair, people_of_each
from siamese.errors import DataError
from siamese.evaluation.subgroups import figures_by_group
from siamese.runs.folder import RunFolder
from siamese.runs.tables import read_predictions, write_groups
from siamese.text import shell_words

log = logging.getLogger(__name__)


def check_groups(file: str | None, tested: Sequence[Pair]) -> None:
    """Check a file of groups, if there is one, against the test pairs; warn if it lacks some of their images or people.

    Raises:
        DataError: as of `siamese.data.attributes.read_attributes` and `check_attributes`.
    """
    if file is not None and (warning := check_attributes(read_attributes(Path(file)), tested)):
        log.warning(warning)


def record_groups(file: str | None, folder: RunFolder) -> dict[str, Any]:
    """Write ``groups.csv`` from the test pairs in ``predictions.csv``.

    The file was checked before training. If it has become unusable meanwhile, that is only logged: it must not cost a
    finished run, and ``eval.py`` can compute the groups later.

    Args:
        file: the configuration's ``groups``.
        folder: the run folder.

    Returns:
        keys of ``result.json`` -> values; empty without a file.
    """
    if file is None:
        return {}
    tested = [pair for pair in read_predictions(folder.predictions) if pair.split == "test"]
    try:
        attributes = read_attributes(Path(file))
        check_attributes(attributes, tested)
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except (DataError, OSError) as error:
        again = shell_words(["python", "eval.py", f"run={folder.path}", f"groups={file}"])
        log.error("no error rates by group: %s; once the file is corrected: %s", error, again)
        return {}
    labels, predicted = [pair.label for pair in tested], [pair.predicted for pair in tested]
    write_groups(
        folder.groups, figures_by_group(pair_values(attributes, tested), labels, predicted, people_of_each(tested))
    )
    return {"groups/file": str(Path(file).resolve()), "groups/sha256": digest}
