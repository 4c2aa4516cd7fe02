"""Use a finished run: verify that two photos show the same person, or identify the person on a photo.

    from siamese import Verifier
    verifier = Verifier.load("outputs/DATE/TIME")
    verifier.verify("a.jpg", "b.jpg")

Shapes: N photos, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from siamese.config.data import ImageOptions
from siamese.config.titles import DATASETS, DRAWN, titled
from siamese.data.faces import prepare_detector
from siamese.data.images import Prepared, open_image, prepare, why_unusable
from siamese.errors import ConfigError, DataError
from siamese.evaluation.decision import Decision
from siamese.evaluation.domain import FAMILIAR, Domain, features, is_blank
from siamese.inference.gallery_files import Embedded
from siamese.models.siamese import SiameseNetwork
from siamese.models.unfold_conv import cpu_has_bf16
from siamese.runs.finished import find_run
from siamese.scoring.device import pick_device
from siamese.scoring.domain import load_domain
from siamese.scoring.networks import load_scorer, recorded_decision
from siamese.scoring.precision import recorded_arithmetic
from siamese.scoring.scores import embed_images, score_embeddings

Photo = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[np.uint8]
"""A file, its content, an opened file, an image of Pillow, or an array, uint8 [H, W] (grey) or [H, W, 3] (RGB)."""


def _opened(photo: Any) -> Path | BytesIO | Image.Image:
    match photo:
        case Image.Image():
            return photo
        case str() | os.PathLike():
            return Path(photo)
        case bytes() | bytearray() | memoryview():
            return BytesIO(photo)
        case np.ndarray():
            if photo.dtype != np.uint8 or photo.ndim not in (2, 3) or photo.shape[2:] not in ((), (3,)):
                shape = ", ".join(map(str, photo.shape))
                raise TypeError(f"an array of a photo is uint8 [H, W] or [H, W, 3] (RGB), not {photo.dtype} [{shape}]")
            return Image.fromarray(photo)
    if hasattr(photo, "read"):
        content = photo.read()
        if isinstance(content, bytes):
            return BytesIO(content)
        raise TypeError("a file with a photo must be opened in binary mode: open(path, 'rb')")
    raise TypeError(f"a photo is a path, bytes, an opened file, a Pillow image or an array, not {type(photo).__name__}")


def several_faces(name: str, faces: int | None, face: int | None) -> str:
    """Say which face of a photo was used; empty unless there are several."""
    return f"{name} shows {faces} faces; face {face} was used (1 is the largest)" if faces and faces > 1 else ""


class Described(NamedTuple):
    """What a decision needs of a photo apart from its embedding; it is kept after the pixels are dropped.

    Attributes:
        digest: 16 bytes, equal for photos that are one image to the network.
        unusual: whether the photo is unlike the training images; None if unknown.
        faces: number of faces on the photo; None if photos are not aligned.
        face: which face was used, by size; 1 is the largest.
    """

    digest: bytes
    unusual: bool | None
    faces: int | None = None
    face: int | None = None


class Verification(NamedTuple):
    """The decision on two photos.

    Attributes:
        same: whether the photos are judged to show the same person: the probability is at least the threshold.
        probability: probability of "same person", calibrated on the validation pairs of the run.
        threshold: decision boundary on the probability.
        score: raw output of the head or back end, before calibration.
        identical: whether both photos are one image to the network: equal pixels after cropping and resizing. None if
            only embeddings were compared.
        unusual: for each photo, whether it is unlike the images that the network was trained on, so that the decision
            means little. None if unknown, as for runs of older versions.
        faces: for each photo, the number of faces on it; None if photos are not aligned.
        face: for each photo, which face was compared, by size; 1 is the largest.
    """

    same: bool
    probability: float
    threshold: float
    score: float
    identical: bool | None = None
    unusual: tuple[bool | None, bool | None] = (None, None)
    faces: tuple[int | None, int | None] = (None, None)
    face: tuple[int | None, int | None] = (None, None)


class Match(NamedTuple):
    """A person of a gallery.

    Attributes:
        person: name of the person.
        photo: the photo of this person that is most similar to the photo to identify; empty if it is not a file.
        verification: the decision on both photos.
    """

    person: str
    photo: str
    verification: Verification


class Verifier:
    """The best network of a finished run, with its preprocessing, calibration and threshold.

    Attributes:
        run: folder of the run.
        network: network in evaluation mode, on ``device``.
        options: how a photo becomes the input of the network.
        decision: how a score becomes a probability and a decision.
        device: where to compute.
        bf16: whether to compute under bf16 autocast.
        domain: the training images, as photos are compared with them; None if unknown.
        trained_on: the training images in words.
    """

    def __init__(
        self, run: Path, network: SiameseNetwork, options: ImageOptions, decision: Decision, device: torch.device,
        bf16: bool = False, domain: Domain | None = None, trained_on: str = "unknown images",
    ) -> None:  # fmt: skip
        self.run = run
        self.network = network.to(device).eval()
        self.options = options
        self.decision = decision
        self.device = device
        self.bf16 = bf16
        self.domain = domain
        self.trained_on = trained_on

    @classmethod
    def load(cls, run: str | Path, direct: bool = False, align: bool = False) -> Verifier:
        """Load a finished run. It computes on a GPU if there is one, unless the run was configured for the CPU.

        Args:
            run: folder of the run.
            direct: use direct convolutions even if the run computed them by Fourier transform; results differ by
                rounding only.
            align: align the faces on the photos as ``data.align=eyes`` does: for whole scenes, and a run that was
                trained on LFW.

        Raises:
            ConfigError: the folder holds no finished run with weights, or OpenCV is not installed.
            DataError: a file of the run is damaged, or the face detector cannot be downloaded.
        """
        finished = find_run(run)
        if direct:
            finished = finished._replace(result=finished.result.model_copy(update={"convolution": "direct"}))
        arithmetic, device = recorded_arithmetic(finished.result), pick_device(finished.config)
        bf16 = arithmetic.bf16 and (device.type == "cuda" or cpu_has_bf16())
        decision = recorded_decision(finished.result)
        dataset = finished.result.trained_on or finished.result.dataset
        options: ImageOptions = finished.config.data
        if align:
            options = options.model_copy(update={"align": "eyes"})
        if options.align is not None:
            prepare_detector()
        return cls(
            finished.folder.path, load_scorer(finished), options, decision, device, bf16,
            load_domain(finished.folder.domain), DRAWN if dataset == "synthetic" else titled(dataset, DATASETS),
        )  # fmt: skip

    def read(self, photo: Photo, face: int | None = None) -> NDArray[np.uint8]:
        """Prepare a photo as input of the network, uint8 [C, H, W]; arguments and errors as for `prepare`."""
        return self.prepare(photo, face).pixels

    def prepare(self, photo: Photo, face: int | None = None) -> Prepared:
        """Prepare a photo as input of the network, and count the faces on it if photos are aligned.

        Args:
            photo: a file or an opened image.
            face: which face to align, by size; 1 or None is the largest.

        Raises:
            DataError: the photo cannot be used, or shows fewer faces.
            ConfigError: a face is chosen, but photos are not aligned, or its number is below 1.
            TypeError: ``photo`` is not a `Photo`.
        """
        name = photo if isinstance(photo, str | os.PathLike) else "photo"
        if face is not None and face < 1:
            raise ConfigError(f"face={face}: give 1 (the largest face) or more")
        if face is not None and self.options.align is None:
            raise ConfigError(f"face={face}: this run uses photos as they are; align them (--align) to choose a face")
        opened = _opened(photo)
        try:
            with nullcontext(opened) if isinstance(opened, Image.Image) else open_image(opened) as image:
                prepared = prepare(image, self.options, face or 1)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
            remedy = "give another photo" + (" or face" if face else "")
            raise DataError(f"{name}: {why_unusable(error)}; {remedy}") from None
        if (prepared.pixels == prepared.pixels[:, :1, :1]).all():
            raise DataError(f"{name}: all its pixels are equal, so it shows no face; give another photo")
        return prepared

    def embed(self, photos: Iterable[Photo]) -> NDArray[np.float32]:
        """Embed photos -> float32 [N, D]; raises as `read`."""
        return self.embed_prepared([self.prepare(photo) for photo in photos])

    def embed_prepared(self, photos: Sequence[Prepared]) -> NDArray[np.float32]:
        """Embed photos of `prepare` -> float32 [N, D]."""
        if not photos:
            return np.empty((0, self.network.encoder.embedding_dim), np.float32)
        return self.embed_pixels(torch.from_numpy(np.stack([photo.pixels for photo in photos])))

    def embed_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        """Embed photos prepared by `read`, uint8 [N, C, H, W] -> float32 [N, D]."""
        z_ND = embed_images(self.network, pixels, torch.arange(len(pixels)), self.device, self.bf16)
        embeddings: NDArray[np.float32] = z_ND.float().cpu().numpy()
        return embeddings

    def unusual(self, pixels: Iterable[NDArray[np.uint8]]) -> list[bool | None]:
        """Whether each photo of `read`, uint8 [C, H, W], is blank or unlike the training images; None: unknown."""
        return [is_blank(photo) or (self.domain and self.domain.unusual(features(photo[None])[0])) for photo in pixels]

    def describe(self, photo: Prepared) -> Described:
        """Describe a photo of `prepare`, so that its pixels can be dropped."""
        (unusual,) = self.unusual([photo.pixels])
        digest = hashlib.blake2b(np.ascontiguousarray(photo.pixels).data, digest_size=16).digest()
        return Described(digest, unusual, photo.faces, photo.face)

    def compare(
        self,
        embeddings: NDArray[np.float32],
        pairs: Sequence[tuple[int, int]] | NDArray[np.int64],
        photos: Sequence[Prepared] | Sequence[Described] | None = None,
    ) -> list[Verification]:
        """Verify pairs of embedded photos.

        Args:
            embeddings: result of `embed`, float32 [N, D].
            pairs: rows of ``embeddings``, [P, 2].
            photos: the N photos, from `prepare` or `describe`; without them, all but the decision stays unknown.
        """
        return list(self.compare_each(embeddings, pairs, photos))

    def compare_each(
        self,
        embeddings: NDArray[np.float32],
        pairs: Sequence[tuple[int, int]] | NDArray[np.int64],
        photos: Sequence[Prepared] | Sequence[Described] | None = None,
    ) -> Iterator[Verification]:
        """Yield the decisions of `compare` one by one: a million of them would need 0.5 GB."""
        if not len(pairs):
            return
        z_ND = torch.from_numpy(embeddings).to(self.device)
        rows = np.asarray(pairs, np.int64)
        scores = score_embeddings(self.network.head, z_ND, torch.from_numpy(rows), self.bf16)
        answers = zip(scores, self.decision.probabilities(scores), self.decision.predict(scores), rows, strict=True)
        described = [self.describe(one) if isinstance(one, Prepared) else one for one in photos or ()]
        for score, probability, same, (i, j) in answers:
            answer = Verification(bool(same), float(probability), self.decision.threshold, float(score))
            if described:
                a, b = described[i], described[j]
                answer = answer._replace(
                    identical=a.digest == b.digest, unusual=(a.unusual, b.unusual), faces=(a.faces, b.faces),
                    face=(a.face, b.face),
                )  # fmt: skip
            yield answer

    def verify(self, first: Photo, second: Photo, faces: tuple[int | None, int | None] = (None, None)) -> Verification:
        """Decide whether two photos show the same person.

        Args:
            first, second: the photos.
            faces: which face of each photo to compare, as for `prepare`.

        Raises:
            UserError, TypeError: as `prepare`.
        """
        photos = [self.prepare(first, faces[0]), self.prepare(second, faces[1])]
        return self.compare(self.embed_prepared(photos), [(0, 1)], photos)[0]

    def identify(
        self, gallery: Mapping[str, Photo | Sequence[Photo]], photo: Photo, keep_identical: bool = False,
        face: int | None = None,
    ) -> list[Match]:  # fmt: skip
        """Rank the people of a gallery by the score of their most similar photo, highest first.

        Args:
            gallery: name of a person -> one or more photos.
            photo: the photo to identify.
            keep_identical: compare the photo also with copies of itself in the gallery, which says nothing about faces.
            face: which face of ``photo`` to identify, as for `prepare`; of a photo of the gallery, the largest is used.

        Raises:
            DataError: the gallery is empty, apart from copies of the photo; or a photo cannot be used.
            ConfigError, TypeError: as `prepare`.
        """
        from siamese.inference.gallery import Gallery

        asked = self.prepare(photo, face)
        listed = [
            (person, one)
            for person, photos in gallery.items()
            for one in (photos if isinstance(photos, list | tuple) else [cast(Photo, photos)])
        ]
        prepared = [self.prepare(one) for _, one in listed]
        rows = [*map(str, range(len(listed)))]  # instead of names: a photo may have none
        block = Embedded(rows, [*map(self.describe, prepared)], self.embed_prepared(prepared))
        people = dict(zip(rows, (person for person, _ in listed), strict=True))
        (found,) = Gallery.of(self, [block], people).search(self, [asked], len(gallery), keep_identical)
        if not found.matches:
            raise DataError("the gallery is empty, or holds only the photo itself; give other photos of each person")
        files = [str(one) if isinstance(one, str | os.PathLike) else "" for _, one in listed]
        return [match._replace(photo=files[int(match.photo)]) for match in found.matches]

    def cautions(self, answer: Verification, first: str, second: str) -> list[str]:
        """Return what to know before trusting a decision, one sentence each.

        Args:
            answer: the decision.
            first, second: what to call the photos.
        """
        found = []
        if answer.identical:
            found.append(
                f"{first} and {second} are the same image, so the decision says nothing about faces; give two "
                "different photos"
            )
        unlike = [name for name, unusual in zip((first, second), answer.unusual, strict=True) if unusual]
        photos = f"{' and '.join(unlike)} {'is' if len(unlike) == 1 else 'are'}" if unlike else ""
        if caution := self.caution(photos, "this decision"):
            found.append(caution)
        return found

    def caution(self, photos: str, result: str) -> str:
        """Return the warning that photos are `unusual`, or that the network knows drawn faces only; empty if neither.

        Args:
            photos: which photos are unusual, with the verb; empty if none is.
            result: what not to trust.
        """
        if photos:
            scenes = (
                "" if self.options.align or self.trained_on == DRAWN else "; align photos of whole scenes (--align)"
            )
            return (
                f"{photos} unlike the images this network was trained on ({self.trained_on}): do not trust {result} "
                f"({100 * (1 - FAMILIAR):.0f} % of photos like the training images get this warning too){scenes}"
            )
        if self.trained_on == DRAWN:
            return f"this network was trained on {DRAWN}; do not use it for photographs"
        return ""
