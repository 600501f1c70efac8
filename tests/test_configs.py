"""Every config that comes with jaxgd: it says what it shows, and shows it."""
# ruff: noqa: E501, because settings are long

import re
from pathlib import Path

import numpy as np
import pytest
from command import command

import jaxgd
from jaxgd import config as cfg
from jaxgd import lane
from jaxgd.outcome import CONVERGED, DIVERGED, TRAPPED
from jaxgd.sweep import in_memory

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

FIGURES = {  # beside the overview
    "lesson": "valley",
    "learning_rates": "valley curves",
    "local_minimum": "valley curves maps",
    "race": "surface contours",
    "race_over_rates": "surface contours curves optimizers",
    "basins": "surface contours curves maps",
    "momentum_map": "surface contours curves rates maps",
    "chaotic_rates": "valley curves",
    "digits": "surface contours curves",
    "digits_optimizers": "surface contours curves optimizers",
    "spiral": "surface contours curves maps",
    "breast_cancer": "surface contours curves",
    "diabetes": "surface contours curves",
}
CONFIGS = {path.stem: path for path in Path(jaxgd.__file__).parents[1].glob("configs/*.toml")}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def carried(name, *settings):
    """The result of a config, in memory."""
    plan = lane.planned(cfg.read(CONFIGS[name], settings), name, CONFIGS[name].parent)
    return in_memory(plan)


def outcomes(found):
    return {jaxgd.OUTCOMES[code] for code in np.unique(found["outcome"])}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_opens_with_what_it_shows_and_is_good(name):
    text = CONFIGS[name].read_text("utf-8")
    comment = re.match(r"(# .*\n)+", text)
    assert comment and re.search("Try|python -m", comment[0]) and max(map(len, text.splitlines())) <= 100
    assert cfg.read(CONFIGS[name]).title
    assert command("check", CONFIGS[name]).code == 0
    assert command("check", CONFIGS[name], "--set", "sweep={}").code == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_it_runs_small(name, folder):
    axes = cfg.axes(cfg.read(CONFIGS[name]))
    small = [f"sweep.{axis.key}={{{axis.word}={[*axis.numbers[:2], 3]}}}" for axis in axes]
    words = [word for setting in ["run.epochs=2", "record.paths=1", *small] for word in ("--set", setting)]
    answer = command("run", CONFIGS[name], *words)
    assert answer.code == 0 and answer.err == ""
    assert cfg.read(CONFIGS[name]).title in answer.out
    drawn = {path.stem for path in folder.glob("runs/*/figures/*.png")}
    assert drawn == {"overview", *FIGURES[name].split()}


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.75, 1.01])
def test_the_lesson_agrees_with_its_closed_form(rate):
    """x_k = x_0 (1 − 2η)^k. Each step rounds the slope, the product and the difference: 3 eps of what it handles."""
    out = command("run", CONFIGS["lesson"], "--set", f"optimizer.learning_rate={rate}").out
    lines = re.findall(r"^EPOCH (\d+): Cost = (\S+), x = (\S+)$", out, re.MULTILINE)
    assert [int(k) for k, *_ in lines] == list(range(101))
    cost, x = (np.array([float(line[i]) for line in lines]) for i in (1, 2))
    assert 0 <= x[0] <= 10_000
    k, eps = np.arange(101), np.finfo(np.float32).eps
    exact = x[0] * (1 - 2 * rate) ** k
    digits = 0.0005 + 1e-3 * np.abs(x) * (np.abs(x) < 1e-3)  # what is printed, in thousandths or with four figures
    # η is rounded once, and with it the factor 1 − 2η; then every step rounds relative to what came before it
    factor = abs(1 - 2 * rate)
    drift = k * np.abs(x[0]) * np.maximum(factor, 1e-30) ** np.maximum(k - 1, 0) * 2 * (rate + 1) * 3 * eps
    slack = digits + drift + (0.0005 * factor**k)  # the start, too, is known to what is printed
    assert (np.abs(x - exact) <= slack).all()
    assert (np.abs(cost - (exact**2 + 5)) <= 2 * np.abs(exact) * slack + slack**2 + 8 * eps * cost + 0.0005).all()


def test_the_learning_rates_part_at_1():
    found = carried("learning_rates")
    rate = found["learning_rate"]
    assert (found["outcome"].where(rate > 1, drop=True) == DIVERGED).all()
    assert (found["outcome"].where(rate < 1, drop=True) != DIVERGED).all()
    assert (found["outcome"].where((rate > 0.08) & (rate < 0.9), drop=True) == CONVERGED).all()
    assert outcomes(found) >= {"converged", "diverged", "descending"}


def test_momentum_carries_the_ball_over_the_hill():
    found = carried(
        "local_minimum", "sweep.start.x={linspace=[-2.5, 2.5, 51]}", "sweep.optimizer.momentum={linspace=[0, 0.99, 34]}"
    )
    top = 0.127  # of the hill between the valleys
    plain = found["outcome"].sel(momentum=0)
    assert (plain.where(plain["x"] < top, drop=True) == CONVERGED).all()
    assert (plain.where(plain["x"] > top, drop=True) == TRAPPED).all()
    right = found["outcome"].sel(x=slice(top, None))
    over = (right == CONVERGED).any("x")
    assert over.sel(momentum=0.9, method="nearest") and not over.sel(momentum=slice(0, 0.7)).any()
    reached = found["params.x"].where((found["outcome"] == CONVERGED) & (found["x"] > top))
    assert (reached.min() < -1.4) and (reached.max() < 0)


def test_the_race_is_won_by_who_keeps_speed():
    found = carried("race")
    costs = found["final_cost"]
    assert costs.sel(optimizer="momentum") < costs.sel(optimizer="gradient_descent") / 1000
    assert costs.sel(optimizer="adam") < costs.sel(optimizer="gradient_descent")


def test_every_optimizer_has_rates_that_win_and_rates_that_lose():
    found = carried("race_over_rates", "sweep.optimizers.learning_rate={geomspace=[1e-5, 10, 32]}")
    for name in found["optimizer"].values:
        one = found.sel(optimizer=name)
        assert one["final_cost"].min() < 1e-2 < one["final_cost"].max()
    assert {"converged", "diverged"} <= outcomes(found)


def test_each_minimum_has_its_basin():
    found = carried("basins", "sweep.start.x.0={linspace=[-5, 5, 21]}", "sweep.start.x.1={linspace=[-5, 5, 21]}")
    assert outcomes(found) == {"converged"}
    assert set(np.unique(found["minimum"])) == {0, 1, 2, 3}
    places = np.array(found["minimum"].attrs["known_minima"])
    for start in places.round():  # from beside a minimum, into it
        here = found.sel(x_0=start[0], x_1=start[1], method="nearest")
        nearest = np.abs(places - start).sum(1).argmin()
        assert int(here["minimum"]) == nearest


def test_the_momentum_map_has_its_edge():
    """Heavy ball on a quadratic diverges from (2 + 2β) / sharpness on, here at a sharpness of 100."""
    found = carried(
        "momentum_map",
        "sweep.optimizer.momentum={linspace=[0, 0.9, 4]}",
        "sweep.optimizer.learning_rate={geomspace=[1e-3, 0.1, 200]}",
    )
    rate, momentum = found["learning_rate"], found["momentum"]
    edge = (2 + 2 * momentum) / 100
    dead = found["outcome"] == DIVERGED
    assert dead.where(rate > edge * 1.03, 1).all()
    assert not dead.where(rate < edge * 0.97, 0).any()
