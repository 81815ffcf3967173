"""Test-time augmentation: a network's answer averaged over several views of the same image."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from cifar_hapi.errors import RecipeError
from cifar_hapi.recipe import DataFormat, Views

IN_WORDS: dict[Views, str] = {
    "plain": "one view of each",
    "flip": "averaged over each image and its mirror image",
    "flip_shift": "averaged over 6 views of each: mirrored, shifted by a pixel",
}
_SHIFTS = {"plain": (0,), "flip": (0,), "flip_shift": (0, -1, 1)}  # in pixels, both down and to the right


class AveragedViews(paddle.nn.Layer):
    """The mean of `network`'s logits over views of each image.

    "plain": the image. "flip": the image and its mirror image. "flip_shift": these, with half of the weight, and the
    same shifted by one pixel to the upper left, and to the lower right, where the border is mirrored (Jordan 2024,
    arXiv 2404.00498, section 3.5).

    images: float32 [N, C, H, W], or [N, H, W, C] where `data_format` is "NHWC"; logits: [N, classes]. Raises
    RecipeError for other views.
    """

    def __init__(self, network: paddle.nn.Layer, views: Views, data_format: DataFormat = "NCHW") -> None:
        super().__init__()
        if views not in IN_WORDS:
            raise RecipeError(f"views = {views!r}: expected {', '.join(IN_WORDS)}")
        self.network, self.views, self.data_format = network, views, data_format

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        shifts = _SHIFTS[self.views]
        logits = self._centred(images)
        for shift in shifts[1:]:
            logits = logits + self._centred(self._shifted(images, shift)) / (len(shifts) - 1)
        return logits if len(shifts) == 1 else logits / 2

    def _centred(self, images: paddle.Tensor) -> paddle.Tensor:
        if self.views == "plain":
            return self.network(images)
        width = 3 if self.data_format == "NCHW" else 2
        return (self.network(images) + self.network(images.flip(width))) / 2

    def _shifted(self, images: paddle.Tensor, shift: int) -> paddle.Tensor:
        padded = F.pad(images, [1, 1, 1, 1], mode="reflect", data_format=self.data_format)
        first = 1 - shift
        if self.data_format == "NCHW":
            return padded[:, :, first : first + images.shape[2], first : first + images.shape[3]]
        return padded[:, first : first + images.shape[1], first : first + images.shape[2]]
