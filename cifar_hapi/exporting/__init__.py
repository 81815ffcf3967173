"""Trained networks for use elsewhere: Paddle's inference format and ONNX, each compared with the run it comes from."""

from cifar_hapi.exporting.agreement import Agreement
from cifar_hapi.exporting.run_export import Export, export

__all__ = ["Agreement", "Export", "export"]
