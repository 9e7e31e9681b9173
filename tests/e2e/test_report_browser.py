"""The HTML report in a real browser: pointing, keys, filter, lam and temperature, themes, zoom, and a corpus that wants to be a script."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import until
from helpers_report import make_hostile

from textsmooth.pipeline.inspect.report import report

pytestmark = pytest.mark.browser
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --window-size=1280,900"
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium and chromedriver on this machine: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    found.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    yield found
    found.quit()


@pytest.fixture(scope="module")
def pages(smoothed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        hostile = make_hostile(folder / "dataset", patch, rows=120)
    made = {"plain": report(smoothed, out=folder / "plain.html", sentences=30), "hostile": report(hostile, out=folder / "hostile.html")}
    return {name: one.path.as_uri() for name, one in made.items()}


@pytest.fixture
def page(driver: Any, pages: dict[str, str]) -> Iterator[Any]:
    """The page, opened anew; nothing may be said in the console, and nothing loaded."""
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    driver.get(pages["plain"])
    driver.execute_script("try { localStorage.clear() } catch {}")
    driver.refresh()
    yield driver
    assert driver.get_log("browser") == []
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0


def js(page: Any, code: str, *args: Any) -> Any:
    return page.execute_script(f"return {code}", *args)


def token(page: Any, shade: str = "[class*=' s3'], #list [class*=' s4']") -> Any:
    found = page.find_elements("css selector", f"#list {shade}")[3]
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found)
    return found


def point(page: Any, at: Any) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page, duration=0).move_to_element(at).perform()


def tip(page: Any) -> list[list[str]]:
    """The rows of the box: token, teacher, student."""
    rows = "[...document.querySelectorAll('#tip tbody tr')].map(r => [r.children[0], r.children[2], r.children[3]].map(c => c.textContent))"
    return [] if js(page, "document.getElementById('tip').hidden") else js(page, rows)


def keys(page: Any, *names: str) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    for name in names:
        ActionChains(page, duration=0).send_keys(getattr(Keys, name, name)).perform()


def test_pointing_at_a_token_shows_its_alternatives(page: Any) -> None:
    at = token(page)
    assert tip(page) == []
    point(page, at)
    rows = tip(page)
    assert rows[0][0] == at.text and rows[-1][0] == "all others" and len(rows) >= 4
    assert sum(float(row[1]) for row in rows) == pytest.approx(1, abs=0.01)
    assert sum(float(row[2]) for row in rows) == pytest.approx(1, abs=0.01)
    assert at.get_attribute("aria-describedby") == "tip" and js(page, "document.getElementById('tip').getAttribute('role')") == "tooltip"
    box = js(page, "document.getElementById('tip').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0 and box["right"] <= js(page, "innerWidth")
    point(page, page.find_element("id", "tip"))  # it stays while it is pointed at itself
    page.execute_async_script("setTimeout(arguments[0], 300)")
    assert tip(page) == rows
    point(page, page.find_element("css selector", "#list .where"))
    page.execute_async_script("setTimeout(arguments[0], 300)")
    assert tip(page) == []


def test_the_keyboard_reaches_every_token(page: Any) -> None:
    lines = js(page, "[...document.querySelectorAll('#list li')].map(l => [...l.querySelectorAll('.t')].map(t => t.textContent))")
    where = "[...document.querySelectorAll('#list .t')].indexOf(document.activeElement)"
    stops = js(page, "[...document.querySelectorAll('#list [tabindex=\"0\"]')].length")
    assert stops == len(lines)  # one stop per sentence
    page.execute_script("document.getElementById('temperature').focus()")
    keys(page, "TAB")
    assert js(page, where) == 0 and tip(page)
    for n in range(1, len(lines[0])):
        keys(page, "ARROW_RIGHT")
        assert js(page, where) == n and js(page, "document.querySelector('#tip b').textContent") == lines[0][n]
    keys(page, "ARROW_RIGHT")
    assert js(page, where) == len(lines[0]) - 1  # no further than the end
    keys(page, "HOME", "ARROW_DOWN")
    assert js(page, where) == len(lines[0])
    keys(page, "END", "ARROW_LEFT", "ARROW_UP")
    assert js(page, where) < len(lines[0])
    keys(page, "ESCAPE")
    assert tip(page) == []
    keys(page, "ENTER")
    assert tip(page)
    keys(page, "TAB")
    assert js(page, where) >= len(lines[0])
    outline = js(page, "getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_filter_leaves_the_sentences_that_hold_a_text(page: Any) -> None:
    texts = js(page, "[...document.querySelectorAll('#list li .s')].map(s => s.textContent)")
    word = texts[4].split()[1]
    wanted = [n for n, text in enumerate(texts) if word in text]
    assert 0 < len(wanted) < len(texts)
    field = page.find_element("id", "filter")
    field.send_keys(word.upper())
    shown = "[...document.querySelectorAll('#list li')].flatMap((l, n) => l.checkVisibility() ? [n] : [])"
    assert js(page, shown) == wanted
    assert page.find_element("id", "status").text == f"{len(wanted)} of 30 sentences"
    field.send_keys("zzz", "\n")
    assert js(page, shown) == [] and page.find_element("id", "status").text == "0 of 30 sentences"
    field.clear()
    field.send_keys(" ")
    assert len(js(page, shown)) == 30 and page.find_element("id", "status").text == "30 sentences"


def test_lam_and_temperature_recompute_what_a_student_reads(page: Any) -> None:
    at = token(page)
    classes = "[...document.querySelectorAll('#list .t')].map(t => t.className)"
    before = js(page, classes)
    page.execute_script("arguments[0].focus()", at)
    opened = tip(page)

    def to(field: str, value: str, event: str) -> list[list[str]]:
        page.execute_script(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event(arguments[2]))",
            field,
            value,
            event,
        )
        return tip(page)

    none = to("lam", "0", "input")
    assert none[0] == [at.text, opened[0][1], "1.000"] and all(row[2] == "0" for row in none[1:])
    assert {name.split()[1] for name in js(page, classes)} == {"s0"}
    whole = to("lam", "1", "input")
    assert all(row[1] == row[2] for row in whole)
    assert page.find_element("id", "lam-out").text == "1.00"
    assert to("lam", "0.5", "input") == opened and [name.replace(" on", "") for name in js(page, classes)] == before
    hot = to("temperature", "2", "change")
    own = {row[0]: float(row[1]) for row in hot}[at.text]
    assert own < {row[0]: float(row[1]) for row in opened}[at.text]
    for name, p, s in hot[:-1]:
        assert float(s) == pytest.approx(0.5 * float(p) + 0.5 * (name == at.text), abs=0.0011)


def test_dark_by_the_system_and_by_the_button(page: Any) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = js(page, ground)
    button = page.find_element("id", "theme")
    assert button.text == "Dark"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    dark = js(page, ground)
    assert dark != light and max(map(int, dark[4:-1].split(","))) < 60
    until(lambda: button.text == "Light")
    page.execute_script("arguments[0].click()", button)
    assert js(page, ground) == light and button.text == "Dark"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    until(lambda: button.text == "Dark")
    page.execute_script("arguments[0].click()", button)
    assert js(page, ground) == dark


@pytest.mark.parametrize("width", [640, 320], ids=["200%", "400%"])
@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_zoomed_nothing_is_lost_or_scrolls_sideways(width: int, name: str, page: Any, pages: dict[str, str]) -> None:
    size = {"width": width, "height": 500, "deviceScaleFactor": 1280 / width, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.get(pages[name])
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    sizes = "(e => [innerWidth, e.scrollWidth - e.clientWidth])(document.documentElement)"
    assert js(page, sizes) == [width, 0]
    visible = "[...document.querySelectorAll('main *')].filter(e => e.checkVisibility() && !e.closest('.of'))"
    outside = f"{visible}.filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert js(page, f"{outside}.map(e => e.outerHTML.slice(0, 80))") == []
    page.execute_script("arguments[0].focus()", token(page))
    box = js(page, "document.getElementById('tip').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0 and box["right"] <= width and tip(page)
    assert js(page, sizes) == [width, 0]


def test_a_corpus_with_scripts_in_it_stays_text(page: Any, pages: dict[str, str]) -> None:
    page.get(pages["hostile"])
    title = page.title
    assert title.startswith("<script>document.title='taken'</script>")
    for n in range(0, js(page, "document.querySelectorAll('#list .t').length"), 29):
        page.execute_script("document.querySelectorAll('#list .t')[arguments[0]].focus()", n)
        assert tip(page)
    assert page.title == title
    assert js(page, "[document.scripts.length, document.images.length]") == [2, 0]
    assert js(page, "[...document.querySelectorAll('#list .t')].some(t => t.textContent === \"<script>document.title='taken'</script>\")")
    page.find_element("id", "filter").send_keys("</script>")
    assert 0 < js(page, "document.querySelectorAll('#list li:not([hidden])').length") < 100


def test_on_paper_there_is_all_but_the_controls(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not page.find_element("id", "controls").is_displayed() and not page.find_element("id", "theme").is_displayed()
        assert js(page, "document.querySelectorAll('#list li').length") == 30
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
