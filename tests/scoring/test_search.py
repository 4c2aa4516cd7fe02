"""Scores against a whole gallery, compared with those of the heads pair by pair."""

from __future__ import annotations

import pytest
import torch
from embeddings import D, faces, fitted

from siamese.models.backends import CohortHead
from siamese.models.siamese import CosineHead, EuclideanHead, L1Head
from siamese.scoring.search import image_terms, index_vectors, prepare_queries, score_queries


def head_of(name):
    match name:
        case "cosine":
            return CosineHead()
        case "euclidean":
            return EuclideanHead()
        case "network l1":
            return L1Head(D, "torch")
        case "lda cohort" | "plda cohort":
            head = CohortHead(fitted(name.split()[0]), nearest=10)
            head.fit([faces(60, 1, seed=5)[0]])
            return head
    return fitted(name)


HEADS = ["cosine", "euclidean", "network l1", "l1", "lda", "plda", "lda cohort", "plda cohort"]


@pytest.mark.parametrize("name", HEADS)
def test_scores_are_those_of_the_head(name):
    head, (z, _), (asked, _) = head_of(name), faces(50, 3), faces(3, 1, seed=4)
    expected = torch.stack([head(one.expand_as(z), z) for one in asked], 1).detach().float()
    found = score_queries(head, prepare_queries(head, asked), z, image_terms(head, z))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("name", ["cosine", "euclidean", "lda", "plda"])
def test_the_vectors_of_an_index_order_images_as_the_scores_do(name):
    head, (z, _), (asked, _) = head_of(name), faces(50, 3), faces(5, 1, seed=4)
    vectors = index_vectors(head, z)
    for one, query in zip(asked, index_vectors(head, asked, queries=True), strict=True):
        score = head(one.expand_as(z), z)
        ordered = score[(vectors - query).square().sum(1).argsort()]
        assert (ordered.diff() < 1e-3 * score.std()).all()
