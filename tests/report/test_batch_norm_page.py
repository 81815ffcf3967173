"""The page of batch norm, used in a real browser that is offline."""

from __future__ import annotations

import dataclasses
import sys

import bn_examples as examples
import browser
import numpy as np
import pytest
from browser import HOSTILE

from cifar_hapi.errors import RecipeError
from cifar_hapi.report.page import Section, render_page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """All that a page can have: records of each channel, a probe, a diagnosis."""
    return examples.example(probed=True).write_html(tmp_path_factory.mktemp("page") / "bn.html")


def shown(driver, picture):
    """The numbers of the picture's last line but channels: its median."""
    script = (
        f"document.querySelector('[data-picture={picture}]')._fullData.find(each => each.name?.endsWith('median')).y"
    )
    return driver.execute_script(f"return Array.from({script})")


def chosen(driver):
    return [
        driver.execute_script(f"return document.querySelector('[data-choice={name}]').selectedOptions[0].text")
        for name in ("layer", "quantity")
    ]


def choose(driver, name, place):
    script = f"const choice = document.querySelector('[data-choice={name}]'); choice.selectedIndex = {place};"
    driver.execute_script(script + "choice.dispatchEvent(new Event('change'))")


def median(layer, quantity):
    recorded = examples.example(probed=True).records
    return np.median(recorded[examples.names(3)[layer], quantity], axis=1)


def test_all_pictures_are_drawn_without_a_complaint_or_a_network(driver, page):
    browser.opened(driver, page)
    assert browser.complaints(driver) == []
    pictures = driver.execute_script(
        "return [...document.querySelectorAll('.picture')].map(each => each.querySelectorAll('.main-svg path').length)"
    )
    assert len(pictures) == 6 and min(pictures) > 5
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []


def test_choosing_a_layer_and_a_quantity_changes_the_pictures(driver, page):
    browser.opened(driver, page)
    np.testing.assert_allclose(shown(driver, "course"), median(0, "running_mean"), rtol=1e-5)
    before = driver.execute_script("return document.querySelector('[data-picture=probe]').outerHTML")
    choose(driver, "layer", 2)
    np.testing.assert_allclose(shown(driver, "course"), median(2, "running_mean"), rtol=1e-5)
    assert driver.execute_script("return document.querySelector('[data-picture=probe]').outerHTML") != before
    choose(driver, "quantity", 2)
    np.testing.assert_allclose(shown(driver, "course"), median(2, "scale"), rtol=1e-5)
    heading = driver.execute_script("return document.querySelector('[data-heading=course]').textContent")
    assert heading == f"{examples.names(3)[2]}: scale (gamma), in time"
    assert browser.complaints(driver) == []


def test_a_finding_leads_to_its_layer(driver, page):
    browser.opened(driver, page)
    choose(driver, "quantity", 3)
    assert chosen(driver) == ["stage0.0.norm", "shift (beta)"]
    driver.execute_script("document.querySelector('button[data-layer]').click()")
    assert chosen(driver) == ["stage0.2.norm", "running mean"]
    np.testing.assert_allclose(shown(driver, "course"), median(2, "running_mean"), rtol=1e-5)


def test_findings_of_a_rule_are_together_and_what_could_not_be_looked_at_is_told(driver, tmp_path):
    mild = examples.finding(layer_name="stage0.1.norm", severity="note")
    example = examples.example()
    found = dataclasses.replace(example.diagnosis, findings=(*example.diagnosis, mild), unable={"gap": "labels"})
    dataclasses.replace(example, diagnosis=found).write_html(tmp_path / "bn.html")
    browser.opened(driver, tmp_path / "bn.html")
    titles, lines = (
        driver.execute_script(f"return [...document.querySelectorAll('{each}')].map(each => each.textContent)")
        for each in (".finding summary", ".finding.error li")
    )
    assert titles == ["error lagging-statistics 2 places", "warning network-wide 1 place"]
    assert lines == ["stage0.2.norm, channels 1, 2 off 0.5", "note: stage0.1.norm off 0.5"]
    assert "could not look: no labels (gap)" in driver.execute_script("return document.body.textContent")


@pytest.mark.parametrize(("picture", "axis"), [("map", "y"), ("depth", "x")])
def test_a_click_into_a_picture_chooses_the_layer_there(driver, page, picture, axis):
    """A real click, at the second of three layers."""
    browser.opened(driver, page)
    where = driver.execute_script(
        f"const element = document.querySelector('[data-picture={picture}]'); element.scrollIntoView({{block: 'end'}});"
        "const plot = element.querySelector('.nsewdrag').getBoundingClientRect(), layout = element._fullLayout;"
        "const y = element._fullData[1]?.y;"
        f"return '{axis}' === 'y' ? [plot.x + plot.width / 2, plot.y + plot.height / 2]"
        ": [plot.x + plot.width / 2, plot.y + layout.yaxis.d2p(y[1])]"
    )
    for kind, buttons in (("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)):
        event = {"type": kind, "x": where[0], "y": where[1], "button": "left", "buttons": buttons, "clickCount": 1}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 60))")
    browser.until(driver, "document.querySelector('[data-choice=layer]').value === '1'", seconds=5)


@pytest.mark.parametrize("width", [320, 360, 1200])
def test_the_page_never_scrolls_sideways(driver, page, width):
    browser.opened(driver, page, width)
    wide = "return [document.documentElement.scrollWidth, ...[...document.querySelectorAll('.main-svg')]"
    widths = driver.execute_script(f"{wide}.map(each => each.getBoundingClientRect().right)]")
    assert len(widths) > 6 and max(widths) <= width


def test_pictures_follow_the_width_of_the_window_and_keep_their_heights(driver, page):
    sizes = (
        "[...document.querySelectorAll('.picture')].map(each => [each, each.querySelector('.main-svg')]"
        ".map(part => part.getBoundingClientRect())).map(([whole, drawn]) => [whole.height, drawn.height, drawn.width])"
    )
    browser.opened(driver, page)
    choose(driver, "quantity", 1)
    before = driver.execute_script(f"return {sizes}")
    driver.execute_script("document.querySelector('main').style.maxWidth = '700px'")
    everywhere = "Promise.all([...document.querySelectorAll('.picture')].map(Plotly.Plots.resize))"
    driver.execute_async_script(f"{everywhere}.then(arguments[0])")  # as plotly does when the window changes
    narrow = driver.execute_script(f"return {sizes}")
    browser.resized(driver, 500)
    browser.until(driver, f"{sizes}.every(([, , width]) => width < 500)", seconds=10)
    for after in (narrow, driver.execute_script(f"return {sizes}")):
        assert [row[:2] for row in after] == [row[:2] for row in before]
        assert min(row[0] for row in after) > 200 and max(row[2] for row in after) < 700


def test_dark_pages_have_light_words_in_their_pictures(driver, page):
    def brightness(selector, key):
        colour = driver.execute_script(f"return getComputedStyle(document.querySelector('{selector}')).{key}")
        return sum(map(float, colour.removeprefix("rgb(").rstrip(")").split(",")[:3])) / 3

    for dark in (False, True):
        browser.opened(driver, page, dark=dark)
        words, paper = brightness(".picture .xtick text", "fill"), brightness("body", "backgroundColor")
        assert (words > 200 and paper < 50) if dark else (words < 50 and paper > 200)


def test_it_is_printed_in_dark_on_white_and_as_wide_as_the_paper(driver, page):
    browser.opened(driver, page, dark=True)
    measure = (
        "return [getComputedStyle(document.body).backgroundColor,"
        "document.querySelector('[data-picture=course] .main-svg').getBoundingClientRect().width]"
    )
    before = driver.execute_script(measure)
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert driver.execute_script(measure) == ["rgb(255, 255, 255)", 680]
    driver.execute_script("dispatchEvent(new Event('afterprint'))")
    browser.until(driver, f"(() => {{ {measure} }})()[1] === {before[1]}")
    assert driver.execute_script(measure) == before


def broken(layout, rows):
    rows[1, ::3], rows[2, ::2], rows[3] = np.nan, np.inf, -1


ODD = {
    "summaries": examples.example(summarised=True, probed=True),
    "one record of one layer": examples.example(count=1, channels=1, moments=1, probed=True),
    "no records, no diagnosis": examples.inspection([examples.layer("a")]),
    "numbers that are none": examples.inspection([examples.layer("a")], examples.records({"a": 8}, spoil=broken)),
    "a norm without a name": examples.inspection([examples.layer("", away=(0, 1))], findings=[]),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_records_are_drawn_too(driver, tmp_path, case):
    browser.opened(driver, ODD[case].write_html(tmp_path / "bn.html"))
    choose(driver, "quantity", 1)
    assert browser.complaints(driver) == []
    assert driver.execute_script("return document.querySelectorAll('[data-picture=course] .main-svg').length") > 0


def test_hostile_names_are_shown_and_not_run(driver, tmp_path):
    found = [examples.finding(rule=HOSTILE, layer_name=HOSTILE, **{HOSTILE: 1.0})]
    recorded = examples.records({HOSTILE: 8, f"{HOSTILE}2": 8})
    inspection = examples.inspection([examples.layer(HOSTILE)], recorded, found, data=HOSTILE)
    page = dataclasses.replace(inspection, run=tmp_path / HOSTILE).write_html(tmp_path / "bn.html")
    browser.opened(driver, page)
    assert chosen(driver)[0] == HOSTILE
    choose(driver, "layer", 1)
    assert browser.complaints(driver) == []
    assert driver.execute_script("return [window.hurt, document.images.length]") == [None, 0]
    assert HOSTILE in driver.execute_script("return document.querySelector('button[data-layer]').textContent")


def test_a_page_of_wide_layers_stays_small_and_says_what_it_leaves_out(driver, tmp_path):
    channels = dict.fromkeys(examples.names(30), 1500)
    layers = [examples.layer(name, 1500, away=(0.1, 1)) for name in channels]
    inspection = examples.inspection(layers, examples.records(channels, moments=120, probed=True), [])
    page = inspection.write_html(tmp_path / "bn.html")
    assert page.stat().st_size < 6e6
    browser.opened(driver, page)
    assert browser.complaints(driver) == []
    notes = driver.execute_script("return [...document.querySelectorAll('.note')].map(each => each.textContent)")
    assert any("of 120 records are drawn" in note for note in notes)
    assert any("channels at most" in note for note in notes) and "At most 64 channels are dots." in notes


def test_figures_that_are_damaged_are_told(driver, page, tmp_path):
    damaged = tmp_path / "damaged.html"
    damaged.write_text(page.read_text("utf-8").replace('id="figures-0">H4s', 'id="figures-0">AAAA'), "utf-8")
    browser.opened(driver, damaged)
    assert "The pictures cannot be drawn" in " ".join(browser.complaints(driver))


def test_sections_stand_beside_each_other(driver, tmp_path):
    script = "(section, figures) => { section.dataset.found = figures.word; }"
    sections = [Section(f"Part {word}", f"<p>{word}</p>", script, {"word": word}) for word in ("one", "two")]
    page = tmp_path / "page.html"
    page.write_text(render_page("Both", sections), "utf-8")
    browser.opened(driver, page)
    browser.until(driver, "document.querySelectorAll('[data-found]').length === 2")
    found = driver.execute_script("return [...document.querySelectorAll('section')].map(each => each.dataset.found)")
    assert found == ["one", "two"] and browser.complaints(driver) == []


def test_without_plotly_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r"HTML pages need plotly: pip install 'cifar-hapi\[report\]'"):
        examples.example().write_html(tmp_path / "bn.html")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file_for_a_page(tmp_path):
    with pytest.raises(RecipeError, match="is a folder; name a file for the page"):
        examples.example().write_html(tmp_path)


def test_a_page_is_not_written_over_what_is_none(tmp_path):
    manifest = tmp_path / "run.json"
    manifest.write_text("{}")
    with pytest.raises(RecipeError, match=r"run\.json: is not the name of a page; let it end in \.html"):
        examples.example().write_html(manifest)
    assert manifest.read_text() == "{}"
