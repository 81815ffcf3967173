"""When an exported model says the same, and when not."""

from __future__ import annotations

import numpy as np
import pytest

from cifar_hapi.errors import CifarHapiError
from cifar_hapi.exporting.agreement import compare

OWN = np.array([[0.5, -0.25], [0.0, 0.75], [0.3, 0.2]], "float32")
IMAGES = np.arange(3)[:, None]


def answering(logits):
    """A model that knows the logits of each image by its number."""
    return lambda images: np.asarray(logits, "float32")[images[:, 0]]


@pytest.mark.parametrize(
    ("scale", "added", "agrees"),
    [
        (1, 0.0009, True),
        (1, 0.0011, False),
        (1000, 0.5, True),
        (1000, 0.8, False),
        (0.01, 0.0009, True),
        (1, np.nan, False),
    ],
)
def test_the_limit_is_a_thousandth_of_the_largest_logit_if_that_is_above_1(scale, added, agrees):
    own = OWN * scale
    other = own.copy()
    other[1, 1] += added
    if agrees:
        assert compare(own, answering(other), IMAGES, "images").difference == pytest.approx(added, rel=1e-2)
    else:
        with pytest.raises(CifarHapiError, match=r"allowed are 0\.001 of the largest logit, or 0\.001 where"):
            compare(own, answering(other), IMAGES, "images")


def test_another_top_class_is_counted_although_the_logits_are_near():
    own = OWN.copy()
    own[2] = 0.3, 0.2999
    other = own.copy()
    other[2] = 0.2999, 0.3
    found = compare(own, answering(other), IMAGES, "three images")
    assert (found.same_top1, found.count, found.images) == (2, 3, "three images")
    assert str(found) == "largest difference of logits 1.0e-04 (largest logit 0.75), same top-1 for 2 of 3"


@pytest.mark.parametrize("wrong", [1, 3])
def test_a_batch_size_at_which_it_errs_is_found(wrong):
    def answer(images):
        return answering(OWN)(images) + (len(images) == wrong)

    with pytest.raises(CifarHapiError, match=r"largest difference of logits 1\.0e\+00"):
        compare(OWN, answer, IMAGES, "images")


def test_another_number_of_classes_is_told():
    with pytest.raises(CifarHapiError, match=r"of 3 images it gives \[3, 1\], the run's network \[3, 2\]"):
        compare(OWN, answering(OWN[:, :1]), IMAGES, "images")
