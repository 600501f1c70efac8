"""The report in a real browser: nothing fails, nothing is fetched, and what moves shows the stored numbers."""

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import command
from haste import in_haste
from test_report import a_result, a_table, some_paths

from jaxgd import store
from jaxgd.outcome import DIVERGED, OUTCOMES
from jaxgd.show import report

TITLE = "Starts </script><b>& \"quotes\" 'too'</b>"
STARTS = f"""
title = {json.dumps(TITLE)}
[cost]
surface = "himmelblau"
[start]
x = [0.0, 0.0]
[optimizer]
name = "gradient_descent"
learning_rate = 0.01
[run]
epochs = 40
[sweep]
start.x.1 = {{ linspace = [-4, 4, 9] }}
start.x.0 = {{ linspace = [-4, 4, 11] }}
[record]
paths = 30
"""
RATES = """
title = "Rates"
[cost]
expression = "x**2 + 5"
minimum = 5
[start]
x = 3.0
[optimizers.gradient_descent]
learning_rate = 0.1
[optimizers.momentum]
learning_rate = 0.1
momentum = 0.5
[run]
epochs = 30
[sweep]
optimizers.learning_rate = { geomspace = [0.02, 1.2, 12] }
[record]
paths = 24
"""
SWITCHES = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --disable-dev-shm-usage "
    "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"  # 3-D pictures, without a GPU
)


def chromium():
    """Chromium and its driver, where they are installed; in CI they must be."""
    found = [
        next(filter(None, map(shutil.which, names)), None)
        for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
    ]
    if all(found):
        return found
    why = "needs Chromium and chromedriver, as Debian's packages chromium and chromium-driver install them"
    if os.environ.get("CI"):
        pytest.fail(why)
    return pytest.skip(why)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs, each with its report, and one report of both."""
    folder = tmp_path_factory.mktemp("reports")
    with contextlib.chdir(folder), in_haste():
        for name, text in (("starts", STARTS), ("rates", RATES)):
            Path(f"{name}.toml").write_text(text, "utf-8")
            answer = command("run", f"{name}.toml")
            assert answer.code == 0, answer.err
        answer = command("report", "starts", "rates", "--to", "both.html")
        assert answer.code == 0 and answer.out.strip() == "both.html"
    found = {name: next(folder.glob(f"runs/{name}-*")) for name in ("starts", "rates")}
    return found | {"both": folder}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser, driver = chromium()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for switch in [*SWITCHES.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(driver))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


# --- what a user does, and what is drawn ---

DRAWN = "const frames = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));"


def script(browser, body, *arguments):
    """Runs a script that may await, and returns what it returns."""
    wrapped = f"{DRAWN} const done = arguments[arguments.length - 1]; (async (...given) => {{ {body} }})(...arguments)"
    found = browser.execute_async_script(f"{wrapped}.then((v) => done([v]), (e) => done(String(e)));", *arguments)
    assert isinstance(found, list), found
    return found[0]


def look(browser, width, scheme, height=900):
    """Gives the window a size, and the user a taste."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    taste = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}  # no gliding under the pointer
    features = [{"name": name, "value": value} for name, value in taste.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def shown(browser, path):
    """Opens a page, and waits until it is drawn."""
    look(browser, 1280, "light")
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # of what came before
    browser.get(path.as_uri())
    ready = "document.documentElement.dataset.ready || !document.getElementById('trouble').hidden"
    script(browser, f"while (!({ready})) await frames();")


def report_of(runs, name):
    return runs["both"] / "both.html" if name == "both" else runs[name] / "report.html"


def move(browser, control, value):
    """Moves a slider, or chooses from a list; returns once it is drawn."""
    body = """
    const control = document.querySelector(given[0]);
    control.value = given[1];
    control.dispatchEvent(new Event("input", { bubbles: true }));
    await frames();"""
    script(browser, body, f'[data-axis="{control}"]' if control != "epoch" else ".epoch input", value)


def trace(browser, plot, number):
    """x, y (and z) of one trace as it is drawn."""
    body = """
    const trace = document.querySelector(given[0]).data.at(given[1]);
    return ["x", "y", "z"].filter((key) => trace[key]).map((key) => Array.from(trace[key]));"""
    return [np.array(column, float) for column in script(browser, body, plot, number)]


def figures(browser):
    body = "return [...document.querySelectorAll('.figures div')].map((div) => [...div.children].map((c) => c.textContent));"
    return dict(script(browser, body))


def said(number):
    return f"{float(number):.6g}".replace("e-0", "e-").replace("e+0", "e+")


def path_of(runs, name, **place):
    """The stored path of one lane."""
    paths = store.opened_paths(runs[name])
    (row,) = np.flatnonzero(np.all([paths[key].values == value for key, value in place.items()], axis=0))
    return paths.isel(path=row)


# --- the tests ---


@pytest.mark.parametrize("name", ["starts", "rates", "both"])
def test_it_loads_without_an_error_or_a_request(browser, runs, name):
    shown(browser, report_of(runs, name))
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"]
    assert addresses and all(address.startswith(("file://", "data:", "blob:")) for address in addresses), addresses
    assert TITLE in browser.find_element("tag name", "body").text or name == "rates"


def test_the_epoch_slider_rolls_the_ball_on_the_surface(browser, runs):
    shown(browser, report_of(runs, "starts"))
    chosen = figures(browser)
    path = path_of(
        runs,
        "starts",
        **{
            key: store.opened_table(runs["starts"])[key].values[
                np.abs(store.opened_table(runs["starts"])[key].values - float(chosen[key])).argmin()
            ]
            for key in ("x_0", "x_1")
        },
    )
    for record in (0, 3, 40):
        move(browser, "epoch", record)
        x, y, _ = trace(browser, ".surface", -1)
        assert (x, y) == (path["params.x"].values[record, 0], path["params.x"].values[record, 1])
        assert trace(browser, ".curve", -1)[1] == max(path["cost"].values[record], 8 * np.finfo(np.float32).eps)
        assert len(trace(browser, ".surface", -2)[0]) == record + 1  # the way so far


def test_moving_the_learning_rate_moves_every_path(browser, runs):
    shown(browser, report_of(runs, "rates"))
    paths = store.opened_paths(runs["rates"])
    for row, name in enumerate(("gradient_descent", "momentum")):  # at first each at its best
        (at,) = np.flatnonzero(paths["best"].values & (paths["optimizer"].values == name))
        costs = paths["cost"].values[at].astype(float) - 5
        drawn = trace(browser, ".curve", 2 * row)[1]
        np.testing.assert_allclose(drawn, np.maximum(costs, 40 * np.finfo(np.float32).eps), rtol=1e-12)
    assert "The others are at their best too." in browser.find_element("css selector", ".path-note").text
    rates = store.opened_table(runs["rates"])["learning_rate"].values
    for at in (2, 9):
        move(browser, "learning_rate", at)
        for row, name in enumerate(("gradient_descent", "momentum")):
            path = path_of(runs, "rates", optimizer=name, learning_rate=rates[at])
            epochs, above = trace(browser, ".curve", 2 * row)
            np.testing.assert_array_equal(epochs, path["epoch"].values)
            costs = path["cost"].values.astype(float) - 5
            np.testing.assert_allclose(above, np.maximum(costs, 40 * np.finfo(np.float32).eps), rtol=1e-12)
        assert figures(browser)["learning_rate"] == said(rates[at])
    move(browser, "optimizer", 1)
    assert figures(browser)["optimizer"] == "momentum"


def test_the_strip_is_of_the_optimizer_that_is_shown_with_its_known_limit(browser, runs):
    shown(browser, report_of(runs, "rates"))
    table = store.opened_table(runs["rates"])
    for at in (1, 0):
        move(browser, "optimizer", at)
        strip, (limit,) = script(
            browser,
            """const { data, layout } = document.querySelector(".map");
            return [data.map((trace) => [Array.from(trace.x), Array.from(trace.y)]),
                layout.shapes.filter((shape) => shape.label).map((shape) => [shape.x0, shape.label.text])];""",
        )
        lanes = table.isel(optimizer=at)
        assert limit == [pytest.approx(float(lanes["known_limit"])), "known limit"]
        seen = {x: y for xs, ys in strip for x, y in zip(xs, ys, strict=True)}
        assert sorted(seen) == sorted(table["learning_rate"].values.astype(float))
        stays = lanes.isel(learning_rate=lanes["outcome"].values != OUTCOMES.index("diverged"))
        above = np.maximum(stays["final_cost"].values.astype(float) - 5, 40 * np.finfo(np.float32).eps)
        drawn = [seen[rate] for rate in stays["learning_rate"].values.astype(float)]
        np.testing.assert_allclose(drawn, above, rtol=1e-6)


def test_play_steps_and_keys_move_the_ball(browser, runs):
    from selenium.webdriver.common.keys import Keys

    shown(browser, report_of(runs, "rates"))
    epoch, play = (browser.find_element("css selector", f".epoch {name}") for name in ("input", ".play"))
    move(browser, "epoch", 0)
    epoch.send_keys(Keys.ARROW_RIGHT)
    browser.find_element("css selector", ".step").send_keys(Keys.ENTER)
    script(browser, "await frames();")
    assert epoch.get_attribute("value") == "2" and "epoch 2 of" in epoch.get_attribute("aria-valuetext")
    play.send_keys(Keys.SPACE)
    assert play.text == "Pause" and play.get_attribute("aria-pressed") == "true"
    script(browser, "while (document.querySelector('.play').textContent === 'Pause') await frames(); await frames();")
    assert int(epoch.get_attribute("value")) > 20
    assert trace(browser, ".curve", 1)[0] == int(epoch.get_attribute("value"))


def test_a_click_on_the_map_shows_that_lane_and_its_nearest_path(browser, runs):
    from selenium.webdriver.common.action_chains import ActionChains

    table, paths = store.opened_table(runs["starts"]), store.opened_paths(runs["starts"])
    stored = set(zip(paths["x_1"].values, paths["x_0"].values, strict=True))
    shown(browser, report_of(runs, "starts"))
    for column, row in ((2, 6), (7, 1)):
        x, y = float(table["x_0"][column]), float(table["x_1"][row])
        body = """
        const map = document.querySelector(".map");
        map.scrollIntoView({ block: "center", behavior: "instant" });
        await frames();
        const { xaxis, yaxis } = map._fullLayout, box = map.getBoundingClientRect();
        return [box.left + xaxis._offset + xaxis.d2p(given[0]), box.top + yaxis._offset + yaxis.d2p(given[1])];"""
        left, top = script(browser, body, x, y)
        pointer = ActionChains(browser)
        pointer.w3c_actions.pointer_action.move_to_location(round(left), round(top))
        pointer.perform()
        script(browser, "while (document.getElementById('tip').hidden) await frames();")
        hovered = browser.find_element("id", "tip").get_attribute("textContent")
        pointer.w3c_actions.pointer_action.click()
        pointer.perform()
        script(browser, "await frames();")
        lane = table.isel(x_0=column, x_1=row)
        shows = figures(browser)
        for name in ("start_cost", "final_cost", "best_cost", "best_epoch", "epochs", "gradient_norm"):
            assert shows[name.replace("_", " ")] == said(lane[name])
            assert f"{name.replace('_', ' ')}: {said(lane[name])}" in hovered
        assert shows["outcome"] == OUTCOMES[int(lane["outcome"])]
        assert (shows["x_0"], shows["x_1"]) == (said(x), said(y))
        own = (y, x) in stored
        note = browser.find_element("css selector", ".path-note").text
        assert ("own path" if own else "not stored; shown is the nearest that was") in note
        apart = ((paths["x_0"].values - x) / 0.8 / 11) ** 2 + ((paths["x_1"].values - y) / 9) ** 2
        nearest = np.flatnonzero(np.isclose(apart, apart.min(), atol=1e-9))
        drawn = trace(browser, ".curve", 0)[1]
        assert any(
            np.array_equal(drawn, np.maximum(c, 8 * np.finfo(np.float32).eps))
            for c in paths["cost"].values[nearest].astype(float)
        )


def test_the_table_sorts_and_shows_a_setting(browser, runs):
    shown(browser, report_of(runs, "rates"))
    heading = browser.find_element("xpath", "//th[button='gradient_norm']")

    def column():
        cells = browser.find_elements("xpath", f"//tbody/tr/td[{heading.get_property('cellIndex') + 1}]")
        return [float(cell.text) for cell in cells]

    before = column()
    for order, expected in (("ascending", sorted(before)), ("descending", sorted(before)[::-1])):
        heading.find_element("tag name", "button").click()
        assert heading.get_attribute("aria-sort") == order and column() == expected != before
    row = browser.find_element("css selector", "tbody tr")
    cells = [cell.text for cell in row.find_elements("tag name", "td")]
    row.find_element("css selector", "button.show").click()
    script(browser, "await frames();")
    assert [figures(browser)[name] for name in ("optimizer", "learning_rate")] == cells[1:3]


@pytest.mark.parametrize("name", ["starts", "rates", "both"])
def test_pictures_fill_a_wide_and_a_narrow_window_in_light_and_dark(browser, runs, name):
    shown(browser, report_of(runs, name))
    lightness = {}
    for width, scheme in ((1280, "light"), (600, "light"), (600, "dark")):
        look(browser, width, scheme)
        wide, height = script(browser, f"await frames(); {_SIZE} return [root.scrollWidth, root.scrollHeight];")
        assert wide <= width
        look(browser, width, scheme, height)
        boxes = script(browser, f"await frames(); await frames(); {_BOXES}")
        page = picture_of(browser)
        lightness[scheme] = np.median(page)
        assert len(boxes) > 1
        for left, top, right, bottom in np.array(boxes).round().astype(int):
            inside = page[top + 40 : bottom - 40, left + 40 : right - 20]
            assert inside.std() > 3 and len(np.unique(inside)) > 8, (width, scheme, left, top)
    assert lightness["light"] > 200 > 60 > lightness["dark"]


_SIZE = "const root = document.documentElement;"
_BOXES = """return [...document.querySelectorAll(".plot")].filter((plot) => plot.checkVisibility())
    .map((plot) => plot.getBoundingClientRect()).map((box) => [box.left, box.top, box.right, box.bottom]);"""


def picture_of(browser):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L"), float)


def test_what_ran_away_is_seen_from_its_start_and_what_has_no_cost_says_so(browser, tmp_path):
    table, page = a_table({"learning_rate": np.arange(1.0, 9)}, DIVERGED, np.nan), tmp_path / "away.html"
    for costs, words in ((10.0 ** np.arange(0, 30, 3), []), (np.full(10, np.nan), ["no finite cost"])):
        some = some_paths(table, [(i,) for i in range(8)], costs)
        page.write_text(report.page([a_result(table, some)]), "utf-8")
        shown(browser, page)
        body = """const { yaxis, annotations } = document.querySelector(".curve").layout;
            return [yaxis.type, annotations.map(({ text }) => text), document.querySelector(".epoch input").value];"""
        assert script(browser, body) == ["log", words, "0"]
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_several_runs_are_drawn_together_and_each_when_it_is_opened(browser, runs):
    shown(browser, report_of(runs, "both"))
    names = script(browser, "return document.querySelector('.together').data.map((trace) => trace.name);")
    assert names[1] == "Rates" and "&lt;/script&gt;" in names[0]
    second = browser.find_element("id", "run1")
    assert not second.find_elements("css selector", ".curve .main-svg")
    second.find_element("tag name", "summary").click()
    script(browser, "while (!document.querySelector('#run1 .curve .main-svg')) await frames();")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
