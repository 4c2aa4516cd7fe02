"""Use a finished run: verify that two photos show the same person, or identify the person on a photo.

    from siamese import Verifier
    verifier = Verifier.load("outputs/DATE/TIME")
    verifier.verify("a.jpg", "b.jpg")

Shapes: N photos, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from siamese.config.data import ImageOptions
from siamese.data.images import decode, to_input, why_unusable
from siamese.errors import ConfigError, DataError
from siamese.evaluation.decision import Decision
from siamese.models.siamese import SiameseNetwork
from siamese.models.unfold_conv import cpu_has_bf16
from siamese.runs.finished import find_run
from siamese.scoring.device import pick_device
from siamese.scoring.networks import load_scorer, recorded_decision
from siamese.scoring.precision import recorded_arithmetic
from siamese.scoring.scores import embed_images, score_embeddings

Photo = str | Path | Image.Image
"""A file, or an opened image."""


class Verification(NamedTuple):
    """The decision on two photos.

    Attributes:
        same: whether the photos are judged to show the same person: the probability is at least the threshold.
        probability: probability of "same person", calibrated on the validation pairs of the run.
        threshold: decision boundary on the probability.
        score: raw output of the head or back end, before calibration.
    """

    same: bool
    probability: float
    threshold: float
    score: float


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
    """

    def __init__(
        self, run: Path, network: SiameseNetwork, options: ImageOptions, decision: Decision, device: torch.device,
        bf16: bool = False,
    ) -> None:  # fmt: skip
        self.run = run
        self.network = network.to(device).eval()
        self.options = options
        self.decision = decision
        self.device = device
        self.bf16 = bf16

    @classmethod
    def load(cls, run: str | Path, direct: bool = False) -> Verifier:
        """Load a finished run. It computes on a GPU if there is one, unless the run was configured for the CPU.

        Args:
            run: folder of the run.
            direct: use direct convolutions even if the run computed them by Fourier transform; results differ by
                rounding only.

        Raises:
            ConfigError: the folder holds no finished run with weights.
            DataError: a file of the run is damaged.
        """
        finished = find_run(run)
        if finished.result.is_evaluation:
            raise ConfigError(f"run={run} is an evaluation; give the run that it scored: {finished.result.run}")
        if direct:
            finished = finished._replace(result=finished.result.model_copy(update={"convolution": "direct"}))
        arithmetic, device = recorded_arithmetic(finished.result), pick_device(finished.config)
        bf16 = arithmetic.bf16 and (device.type == "cuda" or cpu_has_bf16())
        decision = recorded_decision(finished.result)
        return cls(finished.folder.path, load_scorer(finished), finished.config.data, decision, device, bf16)

    def read(self, photo: Photo) -> NDArray[np.uint8]:
        """Prepare a photo as input of the network, uint8 [C, H, W].

        Raises:
            DataError: the photo cannot be used.
        """
        try:
            if isinstance(photo, Image.Image):
                return to_input(photo, self.options)
            return decode(Path(photo), self.options)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
            name = "photo" if isinstance(photo, Image.Image) else photo
            raise DataError(f"{name}: {why_unusable(error)}; give another photo") from None

    def embed(self, photos: Iterable[Photo]) -> NDArray[np.float32]:
        """Embed photos -> float32 [N, D]; raises as `read`."""
        read = [self.read(photo) for photo in photos]
        if not read:
            return np.empty((0, self.network.encoder.embedding_dim), np.float32)
        return self.embed_pixels(torch.from_numpy(np.stack(read)))

    def embed_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        """Embed photos prepared by `read`, uint8 [N, C, H, W] -> float32 [N, D]."""
        z_ND = embed_images(self.network, pixels, torch.arange(len(pixels)), self.device, self.bf16)
        embeddings: NDArray[np.float32] = z_ND.float().cpu().numpy()
        return embeddings

    def compare(self, embeddings: NDArray[np.float32], pairs: Sequence[tuple[int, int]]) -> list[Verification]:
        """Verify pairs of embedded photos.

        Args:
            embeddings: result of `embed`, float32 [N, D].
            pairs: rows of ``embeddings``.
        """
        if not len(pairs):
            return []
        z_ND = torch.from_numpy(embeddings).to(self.device)
        scores = score_embeddings(self.network.head, z_ND, torch.tensor(pairs, dtype=torch.int64), self.bf16)
        answers = zip(scores, self.decision.probabilities(scores), self.decision.predict(scores), strict=True)
        threshold = self.decision.threshold
        return [Verification(bool(same), float(p), threshold, float(score)) for score, p, same in answers]

    def verify(self, first: Photo, second: Photo) -> Verification:
        """Decide whether two photos show the same person; raises as `read`."""
        return self.compare(self.embed([first, second]), [(0, 1)])[0]

    def identify(self, gallery: Mapping[str, Sequence[Photo]], photo: Photo) -> list[Match]:
        """Rank the people of a gallery by the score of their most similar photo, highest first.

        Args:
            gallery: name of a person -> one or more photos.
            photo: the photo to identify.

        Raises:
            DataError: the gallery is empty, or a photo cannot be used.
        """
        listed = [(name, one) for name, photos in gallery.items() for one in photos]
        if not listed:
            raise DataError("the gallery is empty; give at least one photo of each person")
        names = [(name, "" if isinstance(one, Image.Image) else str(one)) for name, one in listed]
        return self.rank(self.embed([photo, *(one for _, one in listed)]), names)

    def rank(self, embeddings: NDArray[np.float32], names: Sequence[tuple[str, str]]) -> list[Match]:
        """Rank the people of a gallery, as `identify`, from embeddings.

        Args:
            embeddings: float32 [N + 1, D]: that of the photo to identify, then those of the N photos of the gallery.
            names: person and name of each photo of the gallery.
        """
        answers = self.compare(embeddings, [(0, k + 1) for k in range(len(names))])
        matches = [Match(*name, answer) for name, answer in zip(names, answers, strict=True)]
        best: dict[str, Match] = {}
        for match in sorted(matches, key=lambda match: -match.verification.score):
            best.setdefault(match.person, match)
        return list(best.values())
