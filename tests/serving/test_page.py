"""The page, used in a real browser: choose, drop, paste, and what it says of what is wrong."""

from __future__ import annotations

import base64
import json
import shutil

import browser
import pytest
from asked_server import encoded, served
from browser import HOSTILE, until

from cifar_hapi import Run, predict


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.started(tmp_path_factory.mktemp("profile"), offline=False) as found:
        yield found


@pytest.fixture
def page(driver, port):
    """The driver with the page as it is at first, 1200 pixels wide."""
    return opened(driver, port)


def opened(driver, port, width=1200):
    browser.resized(driver, width)
    driver.get_log("browser")
    driver.get(f"http://127.0.0.1:{port}/")
    until(driver, "document.title.includes(' - ')", 30)
    return driver


@pytest.fixture
def file(images, tmp_path):
    (tmp_path / "frog.png").write_bytes(encoded(images[3]))
    return tmp_path / "frog.png"


def choose(driver, *paths):
    driver.find_element("id", "files").send_keys("\n".join(map(str, paths)))


def answers(driver, count):
    """The text of each answer, when there are so many."""
    until(driver, f"document.querySelectorAll('.answer .bar').length >= {count}", 30)
    return driver.execute_script("return [...document.querySelectorAll('.answer')].map(each => each.innerText)")


def problems(driver):
    until(driver, "document.querySelector('#problems .notice')", 30)
    return driver.find_element("id", "problems").text


def test_a_chosen_image_is_answered_with_bars_and_what_the_network_saw(page, run, images, file):
    choose(page, file)
    (text,) = answers(page, 10)
    expected = predict(run, images[3])
    shares = sorted(zip(expected.probabilities[0], expected.class_names, strict=True), reverse=True)
    assert text.startswith(f"{expected.names[0]}, {100 * shares[0][0]:.1f} %") and "frog.png" in text
    rows = page.execute_script("return [...document.querySelectorAll('.answer tr')].map(each => each.innerText)")
    assert [row.split() for row in rows] == [[name, f"{100 * share:.1f}", "%"] for share, name in shares]
    widths = page.execute_script(
        "return [...document.querySelectorAll('.bar')].map(each => each.offsetWidth / each.parentElement.offsetWidth)"
    )
    assert widths == pytest.approx([share for share, _ in shares], abs=0.01)
    assert "Decoded in" in text and "waited" in text and "network" in text
    sizes = page.execute_script("return [...document.images].map(each => [each.complete, each.naturalWidth])")
    assert sizes == [[True, 32], [True, 32]]
    status = page.execute_script("return document.querySelector('[role=status]').textContent")
    assert status == f"frog.png: {expected.names[0]}, {100 * shares[0][0]:.1f} %"


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_complained_of(page, port, file):
    choose(page, file)
    answers(page, 10)
    assert page.get_log("browser") == []
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert [name for name in loaded if not name.startswith((f"http://127.0.0.1:{port}/", "blob:", "data:"))] == []


BREAK_OUT = """
const done = arguments[0], told = [];
addEventListener("securitypolicyviolation", (event) => told.push(event.effectiveDirective));
const attempts = [
  () => document.body.append(Object.assign(document.createElement("script"), { textContent: "window.hurt = 1" })),
  () => document.body.insertAdjacentHTML("beforeend", "<p style='color: red'>"),
  () => document.head.append(Object.assign(document.createElement("style"), { textContent: "p { color: red }" })),
  () => Object.assign(new Image(), { src: "http://127.0.0.2:9/" }),
  () => fetch("http://127.0.0.2:9/").catch(() => 0),
];
for (const attempt of attempts) try { attempt(); } catch (error) { told.push(error.name); }
setTimeout(() => done([told, window.hurt ?? null]), 200);
"""


def test_the_policy_holds_scripts_styles_and_connections_back(page):
    told, hurt = page.execute_async_script(BREAK_OUT)
    assert hurt is None and told.count("TypeError") == 2  # text is not to become script or markup
    assert {"style-src-elem", "img-src", "connect-src"} <= set(told)


GIVE = """
const [data, kind, name] = arguments;
const given = new DataTransfer();
given.items.add(new File([Uint8Array.from(atob(data), each => each.charCodeAt(0))], name, { type: "image/png" }));
const event = kind === "paste" ? new ClipboardEvent("paste", { clipboardData: given, bubbles: true })
  : new DragEvent(kind, { dataTransfer: given, bubbles: true, cancelable: true });
document.body.dispatchEvent(event);
return event.defaultPrevented;
"""


def give(driver, content, kind, name="frog.png"):
    return driver.execute_script(GIVE, base64.b64encode(content).decode(), kind, name)


def test_a_dropped_and_a_pasted_image_are_answered(page, file):
    assert give(page, file.read_bytes(), "dragover")
    assert "over" in page.find_element("id", "drop").get_attribute("class")
    assert give(page, file.read_bytes(), "drop")  # else the browser would open the file
    assert len(answers(page, 10)) == 1
    assert page.find_element("id", "drop").get_attribute("class") == ""
    give(page, file.read_bytes(), "paste")
    assert len(answers(page, 20)) == 2


def test_what_is_no_image_is_told_and_the_others_are_answered(page, file, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    choose(page, tmp_path / "notes.txt", file)
    assert problems(page) == "notes.txt: not an image of a known format (PNG, JPEG, WEBP, GIF, BMP)"
    assert len(answers(page, 10)) == 1
    assert page.find_element("id", "problems").get_attribute("role") == "alert"
    choose(page, file)
    answers(page, 20)
    assert page.find_element("id", "problems").text == ""


def test_a_drop_without_a_file_says_what_to_do(page):
    page.execute_script(
        "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: new DataTransfer(), bubbles: true }))"
    )
    assert problems(page).startswith("That was no file; save the picture first")


def test_a_server_that_has_ended_is_told(driver, run, file):
    with served(run, batch=1) as port:
        opened(driver, port)
    choose(driver, file)
    assert problems(driver) == "frog.png: The server does not answer; has it been ended?"


def test_names_of_files_are_text(page, file):
    give(page, file.read_bytes(), "drop", name=HOSTILE)
    (text,) = answers(page, 10)
    assert HOSTILE in text and page.execute_script("return window.hurt") is None
    give(page, b"no picture", "drop", name=HOSTILE)
    assert HOSTILE[:50] in problems(page) and page.execute_script("return window.hurt") is None


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_all_of_it_fits_a_narrow_window(driver, port, file, width):
    opened(driver, port, width)
    choose(driver, file, file)
    answers(driver, 20)
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    outside = driver.execute_script(
        "return [...document.querySelectorAll('main *:not(.hidden, .hidden *, #files)')].filter(each => "
        "each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"
    )
    assert outside == []


def test_the_keyboard_reaches_the_button_and_the_eye_sees_it(page):
    webdriver = pytest.importorskip("selenium.webdriver")
    webdriver.ActionChains(page).send_keys(webdriver.Keys.TAB).perform()
    assert page.execute_script("return document.activeElement.id") == "files"
    assert page.execute_script("return document.activeElement.labels[0].textContent") == "Choose images"
    outline = page.execute_script("return getComputedStyle(document.querySelector('#drop label')).outlineStyle")
    assert outline == "solid"


def test_of_many_classes_the_ten_likeliest_are_shown_until_all_are_asked_for(driver, run, file):
    shares = {f"class {number}": 0.01 for number in range(29)} | {"class 29": 0.61, "of_a_long_name_" * 9: 0.1}
    seconds = {"decode": 0, "wait": 0, "network": 0}
    found = {"file": "x", "class": "class 29", "probabilities": shares, "seconds": seconds, "batch": 1, "seen": ""}
    with served(run, batch=1) as port:
        opened(driver, port, width=375)
        driver.execute_script(f"window.fetch = async () => Response.json({{ images: [{json.dumps(found)}] }})")
        choose(driver, file)
        answers(driver, 10)
        rows = "return document.querySelectorAll('.answer tr').length"
        assert driver.execute_script(rows) == 10
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        button = driver.find_element("css selector", ".answer button")
        assert (button.text, button.get_attribute("aria-expanded")) == ("All 31 classes", "false")
        button.click()
        assert driver.execute_script(rows) == 31 and button.get_attribute("aria-expanded") == "true"
        button.click()
        assert driver.execute_script(rows) == 10


def test_a_run_on_generated_images_says_so(driver, run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    generated = Run(tmp_path / "run")
    generated.update(data=generated.manifest["data"] | {"name": "synthetic"})
    with served(generated, batch=1) as port:
        opened(driver, port)
        note = driver.find_element("id", "note")
        assert note.is_displayed() and note.text.endswith("what it says of photos means nothing.")
