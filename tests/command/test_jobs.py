"""Names of the jobs of a sweep or search."""

from __future__ import annotations

import pytest

from siamese.command.jobs import label_of


@pytest.mark.parametrize(
    ("swept", "label"),
    [
        ({}, ""),
        ({"weight_decay": "0.0001", "optimizer": "adam"}, "wd=1e-4,adam"),
        ({"learning_rate": "1e-05", "batch_size": "128"}, "lr=1e-5,bs=128"),
        ({"learning_rate": "0.000123456789"}, "lr=1.235e-4"),  # from a search
        ({"seed": "12345", "model.dropout": "0.25"}, "seed=12345,dropout=0.25"),
        ({"model.batchnorm": "True", "augmentation": "none"}, "batchnorm=True,augmentation=none"),
        ({"trainer.gradient_clip_val": "null", "threshold": "far:0.01"}, "gradient_clip_val=null,threshold=far:0.01"),
        ({"model.crops": "[0.7,1.0]", "data": "lfw_funneled"}, "crops=[0.7,1.0],lfw_funneled"),
        ({"experiment": "report/adam"}, "report/adam"),
    ],
)
def test_the_name_of_a_job_is_short_and_says_what_differs(swept: dict[str, str], label: str) -> None:
    assert label_of(swept) == label
