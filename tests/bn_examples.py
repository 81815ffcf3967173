"""Inspections of batch norm without a network: what pictures and tables are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from callbacks.bn_layout import CHANGES, PROBED, TENSORS, Layout
from callbacks.bn_records import BatchNormRecords
from cifar_hapi.batch_norm.findings import Diagnosis, Finding
from cifar_hapi.batch_norm.inspection import InspectedLayer, Inspection
from cifar_hapi.batch_norm.observation import Distance, Inputs

RUN = Path("runs/example")


def names(count):
    return [f"stage{number // 6}.{number % 6}.norm" for number in range(count)]


def tensors(channels, seed=0):
    rng = np.random.default_rng(seed)
    mean, scale, shift = (rng.normal(size=channels).astype("float32") for _ in range(3))
    return dict(zip(TENSORS, (mean, np.exp(mean), abs(scale), shift), strict=True))


def layer(name, channels=8, away=None, **changes):
    held = {**tensors(channels), **changes}
    if away is None:
        return InspectedLayer(name, held)
    mean, factor = away
    true = held["running_mean"] - mean, held["running_variance"] / factor
    inputs = Inputs(*(each.astype("float64") for each in (*true, true[1], true[1], true[0] - 3, true[0] + 3)), 100, 64)
    off, ratio, none = np.full(channels, mean), np.full(channels, np.log(factor)), np.zeros(channels)
    return InspectedLayer(name, held, inputs, Distance(off, ratio, none, none))


def records(channels, moments=5, summarised=False, probed=False, spoil=None):
    """Of layers with so many channels, by name; `spoil` may change the values, [T, width], given the layout."""
    layout = Layout(dict(channels), (*TENSORS, *(PROBED if probed else ())), CHANGES, summarised)
    rng = np.random.default_rng(1)
    rows = np.exp(rng.normal(size=(moments, layout.width))).astype("float32")
    if spoil:
        spoil(layout, rows)
    steps = 10 * np.arange(moments, dtype="int64")
    return BatchNormRecords(layout, steps, np.arange(moments, dtype="int64"), rows)


def finding(rule="lagging-statistics", severity="warning", layer_name=None, channels=(), **evidence):
    return Finding(rule, severity, layer_name, channels, evidence or {"off": 0.5}, "It is off.", "Mend it.", "A 2020")


def inspection(layers, recorded=None, findings=None, data="synthetic", run=RUN):
    found = None if findings is None else Diagnosis(tuple(findings), len(layers), 100, 21)
    return Inspection(run, data, "latest", 40, tuple(layers), recorded, found)


def example(count=3, channels=8, summarised=False, probed=False, moments=5):
    """All that there can be: a diagnosis with findings, records of every channel."""
    layers = [layer(name, channels, away=(0.1 * place, 1.5)) for place, name in enumerate(names(count))]
    found = [finding(layer_name=names(count)[-1], severity="error", channels=(1, 2)), finding("network-wide")]
    recorded = records(dict.fromkeys(names(count), channels), moments, summarised, probed)
    return inspection(layers, recorded, found)
