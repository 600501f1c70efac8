"""A closer look at a run: which window, around which middle, by which steps; and what is refused."""

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command import command
from PIL import Image

from jaxgd import config as cfg
from jaxgd import manifest, ranges, store, zoom
from jaxgd import run as runs
from jaxgd.ranges import Axis, ConfigError
from jaxgd.show import gallery, plots, words
from jaxgd.table import best

pytestmark = pytest.mark.usefixtures("compiled_in_haste")
BOWL = """
title = "A bowl"
[cost]
expression = "x**2"
[start]
x = 1.0
[run]
epochs = 30
[record]
paths = 0
"""
ONE = BOWL + '[optimizer]\nname = "momentum"\nlearning_rate = 0.1\nmomentum = 0.5\n[sweep]\n'
RATES = ONE + "optimizer.learning_rate = { geomspace = [0.01, 10, 31] }\n"
MAP = RATES + "optimizer.momentum = { linspace = [0.0, 0.9, 11] }\n"
SEVERAL = BOWL + "[optimizers.momentum]\nlearning_rate = 1.0\n[optimizers.adam]\nlearning_rate = 1.0\n[sweep]\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def bowl(tmp_path_factory):
    """A run of MAP, which no test writes to."""
    folder = tmp_path_factory.mktemp("bowl")
    (folder / "bowl.toml").write_text(MAP, "utf-8")
    run = runs.prepared(folder / "bowl.toml", runs=folder / "runs")
    runs.carry_out(run)
    return run.folder


def ran(text, name="bowl"):
    """The folder of a config that is carried out here."""
    path = Path(f"{name}.toml")
    path.write_text(text, "utf-8")
    run = runs.prepared(path)
    runs.carry_out(run)
    return run.folder


def window(run, key):
    """The smallest and the largest value along a key of a run, and how many there are."""
    (axis,) = (axis for axis in cfg.axes(run.config) if axis.key == key)
    values = ranges.numbers(axis, 0)
    return values.min(), values.max(), len(values)


def test_around_the_best_and_closer_again(bowl):
    middle = best(store.opened_table(bowl))
    once = zoom.closer(bowl, "best", 4)
    low, high, count = window(once, "optimizer.learning_rate")
    assert count == 31 and high / low == pytest.approx(1000**0.25)
    assert np.sqrt(low * high) == pytest.approx(float(middle["learning_rate"]))
    low, high, count = window(once, "optimizer.momentum")
    assert count == 11 and high - low == pytest.approx(0.225)
    assert (low + high) / 2 == pytest.approx(max(0.1125, float(middle["momentum"])))
    runs.carry_out(once)
    twice = zoom.closer(once.folder, "best", 2.5)
    assert once.folder.parent == bowl.parent and once.folder.name.startswith("bowl-best-4x-")
    assert twice.folder.name.startswith("bowl-best-10x-") and runs.resolved("bowl", bowl.parent) == bowl
    assert twice.config.title == "A bowl (10 × finer, around the best)"
    assert manifest.read_manifest(once.folder)["zoom"]["middle"]["optimizer.momentum"] == float(middle["momentum"])


@pytest.mark.parametrize("rates", ["loguniform = [0.01, 10], num = 64", "arange = [0.1, 9.0, 0.3]"])
def test_the_edge_is_where_the_rule_ends(rates):
    """1.5 = (2 + 2·0.5)/λ, with λ = 2."""
    run = zoom.closer(ran(ONE + f"optimizer.learning_rate = {{ {rates} }}\n"), "edge", 4)
    low, high, count = window(run, "optimizer.learning_rate")
    assert low < 1.5 < high and count >= 30
    assert run.notes["zoom"]["middle"]["optimizer.learning_rate"] == pytest.approx(1.5, rel=0.2)


def test_a_series_stays_on_the_edge_and_is_filmed(bowl, monkeypatch):
    monkeypatch.chdir(bowl.parent.parent)
    answer = command("zoom", "bowl", "--around", "edge", "--factor", 9, "--frames", 2)
    assert answer.code == 0, answer.err
    assert "A bowl (9 × finer, around the edge)" in answer.out and "1 of 2  runs/bowl-edge-3x-" in answer.out
    last = runs.resolved("bowl-edge-9x")
    told = manifest.read_manifest(last)["zoom"]
    rate, momentum = (told["middle"][f"optimizer.{name}"] for name in ("learning_rate", "momentum"))
    assert rate == pytest.approx(1 + momentum, rel=0.05)
    assert told["from"].startswith("bowl-edge-3x-") and told["factor"] == pytest.approx(3)
    assert (told["frame"], told["frames"], told["total"]) == (2, 2, pytest.approx(9))
    with Image.open(last / "figures" / "series.gif") as film:
        assert film.n_frames == 3
    assert (last / "report.html").is_file()


def test_an_edge_that_is_lost_is_said_to_be(folder):
    (folder / "rates.toml").write_text(RATES, "utf-8")
    assert command("run", "rates.toml").code == 0
    close = command("zoom", "rates", "--around", "edge", "--factor", 10).out
    assert "diverges from 1.5" in close and "none here any more" not in close
    far = " ".join(command("zoom", "rates", "--around", "edge", "--factor", 500).out.split())
    assert "edge there is none here any more: no lane diverged. In rates-" in far
    assert "500 × finer, missed it. Take a smaller --factor; or more --frames" in far
    again = command("zoom", "rates-edge-500x", "--around", "edge")
    assert again.code == 2 and "no setting diverged, so there is no edge" in again.err


def test_what_has_no_range_stays_and_what_walks_together_still_does(folder):
    (folder / "mine.py").write_text(
        "import jaxgd\n"
        "def lane(rate, start=1.0, other=1.0, power=2, seed=0):\n"
        "    return jaxgd.Descent(lambda x: x**power, start * other, jaxgd.gradient_descent(rate))\n"
    )
    swept = """[sweep]
lane.rate = { geomspace = [0.01, 10, 16], name = "step" }
lane.start = { linspace = [1, 4, 16] }
lane.other = { normal = [1.0, 0.1], num = 2 }
lane.power = { values = [2, 4] }
seed = { arange = [2] }
paired = [["lane.rate", "lane.start"]]
"""
    run = zoom.closer(ran('[run]\nepochs = 9\n[lane]\nfunction = "mine:lane"\nrate = 0.1\n' + swept), "best", 3)
    before, after = tomllib.loads(swept)["sweep"], run.config.sweep
    assert after["seed"] == before["seed"] and after["lane"]["power"] == before["lane"]["power"]
    assert after["paired"] == before["paired"] and after["lane"]["rate"]["name"] == "step"
    assert after["lane"]["other"]["normal"][1] == pytest.approx(0.1 / 3) and after["lane"]["other"]["num"] == 2
    rate, start = (
        zoom.span_of(Axis("", word, numbers, ""))
        for word, numbers in [("geomspace", [0.01, 10, 16]), ("linspace", [1, 4, 16])]
    )
    ends = [
        [span.share(value) for value in window(run, f"lane.{name}")[:2]]
        for name, span in (("rate", rate), ("start", start))
    ]
    np.testing.assert_allclose(*ends, atol=1e-12)
    assert run.plan.shape == (16, 2, 2, 2)


def test_several_optimizers_each_around_a_place_of_its_own():
    sweep = "optimizers.learning_rate = { geomspace = [0.01, 10, 16] }\nstart.x = { values = [1.0, 2.0] }\n"
    folder = ran(SEVERAL + sweep)
    run, table = zoom.closer(folder, "best", 5), store.opened_table(folder)
    for name in ("momentum", "adam"):
        low, high, count = window(run, f"optimizers.{name}.learning_rate")
        assert count == 16 and low <= float(best(table.sel(optimizer=name))["learning_rate"]) <= high
    assert run.config.sweep["start"] == {"x": {"values": [1.0, 2.0]}} and run.plan.shape == (2, 16, 2)
    runs.carry_out(run)
    with pytest.warns(UserWarning, match="adam: no setting diverged.*; this one's grid stays as it is"):
        edge = zoom.closer(folder, "edge", 5)
    assert window(edge, "optimizers.adam.learning_rate")[:2] == pytest.approx((0.01, 10))
    low, high, _ = window(edge, "optimizers.momentum.learning_rate")
    assert low < 1.9 < high
    runs.carry_out(edge)
    table = store.opened_table(edge.folder).load()
    said = words.came_out(table, "final_cost")
    assert zoom.lost_edge(edge) == "" and any("Momentum, along learning_rate, converges" in one for one in said)
    assert {"maps", "rates"}.isdisjoint(fits := gallery.fitting(table)) and "optimizers" in fits
    strips = plots.overview(table.isel(x=0)).axes
    assert [strip.get_xlabel() for strip in strips] == ["", "learning_rate"]
    assert "edge" in strips[0].get_legend_handles_labels()[1] and strips[0].get_xlim() != strips[1].get_xlim()
    assert {*zoom.closer(run.folder, "best", 2).notes["zoom"]["middle"]} == {
        "optimizers.momentum.learning_rate",
        "optimizers.adam.learning_rate",
    }


def test_the_window_stays_inside_the_ends():
    axis = Axis("a", "geomspace", [1.0, 100.0, 5], "a")
    assert zoom.narrower(axis, 1.0, 2).numbers == [1.0, pytest.approx(10), 5]
    assert zoom.narrower(axis, 99.0, 2).numbers == [pytest.approx(10), 100.0, 5]
    assert zoom.narrower(Axis("a", "arange", [4], "a"), 3.0, 3).numbers == [pytest.approx(2), 3.0, 4]
    assert zoom.narrower(Axis("a", "geomspace", [-100.0, -1.0, 5], "a"), -10.0, 2).numbers[:2] == pytest.approx(
        [-(10**1.5), -(10**0.5)]
    )


def test_a_lone_one_that_diverged_is_no_edge():
    places = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0), indexing="ij"), -1).reshape(-1, 2)
    diverged = places[:, 0] > 3
    lone = (places == 1).all(axis=1)
    np.testing.assert_array_equal(zoom.among_their_like(places, diverged | lone), np.flatnonzero(diverged))
    np.testing.assert_array_equal(zoom.among_their_like(places, lone), np.flatnonzero(lone))


def refused(*words):
    answer = command("zoom", *words)
    assert answer.code == 2 and answer.err.startswith("jaxgd: ") and answer.err.count("\n") == 1
    return answer.err


def test_a_run_may_be_the_folder_one_stands_in(bowl, monkeypatch):
    monkeypatch.chdir(bowl)
    run = zoom.closer(Path("."), "best", 2, ["sweep.optimizer.momentum={linspace=[0.5, 0.5, 3]}"])
    assert run.folder.parent == bowl.parent and run.folder.name.startswith("bowl-best-2x-")
    assert run.notes["zoom"]["from"] == bowl.name


def test_what_is_refused_is_said_in_one_sentence(bowl, folder):
    shutil.copytree(bowl, folder / "runs" / bowl.name)
    assert "--around bset: can be best or edge" in refused("bowl", "--around", "bset")
    assert "--factor 1: must be above 1" in refused("bowl", "--around", "best", "--factor", 1)
    assert "leave out --frames" in refused("bowl", "--around", "best", "--frames", 2, "--toml")
    close = refused("bowl", "--around", "best", "--factor", 1e7)
    assert "optimizer.learning_rate: float32 can't tell the 31 values" in close and "run.precision=float64" in close
    set_ = ("--set", "run.precision=float64", "--toml")
    assert command("zoom", "bowl", "--around", "best", "--factor", 1e7, *set_).code == 0
    assert "as close as numbers go" in refused("bowl", "--around", "best", "--factor", 1e16, *set_)
    manifest.amend(folder / "runs" / bowl.name, finished=None)
    assert "is not finished: jaxgd run " in refused("bowl", "--around", "best")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ONE.removesuffix("[sweep]\n"), "nothing varies"),
        (ONE + "optimizer.learning_rate = { values = [0.1, 0.2] }\n", "optimizer.learning_rate can't be finer"),
        (ONE + "optimizer.learning_rate = { linspace = [0.1, 0.2, 3] }\n", "no setting diverged, so there is no edge"),
        (ONE + "optimizer.learning_rate = { linspace = [3, 4, 3] }\n", "every lane diverged"),
    ],
)
def test_where_there_is_nothing_to_look_at(text, said):
    with pytest.raises(ConfigError, match=said):
        zoom.closer(ran(text), "edge", 2)
