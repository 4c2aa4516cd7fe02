"""The images and pairs of one protocol: a uint8 array of all images, on disk, and pairs as rows of that array.

Shapes: N images, P pairs, C channels, H = W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from siamese.config.data import DataConfig, OwnData, PairsData, SyntheticData
from siamese.config.protocol import TrainProtocol
from siamese.config.sampling import SamplingConfig
from siamese.data.copies import copies_across
from siamese.data.image_cache import ImageArray, load_images
from siamese.data.lists import Pair, People, identities, people_of
from siamese.data.own import OwnPairs
from siamese.data.pixels import Images
from siamese.data.protocol import VIEW1, Listed, read_listed
from siamese.data.sampling import Ints
from siamese.data.sources import image_root, prepare_data
from siamese.data.split import validation_split
from siamese.errors import DataError
from siamese.runs.tables import write_excluded
from siamese.text import count

log = logging.getLogger(__name__)

VALIDATION = "validation"
"""Name of listed validation pairs in messages."""


@dataclass(frozen=True, eq=False)
class PairSet:
    """The usable pairs of one split.

    Attributes:
        pairs: names and labels.
        indices: int64 [P, 2], rows of the image array.
        labels: int64 [P], 1 = same person.
    """

    pairs: list[Pair]
    indices: Tensor
    labels: Tensor

    @classmethod
    def of(cls, pairs: Sequence[Pair], row: dict[str, int]) -> PairSet:
        """Build the set, looking up the images of each pair in ``row`` (image name -> row of the image array)."""
        indices = [[row[pair.image1], row[pair.image2]] for pair in pairs]
        return cls(
            pairs=list(pairs),
            indices=torch.tensor(indices, dtype=torch.int64).reshape(-1, 2),
            labels=torch.tensor([pair.label for pair in pairs], dtype=torch.int64),
        )

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(eq=False)
class PairDataset:
    """The images and pairs of one protocol of a data set.

    Attributes:
        images: names of the decoded images, and the excluded files.
        pixels: uint8 [N, C, H, W], the images in the order of ``images.names``; on a GPU if training moved
            them there.
        train, val, test: the listed pairs of each split.
        people: the rows of the images of each training person; None in the restricted setting.
        cohort: rows for `siamese.models.backends.CohortHead`: one image of each person that may be used for training,
            including people with fewer than ``sampling.min_images`` images; in the restricted setting all images of
            the training pairs.
        own: the user's own photos and their sets; None for LFW and the synthetic faces.
    """

    images: ImageArray
    pixels: Images
    train: PairSet
    val: PairSet
    test: PairSet
    people: list[Ints] | None
    cohort: Ints
    own: OwnPairs | None

    def training_images(self, most: int) -> tuple[Ints, Ints]:
        """Return the rows of at most ``most`` training images, chosen evenly, and an index of the person in each."""
        if self.people is not None:
            rows, person_N = (
                np.concatenate(self.people),
                np.repeat(np.arange(len(self.people)), list(map(len, self.people))),
            )
        else:
            rows, person = np.unique(self.train.indices.numpy()), identities(self.train.pairs)
            person_N = np.unique([person[self.images.names[row]] for row in rows], return_inverse=True)[1]
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int))
        return rows[chosen], person_N[chosen]


def load_dataset(
    data: DataConfig,
    protocol: TrainProtocol = VIEW1,
    sampling: SamplingConfig | None = None,
    test_only: bool = False,
    progress: bool = False,
    excluded: Path | None = None,
) -> PairDataset:
    """Read the lists, decode the images, drop pairs with unusable images, and split off validation.

    Data that is missing is downloaded or rendered first if possible.

    In the restricted setting, training uses the listed pairs and their labels. Names are used only to keep validation
    people out of training (``data.split=people``). In the unrestricted setting, training uses all images of the people
    that the protocol lists, without the validation people (``data.split=people``) or without the validation images
    (``data.split=pairs``).

    Args:
        data: the data set and how its images are preprocessed.
        protocol: View 1, a fold of View 2, or the held-out people of the user's own data.
        sampling: ``min_images`` decides which people are used in the unrestricted setting; needed only there.
        test_only: use all of the user's own data as test data; ``train`` and ``val`` stay empty.
        progress: show progress bars.
        excluded: write the images that could not be used to this CSV file, even if the function fails afterwards.

    Raises:
        DataError: data is missing, a list is malformed, or a split has no usable pairs left.
    """
    if not test_only:  # the user's own data cannot be fetched
        prepare_data(data, progress, protocol)
    listed = read_listed(data, protocol, test_only)
    _warn_about_shared_people(listed)
    root = image_root(data)
    images = load_images(root, listed.image_names(), data, progress)
    if excluded is not None:
        write_excluded(excluded, images.excluded)
    usable = _usable_pairs(listed, images, root)
    row = {name: index for index, name in enumerate(images.names)}
    train_pairs = usable[listed.train_list]
    if listed.val is None:
        kept, held_out = validation_split(train_pairs, data)
        val_pairs, train_pairs = [train_pairs[i] for i in held_out], [train_pairs[i] for i in kept]
    else:
        val_pairs = usable[VALIDATION]
    train = PairSet.of(train_pairs, row)
    people, cohort = None, np.unique(train.indices.numpy())
    if listed.people is not None and not test_only:
        everybody = _training_people(data, listed.people, val_pairs, row)
        people = _with_enough_images(everybody, 1 if sampling is None else sampling.min_images, root)
        cohort = np.array([rows[0] for rows in everybody])
    found = PairDataset(
        images, images.pixels, train, PairSet.of(val_pairs, row),
        PairSet.of(usable[listed.test_list], row), people, cohort, listed.own,
    )  # fmt: skip
    _warn_about_copies(found, data)
    return found


def to_float(pixels: Tensor) -> Tensor:
    """Convert uint8 in 0..255 to float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)


def _pairs_by_list(listed: Listed) -> dict[str, list[Pair]]:
    pairs = {listed.train_list: listed.train, listed.test_list: listed.test}
    return pairs if listed.val is None else pairs | {VALIDATION: listed.val}


def _warn_about_shared_people(listed: Listed) -> None:
    pairs = _pairs_by_list(listed)
    person = identities([pair for part in pairs.values() for pair in part])
    trained, *others = ({person[name] for pair in part for name in pair[:2]} for part in pairs.values())
    for people, name in zip(others, list(pairs)[1:], strict=True):
        if both := trained & people:
            log.warning(
                "%s in both %s and %s (for example %s): results on %s are optimistic",
                count(len(both), "person is", "people are"), listed.train_list, name, min(both), name,
            )  # fmt: skip


def _warn_about_copies(found: PairDataset, data: DataConfig) -> None:
    """Warn of photos that have copies in two sets. The lists of LFW are given, so there it is only information."""
    if isinstance(data, SyntheticData):
        return  # rendered one by one; some are so similar that they would be taken for copies
    trained = {name for pair in found.train.pairs for name in pair[:2]}
    trained |= {found.images.names[row] for rows in found.people or () for row in rows}
    val, test = ({name for pair in part.pairs for name in pair[:2]} for part in (found.val, found.test))
    if found.images.copies is None:
        log.info(
            "%s, too many to search them for copies of one photo in a run; python -m siamese data does it",
            count(len(found.images.names), "image"),
        )  # fmt: skip
    for one, first, other, second in (
        ("training", trained, "validation", val), ("training", trained, "test", test), ("validation", val, "test", test)
    ):  # fmt: skip
        if shared := copies_across(found.images.copies or (), first, second):
            listed = data.list if isinstance(data, PairsData) else data.root
            log.log(
                logging.WARNING if isinstance(data, OwnData) else logging.INFO,
                "%s copies in both %s and %s (for example %s): %s",
                count(len(shared), "photo has", "photos have"), one, other, " = ".join(shared[0][:3]),
                f"results on the {other} set are optimistic; to list the copies: python -m siamese data {listed}"
                if isinstance(data, OwnData) else "the lists of pairs fix the sets, so keep them as they are",
            )  # fmt: skip


def _usable_pairs(listed: Listed, images: ImageArray, root: Path) -> dict[str, list[Pair]]:
    """The pairs of each list, without those that have an excluded image."""
    pairs = _pairs_by_list(listed)
    usable = {
        name: [p for p in part if p.image1 not in images.excluded and p.image2 not in images.excluded]
        for name, part in pairs.items()
    }
    if images.excluded:
        dropped = ", ".join(f"{len(pairs[n]) - len(usable[n])} of {len(pairs[n])} in {n}" for n in pairs)
        unusable = count(len(images.excluded), "image file")
        image, reason = next(iter(images.excluded.items()))
        log.warning(
            "%s could not be used (see excluded.csv; for example %s: %s); dropped pairs: %s",
            unusable, image, reason, dropped,
        )  # fmt: skip
    for name, part in usable.items():
        if len({pair.label for pair in part}) < 2 and (pairs[name] or name == listed.test_list):
            example = next((f"; for example {image}: {reason}" for image, reason in images.excluded.items()), "")
            raise DataError(
                f"{root}: the usable pairs in {name} ({len(part)} of {len(pairs[name])}) need at least one same pair "
                f"and one different pair; check data.root (excluded.csv has the reason for each file){example}"
            )
    return usable


def _training_people(data: DataConfig, people: People, val: list[Pair], row: dict[str, int]) -> list[Ints]:
    """The rows of each person's usable images, without those that are used for validation."""
    held_out = {name for pair in val for name in (pair.image1, pair.image2)}
    names = people_of(val) if data.split == "people" else set()
    found = [
        np.array([row[image] for image in images if image in row and image not in held_out], dtype=np.int64)
        for name, images in people.items()
        if name not in names
    ]
    return [rows for rows in found if len(rows)]


def _with_enough_images(people: list[Ints], least: int, root: Path) -> list[Ints]:
    enough = [rows for rows in people if len(rows) >= least]
    if len(enough) < 2 or max(map(len, enough)) < 2:
        raise DataError(
            f"{root}: {count(len(enough), 'training person has', 'training people have')} at least "
            f"sampling.min_images={least} usable images; training needs two people, one of them with two images; check "
            "data.root (excluded.csv has the reason for each file)"
        )
    return enough
