"""From a config to lanes: what each key does to the descents, and that a setting alone is the lane it was."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgd
from jaxgd import config as cfg
from jaxgd import lane, names, table
from jaxgd.config import ConfigError
from jaxgd.surfaces import SURFACES
from jaxgd.sweep import carried_out

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
    found = table.empty(plan)
    for box, figures in carried_out(plan, plan.boxes()):
        for name, values in found.items():
            values[box] = figures[name]
    return config, table.labelled(plan, found)


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
    _, found = results(content)
    assert found["outcome"].dims == ("b", "y") and found["params.x"].shape == (2, 3)
    same = SURFACES["rosenbrock"].cost
    for b in (1, 100):
        for y in (0, 0.5, 1):
            history = jaxgd.descend(lambda p, b=b: same(p, b=b), jnp.array([-1.2, y]), jaxgd.gradient_descent(0.001), epochs=10)
            # rounding: 10 steps on gradients up to 400, scaled by the rate
            here = found.sel(b=b, y=y)
            np.testing.assert_allclose([here["params.x"], here["params.y"]], history.params[-1], rtol=0, atol=10 * 8 * EPS * 4)


def test_a_surface_knows_its_minima_and_constants():
    _, found = results(with_(RACE, sweep={"cost": {"constants": {"b": {"values": [1.0, 10.0]}}}}))
    assert found.attrs["minimum"] == 0 and found["minimum"].attrs["known_minima"] == [[1, 1]]
    moving = planned(cfg.checked(with_(RACE, sweep={"cost": {"constants": {"a": {"values": [1.0, 2.0]}}}}), ""))
    assert moving.minimum == 0 and moving.minima is None  # at (a, a²), so not the same for all lanes
    told = planned(cfg.checked(with_(RACE, cost__minimum=-1, cost__minima=[[0.0, 0.0]]), ""))
    assert told.minimum == -1 and told.minima == [[0.0, 0.0]]


def test_draws_come_from_the_seed_and_their_role_alone():
    drawn = {"x": {"uniform": [0, 10]}, "y": {"normal": [0, 1], "size": 3}, "z": {"loguniform": [1e-3, 1]}}
    content = with_(PLAIN, cost={"expression": "x**2 + sum(y**2) + z**2"}, start=drawn)
    content["optimizer"]["learning_rate"] = 0.0

    def starts(content):
        _, found = results(content)
        return {name: found[f"params.{name}"].values for name in drawn}

    alone = starts(content)
    assert 0 <= alone["x"] <= 10 and alone["y"].shape == (3,) and 1e-3 <= alone["z"] <= 1
    seeds = starts(with_(content, sweep={"seed": {"values": [1, 0]}, "optimizer": {"learning_rate": {"values": [0, 0]}}}))
    for name, value in alone.items():
        np.testing.assert_array_equal(seeds[name][1, 0], value)  # whatever else varies
        np.testing.assert_array_equal(seeds[name][:, 0], seeds[name][:, 1])
        assert (seeds[name][0, 0] != value).all()
    fewer = with_(content, cost={"expression": "x**2"}, start={"x": drawn["x"]}, optimizer__name="adam")
    _, found = results(fewer)
    np.testing.assert_array_equal(found["params"] if "params" in found else found["params.x"], alone["x"])


def test_starts_as_whole_vectors_elements_and_draws_with_num():
    vectors = [[1.0, 2.0], [-1.2, 1.0], [0.0, 0.0]]
    still = with_(RACE, optimizers={"gradient_descent": {"learning_rate": 0.0}})
    _, found = results(with_(still, sweep={"start": {"x": {"values": vectors}}}))
    np.testing.assert_array_equal(found["params.x"][0], np.float32(vectors))
    assert found["x.value"].values.tolist() == vectors
    _, found = results(with_(still, sweep={"start": {"x": {"1": {"arange": [4]}}}}))
    np.testing.assert_array_equal(found["params.x"].values[0, :, 0], np.float32([-1.2] * 4))
    np.testing.assert_array_equal(found["params.x"].values[0, :, 1], [0, 1, 2, 3])
    _, found = results(with_(still, sweep={"start": {"x": {"0": {"loguniform": [1, 10], "num": 50, "name": "left"}}}}))
    left = found["left"].values
    assert left.shape == (50,) and (left >= 1).all() and (left <= 10).all() and len(set(left)) == 50


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


def test_every_optimizer_can_be_named_and_its_learning_rate_swept():
    """All of them, down to the traced first step; what needs more than a rate is given it."""
    more = {"contrib.dpsgd": {"l2_norm_clip": 1, "noise_multiplier": 0, "seed": 0}, "noisy_sgd": {"seed": 0}}
    for name, factory in names.optimizers().items():
        rate = "learning_rate" if "learning_rate" in names.parameters(factory) else "max_learning_rate"
        table = {"name": name, rate: 0.01} | more.get(name, {})
        content = with_(RACE, sweep={"optimizer": {rate: {"values": [0.01, 0.02]}}}) | {"optimizer": table}
        del content["optimizers"]
        try:
            plan = planned(cfg.checked(content, "test"))
        except ConfigError as error:
            assert name in BY_VALUE, (name, error)
            assert f"sweep.optimizer.{rate}: Python needs the value itself" in str(error) and "each = true" in str(error)
            content["sweep"]["optimizer"][rate]["each"] = True
            plan = planned(cfg.checked(content, "test"))
        else:
            assert name not in BY_VALUE
        assert plan.shape == (2,)


BY_VALUE: set[str] = set()  # whose rate decides a branch in Python


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "contrib.prodigy", "lbfgs", "polyak_sgd"])
def test_a_named_optimizer_descends_as_optax_s_own(name):
    rate = "max_learning_rate" if name == "polyak_sgd" else "learning_rate"
    content = with_(RACE, sweep={"optimizer": {rate: {"values": [0.001, 0.01]}}}) | {"optimizer": {"name": name, rate: 0.1}}
    del content["optimizers"]
    _, found = results(content)
    factory = getattr(optax, name, None) or getattr(optax.contrib, name.removeprefix("contrib."))
    for value in (0.001, 0.01):
        history = jaxgd.descend(SURFACES["rosenbrock"].cost, jnp.array([-1.2, 1.0]), factory(**{rate: value}), epochs=10)
        # ten steps, each with a few roundings of a gradient near 200 in a valley of curvature near 1 000
        np.testing.assert_allclose(found["final_cost"].sel({rate: value}), history.cost[-1], rtol=2e-3)


def test_flags_words_and_whole_numbers_have_a_program_each():
    content = with_(RACE) | {"optimizer": {"name": "adam", "learning_rate": 0.1}}
    del content["optimizers"]
    _, found = results(with_(content, sweep={"optimizer": {"nesterov": {"values": [True, False]}}}))
    assert found["nesterov"].values.tolist() == [True, False]
    assert float(found["final_cost"][0]) != float(found["final_cost"][1])
    content["optimizer"] = {"name": "muon", "learning_rate": 0.1}
    _, found = results(with_(content, sweep={"optimizer": {"preconditioning": {"values": ["frobenius", "spectral"]}}}))
    assert found["preconditioning"].values.tolist() == ["frobenius", "spectral"]
    content["optimizer"] = {"name": "lbfgs", "memory_size": 2}
    _, found = results(with_(content, sweep={"optimizer": {"memory_size": {"linspace": [1, 5, 3]}}}))
    assert found["memory_size"].values.tolist() == [1, 3, 5]
    with pytest.raises(ConfigError, match="memory_size = 1.5: must be a whole number"):
        planned(cfg.checked(with_(content, sweep={"optimizer": {"memory_size": {"linspace": [1, 2, 3]}}}), "test"))


def test_lists_are_what_the_optimizer_takes():
    content = with_(RACE) | {"optimizer": {"name": "prodigy", "learning_rate": 1, "betas": [0.8, 0.99]}}
    del content["optimizers"]
    _, found = results(content)
    history = jaxgd.descend(
        SURFACES["rosenbrock"].cost, jnp.array([-1.2, 1.0]), optax.contrib.prodigy(1.0, betas=(0.8, 0.99)), epochs=10
    )
    np.testing.assert_allclose(found["final_cost"], history.cost[-1], rtol=1e-4)
    rates = with_(content, optimizer={"name": "gradient_descent", "learning_rate": [0.0, 0.001]})  # one per coordinate
    _, found = results(rates)
    assert float(found["params.x"][0]) == np.float32(-1.2) and float(found["params.x"][1]) != 1


def test_a_common_grid_and_a_race():
    _, found = results(RACE)
    assert found["outcome"].dims == ("optimizer",) and found["optimizer"].values.tolist() == ["adam", "momentum"]
    _, grid = results(with_(RACE, sweep={"optimizers": {"learning_rate": {"values": [0.02, 0.001]}}}))
    assert grid["outcome"].dims == ("optimizer", "learning_rate")
    near = {"rtol": 1e-4}  # a rate that is traced rounds otherwise than one that is a constant
    np.testing.assert_allclose(grid["final_cost"].sel(optimizer="adam", learning_rate=0.02), found["final_cost"][0], **near)
    np.testing.assert_allclose(grid["final_cost"].sel(optimizer="momentum", learning_rate=0.001), found["final_cost"][1], **near)


def test_grids_of_each_optimizer_s_own():
    sweep = {
        "optimizers": {
            "adam": {"learning_rate": {"values": [0.1, 0.2]}, "b1": {"values": [0.5, 0.9]}},
            "momentum": {"learning_rate": {"geomspace": [1e-4, 1e-3, 4]}},
        },
        "start": {"x": {"0": {"values": [0, 1]}}},
    }
    _, found = results(with_(RACE, sweep=sweep))
    assert found["outcome"].dims == ("optimizer", "trial", "x_0") and found["outcome"].shape == (2, 4, 2)
    np.testing.assert_array_equal(found["learning_rate"][0], [0.1, 0.1, 0.2, 0.2])
    np.testing.assert_array_equal(found["b1"], [[0.5, 0.9, 0.5, 0.9], [np.nan] * 4])
    one = {"optimizer": {"name": "adam", "learning_rate": 0.2, "b1": 0.5}, "start": {"x": [1.0, 1.0]}}
    alone = {k: v for k, v in RACE.items() if k != "optimizers"} | one
    _, single = results(alone)
    np.testing.assert_allclose(found["final_cost"][0, 2, 1], single["final_cost"], rtol=1e-4)


def test_unequal_trials_where_they_are_wanted():
    sweep = {"optimizers": {"adam": {"learning_rate": {"values": [0.1, 0.2, 0.3]}}}}
    with pytest.raises(ConfigError, match=r"differ in their number of trials \(adam 3, momentum 1\)"):
        planned(cfg.checked(with_(RACE, sweep=sweep), "test"))
    _, found = results(with_(RACE, sweep=sweep, run__unequal_trials=True))
    assert (found["outcome"].values != 0).tolist() == [[True] * 3, [True, False, False]]
    assert np.isnan(found["final_cost"].values[1, 1:]).all()


def test_pairs_walk_together():
    sweep = {
        "optimizer": {"learning_rate": {"values": [0.1, 0.2, 0.3]}},
        "start": {"x": {"values": [1, 2, 3]}},
        "paired": [["optimizer.learning_rate", "start.x"]],
    }
    _, found = results(with_(PLAIN, sweep=sweep))
    assert found["outcome"].dims == ("learning_rate",) and found["x"].dims == ("learning_rate",)
    expected = np.array([1, 2, 3]) * (1 - 2 * np.array([0.1, 0.2, 0.3])) ** 10
    np.testing.assert_allclose(found["params.x"], expected, rtol=0, atol=10 * 4 * EPS * 3)
    own = {"adam": {"learning_rate": {"values": [0.1, 0.2]}, "b1": {"values": [0.5, 0.9]}}, "momentum": {"learning_rate": {"values": [1, 2]}}}
    pairs = [["optimizers.adam.learning_rate", "optimizers.adam.b1"]]
    _, found = results(with_(RACE, sweep={"optimizers": own, "paired": pairs}))
    np.testing.assert_array_equal(found["b1"][0], [0.5, 0.9])


def test_flags_of_one_optimizer_s_own_and_names():
    own = {
        "adam": {"nesterov": {"values": [True, False], "name": "flag"}},
        "momentum": {"momentum": {"values": [0.1, 0.9], "name": "beta"}},
    }
    _, found = results(with_(RACE, sweep={"optimizers": own}))
    assert found["flag"].values.tolist() == [["True", "False"], ["", ""]]
    np.testing.assert_array_equal(found["beta"], [[np.nan, np.nan], [0.1, 0.9]])
    costs = found["final_cost"].values
    assert costs[0, 0] != costs[0, 1] and costs[1, 0] != costs[1, 1]


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
    content = with_(PLAIN, cost={"function": "model:cost", "constants": {"slope": 2}}, start={"x": 0, "y": 1}, run__epochs=1)
    _, found = results(content, own)
    np.testing.assert_allclose([found["params.x"], found["params.y"]], [0.2, 0.6], rtol=4 * EPS)
    _, found = results(with_(PLAIN, cost={"function": "deep.er.model:cost"}, run__epochs=1), own)
    np.testing.assert_allclose(found["params.x"], 3 * 0.95, rtol=4 * EPS)
    swept = with_(content, sweep={"cost": {"constants": {"slope": {"values": [0, 2]}}}})
    np.testing.assert_allclose(results(swept, own)[1]["params.y"], [1, 0.6], rtol=4 * EPS)


def test_an_edited_module_is_read_anew(own):
    content = with_(PLAIN, cost={"function": "deep.er.model:cost"})
    (own / "single.py").write_text("def cost(x):\n    return x**2\n")
    content = with_(PLAIN, cost={"function": "single:cost"})
    first = float(results(content, own)[1]["final_cost"])
    (own / "single.py").write_text("def cost(x):\n    return x**2 + 100\n")
    assert float(results(content, own)[1]["final_cost"]) == pytest.approx(first + 100, rel=1e-6)


def test_the_user_s_own_lane_with_arguments_that_vary(own):
    content = {"lane": {"function": "model:lane", "learning_rate": 0.1}, "run": {"epochs": 1}, "seed": 2}
    _, found = results(content, own)
    np.testing.assert_allclose(found["params"], [3 * 0.8], rtol=4 * EPS)
    sweep = {"lane": {"learning_rate": {"linspace": [0, 0.5, 2]}, "form": {"values": ["flat", "steep"]}}, "seed": {"values": [0, 1]}}
    _, found = results(with_(content, sweep=sweep), own)
    assert found["outcome"].dims == ("learning_rate", "form", "seed")
    np.testing.assert_allclose(found["params"].sel(learning_rate=0.5, seed=0).values[:, 0], [0, -1], atol=EPS)
    alone = with_(content, lane__width=3)
    assert results(alone, own)[1]["params"].shape == (3,)


def test_each_gives_a_program_per_value(own):
    content = with_(PLAIN, optimizer={"function": "model:branching", "learning_rate": 0.1})
    sweep = {"optimizer": {"learning_rate": {"values": [0.05, 0.2]}}}
    with pytest.raises(ConfigError, match="add each = true to its range"):
        planned(cfg.checked(with_(content, sweep=sweep), "test"), own)
    sweep["optimizer"]["learning_rate"]["each"] = True
    _, found = results(with_(content, sweep=sweep), own)
    adam = jaxgd.descend(lambda x: x**2 + 5, 3.0, optax.adam(0.05), epochs=10).params[-1]
    np.testing.assert_allclose(found["params.x"], [adam, 3 * 0.6**10], rtol=10 * 8 * EPS)


# --- one setting again ---

SETTINGS = {
    "rate": with_(PLAIN, sweep={"optimizer": {"learning_rate": {"geomspace": [0.01, 0.9, 5]}}}),
    "drawn start and an element of it": with_(
        PLAIN, cost={"expression": "sum(x**4)"}, start={"x": {"uniform": [0, 1], "size": 3}}, sweep={"start": {"x": {"1": {"values": [0.5, 0.1]}}}}
    ),
    "whole vectors": with_(RACE, sweep={"start": {"x": {"values": [[0.0, 0.5], [1.0, 2.0]]}}}),
    "constants": with_(RACE, sweep={"cost": {"constants": {"b": {"linspace": [1, 50, 4]}}}}),
    "common grid": with_(RACE, sweep={"optimizers": {"learning_rate": {"geomspace": [1e-4, 1e-2, 4]}}}),
    "own grids": with_(
        RACE,
        sweep={"optimizers": {"adam": {"b1": {"values": [0.5, 0.9]}}, "momentum": {"momentum": {"values": [0.1, 0.5], "name": "beta"}}}},
    ),
    "flags": with_(RACE, optimizers={"adam": {"learning_rate": 0.1}}, sweep={"optimizers": {"adam": {"nesterov": {"values": [False, True]}}}}),
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
    config, found = results(SETTINGS[case])
    shape = found["outcome"].shape
    for index in {tuple(0 for _ in shape), tuple(n - 1 for n in shape)}:
        setting = found.isel(dict(zip(found["outcome"].dims, index, strict=True)))
        alone = lane.at(config, setting)
        assert alone.sweep == {} and cfg.checked(cfg.tomllib.loads(cfg.as_toml(alone)), "") == alone
        _, single = results(alone.model_dump(exclude_none=True))
        assert single["outcome"].ndim == 0
        # the same arithmetic, but a traced hyperparameter rounds in float32 what a constant rounds in float64
        np.testing.assert_allclose(single["final_cost"], setting["final_cost"], rtol=1e-3, atol=10 * EPS)
        np.testing.assert_allclose(single["start_cost"], setting["start_cost"], rtol=4 * EPS)


def test_seeds_are_replicates_and_keep_the_config_s_own():
    config, found = results(with_(PLAIN, seed=7, sweep={"seed": {"values": [0, 1]}, "optimizer": {"learning_rate": {"values": [0.1, 0.2]}}}))
    best = jaxgd.best(found)
    alone = lane.at(config, best)
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
