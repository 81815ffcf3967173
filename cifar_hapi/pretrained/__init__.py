"""Weights to begin with: Paddle's official ones, or a file's, whoever named its tensors."""

from cifar_hapi.pretrained.official import find_weights
from cifar_hapi.pretrained.start import Start, put_weights
from cifar_hapi.pretrained.weights_file import WeightsFile, read_weights

__all__ = ["Start", "WeightsFile", "find_weights", "put_weights", "read_weights"]
