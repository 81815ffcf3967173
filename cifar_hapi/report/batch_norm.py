"""The batch norm of a run as a section of a page, and a page of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cifar_hapi.batch_norm.findings import Diagnosis, Finding
from cifar_hapi.batch_norm.inspection import HOW_TO_RECORD, Inspection
from cifar_hapi.batch_norm.words import counted
from cifar_hapi.report import batch_norm_figures as figures
from cifar_hapi.report.batch_norm_course import MOST_CHANNELS, Course, course_of
from cifar_hapi.report.encoding import Arrays
from cifar_hapi.report.libraries import check_libraries
from cifar_hapi.report.page import Section, check_page_name, render, template, write_page

_SHOWS = {  # which picture shows best what a rule is about
    "dead-scale": "scale",
    "weight-decay": "scale",
    "one-without-gradient": "scale",
    "never-positive": "shift",
    "lagging-statistics": "running_mean",
    "shifted-test-images": "running_mean",
}


def write_batch_norm_page(inspection: Inspection, path: Path) -> Path:
    """Write a page of the batch norm of a run to `path`, and give it back.

    Raises ImportError, saying what to install, without the extra `report`; RecipeError unless `path` ends in .html.
    """
    check_page(path)
    section = batch_norm_section(inspection)
    return write_page(path, f"Batch norm of {inspection.run.resolve().name}", [section])


def check_page(path: Path) -> None:
    """Raise what `write_batch_norm_page` would, before time is spent on what it shows."""
    check_page_name(path)
    check_libraries()


def batch_norm_section(inspection: Inspection) -> Section:
    """What is wrong, and pictures: layers x time, a layer's channels, their distributions, variance through depth."""
    course, arrays = course_of(inspection), Arrays()
    quantities = [each for each in figures.QUANTITIES if course.has(each.name)]
    body = render(
        "batch_norm.html",
        inspection=inspection,
        norms=counted(len(inspection.layers), "batch norm"),
        course=course,
        quantities=quantities,
        groups=[] if inspection.diagnosis is None else _groups(inspection.diagnosis, course),
        notes=_notes(inspection, course),
        how_to_record=HOW_TO_RECORD,
        names=[_name(layer) for layer in course.layers],
    )
    pictures = _pictures(inspection, course, quantities, arrays)
    return Section("Batch norm", body, template("batch_norm.js"), {**pictures, "arrays": arrays.stored})


def _pictures(
    inspection: Inspection, course: Course, quantities: list[figures.Quantity], arrays: Arrays
) -> dict[str, Any]:
    """By place in the page: one a quantity for the map, and for each layer one a quantity, or one."""
    inspected = {layer.name: layer for layer in inspection.layers}
    probed = course.has("batch_mean") and course.has("batch_variance")
    by_layer = []
    for layer in course.layers:
        found: dict[str, Any] = {
            "course": {each.name: arrays.encoded(figures.layer_course(course, layer, each)) for each in quantities},
            "spread": {each.name: arrays.encoded(figures.distributions(course, layer, each)) for each in quantities},
        }
        if probed:
            found["probe"] = arrays.encoded(figures.running_and_batch(course, layer))
        if layer in inspected and inspected[layer].true is not None:
            found["true"] = arrays.encoded(figures.running_and_true(inspected[layer], MOST_CHANNELS))
        by_layer.append(found)
    profile = figures.depth_profile(course, inspection.layers) if course.has("running_variance") else None
    return {
        "by": {each.name: f"{each.title}, {each.by} of the channels" for each in quantities},
        "map": {each.name: arrays.encoded(figures.heat_map(course, each)) for each in quantities},
        "depth": arrays.encoded(profile) if profile else None,
        "layers": by_layer,
        "rows": [course.layers.index(name) if name in course.layers else -1 for name in course.records.layers],
    }


def _groups(diagnosis: Diagnosis, course: Course) -> list[dict[str, Any]]:
    """The findings of a rule together, the gravest first, each with the layer that it leads to."""
    return [
        {
            "first": found[0],
            "links": [_link(each, found[0], course) for each in found],
            "quantity": _shown(found[0].rule),
        }
        for found in diagnosis.by_rule()
    ]


def _shown(rule: str) -> str:
    return _SHOWS.get(rule, "running_variance")


def _link(finding: Finding, gravest: Finding, course: Course) -> dict[str, Any]:
    known = finding.layer is not None and finding.layer in course.layers
    place = course.layers.index(finding.layer) if known and finding.layer is not None else None
    lesser = finding.beside(gravest)
    return {"lesser": lesser, "place": finding.place, "evidence": finding.shown_evidence, "layer": place}


def _notes(inspection: Inspection, course: Course) -> list[str]:
    """What of the records is not drawn."""
    records, notes = course.records, []
    if len(course.moments) < len(records):
        notes.append(f"{len(course.moments)} of {len(records)} records are drawn, evenly chosen.")
    if len(course.layers) < len(records.layers):
        notes.append(f"{len(course.layers)} of {len(records.layers)} layers have pictures of their own.")
    widest = max(records.channels[layer] for layer in course.layers)
    if course.recorded and records.summarised:
        notes.append("Summaries of the channels were recorded, so there are no lines of single channels.")
    elif course.channels < widest:
        notes.append(f"Of a layer's channels at most {course.channels} are drawn as lines; bands are of all of them.")
    if inspection.images and max(layer.channels for layer in inspection.layers) > MOST_CHANNELS:
        notes.append(f"At most {MOST_CHANNELS} channels are dots.")
    return notes


def _name(layer: str) -> str:
    return layer or "batch norm"
