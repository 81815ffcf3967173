"""The page of a run, or of several beside each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_hapi.batch_norm.inspection import inspect_batch_norm
from cifar_hapi.comparison import compare, opened_runs
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.errors import DataError, RecipeError, RunError
from cifar_hapi.recorded_evaluation import RecordedEvaluation, recorded_evaluation
from cifar_hapi.report import course_figures, evaluation_figures
from cifar_hapi.report.answered_images import AnsweredImages, answered_images
from cifar_hapi.report.batch_norm import batch_norm_section
from cifar_hapi.report.course_figures import RunCourse
from cifar_hapi.report.encoding import Arrays
from cifar_hapi.report.evaluation_figures import MOST_CLASSES, NamedEvaluation
from cifar_hapi.report.figure import Figure
from cifar_hapi.report.gallery import sample_pictures, surest_mistakes
from cifar_hapi.report.libraries import check_libraries
from cifar_hapi.report.page import Section, check_page_name, render, template, write_page
from cifar_hapi.report.run_facts import in_short, origin_facts, recipe_rows, result_rows, summary_facts
from cifar_hapi.reproduction import train_command
from cifar_hapi.run import Run

Runs = Run | str | Path | Sequence[Run | str | Path]
Figures = dict[str, Figure | dict[str, Figure]]


def write_report(
    runs: Runs, out: str | Path | None = None, *, data_dir: str | Path | None = None, images: ImageSet | None = None
) -> Path:
    """Write a page about a run, or about several beside each other, and give back where it is.

        write_report("runs/first")  # runs/first/report.html
        write_report(["runs/first", "runs/second"], "both.html")

    The page is one file that needs no network. out: where it is put; by default `report.html` in the run, and for
    several runs it must be named. data_dir: where the test images are looked for, of which some are shown; images:
    these, where they are at hand. Where they are not to be had any more, or a run was not evaluated, the page says so.
    Where a run has not kept what its network said of each image, the network is run once on all of them.

    Raises ImportError, saying what to install, without the extra `report`; RunError for a run that is missing or
    damaged; RecipeError where `out` is absent or is a folder.
    """
    check_libraries()
    opened = opened_runs(runs)
    path = _place(opened, out)
    reported = [_Reported.of(run, name, data_dir, images) for run, name in zip(opened, _names(opened), strict=True)]
    sections = _sections(reported[0]) if len(reported) == 1 else _sections_of_several(reported)
    title = f"Run {reported[0].name}" if len(reported) == 1 else f"{len(reported)} runs compared"
    return write_page(path, title, sections)


@dataclass(frozen=True, eq=False)
class _Reported:
    """A run, what is shown of it, and sentences about what is not."""

    run: Run
    name: str
    evaluation: RecordedEvaluation | None
    seen: AnsweredImages | None
    batch_norm: Section | None
    missing: tuple[str, ...]

    @classmethod
    def of(cls, run: Run, name: str, data_dir: str | Path | None, images: ImageSet | None) -> _Reported:
        missing: list[str] = []
        evaluation, seen, batch_norm = recorded_evaluation(run), None, None
        if evaluation is None:
            missing.append(f"It was not evaluated on the test set yet: cifar-hapi evaluate {run.path}")
        else:
            try:
                seen = answered_images(run, evaluation, data_dir, images)
            except (DataError, RecipeError, RunError) as error:
                missing.append(f"No test images are shown: {error}.")
        try:
            batch_norm = _batch_norm(run)
        except (RecipeError, RunError) as error:
            missing.append(f"Batch norm is not shown: {error}.")
        return cls(run, name, evaluation, seen, batch_norm, tuple(missing))

    @property
    def course(self) -> RunCourse:
        return RunCourse(self.name, self.run.history, self.run.steps)


def _batch_norm(run: Run) -> Section | None:
    if not run.bn_path.exists():
        return None
    return batch_norm_section(inspect_batch_norm(run, diagnosis=False))


def _place(runs: Sequence[Run], out: str | Path | None) -> Path:
    if out is None and len(runs) > 1:
        raise RecipeError("a page of several runs belongs to none of them: name its file (--out FILE.html)")
    path = runs[0].report_path if out is None else Path(out)
    check_page_name(path)
    return path


def _names(runs: Sequence[Run]) -> list[str]:
    """The names of the directories; the paths where two are called the same."""
    names = [run.path.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _sections(reported: _Reported) -> list[Section]:
    parts = [_summary(reported), _courses([reported]), *_details(reported)]
    return [part for part in parts if part is not None]


def _sections_of_several(every: Sequence[_Reported]) -> list[Section]:
    parts = [_comparison(every), _courses(every), _evaluations(every)]
    details = [dataclasses.replace(part, of=each.name) for each in every for part in _details(each) if part is not None]
    return [*(part for part in parts if part is not None), *details]


def _details(reported: _Reported) -> list[Section | None]:
    """What each run has for itself."""
    return [_test_set(reported), _gallery(reported), reported.batch_norm, _origin(reported)]


def _summary(reported: _Reported) -> Section:
    run, evaluation = reported.run, reported.evaluation
    facts = summary_facts(run, evaluation)
    note = evaluation.note if evaluation else run.data.note
    return _section("Summary", "facts.html", {}, facts=facts, important=[note] if note else [], notes=reported.missing)


def _comparison(every: Sequence[_Reported]) -> Section:
    found = compare([each.run for each in every])
    notes = [f"{each.name}: {sentence}" for each in every for sentence in each.missing]
    return _section(
        "Comparison",
        "comparison.html",
        {},
        names=[each.name for each in every],
        rows=result_rows(found),
        differing={key: list(map(in_short, values)) for key, values in found.differing.items()},
        important=found.notes,
        notes=notes,
    )


def _courses(every: Sequence[_Reported]) -> Section | None:
    courses = [each.course for each in every]
    measures = course_figures.measures_of(courses)
    if not measures:
        return None
    pictures: Figures = {
        measure.key: {
            against.key: course_figures.course_figure(courses, measure, against) for against in course_figures.AGAINST
        }
        for measure in measures
    }
    smoothed = any(each.run.recipe.loss.label_smoothing for each in every)
    about = {"measures": measures, "against": course_figures.AGAINST, "several": len(every) > 1}
    return _section("Training", "course.html", pictures, smoothed=smoothed, **about)


def _evaluations(every: Sequence[_Reported]) -> Section | None:
    """Those of several runs together, as far as their classes are the same."""
    found = [NamedEvaluation(each.name, each.evaluation) for each in every if each.evaluation is not None]
    alike = [each for each in found if each.evaluation.per_class.keys() == found[0].evaluation.per_class.keys()]
    if len(alike) < 2:
        return None
    pictures: Figures = {
        "classes": evaluation_figures.class_dots(alike),
        "reliability": evaluation_figures.reliability(alike),
    }
    calibration = [(each.name, each.evaluation.calibration.ece) for each in alike]
    return _section("Classes and calibration", "evaluations.html", pictures, calibration=calibration)


def _test_set(reported: _Reported) -> Section | None:
    evaluation = reported.evaluation
    if evaluation is None:
        return None
    pictures: Figures = {
        "classes": evaluation_figures.class_bars(evaluation),
        "confusion": evaluation_figures.confusion_map(evaluation),
        "reliability": evaluation_figures.reliability([NamedEvaluation(reported.name, evaluation)]),
    }
    left_out = len(evaluation.per_class) - MOST_CLASSES
    about = {"evaluation": evaluation, "left_out": max(0, left_out), "drawn": MOST_CLASSES}
    return _section("Test set", "test_set.html", pictures, **about)


def _gallery(reported: _Reported) -> Section | None:
    if reported.seen is None:
        return None
    mistakes, samples = surest_mistakes(reported.seen), sample_pictures(reported.seen)
    wrong = int((~reported.seen.answers.right).sum())
    return _section("Mistakes and samples", "gallery.html", {}, mistakes=mistakes, samples=samples, wrong=wrong)


def _origin(reported: _Reported) -> Section:
    run = reported.run
    return _section(
        "Recipe and origin",
        "origin.html",
        {},
        command=train_command(run),
        recipe=recipe_rows(run.recipe),
        facts=origin_facts(run),
    )


def _section(title: str, page: str, pictures: Figures, **values: Any) -> Section:
    """A section whose pictures are where its template has places of their names."""
    arrays = Arrays()
    figures = {"pictures": arrays.encoded(pictures), "arrays": arrays.stored}
    return Section(title, render(page, **values), template("pictures.js"), figures)
