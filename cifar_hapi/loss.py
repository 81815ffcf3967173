"""What is minimised."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F

from cifar_hapi.recipe import LossRecipe


class CrossEntropy(paddle.nn.Layer):
    """Mean cross-entropy of logits [N, C] and labels int64 [N]; the label is smoothed in training mode only.

    So the loss of an evaluation is the plain negative log-likelihood, whatever the training minimises.
    Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567), section 7.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Any, labels: Any) -> Any:
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def build_loss(recipe: LossRecipe) -> CrossEntropy:
    return CrossEntropy(recipe.label_smoothing)
