"""From a config to lanes: what each key does to the descents, and that a setting alone is the lane it was."""
# ruff: noqa: E501, because a case is a line

import tomllib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import pending

import jaxgd
from jaxgd import config as cfg
from jaxgd import lane, names, table
from jaxgd.config import ConfigError
from jaxgd.descent import opened
from jaxgd.outcome import ABSENT
from jaxgd.surfaces import SURFACES
from jaxgd.sweep import in_memory

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

PLAIN = {
    "cost": {"expression": "x**2 + 5", "minimum": 5},
    "start": {"x": 3.0},
    "optimizer": {"name": "gradient_descent", "learning_rate": 0.1},
    "run": {"epochs": 10},
}
RACE = {
    "cost": {"surface": "rosenbrock"},
    "start": {"x": [-1.2, 1.0]},
    "optimizers": {"adam": {"learning_rate": 0.02}, "momentum": {"learning_rate": 0.001, "momentum": 0.5}},
    "run": {"epochs": 10},
}
EPS = np.finfo(np.float32).eps


def planned(config, folder="."):
    return lane.planned(config, "test", cfg.Path(folder))


def results(content, folder="."):
    """(config, table) of a config carried out in memory."""
    config = cfg.checked(content, "test")
    plan = planned(config, folder)
    return config, in_memory(plan)


class Seen(NamedTuple):
    start: Any  # params
    cost: float  # at the start
    after: Any  # params after the first step


def seen(content, *index, folder="."):
    """The lane at a point of a config's grid, taken one step; nothing is compiled."""
    plan = planned(cfg.checked(content, "test"), folder) if isinstance(content, dict) else content
    static = tuple(i if dimension.static else 0 for dimension, i in zip(plan.dimensions, index, strict=True))
    point = {
        name: jnp.asarray(dimension.at(name, i))
        for dimension, i in zip(plan.dimensions, index, strict=True)
        for name in dimension.axes
        if not dimension.is_each(name)
    }
    one = plan.trace(static).opened(point)
    return Seen(one.params, float(one.cost(one.params)), stepped(one))


def stepped(one):
    """The params after the first step."""
    return one.step(one.params, one.init(one.params))[2]


def labels(plan):
    return {name: values.tolist() for name, (_, values) in table.coordinates(plan).items()}


def with_(content, **tables):
    """A config with keys laid over its tables: optimizer__learning_rate=0.5."""
    merged = {k: dict(v) if isinstance(v, dict) else v for k, v in content.items()}
    for key, value in tables.items():
        cfg.lay(merged, key.split("__"), value)
    return merged


# --- costs and starts ---


def test_several_variables_each_with_its_start_and_constants_as_axes():
    content = with_(
        PLAIN,
        cost={"expression": "(a - x)**2 + b*(y - x**2)**2", "constants": {"a": 1, "b": 100}},
        start={"x": -1.2, "y": 1},
        optimizer__learning_rate=0.001,
        sweep={"cost": {"constants": {"b": {"values": [1, 100]}}}, "start": {"y": {"linspace": [0, 1, 3]}}},
    )
    plan = planned(cfg.checked(content, "test"))
    assert [dimension.name for dimension in plan.dimensions] == ["b", "y"] and plan.shape == (2, 3)
    for i, b in enumerate((1, 100)):
        for j, y in enumerate((0, 0.5, 1)):
            here = seen(plan, i, j)
            slope = jax.grad(SURFACES["rosenbrock"].cost)(jnp.array([-1.2, y]), b=b)
            expected = jnp.array([-1.2, y]) - 0.001 * slope
            np.testing.assert_allclose([here.after["x"], here.after["y"]], expected, rtol=0, atol=8 * EPS * 2)


def test_a_surface_knows_its_minima_and_constants():
    same = planned(cfg.checked(with_(RACE, sweep={"cost": {"constants": {"b": {"values": [1.0, 10.0]}}}}), ""))
    assert same.minimum == 0 and same.minima.tolist() == [[1, 1]]
    moving = planned(cfg.checked(with_(RACE, sweep={"cost": {"constants": {"a": {"values": [1.0, 2.0]}}}}), ""))
    assert moving.minimum == 0 and moving.minima is None  # at (a, a²), so not the same for all lanes
    stated = planned(cfg.checked(with_(RACE, cost__minimum=-1, cost__minima=[[0.0, 0.0]]), ""))
    assert stated.minimum == -1 and stated.minima.tolist() == [[0.0, 0.0]]


def test_draws_come_from_the_seed_and_their_role_alone():
    drawn = {"x": {"uniform": [0, 10]}, "y": {"normal": [0, 1], "size": 3}, "z": {"loguniform": [1e-3, 1]}}
    content = with_(PLAIN, cost={"expression": "x**2 + sum(y**2) + z**2"}, start=drawn)
    alone = seen(content).start
    assert 0 <= alone["x"] <= 10 and alone["y"].shape == (3,) and 1e-3 <= alone["z"] <= 1
    seeds = with_(content, sweep={"seed": {"values": [1, 0]}, "optimizer": {"learning_rate": {"values": [0.1, 0.2]}}})
    for name, value in alone.items():
        np.testing.assert_array_equal(seen(seeds, 1, 0).start[name], value)  # whatever else varies
        np.testing.assert_array_equal(seen(seeds, 1, 1).start[name], value)
        assert (seen(seeds, 0, 0).start[name] != value).all()
    fewer = with_(content, cost={"expression": "x**2"}, start={"x": drawn["x"]}, optimizer__name="adam")
    np.testing.assert_array_equal(seen(fewer).start["x"], alone["x"])


def test_starts_as_whole_vectors_elements_and_draws_with_num():
    vectors = [[1.0, 2.0], [-1.2, 1.0], [0.0, 0.0]]
    content = with_(RACE, sweep={"start": {"x": {"values": vectors}}})
    for i, vector in enumerate(vectors):
        np.testing.assert_array_equal(seen(content, 0, i).start["x"], np.float32(vector))
    assert labels(planned(cfg.checked(content, "")))["x.value"] == vectors
    content = with_(RACE, sweep={"start": {"x": {"1": {"arange": [4]}}}})
    for i in range(4):
        np.testing.assert_array_equal(seen(content, 1, i).start["x"], np.float32([-1.2, i]))
    content = with_(RACE, sweep={"start": {"x": {"0": {"loguniform": [1, 10], "num": 50, "name": "left"}}}})
    left = labels(planned(cfg.checked(content, "")))["left"]
    assert len(left) == len(set(left)) == 50 and min(left) >= 1 and max(left) <= 10


def test_both_precisions():
    for precision, real in (("float32", np.float32), ("float64", np.float64)):
        _, found = results(with_(PLAIN, run__precision=precision))
        assert found["final_cost"].dtype == real and found["params.x"].dtype == real
        exact = 3 * 0.8**10
        assert abs(float(found["params.x"]) - exact) <= 10 * 4 * np.finfo(real).eps * 3


def test_limits_reach_the_lanes():
    _, found = results(with_(PLAIN, run__target=6))
    assert float(found["target_epoch"]) == 5  # 9 · 0.64ᵏ ≤ 1 from k = 5 on
    _, found = results(with_(PLAIN, run__ceiling=7))
    assert jaxgd.OUTCOMES[int(found["outcome"])] == "diverged"
    _, found = results(with_(PLAIN, run__tolerance=1.0))
    assert jaxgd.OUTCOMES[int(found["outcome"])] == "converged"


@pytest.mark.parametrize("params", ["all", "none"])
def test_records(params):
    _, found = results(with_(PLAIN, record={"history": 6, "params": params}))
    assert found["epoch"].values.tolist() == [0, 2, 4, 6, 8, 10]
    np.testing.assert_allclose(found["cost_history"], 5 + 9 * 0.64 ** found["epoch"], rtol=40 * EPS)
    assert ("params.x" in found) == (params == "all")


# --- optimizers ---


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # what optax says of its own
def test_every_optimizer_can_be_named_and_its_learning_rate_swept():
    """All of them, down to the traced first step; what needs more than a rate is given it."""
    more = {"contrib.dpsgd": {"l2_norm_clip": 1, "noise_multiplier": 0, "seed": 0}, "noisy_sgd": {"seed": 0}}
    by_value = set()
    for name, factory in names.optimizers().items():
        rate = "learning_rate" if "learning_rate" in names.parameters(factory) else "max_learning_rate"
        sweep = {"optimizer": {rate: {"values": [0.01, 0.02]}}}
        content = with_(RACE, sweep=sweep) | {"optimizer": {"name": name, rate: 0.01} | more.get(name, {})}
        del content["optimizers"]
        try:
            plan = planned(cfg.checked(content, "test"))
        except ConfigError as error:
            assert f"sweep.optimizer.{rate}: Python needs the value itself" in str(error), name
            by_value.add(name)
            sweep["optimizer"][rate]["each"] = True
            plan = planned(cfg.checked(content, "test"))
        assert plan.shape == (2,)
    assert len(by_value) <= 2, by_value  # of optax's, nearly all can be traced


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "contrib.prodigy", "polyak_sgd"])
def test_a_named_optimizer_steps_as_optax_s_own(name):
    rate = "max_learning_rate" if name == "polyak_sgd" else "learning_rate"
    content = with_(RACE, sweep={"optimizer": {rate: {"values": [0.0001, 0.001]}}}) | {
        "optimizer": {"name": name, rate: 0.1}
    }
    del content["optimizers"]
    factory = getattr(optax, name, None) or getattr(optax.contrib, name.removeprefix("contrib."))
    for i, value in enumerate((0.0001, 0.001)):
        start = {"x": jnp.array([-1.2, 1.0])}
        theirs = factory(**{rate: value})
        expected = stepped(opened(jaxgd.Descent(lambda p: SURFACES["rosenbrock"].cost(**p), start, theirs)))["x"]
        # a gradient near 200 after a few roundings
        np.testing.assert_allclose(seen(content, i).after["x"], expected, rtol=0, atol=16 * EPS * 2)


def test_flags_words_and_whole_numbers_have_a_program_each():
    content = with_(RACE) | {"optimizer": {"name": "adam", "learning_rate": 0.1}}
    del content["optimizers"]
    nesterov = with_(content, sweep={"optimizer": {"nesterov": {"values": [True, False]}}})
    assert (seen(nesterov, 0).after["x"] != seen(nesterov, 1).after["x"]).any()
    assert labels(planned(cfg.checked(nesterov, "")))["nesterov"] == [True, False]
    content["optimizer"] = {"name": "muon", "learning_rate": 0.1}
    words = with_(content, sweep={"optimizer": {"preconditioning": {"values": ["frobenius", "spectral"]}}})
    assert labels(planned(cfg.checked(words, "")))["preconditioning"] == ["frobenius", "spectral"]
    content["optimizer"] = {"name": "lbfgs", "memory_size": 2}
    whole = with_(content, sweep={"optimizer": {"memory_size": {"linspace": [1, 5, 3]}}})
    assert labels(planned(cfg.checked(whole, "")))["memory_size"] == [1, 3, 5]
    with pytest.raises(ConfigError, match="memory_size = 1.5: must be a whole number"):
        planned(cfg.checked(with_(content, sweep={"optimizer": {"memory_size": {"linspace": [1, 2, 3]}}}), "test"))


def test_lists_are_what_the_optimizer_takes():
    content = with_(RACE) | {"optimizer": {"name": "prodigy", "learning_rate": 1, "betas": [0.8, 0.99]}}
    del content["optimizers"]
    start = {"x": jnp.array([-1.2, 1.0])}
    theirs = optax.contrib.prodigy(1.0, betas=(0.8, 0.99))
    expected = stepped(opened(jaxgd.Descent(lambda p: SURFACES["rosenbrock"].cost(**p), start, theirs)))["x"]
    np.testing.assert_allclose(seen(content).after["x"], expected, rtol=4 * EPS)
    rates = with_(content, optimizer={"name": "gradient_descent", "learning_rate": [0.0, 0.001]})  # one per coordinate
    after = seen(rates).after["x"]
    assert float(after[0]) == np.float32(-1.2) and float(after[1]) != 1


def test_a_race_and_a_common_grid():
    race = planned(cfg.checked(RACE, ""))
    assert [d.name for d in race.dimensions] == ["optimizer"] and labels(race)["optimizer"] == ["adam", "momentum"]
    grid = planned(cfg.checked(with_(RACE, sweep={"optimizers": {"learning_rate": {"values": [0.02, 0.001]}}}), ""))
    assert [d.name for d in grid.dimensions] == ["optimizer", "learning_rate"]
    for i in range(2):  # adam at 0.02, momentum at 0.001
        np.testing.assert_allclose(seen(grid, i, i).after["x"], seen(race, i).after["x"], rtol=0, atol=8 * EPS)


def test_grids_of_each_optimizer_s_own():
    sweep = {
        "optimizers": {
            "adam": {"learning_rate": {"values": [0.1, 0.2]}, "b1": {"values": [0.5, 0.9]}},
            "momentum": {"learning_rate": {"geomspace": [1e-4, 1e-3, 4]}},
        },
        "start": {"x": {"0": {"values": [0, 1]}}},
    }
    plan = planned(cfg.checked(with_(RACE, sweep=sweep), ""))
    assert [d.name for d in plan.dimensions] == ["optimizer", "trial", "x_0"] and plan.shape == (2, 4, 2)
    assert labels(plan)["learning_rate"][0] == [0.1, 0.1, 0.2, 0.2]
    np.testing.assert_array_equal(labels(plan)["b1"], [[0.5, 0.9, 0.5, 0.9], [np.nan] * 4])
    np.testing.assert_allclose(labels(plan)["learning_rate"][1], np.geomspace(1e-4, 1e-3, 4))
    # Adam's first step is its learning rate, against the sign of the slope, which at (1, 1) is 0, and at (0, 1) is not
    moved = [abs(float(seen(plan, 0, trial, 0).after["x"][0])) for trial in range(4)]
    np.testing.assert_allclose(moved, [0.1, 0.1, 0.2, 0.2], rtol=1e-5)
    slope = jax.grad(SURFACES["rosenbrock"].cost)(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(seen(plan, 1, 3, 0).after["x"], jnp.array([0.0, 1.0]) - 1e-3 * slope, rtol=4 * EPS)


def test_unequal_trials_where_they_are_wanted():
    sweep = {"optimizers": {"adam": {"learning_rate": {"values": [0.1, 0.2, 0.3]}}}}
    with pytest.raises(ConfigError, match=r"differ in their number of trials \(adam 3, momentum 1\)"):
        planned(cfg.checked(with_(RACE, sweep=sweep), "test"))
    _, found = results(with_(RACE, sweep=sweep, run__unequal_trials=True))
    assert (found["outcome"].values == ABSENT).tolist() == [[False] * 3, [False, True, True]]
    assert found["outcome"].attrs["flag_meanings"].split()[ABSENT] == "absent"
    assert np.isnan(found["final_cost"].values[1, 1:]).all()


def test_pairs_walk_together():
    sweep = {
        "optimizer": {"learning_rate": {"values": [0.1, 0.2, 0.3]}},
        "start": {"x": {"values": [1, 2, 3]}},
        "paired": [["optimizer.learning_rate", "start.x"]],
    }
    plan = planned(cfg.checked(with_(PLAIN, sweep=sweep), ""))
    assert plan.shape == (3,) and table.coordinates(plan)["x"][0] == ("learning_rate",)
    for i, (rate, x) in enumerate(((0.1, 1), (0.2, 2), (0.3, 3))):
        np.testing.assert_allclose(seen(plan, i).after["x"], x * (1 - 2 * rate), rtol=0, atol=4 * EPS * 3)
    adam = {"learning_rate": {"values": [0.1, 0.2]}, "b1": {"values": [0.5, 0.9]}}
    sweep = {
        "optimizers": {"adam": adam, "momentum": {"learning_rate": {"values": [1, 2]}}},
        "paired": [["optimizers.adam.learning_rate", "optimizers.adam.b1"]],
    }
    assert labels(planned(cfg.checked(with_(RACE, sweep=sweep), "")))["b1"][0] == [0.5, 0.9]


def test_flags_of_one_optimizer_s_own_and_names():
    own = {
        "adam": {"nesterov": {"values": [True, False], "name": "flag"}},
        "momentum": {"learning_rate": {"values": [0.1, 0.9], "name": "speed"}},
    }
    plan = planned(cfg.checked(with_(RACE, sweep={"optimizers": own}), ""))
    assert labels(plan)["flag"] == [["True", "False"], ["", ""]]
    np.testing.assert_array_equal(labels(plan)["speed"], [[np.nan, np.nan], [0.1, 0.9]])
    for optimizer in (0, 1):
        first, second = (seen(plan, optimizer, trial).after["x"] for trial in (0, 1))
        assert (first != second).any()


# --- the user's own ---

OWN = """
from helper import valley
import jax.numpy as jnp
import jaxgd
import optax

def cost(x, y, slope=1.0):
    return valley(x) + slope * y**2

def lane(learning_rate, width=1, form="flat", seed=0):
    start = jnp.ones(int(width)) * (1.0 + seed)
    return jaxgd.Descent(lambda x: jnp.sum(x**2) if form == "flat" else jnp.sum(x**4), start, optax.sgd(learning_rate))

def branching(learning_rate):
    return optax.sgd(learning_rate) if learning_rate > 0.1 else optax.adam(learning_rate)
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "model.py").write_text(OWN)
    (tmp_path / "helper.py").write_text("def valley(x):\n    return (x - 1)**2\n")
    package = tmp_path / "deep" / "er"
    package.mkdir(parents=True)
    (package / "model.py").write_text("from .part import half\ndef cost(x):\n    return half(x)**2\n")
    (package / "part.py").write_text("def half(x):\n    return x / 2\n")
    return tmp_path


def test_a_function_of_the_user_s_own_beside_the_config(own):
    content = with_(PLAIN, cost={"function": "model:cost", "constants": {"slope": 2}}, start={"x": 0, "y": 1})
    after = seen(content, folder=own).after
    np.testing.assert_allclose([after["x"], after["y"]], [0.2, 0.6], rtol=4 * EPS)
    deep = seen(with_(PLAIN, cost={"function": "deep.er.model:cost"}), folder=own)
    np.testing.assert_allclose(deep.after["x"], 3 * 0.95, rtol=4 * EPS)
    swept = with_(content, sweep={"cost": {"constants": {"slope": {"values": [0, 2]}}}})
    np.testing.assert_allclose([seen(swept, i, folder=own).after["y"] for i in (0, 1)], [1, 0.6], rtol=4 * EPS)


def test_an_edited_module_is_read_anew(own):
    content = with_(PLAIN, cost={"function": "single:cost"})
    for text, cost in (("x**2", 9), ("x**2 + 100", 109)):
        (own / "single.py").write_text(f"def cost(x):\n    return {text}\n")
        assert seen(content, folder=own).cost == cost


def test_the_user_s_own_lane_with_arguments_that_vary(own):
    content = {"lane": {"function": "model:lane", "learning_rate": 0.1}, "run": {"epochs": 1}, "seed": 2}
    np.testing.assert_allclose(seen(content, folder=own).after, [3 * 0.8], rtol=4 * EPS)
    sweep = {
        "lane": {"learning_rate": {"linspace": [0, 0.5, 2]}, "form": {"values": ["flat", "steep"]}},
        "seed": {"values": [0, 1]},
    }
    plan = planned(cfg.checked(with_(content, sweep=sweep), ""), own)
    assert [d.name for d in plan.dimensions] == ["learning_rate", "form", "seed"]
    np.testing.assert_allclose([seen(plan, 1, form, 0).after[0] for form in (0, 1)], [0, -1], atol=EPS)
    assert seen(plan, 0, 0, 1).start.tolist() == [2]
    assert seen(with_(content, lane__width=3), folder=own).start.shape == (3,)


def test_each_gives_a_program_per_value(own):
    content = with_(PLAIN, optimizer={"function": "model:branching", "learning_rate": 0.1})
    sweep = {"optimizer": {"learning_rate": {"values": [0.05, 0.2]}}}
    with pytest.raises(ConfigError, match="add each = true to its range"):
        planned(cfg.checked(with_(content, sweep=sweep), "test"), own)
    sweep["optimizer"]["learning_rate"]["each"] = True
    after = [seen(with_(content, sweep=sweep), i, folder=own).after["x"] for i in (0, 1)]
    np.testing.assert_allclose(after, [3 - 0.05, 3 * 0.6], rtol=8 * EPS)  # Adam's first step is its rate


# --- one setting again ---

SETTINGS = {
    "rate": with_(PLAIN, sweep={"optimizer": {"learning_rate": {"geomspace": [0.01, 0.9, 5]}}}),
    "drawn start and an element of it": with_(
        PLAIN,
        cost={"expression": "sum(x**4)"},
        start={"x": {"uniform": [0, 1], "size": 3}},
        sweep={"start": {"x": {"1": {"values": [0.5, 0.1]}}}},
    ),
    "whole vectors": with_(RACE, sweep={"start": {"x": {"values": [[0.0, 0.5], [1.0, 2.0]]}}}),
    "constants": with_(RACE, sweep={"cost": {"constants": {"b": {"linspace": [1, 50, 4]}}}}),
    "common grid": with_(RACE, sweep={"optimizers": {"learning_rate": {"geomspace": [1e-4, 1e-2, 4]}}}),
    "own grids": with_(
        RACE,
        sweep={
            "optimizers": {
                "adam": {"b1": {"values": [0.5, 0.9]}},
                "momentum": {"momentum": {"values": [0.1, 0.5], "name": "beta"}},
            }
        },
    ),
    "flags": with_(
        RACE,
        optimizers={"adam": {"learning_rate": 0.1}},
        sweep={"optimizers": {"adam": {"nesterov": {"values": [False, True]}}}},
    ),
    "pairs": with_(
        PLAIN,
        sweep={
            "optimizer": {"learning_rate": {"values": [0.1, 0.45]}},
            "start": {"x": {"values": [1, 2], "name": "from"}},
            "paired": [["start.x", "optimizer.learning_rate"]],
        },
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_setting_alone_is_the_lane_it_was(case):
    config = cfg.checked(SETTINGS[case], "test")
    plan = planned(config)
    grid = pending(plan)
    for index in {tuple(0 for _ in plan.shape), tuple(n - 1 for n in plan.shape)}:
        alone = lane.at(config, grid.isel(dict(zip(grid["outcome"].dims, index, strict=True))))
        assert alone.sweep == {} and cfg.checked(tomllib.loads(cfg.as_toml(alone)), "") == alone
        here, there = seen(planned(alone)), seen(plan, *index)
        jax.tree.map(np.testing.assert_array_equal, here.start, there.start)
        # a traced hyperparameter is rounded to float32 before the step, a constant after it
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=16 * EPS, atol=8 * EPS), here.after, there.after
        )


def test_seeds_are_replicates_and_keep_the_config_s_own():
    sweep = {"seed": {"values": [0, 1]}, "optimizer": {"learning_rate": {"values": [0.1, 0.2]}}}
    config = cfg.checked(with_(PLAIN, seed=7, sweep=sweep), "")
    plan = planned(config)
    alone = lane.at(config, pending(plan).isel(learning_rate=1))
    assert alone.seed == 7 and alone.optimizer.arguments["learning_rate"] == 0.2


def test_deleting_the_sweep_leaves_a_valid_config():
    for content in SETTINGS.values():
        planned(cfg.checked(with_(content, sweep={}), "test"))
    with pytest.raises(ConfigError, match="optimizer.learning_rate is missing"):
        without = with_(SETTINGS["rate"], optimizer={"name": "gradient_descent"})
        planned(cfg.checked(without, "test"))


def test_jax_settings_stay_as_they_are():
    before = jax.config.jax_enable_x64
    planned(cfg.checked(with_(PLAIN, run__precision="float64"), "test"))
    assert jax.config.jax_enable_x64 == before
