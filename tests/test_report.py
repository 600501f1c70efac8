"""The report: one file that holds all it shows, of every kind of run, whatever the config's words are."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray
from command import command
from test_show import SWEEPS, a_table, valley

import jaxgd
from jaxgd import config as cfg
from jaxgd import store
from jaxgd.outcome import ABSENT, CONVERGED, DESCENDING, DIVERGED, PENDING, TRAPPED
from jaxgd.show import report, words
from jaxgd.show.relief import relief

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

CONTENT = {
    "title": "A valley",
    "cost": {"expression": "x**2 + 5", "minimum": 5.0},
    "start": {"x": 3.0},
    "optimizer": {"name": "gradient_descent", "learning_rate": 0.1},
    "run": {"epochs": 50},
}
MANIFEST = {"layout": 1, "packages": {"jax": "1"}, "devices": ["cpu"], "finished": "today", "hashes": {"a": "b"}}
DTYPES = {"i1": "<i1", "i4": "<i4", "f4": "<f4", "f8": "<f8"}


def a_result(table, paths=None, surface=None, finished="today", **content):
    config = cfg.checked(CONTENT | content, "a test")
    return report.Result("valley-12345678", config, MANIFEST | {"finished": finished}, table, paths, surface)


def some_paths(table, lanes, costs):
    """Paths [path, epoch] of some lanes, x going down with the cost."""
    costs = np.broadcast_to(np.asarray(costs, np.float32), (len(lanes), np.shape(costs)[-1]))
    labels = {d: ("path", table[d].values[[lane[i] for lane in lanes]]) for i, d in enumerate(table["outcome"].dims)}
    codes = [int(table["outcome"].values[lane]) for lane in lanes]
    data = {"cost": (("path", "epoch"), costs), "params.x": (("path", "epoch"), np.sqrt(np.maximum(costs, 0)))}
    return xarray.Dataset(data | {"outcome": ("path", codes)}, labels | {"epoch": np.arange(costs.shape[1])})


def unpacked(html, what="data"):
    return gzip.decompress(base64.b64decode(re.search(f'id="{what}">([^<]*)</script>', html)[1])).decode()


def data_of(html):
    """What the scripts read, its arrays NumPy's."""
    return json.loads(unpacked(html), object_hook=lambda o: values(o) if "dtype" in o else o)


def values(array):
    return np.frombuffer(base64.b64decode(array["data"]), DTYPES[array["dtype"]])


class Reader(HTMLParser):
    """The elements and the words of a page, as a browser sees them."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


# --- every kind of run ---


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_has_its_page(name):
    html = report.page([a_result(SWEEPS[name], title=name)])
    (run,) = data_of(html)["runs"]
    counts = [len(axis["values"]) for axis in run["axes"]]
    assert len(run["figures"]["outcome"]) == np.prod(counts, dtype=int)
    assert all(len(v) == len(run["figures"]["outcome"]) for v in run["figures"].values())
    assert all(0 <= at < count for at, count in zip(run["place"], counts, strict=True))
    assert name in Reader(html).text


ONE = a_table({"seed": np.arange(1)}, TRAPPED, 3.0).isel(seed=0, drop=True)
ODD = {
    "all diverged": (a_table({"learning_rate": np.arange(1.0, 9)}, DIVERGED, np.nan), "every lane diverged"),
    "one lane": (ONE, "After 50 epochs the ball is at rest above the minimum: the cost went from 100 to 3."),
    "constant": (
        a_table({"x": np.arange(5.0)}, TRAPPED, 1.0, start_gradient_norm=0.0),
        "there is no slope to follow",
    ),
    "NaN at the start": (
        a_table({"x": np.arange(5.0)}, DIVERGED, np.nan, start_cost=np.nan),
        "5 lanes had no finite cost even at the start",
    ),
    "nothing yet": (a_table({"x": np.arange(5.0)}, PENDING, np.nan, start_cost=np.nan), "Nothing has run yet"),
    "unfinished": (
        a_table({"x": np.arange(5.0)}, lambda x: np.where(x < 3, CONVERGED, PENDING), 1.0),
        "2 lanes of 5 have not run yet: running the config again finishes them.",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_runs_say_what_happened(name):
    table, said = ODD[name]
    html = report.page([a_result(table, finished=None if name == "unfinished" else "today")])
    assert said in Reader(html).text


def test_a_run_without_a_surface_says_why():
    table = a_table({"x": np.arange(5.0)}, CONVERGED, 1.0)
    some = some_paths(table, [(0,)], [3.0, 2.0])
    for finished, said in ((None, False), ("today", True)):
        text = Reader(report.page([a_result(table, some, finished=finished)])).text
        assert ("There is no cost surface: the cost calls back into Python" in text) == said


def test_absent_lanes_are_no_unfinished_ones():
    for code, left in ((PENDING, 2), (ABSENT, 0)):
        table = a_table({"x": np.arange(5.0)}, lambda x, code=code: np.where(x < 3, CONVERGED, code), 1.0)
        assert sum(count for _, count, _ in words.shares(table)) == 3 + left
        assert ("2 lanes of 5 have not run yet" in " ".join(words.came_out(table, "final_cost"))) == (left == 2)


def test_what_was_asked_is_said_in_words():
    sweep = {"optimizer": {"learning_rate": {"geomspace": [1e-4, 3, 512]}}, "seed": {"values": [0, 1]}}
    content = CONTENT | {"start": {"x": {"uniform": [0, 10000]}}, "sweep": sweep, "run": {"epochs": 50, "target": 5.5}}
    assert words.asked(cfg.checked(content, "")) == [
        "The cost x**2 + 5; its lowest value is 5.",
        "The ball starts at x drawn uniformly from 0 to 10 000.",
        "It descends by gradient_descent.",
        "It goes on for up to 50 epochs, until the cost is 5.5 or less, in float32.",
        "What varies: learning_rate, 512 values from 0.0001 to 3, spaced by ratio; seed, 0, 1.",
    ]
    lane = {"lane": {"function": "model:lane", "width": 3}, "run": {"epochs": 1}}
    assert words.asked(cfg.checked(lane, ""))[0] == "Each descent is made by model:lane, with width = 3."


def test_a_sweep_made_in_python_has_its_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def lane(learning_rate):
        return jaxgd.Descent(lambda x: x**2 + 5, 3.0, jaxgd.gradient_descent(learning_rate))

    def swept():
        return jaxgd.sweep(lane, {"learning_rate": np.geomspace(0.01, 2, 9)}, epochs=6, run="runs/mine", paths=3)

    table = swept()
    assert command("report", "mine").out.strip() == str(Path("runs/mine/report.html"))
    run = Path("runs/mine")
    assert {file.name for file in (run / "figures").iterdir()} == {"overview.png", "valley.png", "curves.png"}
    assert store.opened_paths(run).sizes["path"] == 3 and store.read_manifest(run)["finished"]
    text = Reader((run / "report.html").read_text("utf-8")).text
    for said in (
        "Each descent is made by a lane function in Python. It goes on for up to 6 epochs, in float32. "
        "What varies: learning_rate, 9 values from 0.01 to 2.",
        f"The best setting is learning_rate = {words.figure(jaxgd.best(table).learning_rate)}",
        "The lane function, as it was written def lane(learning_rate): return jaxgd.Descent(",
    ):
        assert said in text
    assert "learning_rate = " in command("best", "mine").out and "mine" in command("compare", "mine").out
    assert command("explain", "mine").err == "jaxgd: runs/mine has no config: it was made in Python, by jaxgd.sweep\n"
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    xarray.testing.assert_identical(swept(), table)
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before  # nothing is written twice
    command("report", "mine", "--figures", "svg")
    assert (run / "figures" / "overview.svg").is_file()
    assert "can be png, svg, pdf" in command("report", "mine", "--figures", "gif").err


def test_what_varies_is_said_by_its_values():
    table = a_table({"rule": ["a", "b"], "x": np.arange(3.0), "y": np.geomspace(1, 64, 7)}, CONVERGED, 1.0)
    *_, last = words.asked_in_python(table.assign_attrs(epochs=5), MANIFEST | {"precision": "float64"})
    assert last == 'What varies: rule, "a", "b"; x, 0, 1, 2; y, 7 values from 1 to 64.'


# --- what a page holds is what was stored ---


def test_figures_and_paths_are_the_stored_ones():
    rng = np.random.default_rng(0)
    table = a_table({"x": rng.normal(size=400), "y": rng.normal(size=500)}, CONVERGED, rng.normal(size=(400, 500)))
    lanes = [(3, 7), (200, 100), (399, 0)]
    paths = some_paths(table, lanes, rng.uniform(1, 2, size=(3, 901)))
    (run,) = data_of(report.page([a_result(table, paths)]))["runs"]
    kept = {axis["name"]: axis["index"] for axis in run["axes"]}
    some = table.isel(kept)
    for name in ("final_cost", "gradient_norm", "best_epoch"):
        np.testing.assert_array_equal(run["figures"][name], some[name].values.ravel())
    for axis in run["axes"]:
        np.testing.assert_array_equal(axis["values"], some[axis["name"]].values)
        assert (np.diff(axis["values"]) > 0).all()
    best = np.unravel_index(table["final_cost"].values.argmin(), table["final_cost"].shape)
    assert [axis["index"][at] for axis, at in zip(run["axes"], run["place"], strict=True)] == list(best)
    assert [tuple(lane) for lane in run["paths"]["lanes"]] == lanes
    costs = run["paths"]["cost"].reshape(3, -1)
    np.testing.assert_array_equal(costs, paths["cost"].sel(epoch=run["paths"]["epochs"]).values)
    assert run["paths"]["epochs"][-1] == 900 and len(run["paths"]["epochs"]) < 400


def test_what_is_too_large_for_a_page_is_infinite_there():
    """A run in float64 may hold it; that it is cut is no warning to the user (warnings are errors here)."""
    table = a_table({"x": np.arange(3.0)}, DIVERGED, 1.0)
    paths = some_paths(table, [(1,)], [1.0, 2.0])
    large = paths.assign(cost=paths["cost"].astype(float) * 1e300)
    (run,) = data_of(report.page([a_result(table, large)]))["runs"]
    assert np.isinf(run["paths"]["cost"]).all()


def test_a_million_lanes_fit():
    rng = np.random.default_rng(0)
    size = 1000
    noise = rng.uniform(size=(size, size)).astype(np.float32)
    figures = {name: noise for name in ("start_cost", "best_cost", "gradient_norm", "target_epoch", "diverged_epoch")}
    codes = rng.integers(1, 6, size=(size, size))
    table = a_table({"learning_rate": np.geomspace(1e-4, 1, size), "x": np.arange(size)}, codes, noise, **figures)
    paths = some_paths(table, [(i, i) for i in range(400)], rng.uniform(size=(400, 2001)))
    html = report.page([a_result(table, paths)])
    assert len(html.encode()) < 8e6
    (run,) = data_of(html)["runs"]
    assert len(run["figures"]["outcome"]) > 50_000


def test_the_known_limit_is_thinned_as_its_axes_are():
    table = a_table({"momentum": np.linspace(0, 0.9, 500), "learning_rate": np.geomspace(0.01, 9, 500)}, CONVERGED, 1.0)
    limits = {"known_limit": ("momentum", 2 + 2 * table["momentum"].values, {"along": "learning_rate"})}
    limits |= {"limit_formula": ((), "(2 + 2β)/λ"), "sharpness": ((), 1.0)}
    (run,) = data_of(report.page([a_result(table.assign(limits))]))["runs"]
    assert (run["limit"]["along"], run["limit"]["dims"]) == ("learning_rate", ["momentum"])
    np.testing.assert_allclose(run["limit"]["values"], 2 + 2 * run["axes"][0]["values"])
    (run,) = data_of(report.page([a_result(table)]))["runs"]
    assert run["limit"] is None


def test_trials_and_vectors_keep_their_labels():
    table = SWEEPS["trials"].assign_coords({"x.value": (("trial", "x.value.0"), np.arange(8.0).reshape(4, 2))})
    (run,) = data_of(report.page([a_result(table)]))["runs"]
    assert run["labels"]["learning_rate"]["dims"] == ["optimizer", "trial"]
    np.testing.assert_array_equal(run["labels"]["learning_rate"]["values"], table["learning_rate"].values.ravel())
    assert run["labels"]["x.value"]["values"][1] == "[2.000, 3.000]"


# --- one file, and safe ---

HOSTILE = "</script><script>window.harm = 1</script>&amp;<img src=x onerror=alert(1)>\"' {{ 7 * 7 }}"


@pytest.mark.parametrize("several", [False, True])
def test_words_from_a_config_mean_nothing_to_the_page(several):
    table = a_table({"optimizer": [HOSTILE, "b"], "learning_rate": np.geomspace(0.1, 1, 24)}, CONVERGED, 1.0)
    content = {"cost": {"expression": HOSTILE}, "title": HOSTILE, "optimizer": {"name": HOSTILE}}
    results = [a_result(table, some_paths(table, [(0, 0)], [3.0, 1.0]), **content)] * (1 + several)
    html = report.page(results)
    seen = Reader(html)
    plain = Reader(report.page([a_result(table.assign_coords(optimizer=["a", "b"]))] * (1 + several)))
    scripts = [attrs for tag, attrs in seen.elements if tag == "script"]
    assert len(scripts) == 3 == len([tag for tag, _ in plain.elements if tag == "script"])
    assert not [tag for tag, attrs in seen.elements if tag == "img" or any(name.startswith("on") for name in attrs)]
    assert HOSTILE in seen.text and HOSTILE in data_of(html)["runs"][0]["axes"][0]["values"]


def test_a_page_needs_nothing_else():
    html = report.page([a_result(SWEEPS["two axes"])])
    seen = Reader(html)
    for _, attrs in seen.elements:
        for name in ("src", "href"):
            assert attrs.get(name, "#").startswith(("#", "data:"))
    assert "http" not in html.replace("https://", "http")[: html.index('id="plotly"')].replace("http-equiv", "")
    assert unpacked(html, "plotly").lstrip().startswith("/**\n* plotly.js")


def test_it_can_be_read_without_eyes_or_mouse():
    table = SWEEPS["two axes, names, seeds"]
    lanes = [(0, 0, 0, 0), (1, 5, 2, 0)]
    elements = Reader(report.page([a_result(table, some_paths(table, lanes, [3.0, 2.0, 1.0]))])).elements
    labels = {attrs.get("for") for tag, attrs in elements if tag == "label"}
    controls = [attrs for tag, attrs in elements if tag in ("input", "select")]
    assert {attrs.get("data-axis") for attrs in controls} == {None, "rule", "learning_rate", "momentum", "seed"}
    assert all(attrs["id"] in labels for attrs in controls)
    assert all(attrs.get("aria-label") for _, attrs in elements if attrs.get("role") in ("img", "region"))
    assert [attrs["aria-sort"] for tag, attrs in elements if tag == "th" and "aria-sort" in attrs] == ["ascending"]
    ids = [attrs["id"] for _, attrs in elements if "id" in attrs]
    assert len(ids) == len(set(ids))


# --- several runs ---


def test_several_runs_stand_side_by_side():
    near, far = (a_table({"learning_rate": np.geomspace(0.1, 1, 24)}, valley, cost) for cost in (0.25, 4.0))
    html = report.page([a_result(near, title="near"), a_result(far, title="far")])
    seen = Reader(html)
    rows = re.findall(r"<tr>\s*<th scope=\"row\">.*?</tr>", html, re.DOTALL)
    assert len(rows) == 2 and ">0.25<" in rows[0] and ">4<" in rows[1]
    assert "2 runs side by side" in seen.text
    assert [run["title"] for run in data_of(html)["runs"]] == ["near", "far"]


def test_a_file_for_several_has_their_names(tmp_path):
    one, other = tmp_path / "one-12345678", tmp_path / "other-12345678"
    assert report._path([one]) == one / "report.html"
    assert report._path([one, other]) == tmp_path / "one-12345678+other-12345678.html"
    assert len(report._path([tmp_path / f"run{i}-12345678" for i in range(40)]).name) < 130


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(store.StoreError, match="is not a run folder"):
        report.write([tmp_path])


def test_a_run_that_has_found_nothing_best_has_no_table():
    html = report.page([a_result(a_table({"x": np.arange(4.0)}, DIVERGED, np.nan))])
    assert 'class="sortable"' not in html and "none" not in data_of(html)["runs"][0]["axes"]


def test_the_manifest_is_told_in_words():
    session = {"packages": {}, "begun": "2026-01-02T03:04:05+00:00", "lanes": 7}
    said = dict(report._manifest(MANIFEST | {"resumed": [session]}))
    assert said["resumed"] == "2026-01-02T03:04:05+00:00, 7 lanes being finished"
    assert said["packages"] == "jax 1" and said["hashes"].startswith("1 files")
    assert dict(report._manifest({"resumed": []})) == {"resumed": "–"}


def test_over_seeds_the_table_has_medians():
    table = a_table({"x": np.arange(3.0), "seed": np.arange(3)}, DESCENDING, lambda x, seed: 1.0 + x + 10 * (seed == 2))
    (row, *_) = report._run("run0", a_result(table), 1000)["rows"]
    assert row["cells"][0]["text"] == "0" and "1" in [cell["text"] for cell in row["cells"]]


def test_a_plain_has_finite_heights():
    flat = relief(np.full((5, 5), 3.0), None)
    assert np.isfinite([flat.base, flat.least, flat.low, flat.high]).all() and flat.low < 3 < flat.high
