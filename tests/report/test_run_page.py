"""The page of a run, and of several, used in a real browser that is offline."""

from __future__ import annotations

import base64
import html
import io
import json
import shutil

import browser
import numpy as np
import pytest
import run_examples as examples
from browser import HOSTILE
from PIL import Image
from safetensors.numpy import load
from small_training import small_fit

from cifar_hapi import RecipeError, Run, RunError
from cifar_hapi.answers import read_answers
from cifar_hapi.data.archives import read_cifar
from cifar_hapi.report import write_report
from cifar_hapi.report.course_figures import on_legend

NAMES = ("one", "two", "third_of_a_rather_long_name_that_breaks_nowhere")


@pytest.fixture(scope="module")
def run(small_cifar, tmp_path_factory):
    """All that a run can have: a training of two epochs with batch-norm statistics and a page."""
    place = tmp_path_factory.mktemp("runs") / "whole"
    return small_fit(small_cifar, place, report=True, **{"bn_stats.every_epochs": 1})


@pytest.fixture(scope="module")
def page(run):
    return run.report_path


@pytest.fixture(scope="module")
def several(small_cifar, tmp_path_factory):
    place = tmp_path_factory.mktemp("several")
    runs = [
        examples.written_run(place / name, small_cifar, epochs=epochs)
        for name, epochs in zip(NAMES, (3, 5, 4), strict=True)
    ]
    return write_report(runs, place / "both.html")


def written(runs, *arguments):
    """The page as people read it, without a browser: markup and all."""
    return html.unescape(write_report(runs, *arguments).read_text("utf-8"))


def texts(driver, selector):
    return driver.execute_script(f"return [...document.querySelectorAll('{selector}')].map(each => each.textContent)")


def test_all_is_drawn_without_a_complaint_or_a_network(driver, page):
    browser.shown(driver, page)
    assert browser.complaints(driver) == []
    headings = ["Summary", "Training", "Test set", "Mistakes and samples", "Batch norm", "Recipe and origin"]
    assert texts(driver, "h2.part") == texts(driver, "nav a") == headings
    drawn = driver.execute_script(
        "return [...document.querySelectorAll('.picture')].filter(each => each.offsetParent)"
        ".map(each => each.querySelectorAll('.main-svg path, .main-svg image').length)"
    )
    assert len(drawn) >= 10 and min(drawn) > 2
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []


def test_the_surest_mistakes_are_the_test_images_themselves(driver, page, run, small_cifar):
    browser.shown(driver, page)
    _, test = read_cifar(small_cifar, "cifar10")
    answers, _ = read_answers(run.answers_path, run.evaluation["when"], 10)
    places = answers.surest_mistakes(24)
    script = "return [...document.querySelector('.gallery').querySelectorAll('figure')]"
    found = driver.execute_script(f"{script}.map(each => [each.querySelector('img').src, each.innerText])")
    assert len(found) == len(places) == 24
    for place, (source, words) in zip(places, found, strict=True):
        png = base64.b64decode(source.removeprefix("data:image/png;base64,"))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), test.images[place])
        predicted, label = test.class_names[answers.classes[place, 0]], test.class_names[test.labels[place]]
        assert (
            words.startswith(f"✗ {predicted} {100 * answers.probabilities[place, 0]:.1f}") and f"is {label}," in words
        )
    sizes = driver.execute_script(
        "return [...document.images].map(each => [each.complete && each.naturalWidth, each.width])"
    )
    assert len(sizes) == 48 and all(natural == 32 and shown >= 80 for natural, shown in sizes)


def test_the_numbers_are_those_of_the_run(driver, page, run):
    browser.shown(driver, page)
    summary = driver.execute_script("return document.getElementById('section-0').innerText")
    evaluation = run.evaluation
    assert f"{evaluation['top1']:.2%}: {round(120 * evaluation['top1'])} right of all 120 images" in summary
    assert "cifar10" in summary and f"{run.manifest['parameters'] / 1e6:.2f} M parameters" in summary
    assert f"{run.manifest['peak_memory'] / 1e6:,.0f} MB" in summary and "2 of 2 epochs" in summary
    origin = driver.execute_script("return document.getElementById('section-5').innerText")
    assert run.data.parts["test"].sha256 in origin and "cifar-hapi train quick --epochs 2" in origin
    assert run.manifest["versions"]["paddle"] in origin


def line(driver, picture, trace):
    """Where the points of a line are in the window."""
    return driver.execute_script(
        f"const element = document.querySelector('[data-picture={picture}]'), trace = element._fullData[{trace}];"
        "element.scrollIntoView({block: 'center'});"
        "const plot = element.querySelector('.nsewdrag').getBoundingClientRect(), layout = element._fullLayout;"
        "const at = (x, y) => [plot.x + layout.xaxis.d2p(x), plot.y + layout.yaxis.d2p(y)];"
        "return Array.from(trace.x, (x, place) => at(x, trace.y[place]))"
    )


def mouse(driver, x, y, *kinds):
    for kind in kinds:
        event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", event | ({} if kind == "mouseMoved" else {"buttons": 1}))


def test_pointing_at_a_curve_tells_its_numbers(driver, page, run):
    browser.shown(driver, page)
    points = line(driver, "accuracy", 1)
    mouse(driver, *points[1], "mouseMoved")
    browser.until(driver, "document.querySelector('[data-picture=accuracy] .hoverlayer .hovertext') !== null", 10)
    told = " ".join(texts(driver, "[data-picture=accuracy] .hoverlayer text"))
    assert "epoch 2" in told and f"{run.history[1]['eval_acc']:.4g}" in told


@pytest.mark.parametrize("which", ["page", "several"])
def test_a_click_on_the_legend_hides_a_curve(driver, which, request):
    browser.shown(driver, request.getfixturevalue(which))
    curves = "document.querySelectorAll('[data-picture=loss] .scatterlayer .trace').length"
    before = driver.execute_script(f"return {curves}")
    driver.execute_script("document.querySelector('[data-picture=loss]').scrollIntoView({block: 'center'})")
    x, y = driver.execute_script(
        "const place = document.querySelector('[data-picture=loss] .legendtoggle').getBoundingClientRect();"
        "return [place.x + place.width / 2, place.y + place.height / 2]"
    )
    driver.shows = None  # not as it was
    mouse(driver, x, y, "mouseMoved", "mousePressed", "mouseReleased")
    browser.until(driver, f"{curves} === {before - (2 if which == 'several' else 1)}", 10)


def test_curves_can_be_drawn_against_time(driver, page, run):
    browser.shown(driver, page)
    driver.execute_script(
        "const choice = document.querySelector('[data-choice=against]'); choice.value = 'seconds';"
        "choice.dispatchEvent(new Event('change'))"
    )
    driver.shows = None  # not as it was
    title = "document.querySelector('[data-picture=loss]').layout.xaxis.title.text"
    browser.until(driver, f"{title} === 'seconds of training'", 10)
    lines = "Array.from(document.querySelector('[data-picture=loss]')._fullData, line => Array.from(line.x))"
    for shown, records in zip(driver.execute_script(f"return {lines}"), (run.steps, run.history), strict=True):
        assert shown == pytest.approx(np.cumsum([record["seconds"] for record in records]).tolist(), rel=1e-5)


@pytest.mark.parametrize(("which", "width"), [("page", 1200), ("several", 1200), ("page", 375), ("several", 375)])
def test_nothing_is_wider_than_the_window(driver, which, width, request):
    browser.shown(driver, request.getfixturevalue(which), width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    inside = "[...document.querySelectorAll('.main-svg, img, dl, pre, p')].filter(each => each.offsetParent !== null)"
    rights = driver.execute_script(f"return {inside}.map(each => each.getBoundingClientRect().right)")
    assert len(rights) > 50 and max(rights) <= width


def test_pages_are_dark_where_the_system_is(driver, page):
    def brightness(selector, key):
        colour = driver.execute_script(f"return getComputedStyle(document.querySelector('{selector}')).{key}")
        return sum(map(float, colour.removeprefix("rgb(").rstrip(")").split(",")[:3])) / 3

    for dark in (False, True):
        browser.shown(driver, page, dark=dark)
        for words in (brightness("[data-picture=loss] .xtick text", "fill"), brightness("h3", "color")):
            assert (words > 200) if dark else (words < 50)
        assert brightness("body", "backgroundColor") < 50 if dark else brightness("body", "backgroundColor") > 200


def test_the_page_prints_as_a_few_sheets(driver, page):
    browser.shown(driver, page)
    printed = base64.b64decode(
        driver.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})["data"]
    )
    assert printed.startswith(b"%PDF") and 3 < printed.count(b"/Type /Page\n") < 20


def test_several_runs_stand_beside_each_other(driver, several):
    browser.shown(driver, several)
    assert browser.complaints(driver) == []
    assert texts(driver, "h1") == ["3 runs compared"]
    assert texts(driver, "thead th") == ["", *NAMES] * 2
    assert "epochs354" in texts(driver, "tbody tr")
    names = driver.execute_script(
        "return [...document.querySelector('[data-picture=loss]')._fullData].map(each => each.name)"
    )
    assert names == [on_legend(name) for name in NAMES for _ in range(2)]
    assert "two: mistakes and samples" in texts(driver, "h2.part")
    contents = texts(driver, "nav > *")
    names = texts(driver, "nav .of")
    places = [contents.index(name) for name in names]
    assert names[1] == "two:" and contents[places[0] - 1] == "Classes and calibration"
    assert "Mistakes and samples" in contents[places[1] : places[2]] and contents[-1] == "Recipe and origin"


def test_hostile_names_are_shown_and_not_run(driver, small_cifar, tmp_path):
    runs = []
    for name in ("<b>one</b>", HOSTILE.replace("/", "\\")):
        run = examples.written_run(tmp_path / name, small_cifar, network__name=HOSTILE)
        names = [f"{number}{HOSTILE}" for number in range(10)]
        run.save_evaluation(run.evaluation | {"per_class": dict.fromkeys(names, 0.5), "note": HOSTILE})
        data = run.manifest["data"] | {"class_names": names, "source": HOSTILE}
        run.update(
            data=data,
            command=[HOSTILE],
            device=HOSTILE,
            versions={HOSTILE: HOSTILE},
            stopped=HOSTILE,
        )
        runs.append(run)
    browser.opened(driver, write_report(runs, tmp_path / "both.html"))
    assert browser.complaints(driver) == []
    images = "[...document.images].every(each => each.src.startsWith('data:image/png'))"
    assert driver.execute_script(f"return [window.hurt, document.images.length, {images}]") == [None, 96, True]
    assert HOSTILE in driver.execute_script("return document.body.textContent")
    names = driver.execute_script("return document.querySelector('[data-picture=confusion]').layout.yaxis.ticktext")
    assert len(names) == 10 and not any("<" in name for name in names)
    alone = write_report(runs[1]).read_text("utf-8")
    assert "<img src=x" not in alone and HOSTILE in html.unescape(alone)


def test_a_run_without_an_evaluation_says_so(driver, small_cifar, tmp_path):
    run = examples.written_run(tmp_path / "run", small_cifar, evaluated=False)
    browser.opened(driver, write_report(run))
    assert browser.complaints(driver) == []
    notes = texts(driver, "#section-0 .note")
    assert notes == [f"It was not evaluated on the test set yet: cifar-hapi evaluate {run.path}"]
    assert texts(driver, "h2.part") == ["Summary", "Training", "Recipe and origin"]


def test_without_the_images_the_rest_is_shown_and_that_is_said(small_cifar, tmp_path):
    run = examples.written_run(tmp_path / "run", small_cifar)
    recipe = run.manifest["recipe"]
    run.update(recipe=recipe | {"data": recipe["data"] | {"dir": "/gone"}})
    text = written(run)
    assert "No test images are shown: data.dir = '/gone': there is no such folder." in text
    assert "<img" not in text and "What is taken for what" in text


def test_without_answers_and_weights_the_rest_is_shown_and_that_is_said(small_cifar, tmp_path):
    text = written(examples.written_run(tmp_path / "run", small_cifar, answered=False))
    assert "No test images are shown: run " in text and "has no latest weights" in text
    assert "<img" not in text and "What is taken for what" in text


def test_images_that_are_not_those_recorded_are_not_shown(small_cifar, tmp_path):
    run = examples.written_run(tmp_path / "run", small_cifar)
    parts = run.manifest["data"]["parts"]
    run.update(data=run.manifest["data"] | {"parts": parts | {"test": {"images": 120, "sha256": "0" * 64}}})
    assert "<img" in write_report(run).read_text("utf-8")  # the evaluation says on which images it was
    run.answers_path.unlink()
    text = write_report(run).read_text("utf-8")
    assert "<img" not in text and "are not those that run" in text


def test_a_run_that_was_not_trained_yet_has_a_page(driver, small_cifar, tmp_path):
    run = examples.written_run(
        tmp_path / "run", small_cifar, evaluated=False, manifest={"status": "running", "seconds": None}
    )
    (run.path / "history.jsonl").unlink()
    steps = run.steps_path.rename(tmp_path / "steps.jsonl")
    browser.opened(driver, write_report(run))
    assert browser.complaints(driver) == [] and texts(driver, "h2.part") == ["Summary", "Recipe and origin"]
    steps.rename(run.steps_path)  # in its first epoch
    browser.opened(driver, write_report(run))
    assert browser.complaints(driver) == [] and texts(driver, "h2.part") == ["Summary", "Training", "Recipe and origin"]


def test_answers_that_are_missing_are_asked_for_once(run, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    kept = load(copy.answers_path.read_bytes())
    copy.answers_path.unlink()
    assert write_report(copy).read_text("utf-8").count("<img") == 48
    found = load(copy.answers_path.read_bytes())
    assert all((found[name] == kept[name]).all() for name in kept) and found.keys() == kept.keys()
    copy.answers_path.with_name("checkpoints").rename(tmp_path / "away")
    shutil.rmtree(copy.path / "bn")
    assert write_report(copy).read_text("utf-8").count("<img") == 48  # without the network


def test_answers_are_not_asked_of_weights_that_have_gone_on(run, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    copy.answers_path.unlink()
    copy.save_evaluation(copy.evaluation | {"step": 1})
    assert "has gone on since it was evaluated" in write_report(copy).read_text("utf-8")


def test_an_engine_that_is_not_to_be_had_leaves_the_rest_of_the_page(run, tmp_path, monkeypatch):
    copy = shutil.copytree(run.path, tmp_path / "run")
    (copy / "answers.safetensors").unlink()
    reason = "engine = onednn: not to be had here"

    def refuse(*arguments):
        raise RecipeError(reason)

    monkeypatch.setattr("cifar_hapi.report.answered_images.load_with_engine", refuse)
    assert f"No test images are shown: {reason}." in written(copy)


def test_generated_images_are_never_called_cifar(small_cifar, tmp_path):
    run = examples.called_generated(examples.written_run(tmp_path / "run", small_cifar))
    _, test = read_cifar(small_cifar, "cifar10")
    text = html.unescape(write_report(run, images=test).read_text("utf-8"))
    assert text.count('<p class="notice">These are generated images: no result here is a CIFAR result.</p>') == 1
    assert text.count("(generated images, not CIFAR)") == 2 and text.count("<img") == 48


def test_a_page_of_large_images_and_many_classes_stays_small(driver, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(120):
        for part, count in (("train", 1), ("test", 1)):
            folder = tmp_path / "images" / part / f"class {number}"
            folder.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(folder / f"{count}.png")
    source = str(tmp_path / "images")
    run = examples.written_run(tmp_path / "run", None, source=source, data__image_size=96, epochs=400)
    written = write_report(run)
    assert written.stat().st_size < 6e6
    browser.opened(driver, written)
    assert browser.complaints(driver) == []
    assert "Of 120 classes the 100 with the most mistakes are drawn." in texts(driver, ".note")
    assert driver.execute_script("return Math.max(...[...document.images].map(each => each.naturalWidth))") == 64


def test_a_page_is_smaller_than_six_megabytes(page, several):
    assert page.stat().st_size < 6e6 and several.stat().st_size < 6e6


def test_arguments_that_cannot_be(run, tmp_path):
    with pytest.raises(RecipeError, match=r"name its file \(--out FILE\.html\)"):
        write_report([run, run])
    with pytest.raises(RecipeError, match="is a folder; name a file"):
        write_report(run, tmp_path)
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(RecipeError, match=r"run\.json: is not the name of a page; let it end in \.html"):
        write_report(run, run.path / "run.json")
    assert (run.path / "run.json").read_bytes() == before
    with pytest.raises(RunError, match="nowhere is no run"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no run is named"):
        write_report([])
    assert write_report([run], tmp_path / "new" / "page.html") == tmp_path / "new" / "page.html"


def test_runs_of_one_name_are_told_apart_by_their_paths(small_cifar, tmp_path):
    runs = [examples.written_run(tmp_path / folder / "run", small_cifar) for folder in ("a", "b")]
    heads = "".join(f"<th>{run.path}</th>" for run in runs)
    assert f"<tr><th></th>{heads}</tr>" in written(runs, tmp_path / "both.html")


def test_a_damaged_file_of_the_run_is_an_error_that_names_it(small_cifar, tmp_path):
    run = examples.written_run(tmp_path / "run", small_cifar)
    (run.path / "evaluation.json").write_text(json.dumps(run.evaluation | {"top1": 7}))
    with pytest.raises(RunError, match=r"evaluation\.json: top1"):
        write_report(run)
