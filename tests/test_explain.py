"""Why a lane did what it did: told of lanes whose reasons are known, and of odd ones without a stumble."""

import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
import xarray
from command import command
from small import lasting

import jaxgd
from jaxgd import config as cfg
from jaxgd import run as runs
from jaxgd import store
from jaxgd.compare import compared
from jaxgd.explain import explained
from jaxgd.nearest import nearest
from jaxgd.outcome import DIVERGED, PENDING
from jaxgd.ranges import ConfigError
from jaxgd.show import report
from jaxgd.show import words as in_words
from jaxgd.show.account import again, sentences
from jaxgd.table import by_name

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

PARABOLA = lasting(60, small.PARABOLA) + 'precision = "float64"\n'
RATES = PARABOLA + "[sweep]\noptimizer.learning_rate = { values = [0.001, 0.3, 0.5, 0.75, 1.0, 1.2] }"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("explain")


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    """All tests share a folder, and what has been run in it."""
    monkeypatch.chdir(folder)


def run(name, text):
    """The folder of a config's run."""
    Path(f"{name}.toml").write_text(text)
    prepared = runs.prepared(Path(f"{name}.toml"))
    runs.carry_out(prepared)
    return prepared.folder


def told(folder, **asked):
    return " ".join(sentences(explained(folder, asked)))


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (0.001, "still on its way when the 60 epochs ended: the cost came from 14 to 12.0779"),
        (0.001, "rate × sharpness is 0.001 × 2 = 0.002 at the minimum, below 1"),
        (0.001, "The nearest setting that converged is learning_rate = 0.3, which ended at 5, lowest in epoch"),
        (0.3, "It converged: the cost came from 14 to 5, lowest in epoch 21, without crossing the valley once"),
        (0.3, "0.3 × 2 = 0.6 at the minimum, below 1, so that a step falls short of the bottom and leaves 0.4 of the way"),
        (0.3, "The best setting of the run by final cost is learning_rate = 0.5, which ended at 5, lowest in epoch 1"),
        (0.5, "0.5 × 2 = 1 at the minimum, so that a step lands on the bottom. No other of the 6 lanes does better."),
        (0.75, "0.75 × 2 = 1.5 at the minimum, below the limit of 2"),
        (0.75, "a step overshoots and lands 0.5 times as far away on the other side"),
        (1, "It oscillates, crossing the valley 60 times in 60 updates and getting no lower than 14 (in epoch 0)"),
        (1, "1 × 2 = 2 at the minimum, the limit itself, so that a step lands just as far away on the other side"),
        (1, "The nearest setting that converged is learning_rate = 0.75"),
        (1.2, "It diverged: its gradient norm grew from 6 to 3.51426e+09"),
        (1.2, "in 60 epochs, crossing the valley 60 times in 60 updates: rate × sharpness is 1.2 × 2 = 2.4"),
        (1.2, "above the limit of 2, so that a step overshoots and lands 1.4 times as far away on the other side"),
    ],
)  # fmt: skip
def test_the_parabola(rate, said, parabola):
    assert said in parabola(rate)


@pytest.fixture(scope="module")
def parabola(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        where, known = (folder / run("rates", RATES)), {}
    return lambda rate: known.setdefault(rate, told(where, learning_rate=rate))


def test_the_command(parabola):
    answer = command("explain", "rates.toml", "learning_rate=1.3")
    assert answer.code == 0 and answer.err == ""
    first, second, _, *rest = answer.out.splitlines()
    assert first == "learning_rate = 1.2: diverged"
    assert second == "(learning_rate = 1.2 is the nearest of 6 to 1.3, which ends at 0.001 and 1.2)"
    assert all(len(line) <= 80 for line in rest[: rest.index("")])
    for words, message in (
        (["learning_rate"], "must be NAME=VALUE"),
        ([], "which lane? Give learning_rate=… (6 values from 0.001 to 1.2)"),
        (["rate=1"], "rate: the run has no such axis; allowed: learning_rate"),
        (["learning_rate=fast"], 'learning_rate = "fast": must be a number'),
    ):
        refused = command("explain", "rates.toml", *words)
        assert refused.code == 2 and message in refused.err and refused.out == ""


def test_the_lane_again_by_the_command_and_in_python(parabola):
    facts = explained(runs.resolved("rates.toml"), {"learning_rate": 0.75})
    line, *python = again(facts)
    words = shlex.split(line.removeprefix("again "))
    single = cfg.read(Path(words[2]), words[4::2])
    assert words[:2] == ["jaxgd", "run"] and single.optimizer.arguments["learning_rate"] == 0.75 and not single.sweep
    assert command(*words[1:]).out.splitlines()[60] == "EPOCH 60: Cost = 5.000, x = 2.602e-18"
    space = {}
    exec("\n".join(line.removeprefix("in Python").strip() for line in python), space)
    np.testing.assert_allclose(space["history"].params["x"][:4], [3, -1.5, 0.75, -0.375])
    assert float(space["history"].cost[-1]) == float(facts.figures["final_cost"])
    assert runs.prepared(Path(words[2])).folder == runs.resolved("rates.toml")  # the config that a run keeps is its own


def test_two_wells():
    well = run(
        "well",
        """
[cost]
surface = "double_well"
[start]
x = 2.0
[optimizer]
name = "momentum"
learning_rate = 0.01
[run]
epochs = 3000
[sweep]
start.x = { values = [-1.0, 2.0] }
optimizer.momentum = { values = [0.0, 0.5] }
""",
    )
    said = told(well, x=2, momentum=0)
    assert (
        "trapped: the slope has vanished in a local minimum at 1.347, where the cost is -2.61856, 2.826 above" in said
    )
    assert (
        "0.01 × 13.77 = 0.1377 there, below the limit of 2 + 2β = 2 for momentum 0, so that nothing throws it" in said
    )
    assert "The nearest setting that converged is x = -1, which ended at -5.44419" in said


OPTIMIZERS = """
[cost]
expression = "x**2 + 5"
[start]
x = 3.0
[optimizers.adam]
learning_rate = 0.1
[optimizers.nesterov]
learning_rate = 0.1
momentum = 0.5
[run]
epochs = 300
[sweep]
optimizers.adam.learning_rate = { values = [0.1, 1e-4] }
optimizers.nesterov.learning_rate = { values = [0.2, 0.8] }
seed = { values = [7, 8] }
"""


def test_other_optimizers_trials_and_seeds():
    folder = run("optimizers", OPTIMIZERS)
    adam = told(folder, optimizer="adam", learning_rate=1e-4)
    assert (
        "theory allows rates up to (2 + 2β₁)/((1 − β₁)λ) = " in adam and "its rate of 0.0001 is not above that" in adam
    )
    nesterov = explained(folder, {"optimizer": "nesterov", "learning_rate": 0.8})
    assert (
        "0.8 × 2 = 1.6 at the minimum, above the limit of (2 + 2β)/(1 + 2β) = 1.5 for momentum 0.5"
        in sentences(nesterov)[0]
    )
    assert sentences(nesterov)[1].startswith(
        "The nearest setting that converged is trial = 0, learning_rate = 0.2, which"
    )
    assert int(nesterov.figures["seed"]) == 7 and "seed=7" in again(nesterov)[2]
    assert 'optimizer={ name = "nesterov", learning_rate = 0.8, momentum = 0.5 }' in again(nesterov)[0]
    assert int(explained(folder, {"optimizer": "adam", "trial": 0, "seed": 8}).figures["seed"]) == 8
    with pytest.raises(ConfigError, match=r"optimizer=adam\|nesterov; and what varies its trials \(learning_rate\)$"):
        explained(folder, {})
    with pytest.raises(ConfigError, match="did you mean nesterov"):
        explained(folder, {"optimizer": "nestero", "learning_rate": 0.8})


RMSPROP = """
[cost]
expression = "x**2"
[start]
x = 3.0
[optimizer]
name = "rmsprop"
learning_rate = 0.5
[run]
epochs = 60
precision = "float64"
"""


def test_the_limit_of_an_optimizer_that_preconditions_is_that_of_its_own_state():
    """As ν fades with the gradient the limit falls below the rate; what optax's own loop divides by is the measure."""
    optimizer, limits = optax.rmsprop(0.5), []
    with jax.enable_x64(True):
        x = jnp.array(3.0)
        state = optimizer.init(x)
        for _ in range(60):
            grads = 2 * x
            updates, state = optimizer.update(grads, state, x)
            x += updates
            limits.append(float(0.5 * grads / -updates))  # 2/λ with λ = 2/p, and p = ηg/−u: p itself
    facts = explained(run("rmsprop", RMSPROP), {})
    np.testing.assert_allclose(facts.adaptive.limits, [np.nan, *limits], rtol=1e-9)
    above = np.flatnonzero(np.array(limits) < 0.5) + 1
    said = " ".join(sentences(facts))
    assert f"2/λ = {limits[-1]:.4g}, and its rate of 0.5 is above that" in said
    assert f"the rate above it in {len(above)} of 60 looks, first in epoch {above[0]}" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cost.expression": "sqrt(x) + x**2", "cost.minimum": None}, "its cost was no longer a number, from"),
        ({"cost.expression": "-x**3", "cost.minimum": None}, "its cost fell below all numbers"),
        ({"cost.expression": "x**4", "optimizer.learning_rate": 0.9, "cost.minimum": 0}, "where it started, above the limit of 2"),
        ({"cost.expression": "log(x - 4)", "cost.minimum": None}, "It had diverged before its first step: at the start its cost was"),
        ({"optimizer.learning_rate": 1.2, "run.ceiling": 1e3}, "its cost passed the ceiling of 1000"),
        ({}, "Rates up to 1 are stable at the minimum, and 0.5 would land on the bottom of a parabola in one step."),
        ({"cost.expression": "sin(x)", "start.x": float(np.pi / 2), "cost.minimum": -1}, "It stopped: nothing moves any more at 1.571"),
        ({"cost.expression": "5 + 0 * x", "cost.minimum": 4}, "It never moved: its gradient is zero at the start, 3, where the Hessian has no negative eigenvalue."),
        ({"optimizer.name": "sign_sgd", "optimizer.learning_rate": 0.7}, "for sign_sgd theory knows no limit"),
    ],
)  # fmt: skip
def test_single_descents(changes, said):
    """No axis, so that no coordinate is needed: of every outcome, and of costs that end."""
    content = {"cost": {"expression": "x**2 + 5", "minimum": 5}, "start": {"x": 3.0}}
    content |= {"optimizer": {"name": "gradient_descent", "learning_rate": 0.3}, "run": {"epochs": 60}}
    for key, value in changes.items():
        cfg.lay(content, key.split("."), value)
    if content["cost"]["minimum"] is None:
        del content["cost"]["minimum"]
    assert said in told(run("single", cfg.as_toml(cfg.checked(content, "test"))))


def test_all_diverged_and_none_converged():
    gone = run("gone", PARABOLA + "[sweep]\noptimizer.learning_rate = { values = [1.5, 2.0] }")
    assert "All 2 lanes of the run diverged; rates up to 1 are stable where it started" in told(gone, learning_rate=2)
    slow = run("slow", PARABOLA + "[sweep]\noptimizer.learning_rate = { values = [1e-4, 2e-4] }")
    assert "No lane of the run converged; the best is learning_rate = 0.0002, which ended at 13.5781" in told(
        slow, learning_rate=0
    )
    assert "No lane of the run converged; the best is this one, which" in told(slow, learning_rate=2e-4)


MODEL = """
import jax.numpy as jnp
import jaxgd

def lane(learning_rate, scale=1.0):
    return jaxgd.Descent(lambda x: scale * jnp.sum(x**2), jnp.ones(80), jaxgd.gradient_descent(learning_rate))
"""
LANE = '[lane]\nfunction = "model:lane"\nlearning_rate = 0.1\n[run]\nepochs = 20\n[sweep]\nlane.scale = { values = [1.0, 20.0] }'


def test_a_lane_of_the_users_own():
    Path("model.py").write_text(MODEL)
    folder = run("lane", LANE)
    assert "the sharpness on its way was 40 at a rate of 0.1, and for this optimizer theory knows no" in told(
        folder, scale=20
    )
    assert "again      jaxgd run runs/lane-" in command("explain", folder, "scale=1").out


# --- which lane is meant ---


def a_table(**axes):
    """A table without figures: what matters are its coordinates."""
    import xarray

    shape = tuple(len(values) for values in axes.values())
    return xarray.Dataset({"outcome": (tuple(axes), np.ones(shape, np.int8))}, axes)


def test_numbers_go_to_the_nearest_and_names_must_be_there():
    table = a_table(learning_rate=[0.1, 0.2, 0.4], flag=[False, True], seed=[3, 4])
    assert nearest(table, {"learning_rate": "0.26", "flag": "true"}) == (
        {"learning_rate": 1, "flag": 1, "seed": 0},
        ["learning_rate = 0.2 is the nearest of 3 to 0.26"],
    )
    assert nearest(table, {"learning_rate": 0.4, "flag": False, "seed": 4}).place == {
        "learning_rate": 2,
        "flag": 0,
        "seed": 1,
    }
    with pytest.raises(ConfigError, match=r"Give learning_rate=… \(3 values from 0.1 to 0.4\); and flag=False\|True"):
        nearest(table, {})
    with pytest.raises(ConfigError, match="flag = 3: there is no such"):
        nearest(table, {"learning_rate": 0.1, "flag": 3})
    with pytest.raises(ConfigError, match="x: the run has no such axis; it is a single lane"):
        nearest(a_table(), {"x": 3})
    assert nearest(a_table(), {}) == ({}, [])


def test_vectors_and_axes_that_walk_together():
    table = a_table(x=[0, 1, 2]).assign_coords({"x.value": (("x", "x.value.0"), [[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]])})
    assert nearest(table, {"x": "[4, 6]"}).place == {"x": 2}
    assert nearest(table, {"x": "[4, 6]"}).remarks == ["x = [5, 5] is the nearest of 3 to [4, 6]"]
    with pytest.raises(ConfigError, match="must be a list of 2 numbers"):
        nearest(table, {"x": 1})
    with pytest.raises(ConfigError, match=r"x=\[…\] \(3 vectors of 2\)"):
        nearest(table, {})
    walked = a_table(learning_rate=[0.1, 0.2, 0.4]).assign_coords(weight_decay=("learning_rate", [1.0, 2.0, 3.0]))
    assert (
        nearest(walked, {"weight_decay": 3}).place
        == nearest(walked, {"learning_rate": 0.5}).place
        == {"learning_rate": 2}
    )


def test_trials_are_found_by_all_that_varies_them():
    labels = {"learning_rate": [[0.1, 0.1, 0.2, 0.2], [1.0, 2.0, np.nan, np.nan]]}
    labels |= {"momentum": [[0.0, 0.9, 0.0, 0.9], [np.nan] * 4]}
    table = a_table(optimizer=["momentum", "adam"], trial=[0, 1, 2, 3]).assign_coords(
        {name: (("optimizer", "trial"), values) for name, values in labels.items()}
    )
    assert nearest(table, {"optimizer": "momentum", "learning_rate": 0.2, "momentum": 0.8}).place == {
        "optimizer": 0,
        "trial": 3,
    }
    assert nearest(table, {"optimizer": "adam", "learning_rate": 5}).place == {"optimizer": 1, "trial": 1}
    assert nearest(table, {"optimizer": "adam", "trial": 1}).place == {"optimizer": 1, "trial": 1}
    with pytest.raises(ConfigError, match=r"which lane\? Give momentum=… \(2 values from 0 to 0.9\)$"):
        nearest(table, {"optimizer": "momentum", "learning_rate": 0.2})


def test_what_is_laid_over_a_config_makes_it_the_other():
    content = {"cost": {"expression": "sum(x**2)"}, "start": {"x": [1.0, 2.0]}, "run": {"epochs": 3}}
    content |= {"optimizer": {"name": "adam", "learning_rate": 0.1, "nesterov": True}}
    one = cfg.checked(content | {"sweep": {"start": {"x": {"0": {"values": [1.0]}}}}}, "test")
    other = cfg.checked(content | {"start": {"x": [1.5, 2.0]}, "title": 'of "one"', "seed": 3}, "test")
    settings = jaxgd.lane.settings(one, other)
    Path("one.toml").write_text(cfg.as_toml(one))
    assert cfg.read(Path("one.toml"), settings) == other and len(settings) == 4


def test_explaining_changes_no_setting():
    before = jax.config.jax_enable_x64
    folder = run("single", PARABOLA)
    explained(folder, {})
    assert jax.config.jax_enable_x64 == before


UNEQUAL = """
[cost]
expression = "x**2 + 5"
minimum = 5
[start]
x = 3.0
[optimizers.sgd]
learning_rate = 0.1
momentum = 0.5
[optimizers.adam]
learning_rate = 0.1
[run]
epochs = 3
unequal_trials = true
[record]
paths = 2
[sweep]
seed = { values = [0, 1] }
optimizers.sgd.learning_rate = { geomspace = [1e-5, 1, 4] }
optimizers.sgd.momentum = { values = [0.5, 0.9] }
optimizers.adam.learning_rate = { geomspace = [1e-4, 1, 5] }
optimizers.adam.b1 = { values = [0.5, 0.9, 0.99] }
"""


def test_trials_that_an_optimizer_lacks_are_no_lanes():
    Path("unequal.toml").write_text(UNEQUAL)
    assert "lanes    46  (optimizer 2 × trial up to 15 × seed 2)\n" in command("check", "unequal.toml").out
    for _ in range(2):
        out = command("run", "unequal.toml").out
        counts = [line.split()[1] for line in out.partition("share")[2].partition("\n\n")[0].splitlines()[1:]]
        assert "46 lanes, up to" in out and "pending" not in out and sum(map(int, counts)) == 46
    folder = runs.resolved("unequal")
    assert store.read_manifest(folder)["lanes"] == 46
    table = store.opened_table(folder)
    raw = xarray.open_zarr(folder / "results.zarr")["outcome"]
    assert (raw == table["outcome"]).all() and raw.attrs == table["outcome"].attrs
    assert (raw == raw.attrs["flag_meanings"].split().index("absent")).sum() == 14 and (raw != PENDING).all()
    assert [contender.trials for contender in compared(table)] == [15, 8]
    assert [part.sizes["trial"] for part in by_name(table).values()] == [8, 15]
    result = report.opened(folder)
    said = in_words.came_out(result.table, "final_cost")
    assert said[0].startswith("46 descents ran.") and not any("stand for nothing" in one for one in said)
    assert sum(count for _, count, _ in in_words.shares(table)) == 46
    reported = []
    runs.carry_out(runs.prepared(Path("unequal.toml")), lambda done, lanes: reported.append((done, lanes)))
    assert reported == [(46, 46)]


def test_an_interrupted_run_lacks_only_lanes_that_there_are():
    Path("cut.toml").write_text(UNEQUAL.replace("x = 3.0", "x = 4.0"))
    prepared = runs.prepared(Path("cut.toml"))
    store.opened(prepared.folder, prepared.plan, prepared.fingerprint)
    table = store.opened_table(prepared.folder)
    assert in_words.shares(table) == [("pending", 46, 1.0)]


def test_the_nearest_trial_is_by_ratio_and_of_the_optimizer_s_own():
    Path("unequal.toml").write_text(UNEQUAL)
    plan = runs.prepared(Path("unequal.toml")).plan
    found = nearest(small.pending(plan), {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.001})
    assert found.place == {"optimizer": 0, "trial": 3, "seed": 0}
    assert found.remarks == ["learning_rate = 0.000464159 is the nearest of 4 to 0.001"]
    found = nearest(small.pending(plan), {"optimizer": "sgd", "trial": 12})
    assert found.place["trial"] == 7


def test_trials_are_sought_once_their_optimizer_is_known():
    Path("unequal.toml").write_text(UNEQUAL)
    table = small.pending(runs.prepared(Path("unequal.toml")).plan)
    said = r"which lane\? Give optimizer=sgd\|adam; and what varies its trials \(learning_rate, momentum, b1\)$"
    for asked in ({"b1": 0.9}, {"momentum": 0.9, "learning_rate": 0.1}, {"trial": 3}, {}):
        with pytest.raises(ConfigError, match=said):
            nearest(table, asked)
    with pytest.raises(ConfigError, match="b1: sgd has no such axis; allowed: learning_rate, momentum, optimizer"):
        nearest(table, {"optimizer": "sgd", "b1": 0.9})
    with pytest.raises(ConfigError, match="b2: the run has no such axis; allowed: b1"):
        nearest(table, {"b2": 0.9})


ROUNDED = """
[cost]
expression = "(x[0]**2 + x[0]*x[1] + x[1]**2)**2 + sin(x[0])**2 + cos(x[1])**2"
minimum = 0.773199
[start]
x = [3.0, 0.1]
[optimizer]
name = "gradient_descent"
learning_rate = 0.02
[run]
epochs = 800
precision = "float64"
"""


def test_a_minimum_published_with_six_digits_is_missed_by_little():
    """S308 of CUTEst."""
    said = told(run("rounded", ROUNDED))
    assert "It was trapped: the slope has vanished in a local minimum at (0.1554, -0.6946)" in said
    assert (
        "where the cost is 0.773199, 5.65e-08 above the stated minimum 0.773199 (if that is rounded, tolerance = 1e-07 "
        "takes it as reached)"
    ) in said
    taken = ROUNDED.replace("epochs = 800", "epochs = 800\ntolerance = 1e-7")
    assert "It converged" in told(run("taken", taken))


SHORT = """
[cost.network]
hidden = [4]
[data]
name = "moons"
rows = 60
[optimizer]
name = "adam"
learning_rate = 0.9
[run]
epochs = 2
"""


def test_two_short_epochs_of_data_are_not_made_more_of_than_is_known():
    """Judged by the rules of today or of others: what was seen is put into words, a rise and so few epochs."""
    folder = run("short", SHORT)
    facts = explained(folder, {})
    figures = {"outcome": DIVERGED, "start_cost": 0.7, "final_cost": 0.82, "epochs": 2, "diverged_epoch": np.nan}
    figures |= {"start_gradient_norm": 0.66, "gradient_norm": 0.48}
    facts.figures.update({name: ((), value) for name, value in figures.items()})
    assert facts.outcome == "diverged"
    assert sentences(facts)[0].startswith(
        "It counts as diverged: its cost rose from 0.7 to 0.82 in 2 epochs, the last without a new low; whether it "
        "comes down again is not known from so few: "
    )
    facts.figures.update({"epochs": ((), 40)})
    assert "in 40 epochs, the last without a new low; no number has left the finite ones yet" in sentences(facts)[0]
