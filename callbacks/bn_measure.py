"""The numbers of one record of batch-norm statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import nn

from callbacks.bn_gradients import NormGradients
from callbacks.bn_layout import PROBED, TENSORS, Layout
from callbacks.bn_probe import probe
from callbacks.paddle_model import norm_tensors


def measured(model: Any, norms: dict[str, nn.Layer], batch: Any, gradients: NormGradients | None) -> _Values:
    """Float32 [., C] by layer: its `TENSORS`, then `PROBED` if there is a batch, then its gradients if asked for.

    NaN for what a layer doesn't have.
    """
    seen = {} if batch is None else probe(model, norms, batch)
    rows: list[paddle.Tensor] = []
    with paddle.no_grad():
        for name, norm in norms.items():
            found = [*norm_tensors(norm).values()]
            if batch is not None:
                found += seen[name].unbind() if name in seen else [None] * len(PROBED)
            if gradients is not None:
                found += [gradients.found.get((name, each)) for each in ("weight", "bias")]
            none = paddle.full_like(found[0], np.nan, "float32")
            rows += [none if each is None else each.astype("float32") for each in found]
        flat = paddle.concat(rows).numpy()  # all in one: a GPU is waited for once
    count = len(rows) // len(norms)
    ends = np.cumsum([count * norm_tensors(norm)["running_mean"].shape[0] for norm in norms.values()])
    return {name: part.reshape(count, -1) for name, part in zip(norms, np.split(flat, ends[:-1]), strict=True)}


_Values = dict[str, np.ndarray]


def row(layout: Layout, values: _Values, last: _Values) -> np.ndarray:
    """The record, float32 [width], of what was `measured`; last: the `TENSORS` of the record before, {} without one."""
    per_channel, tensors = len(layout.per_channel), len(TENSORS)
    channels = {name: array[:per_channel] for name, array in values.items()}
    before = {name: last.get(name, np.full_like(array[:tensors], np.nan)) for name, array in values.items()}
    with np.errstate(invalid="ignore", over="ignore"):  # infinity less infinity
        norms = {
            name: _norms(np.concatenate([array[:tensors] - before[name], array[per_channel:]]))
            for name, array in values.items()
        }
    return layout.row(channels, norms)


def _norms(values: np.ndarray) -> np.ndarray:
    """The Euclidean norm of each row; squares of float32 fit into float64."""
    norms: np.ndarray = np.sqrt(np.square(values.astype(np.float64)).sum(axis=1))
    return norms
