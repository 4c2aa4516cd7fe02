"""Make sure that a network is not tested on people that it has seen, in its run or in the run that it started from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from siamese.data.lists import people_of
from siamese.data.protocol import read_listed
from siamese.data.sources import image_root
from siamese.errors import ConfigError, DataError, UserError
from siamese.files import file_digest
from siamese.parallel import READERS, in_order
from siamese.runs.finished import FinishedRun, find_run
from siamese.runs.folder import RunFolder
from siamese.runs.records import read_config
from siamese.text import count

log = logging.getLogger(__name__)


def check_unseen(run: FinishedRun, tested: Mapping[str, str], folder: RunFolder) -> None:
    """Check by content and by name that no tested image or person was used for training or validation.

    A file with the same content is an error wherever it lies. A shared name is an error in the same image folder, and
    for an image of Labeled Faces in the Wild; elsewhere it may be a coincidence and is a warning.

    The run that it started from (``start_from``), if any, is checked too. Validation images of ``folder`` that were
    used for training cause a warning.

    Args:
        run: the run whose network is tested, with the configuration of the tested data.
        tested: name of each tested image -> its person.
        folder: folder of the evaluation, or of the run that starts from ``run``; its ``split.csv`` is written.

    Raises:
        DataError: a tested person or image was certainly used for training or validation.
    """
    if (first := read_config(run.folder.config).start_from) is not None:
        try:
            check_unseen(find_run(first)._replace(config=run.config), tested, folder)
        except ConfigError:
            log.warning("%s started from %s, which is gone: whether that run saw the test people is not checked",
                        run.folder.path, first)  # fmt: skip
    evaluation = folder.result
    learned = run.result.epochs != 0 or first is None  # model=lbp learns from its people without epochs
    if not learned and evaluation is not None and not evaluation.is_evaluation:
        return  # its own people only calibrated it, and it is calibrated again
    if learned:
        _warn_of_trained_validation(run.folder, folder)
    root = image_root(run.config.data)
    seen = seen_by(run.folder)
    both = seen & {*tested, *tested.values()}
    message = (
        f"{min(both, default='')} is in the test data and was used for training or validation in {run.folder.path}"
    )
    if both and evaluation is not None and evaluation.image_root == run.result.image_root:
        remedy = "leave out data= to test on the run's own test people"
        if not evaluation.is_evaluation:
            remedy = "give another start_from"
            if run.config.protocol.name == "holdout":
                remedy += ", the same data.split_seed and data.test_fraction as there, or other photos"
        raise DataError(f"{evaluation.image_root}: {message}; {remedy}")
    _check_content(run, sorted(tested), root)
    if not both:
        return
    if (run.result.dataset or "").startswith("lfw") and (images := seen & tested.keys()):
        raise DataError(
            f"{root}: {count(len(images), 'image has', 'images have')} the name of an LFW image that was used for "
            f"training or validation in {run.folder.path} (for example {min(images)}); test on other people"
        )
    log.warning("%s: if both names mean the same person, the results are optimistic", message)


def check_names(run: FinishedRun, tested: Mapping[str, str]) -> None:
    """Check that official lists test no image or person that the run used, as the lists of another split would.

    A shared name is an error for Labeled Faces in the Wild, and if the images are the same; otherwise it may be a
    coincidence, and is a warning.

    Args:
        run: the run whose network is tested, with the configuration of the tested data.
        tested: name of each tested image -> its person.

    Raises:
        DataError: a tested person was certainly used for training or validation.
    """
    both = seen_by(run.folder) & {*tested, *tested.values()}
    if not both:
        return
    root = image_root(run.config.data)
    message = f"{root}: {min(both)} is in the test data and was used for training or validation in {run.folder.path}"
    used = {row.image: row.digest for row in run.folder.memberships or [] if row.split != "test" and row.digest}
    same = any(used.get(image) == file_digest(root / image) for image in both & tested.keys())
    if same or ((run.result.dataset or "").startswith("lfw") and run.config.data.name.startswith("lfw")):
        raise DataError(f"{message}; leave out data= to test on the run's own test people")
    log.warning("%s; if both names mean the same person, the results are optimistic", message)


def _warn_of_trained_validation(trained: RunFolder, folder: RunFolder) -> None:
    """Warn if validation images have the content of images that another run was trained on."""
    used = {row.digest for row in trained.memberships or [] if row.split == "train" and row.digest}
    validation = [row for row in folder.memberships or [] if row.split == "val"]
    if both := [row.image for row in validation if row.digest in used]:
        log.warning(
            "%d of %s had been used for training in %s (for example %s): calibration and threshold, chosen on them, "
            "are too confident on new photos; give the same data.split_seed and data.val_fraction as there, or other "
            "photos",
            len(both), count(len(validation), "validation image"), trained.path, both[0],
        )  # fmt: skip


def _check_content(run: FinishedRun, images: list[str], root: Path) -> None:
    """Refuse images with the content of one that the run used for training or validation."""
    members = run.folder.memberships or []
    used = {row.digest: row.image for row in members if row.split != "test" and row.digest}
    if not used:
        return
    digests = in_order(lambda image: file_digest(root / image), images, workers=READERS)
    same = [(image, used[digest]) for image, digest in zip(images, digests, strict=True) if digest in used]
    if same:
        image, before = same[0]
        raise DataError(
            f"{root}: {len(same)} of {count(len(images), 'tested image')} had been used for training or validation in "
            f"{run.folder.path} (for example {image}, then {before}); test on other people. If these are the run's own "
            "photos, moved, they must all be there under their old names: only then is the run's own test repeated"
        )


def seen_by(run: RunFolder) -> set[str]:
    """Return the names of the people and images that a run used; empty if its lists are gone."""
    if (members := run.memberships) is not None:
        return {name for member in members if member.split != "test" for name in (member.image, member.person)}
    trained = read_config(run.config)
    try:
        listed = read_listed(trained.data, trained.protocol)
    except UserError as error:
        log.warning("%s: it is not known any more which people the run was trained on (%s)", run.path, error)
        return set()
    named = {image for images in (listed.people or {}).values() for image in images}
    return named | set(listed.people or ()) | people_of(listed.train) | {i for pair in listed.train for i in pair[:2]}
