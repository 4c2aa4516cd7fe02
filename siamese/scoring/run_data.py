"""The data of a run: loaded, checked against what was recorded, and recorded in the run folder."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from siamese.config.objective import PAIR_OBJECTIVES
from siamese.config.schema import TrainConfig
from siamese.data.dataset import PairDataset, load_dataset
from siamese.data.lists import People, person_of
from siamese.data.own import OwnPairs, memberships
from siamese.data.sources import image_root, title
from siamese.errors import DataError
from siamese.runs.folder import RunFolder
from siamese.runs.locks import is_main
from siamese.runs.moved import changed_images
from siamese.runs.tables import Membership, write_memberships
from siamese.scoring.groups import check_groups
from siamese.text import count

log = logging.getLogger(__name__)


def load_run_data(
    config: TrainConfig, folder: RunFolder, test_only: bool = False, trained: RunFolder | None = None
) -> PairDataset:
    """Load the data set of a run and record its sizes, ``excluded.csv`` and ``split.csv``.

    Args:
        config: configuration of the run.
        folder: run folder for the records; only the first of several processes writes.
        test_only: use all of the user's own data as test data.
        trained: the evaluated run, if it is evaluated on the data that it was trained on.

    Raises:
        DataError: as `siamese.data.dataset.load_dataset`, the user's own images changed since the run started, or the
            file of ``groups`` does not fit the test pairs.
    """
    writes = is_main(config.trainer.processes)
    data = load_dataset(
        config.data, config.protocol, config.sampling, test_only, progress=sys.stderr.isatty(),
        excluded=folder.excluded if writes else None,
    )  # fmt: skip
    if writes:
        root, digests = image_root(config.data), dict(zip(data.images.names, data.images.digests, strict=True))
        if data.own is None:
            write_memberships(folder.split, memberships(_used(data, config), data.val.pairs, root, digests))
        else:
            record_memberships(memberships(data.own, data.val.pairs, root, digests), folder, trained or folder, root)
        folder.record(**_sizes(data), n_excluded=len(data.images.excluded))
        check_groups(config.groups, data.test.pairs)
    _warn_about_few_images(config, data)
    trained_on = f"{len(data.train):,} training"
    if config.max_epochs == 0 and config.start_from is not None:
        trained_on = "no training"
    elif data.people is not None:
        trained_on = f"training on {sum(map(len, data.people)):,} images of {len(data.people):,} people"
    log.info("%s: %s, %d validation, %d test pairs", title(config.data), trained_on, len(data.val), len(data.test))
    return data


def _used(data: PairDataset, config: TrainConfig) -> OwnPairs:
    """The pairs of a data set with official lists, and the training people that are used by name or in the cohort."""
    people: People = {}
    cohort = data.cohort[:, None] if config.backend.cohort else ()
    for rows in (*(data.people or ()), *cohort):
        images = [data.images.names[row] for row in rows]
        people.setdefault(person_of(images[0]), images)
    return OwnPairs(data.train.pairs, data.val.pairs, data.test.pairs, people, {}, {})


def record_memberships(members: list[Membership], folder: RunFolder, trained: RunFolder, root: Path) -> None:
    """Write ``split.csv``; refuse if it would differ from that of the run that was trained.

    Raises:
        DataError: the images or their sets changed since the run started.
    """
    recorded = trained.memberships
    if recorded is not None and (changed := changed_images(recorded, members)):
        raise changed_data(changed, root)
    write_memberships(folder.split, members)


def changed_data(changed: set[str], root: Path) -> DataError:
    """The error for images of the user's own that changed since the run started."""
    images = count(len(changed), "image was", "images were")
    return DataError(
        f"{root}: changed since the run started: {images} added, removed, edited or moved to another set (for example "
        f"{min(changed)}); restore them, or start another run, in another hydra.run.dir"
    )


def _sizes(data: PairDataset) -> dict[str, int]:
    sizes = {"n_val": len(data.val), "n_test": len(data.test)}
    if data.people is None:
        return {"n_train": len(data.train), **sizes}
    return {**sizes, "n_train_people": len(data.people), "n_train_images": sum(map(len, data.people))}


def _warn_about_few_images(config: TrainConfig, data: PairDataset) -> None:
    few = sum(len(images) < config.sampling.images_per_person for images in data.people or ())
    if few and config.max_epochs and config.objective.name not in PAIR_OBJECTIVES and not config.augmentation.changes:
        log.warning(
            "%s fewer than sampling.images_per_person=%d images, so batches repeat some images unchanged "
            "(augmentation=none); give augmentation=face or a higher sampling.min_images",
            count(few, "person has", "people have"), config.sampling.images_per_person,
        )  # fmt: skip
