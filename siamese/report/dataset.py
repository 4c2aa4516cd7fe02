"""Summarise a data set and list its problems: counts, sizes, duplicates, leakage; draw a contact sheet."""

from __future__ import annotations

import hashlib
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps
from tqdm import tqdm

from siamese.config.data import DataConfig, FolderData, PairsData
from siamese.data.copies import Grey, find_copies
from siamese.data.folder import skipped_files
from siamese.data.images import open_image, thumbnail, upright, why_unusable
from siamese.data.lists import Pair, People, identities, image_name, read_pairs, read_people
from siamese.data.own import read_own
from siamese.data.protocol import TEST_LIST, TEST_PEOPLE_LIST, TRAIN_LIST, TRAIN_PEOPLE_LIST
from siamese.data.sources import check_data, image_root, title
from siamese.data.split import validation_split
from siamese.parallel import in_order
from siamese.report.examples import load_photo
from siamese.text import count

FEW_PEOPLE = 300
"""With fewer people to train on, `own/few` is recommended: "a few hundred" in docs/own-photos.md."""

SHOWN = 5
"""Most examples of each kind in the text."""


class ImageFacts(NamedTuple):
    """One image file.

    Attributes:
        size: width and height, pixels.
        kind: file type and colour, such as ``JPEG grey``.
        digest: hash of its pixels.
        small: thumbnail in which copies are searched; None if it cannot be used.
        problem: why it cannot be used; empty if it can.
    """

    size: tuple[int, int]
    kind: str
    digest: str
    small: Grey | None
    problem: str = ""


@dataclass(frozen=True)
class Part:
    """Training, validation or test set.

    Attributes:
        people: person -> images, from the folders, the lists of people and the pairs.
        pairs: the listed pairs.
    """

    people: People
    pairs: list[Pair]

    @cached_property
    def images(self) -> set[str]:
        """All images of its people and pairs."""
        listed = {image for images in self.people.values() for image in images}
        return listed | {image for pair in self.pairs for image in pair[:2]}


@dataclass(frozen=True)
class Description:
    """Summary of a data set. Image names are relative to ``root``.

    Attributes:
        dataset: title of the data set.
        root: the image folder.
        sets: set -> numbers of people, images, same pairs and different pairs.
        images_per_person: number of images -> number of people with that many.
        sizes: ``width x height`` -> number of images, most frequent first.
        kinds: file type and colour -> number of images, most frequent first.
        unusable: image -> why it cannot be used.
        duplicates: groups of images with identical pixels.
        near_copies: groups of images that are copies of one photo with other pixels; of duplicates only the first.
        problems: one line for each problem that makes results wrong.
        skipped: for each kind of file that is not used, ``kind``, the number of ``files``, and the ``remedy``.
        advice: how to train on this data, if it is too little for a network of its own; else empty.
    """

    dataset: str
    root: str
    sets: dict[str, dict[str, int]]
    images_per_person: dict[int, int]
    sizes: dict[str, int]
    kinds: dict[str, int]
    unusable: dict[str, str]
    duplicates: list[list[str]]
    near_copies: list[list[str]]
    problems: list[str] = field(default_factory=list)
    skipped: list[dict[str, str | int]] = field(default_factory=list)
    advice: str = ""


def describe(data: DataConfig, progress: bool = False) -> Description:
    """Read the lists and decode all images of a data set, and summarise them.

    Args:
        data: the data set.
        progress: show a progress bar.

    Raises:
        DataError: a folder or list is missing or malformed.
    """
    check_data(data)
    parts, root = parts_of(data), image_root(data)
    images = sorted(set().union(*(part.images for part in parts.values())))
    facts = dict(zip(images, _read_all([root / image for image in images], progress), strict=True))
    usable = {image: one for image, one in facts.items() if not one.problem}
    same: dict[str, list[str]] = {}
    for image, one in usable.items():
        same.setdefault(one.digest, []).append(image)
    duplicates = [group for group in same.values() if len(group) > 1]
    distinct = [group[0] for group in same.values()]
    smalls = [small for image in distinct if (small := usable[image].small) is not None]
    near_copies = [[distinct[row] for row in group] for group in find_copies(smalls, progress)]
    people: dict[str, set[str]] = {}
    for part in parts.values():
        for person, listed in part.people.items():
            people.setdefault(person, set()).update(listed)
    return Description(
        dataset=title(data),
        root=str(root),
        sets={name: _counts(part) for name, part in parts.items()},
        images_per_person=dict(sorted(Counter(map(len, people.values())).items())),
        sizes=_tally(f"{one.size[0]} x {one.size[1]}" for one in usable.values()),
        kinds=_tally(one.kind for one in usable.values()),
        unusable={image: one.problem for image, one in facts.items() if one.problem},
        duplicates=duplicates,
        near_copies=near_copies,
        problems=list(_problems(parts, duplicates, near_copies)),
        skipped=[one._asdict() for one in skipped_files(root)] if isinstance(data, FolderData) else [],
        advice=_advice(data, len(people)),
    )


def _advice(data: DataConfig, people: int) -> str:
    if not isinstance(data, FolderData) or people >= FEW_PEOPLE:
        return ""
    return (
        f"{count(people, 'person is', 'people are')} too few for a network of their own. If these are photos of "
        "faces, calibrate a network that was trained on many faces:\n  make best\n  python train.py "
        f"experiment=own/few start_from=latest {shlex.quote(f'data.root={data.root}')}\nFor other things, train "
        "with experiment=own/objects, or experiment=own/letters for letters and other drawings"
    )


def parts_of(data: DataConfig) -> dict[str, Part]:
    """Split a data set into ``train``, ``val`` and ``test`` as a run with this configuration does; LFW as in View 1.

    Unusable images are included; a run excludes them before it splits.
    """
    people: dict[str, People] = {}
    if isinstance(data, FolderData | PairsData):
        own = read_own(data)
        train, val, test = own.train, own.val, own.test
        if isinstance(data, FolderData):
            people = {"train": own.people or {}, "val": own.val_people, "test": own.test_people}
    else:
        root = Path(data.root)
        train, val, test = read_pairs(root / TRAIN_LIST), None, read_pairs(root / TEST_LIST)
        for name, file in (("train", root / TRAIN_PEOPLE_LIST), ("test", root / TEST_PEOPLE_LIST)):
            if file.is_file():
                listed = [item for subset in read_people(file) for item in subset.items()]
                people[name] = {who: [image_name(who, k) for k in range(1, number + 1)] for who, number in listed}
    if val is None:
        kept, held_out = validation_split(train, data)
        train, val = [train[k] for k in kept], [train[k] for k in held_out]
    pairs = {"train": train, "val": val, "test": test}
    person = identities([pair for part in pairs.values() for pair in part])
    found = {}
    for name, part in pairs.items():
        own_people = {who: list(images) for who, images in people.get(name, {}).items()}
        for image in sorted({image for pair in part for image in pair[:2]}):
            if image not in (images := own_people.setdefault(person[image], [])):
                images.append(image)
        found[name] = Part(own_people, part)
    if data.split == "people":  # the list of training people includes the validation people
        held = found["val"].people
        kept_people = {who: images for who, images in found["train"].people.items() if who not in held}
        listed_people = people.get("train", {})
        held = {who: sorted({*images, *listed_people.get(who, [])}) for who, images in held.items()}
        found |= {"train": Part(kept_people, train), "val": Part(held, val)}
    return found


def as_text(description: Description) -> str:
    """Format a summary for the terminal."""
    lines = [f"{description.dataset}: {description.root}", ""]
    head = ["", "people", "images", "same pairs", "different pairs"]
    rows = [[name, *(f"{number:,}" for number in counts.values())] for name, counts in description.sets.items()]
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    numbers = [n for n, people in description.images_per_person.items() for _ in range(people)]
    if numbers:
        alone = description.images_per_person.get(1, 0)
        lines += [
            "",
            f"images per person: {min(numbers)} to {max(numbers)}, median {statistics.median(numbers):g}; "
            f"{count(alone, 'person', 'people')} with a single image",
        ]
    lines.append(f"sizes: {_shares(description.sizes)}")
    lines.append(f"types: {_shares(description.kinds)}")
    if description.unusable:
        lines += ["", f"{count(len(description.unusable), 'unusable image')}:"]
        lines += _first([f"  {image}: {why}" for image, why in description.unusable.items()])
    if description.duplicates:
        lines += ["", f"{count(len(description.duplicates), 'image')} with duplicates (identical pixels):"]
        lines += _first([f"  {' = '.join(group)}" for group in description.duplicates])
    if description.near_copies:
        groups = count(len(description.near_copies), "image")
        lines += ["", f"{groups} with near copies (recompressed, resized, cropped, mirrored, ...):"]
        lines += _first([f"  {' ~ '.join(group)}" for group in description.near_copies])
    lines += ["", *(description.problems or ["no leakage between the sets and no contradictory labels found"])]
    if description.advice:
        lines += ["", description.advice]
    return "\n".join(lines)


def contact_sheet(data: DataConfig, rows: int = 8, columns: int = 8, side: int = 110) -> Image.Image:
    """Draw a contact sheet: one person per row, those with the most images first.

    Args:
        data: the data set.
        rows: most people.
        columns: most images per person.
        side: side of an image on the sheet, pixels.

    Raises:
        DataError: as of `describe`.
    """
    people: dict[str, list[str]] = {}
    for part in parts_of(data).values():
        for person, images in part.people.items():
            people[person] = sorted({*people.get(person, []), *images})
    chosen = sorted(people.items(), key=lambda item: (-len(item[1]), item[0]))[:rows]
    gap = 4
    shown = max((min(columns, len(images)) for _, images in chosen), default=1)
    sheet = Image.new("RGB", (shown * (side + gap) + gap, len(chosen) * (side + gap) + gap), "white")
    for row, (_, images) in enumerate(chosen):
        for column, image in enumerate(images[:columns]):
            photo = load_photo(image_root(data) / image, side)
            if photo is not None:
                photo = ImageOps.pad(photo, (side, side), color="white")
                sheet.paste(photo, (gap + column * (side + gap), gap + row * (side + gap)))
    return sheet


def _read_all(files: Sequence[Path], progress: bool) -> list[ImageFacts]:
    found = in_order(_read, files)
    return list(tqdm(found, "reading", len(files), unit="image", leave=False, disable=None if progress else True))


def _read(file: Path) -> ImageFacts:
    try:
        with open_image(file) as image:
            size = image.size  # `upright` may decode a huge photo in a reduced size
            kind = f"{image.format} {'grey' if image.mode in ('L', '1', 'I;16', 'I') else 'colour'}"
            pixels = upright(image).convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        return ImageFacts((0, 0), "", "", None, why_unusable(error))
    digest = hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()
    turned = (size[0] < size[1]) != (pixels.width < pixels.height)
    return ImageFacts(size[::-1] if turned else size, kind, digest, thumbnail(pixels))


def _counts(part: Part) -> dict[str, int]:
    same = sum(pair.label for pair in part.pairs)
    return {
        "people": len(part.people), "images": len(part.images), "same": same, "different": len(part.pairs) - same
    }  # fmt: skip


def _problems(parts: dict[str, Part], duplicates: list[list[str]], near_copies: list[list[str]]) -> Iterable[str]:
    """One line each for leakage between sets, copies that contradict labels, and repeated pairs."""
    kinds = ((" = ", ("duplicate", "duplicates"), duplicates), (" ~ ", ("near copy", "near copies"), near_copies))
    names = list(parts)
    for k, one in enumerate(names):
        for other in names[k + 1 :]:
            for noun, first, second in (
                (("person", "people"), set(parts[one].people), set(parts[other].people)),
                (("image", "images"), parts[one].images, parts[other].images),
            ):
                if both := sorted(first & second):
                    yield f"{count(len(both), *noun)} in both {one} and {other}: {_some(both)}"
            for sign, noun, groups in kinds:
                across = [
                    group for group in groups if any(i in parts[one].images for i in group)
                    and any(i in parts[other].images for i in group)
                    and not set(group) & parts[one].images & parts[other].images
                ]  # fmt: skip
                if across:
                    yield f"{count(len(across), *noun)} in both {one} and {other}: {_some(map(sign.join, across))}"
    person = {image: who for part in parts.values() for who, images in part.people.items() for image in images}
    for sign, noun, groups in kinds:
        if contradictory := [group for group in groups if len({person[i] for i in group if i in person}) > 1]:
            shown = _some(map(sign.join, contradictory))
            yield f"{count(len(contradictory), *noun)} under the names of several people: {shown}"
    twin = {image: k for k, group in enumerate(duplicates) for image in group}
    pairs = [pair for part in parts.values() for pair in part.pairs]
    itself = [p for p in pairs if p.image1 in twin and twin[p.image1] == twin.get(p.image2)]
    for label, what in ((1, "same"), (0, "different")):
        if named := [f"{p.image1} and {p.image2}" for p in itself if p.label == label]:
            yield f"{count(len(named), f'{what} pair')} of identical images: {_some(named)}"
    repeated = [" and ".join(sorted(p)) for p, n in Counter(frozenset(p[:2]) for p in pairs).items() if n > 1]
    if repeated:
        yield f"{count(len(repeated), 'pair')} listed more than once: {_some(sorted(repeated))}"


def _tally(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _shares(tally: dict[str, int]) -> str:
    shown = [f"{value} ({number:,})" for value, number in list(tally.items())[:SHOWN]]
    more = len(tally) - SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "") if shown else "none"


def _some(values: Iterable[str]) -> str:
    listed = list(values)
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f"  and {more} more (--json lists all)"] if more > 0 else [])
