"""``siamese index``: embed a gallery once, so that ``siamese identify`` need not do it for every photo."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from siamese.command.identify import people_of_gallery
from siamese.command.photos import embed_in_blocks, load_verifier, warn_of_several_faces, warn_of_unusual
from siamese.errors import ConfigError, DataError
from siamese.inference.gallery import Gallery, import_faiss, write_gallery
from siamese.inference.gallery_files import Embedded, is_gallery, replacing_folder, stamp_of
from siamese.text import count

if TYPE_CHECKING:
    from siamese.inference.verifier import Verifier

log = logging.getLogger(__name__)


def index(run: Path, gallery: Path, out: Path, approximate: bool = False, align: bool = False) -> None:
    """Embed the photos of a gallery and write them to the folder ``out``, for ``siamese identify``.

    If ``out`` already has the photos of this run, only new and changed ones are embedded.

    Args:
        run: folder of a finished run.
        gallery: as for ``siamese identify``.
        out: folder to write; created, or replaced if an earlier call wrote it.
        approximate: also build an index, with which a photo is compared with the most similar ones only.
        align: as for `Verifier.load`.

    Raises:
        UserError: the run, the gallery or the folder cannot be used, or faiss is not installed.
    """
    if out.exists() and not is_gallery(out):
        raise ConfigError(f"{out}: exists, and siamese index did not write it; give another folder")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: folder {out.parent} does not exist; create it first")
    if out.resolve().is_relative_to(gallery.resolve()):
        raise ConfigError(f"{out}: lies in the gallery, whose files would count as changed; give another folder")
    if approximate:
        import_faiss()
    person_of = {name: person for person, names in people_of_gallery(gallery).items() for name in names}
    stamps = {name: stamp_of(gallery / name) for name in person_of}
    verifier = load_verifier(run, align)
    unusable: dict[str, str] = {}
    with replacing_folder(out) as new:
        earlier = _earlier(out, gallery, verifier)
        kept = earlier.unchanged(stamps) if earlier else np.empty(0, np.int64)
        if earlier:
            names = {earlier.name(row) for row in kept}
            log.info("%s: %s unchanged since the last time", out, count(len(kept), "photo is", "photos are"))
        else:
            names = set()
        fresh = embed_in_blocks(verifier, gallery, [name for name in person_of if name not in names], unusable)
        blocks: Iterator[Embedded] = itertools.chain(earlier.as_blocks(kept) if earlier else (), fresh)
        written = write_gallery(new, verifier, gallery, blocks, person_of, stamps, approximate)
    for problem in unusable.values():
        log.warning("excluded: %s", problem)
    warn_of_several_faces([written.name(row) for row in np.flatnonzero(written.columns["faces"] > 1)])
    unlike = int((written.columns["unusual"] == 1).sum())
    subject = f"{unlike} of {count(len(written), 'gallery photo')} {'is' if unlike == 1 else 'are'}"
    warn_of_unusual(verifier, subject if unlike else "", "their ranks")
    people = count(len(written.columns["people"]), "person", "people")
    log.info("%s of %s: %s", count(len(written), "photo"), people, out)
    if "recall" in written.facts:
        once, ten = (100 * written.facts["recall"][most] for most in ("1", "10"))
        log.info("approximate index: recall@1 %.1f %%, recall@10 %.1f %% (photos of the gallery)", once, ten)


def _earlier(out: Path, gallery: Path, verifier: Verifier) -> Gallery | None:
    """The gallery that an earlier call wrote, if its embeddings can be used."""
    try:
        earlier = Gallery.load(out, verifier, exact=True)
    except (ConfigError, DataError):  # of another run, or damaged: everything is embedded again
        return None
    return earlier if earlier.facts["photos"] == str(gallery.resolve()) else None
