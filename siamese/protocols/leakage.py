"""Make sure that an evaluation on other data does not test on people that the run has seen."""

from __future__ import annotations

import logging

from siamese.data.lists import people_of
from siamese.data.protocol import read_listed
from siamese.errors import DataError, UserError
from siamese.runs.finished import FinishedRun
from siamese.runs.folder import RunFolder
from siamese.runs.records import read_config

log = logging.getLogger(__name__)


def check_unseen(run: FinishedRun, tested: set[str], folder: RunFolder) -> None:
    """Check by name that no tested person or image was used for training or validation.

    A shared name in the same image folder is an error; in another folder it may be a coincidence and is a warning.

    Args:
        run: the run that is evaluated.
        tested: names of the tested people and images.
        folder: folder of the evaluation.

    Raises:
        DataError: a tested person or image of the same image folder was used for training or validation.
    """
    if not (both := seen_by(run.folder) & tested):
        return
    message = f"{min(both)} is in the test data and was used for training or validation in {run.folder.path}"
    evaluation = folder.result
    if evaluation is not None and evaluation.image_root == run.result.image_root:
        raise DataError(f"{evaluation.image_root}: {message}; leave out data= to test on the run's own test people")
    log.warning("%s: if both names mean the same person, the results are optimistic", message)


def seen_by(run: RunFolder) -> set[str]:
    """Return the names of the people and images that a run used; empty if its lists are gone."""
    if (members := run.memberships) is not None:
        return {name for member in members if member.split != "test" for name in (member.image, member.person)}
    trained = read_config(run.config)
    try:
        listed = read_listed(trained.data, trained.protocol)
    except UserError:
        return set()
    named = {image for images in (listed.people or {}).values() for image in images}
    return named | set(listed.people or ()) | people_of(listed.train) | {i for pair in listed.train for i in pair[:2]}
