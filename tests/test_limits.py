"""The known limits of a run: at the minimum that its lanes settled in, where theory has them, and only there."""

import numpy as np
import pytest
from small import pending

import jaxgd
from jaxgd import config as cfg
from jaxgd import lane, limits
from jaxgd.show import tables
from jaxgd.stability import FORMULAS, nesterov_limit, polyak_limit
from jaxgd.sweep import in_memory

pytestmark = pytest.mark.usefixtures("compiled_in_haste")
RATES = {"values": [0.01, 0.02, 0.4]}
WELL = {"cost": {"surface": "double_well"}, "start": {"x": 1.0}}
BOWL = {"cost": {"expression": "3 * x**2"}, "start": {"x": 1.0}}


def known(content, epochs=400, carried_out=True, **run):
    """The limits of a config that is carried out here, or of which no lane has run; and its table."""
    config = cfg.checked(content | {"run": {"epochs": epochs, "precision": "float64"} | run}, "test")
    plan = lane.planned(config, "test", None)
    table = in_memory(plan) if carried_out else pending(plan)
    return limits.known_limits(config, plan, table), table


def descending(**optimizer):
    return {"optimizer": {"name": "gradient_descent", "learning_rate": 0.1} | optimizer}


def test_where_no_minimum_is_known_the_best_lane_says_where_it_is():
    found, table = known(BOWL | descending() | {"sweep": {"optimizer": {"learning_rate": RATES}}}, epochs=1000)
    assert set(found) == set(limits.LIMITS) and not found.coords
    assert found["known_limit"].dims == () and found["known_limit"].attrs["along"] == "learning_rate"
    assert float(found["sharpness"]) == pytest.approx(6) and float(found["known_limit"]) == pytest.approx(1 / 3)
    assert found["limit_formula"].item() == FORMULAS["gradient_descent"]
    assert [jaxgd.OUTCOMES[code] for code in table["outcome"].values] == ["converged", "converged", "diverged"]


def test_each_start_has_the_minimum_that_it_settled_in():
    sweep = {"start": {"x": {"values": [-1.0, 1.0]}}, "optimizer": {"learning_rate": RATES}}
    found, table = known(WELL | descending() | {"sweep": sweep})
    assert found["known_limit"].dims == ("x",)
    places = [float(table["params.x"].sel(x=x, learning_rate=0.01)) for x in (-1, 1)]
    np.testing.assert_allclose(found["sharpness"], [12 * place**2 - 8 for place in places], rtol=1e-6)
    np.testing.assert_allclose(found["known_limit"], 2 / found["sharpness"])


def test_of_several_minima_the_least_sharp_bears_the_largest_rates():
    sweep = {"start": {"x": {"values": [-1.0, 1.0], "name": "left_or_right"}}, "optimizer": {"learning_rate": RATES}}
    both, _ = known(WELL | descending() | {"sweep": sweep})
    paired = {
        "paired": [["optimizer.learning_rate", "start.x"]],
        "optimizer": {"learning_rate": {"values": [0.01] * 2}},
    }
    seeds = WELL | {"start": {"x": {"uniform": [-2, 2]}}} | descending()
    one, _ = known(seeds | {"sweep": {"optimizer": {"learning_rate": RATES}, "seed": {"values": list(range(8))}}})
    assert float(one["sharpness"]) == pytest.approx(float(both["sharpness"].min())) and one["sharpness"].dims == ()
    walked, _ = known(WELL | descending() | {"sweep": sweep | paired})
    np.testing.assert_allclose(walked["sharpness"], both["sharpness"])


def test_costs_that_vary_have_a_limit_each():
    stretched = {"cost": {"expression": "a * x**2 + 1", "constants": {"a": 1.0}}, "start": {"x": 1.0}}
    sweep = {"cost": {"constants": {"a": {"values": [1.0, 2.0, 4.0]}}}, "optimizer": {"learning_rate": RATES}}
    found, _ = known(stretched | descending() | {"sweep": sweep}, epochs=4000)
    np.testing.assert_allclose(found["known_limit"], [1, 0.5, 0.25], rtol=1e-6)
    assert found["known_limit"].dims == ("a",)


def test_each_optimizer_by_its_rule_and_its_momentum():
    optimizers = {
        "momentum": {"learning_rate": 0.1},
        "looking_ahead": {"name": "nesterov", "learning_rate": 0.1},
        "sgd": {"learning_rate": 0.1, "momentum": 0.5},
        "adam": {"learning_rate": 0.1},
    }
    found, _ = known(BOWL | {"optimizers": optimizers, "sweep": {"optimizers": {"learning_rate": RATES}}}, epochs=2000)
    expected = [polyak_limit(6, 0.9), nesterov_limit(6, 0.9), polyak_limit(6, 0.5), np.nan]
    np.testing.assert_allclose(found["known_limit"], expected, rtol=1e-6)
    assert found["limit_formula"].values.tolist() == [*map(FORMULAS.get, ("momentum", "nesterov", "momentum", "adam"))]


def test_momentum_along_an_axis_of_its_own_or_along_trials():
    along = {"momentum": {"values": [0.0, 0.5]}, "learning_rate": RATES}
    found, _ = known(BOWL | descending(name="momentum") | {"sweep": {"optimizer": along}})
    np.testing.assert_allclose(found["known_limit"], polyak_limit(6.0, np.array([0, 0.5])), rtol=1e-6)
    assert found["known_limit"].dims == ("momentum",)
    both = {"momentum": {"learning_rate": 0.1}, "adam": {"learning_rate": 0.1}}
    tried = {"momentum": along, "adam": {"b1": {"linspace": [0.8, 0.9, 6]}}}
    found, table = known(BOWL | {"optimizers": both, "sweep": {"optimizers": tried}})
    assert found["known_limit"].dims == ("optimizer", "trial")
    np.testing.assert_allclose(found["known_limit"][0], polyak_limit(6.0, table["momentum"].values[0]), rtol=1e-6)
    assert np.isnan(found["known_limit"][1]).all()


def test_the_only_known_minimum_needs_no_lane_that_reached_it():
    rates = {"sweep": {"optimizer": {"learning_rate": RATES}}}
    rosenbrock = {"cost": {"surface": "rosenbrock"}, "start": {"x": [-1.2, 1.0]}}
    assert float(known(rosenbrock | descending() | rates, carried_out=False)[0]["known_limit"]) == pytest.approx(
        0.00199680384, rel=1e-8
    )
    himmelblau = {"cost": {"surface": "himmelblau"}, "start": {"x": [0.0, 0.0]}}
    assert np.isnan(known(himmelblau | descending() | rates, carried_out=False)[0]["known_limit"])


@pytest.mark.parametrize("cost", ["abs(x) + x**2", "x**4", "-x**2", "abs(x)", "(x - 1)**2"])
def test_no_limit_where_the_minimum_is_not_a_smooth_one(cost):
    """A kink, a flat bottom, a hilltop, a wedge, and no minimum at all."""
    content = {"cost": {"expression": cost, "minima": [[0.0]]}, "start": {"x": 0.5}} | descending()
    found, _ = known(content | {"sweep": {"optimizer": {"learning_rate": RATES}}}, carried_out=False)
    assert np.isnan(found["known_limit"]) and np.isnan(found["sharpness"]) and found["limit_formula"].item() == ""


def test_no_limit_where_a_lane_only_came_near_a_flat_bottom():
    content = {"cost": {"expression": "x**4"}, "start": {"x": 0.5}} | descending()
    found, table = known(content | {"sweep": {"optimizer": {"learning_rate": RATES}}}, epochs=2000, tolerance=1e-4)
    assert table["outcome"][-1] == jaxgd.OUTCOMES.index("converged") and np.isnan(found["known_limit"])


@pytest.mark.parametrize(
    "content",
    [
        descending(name="adam", nesterov=True) | {"sweep": {"optimizer": {"learning_rate": RATES}}},
        descending(name="adamax") | {"sweep": {"optimizer": {"learning_rate": RATES}}},
        descending(name="momentum") | {"sweep": {"optimizer": {"momentum": RATES}}},
        descending() | {"sweep": {"start": {"x": RATES}}},
        descending(),
        {"start": {"x": [1.0, 2.0]}} | {"cost": {"expression": "sum(x**2)"}} | descending()
        | {"sweep": {"optimizer": {"learning_rate": {"values": [[0.1, 0.2], [0.2, 0.1]]}}}},
        descending(name="sgd", momentum=0.5) | {"sweep": {"optimizer": {"learning_rate": RATES, "nesterov": {"values": [True, False]}}}},
    ],
    ids=["Nesterov's Adam", "Adamax", "no rates", "one rate", "one lane", "a rate per element", "a flag that changes the rule"],
)  # fmt: skip
def test_no_limit_where_theory_has_none(content):
    assert known(BOWL | content, carried_out=False)[0] is None


@pytest.mark.parametrize(("name", "formula"), [("adam", "adam"), ("adamw", "adamw"), ("rmsprop", "gradient_descent")])
def test_an_optimizer_that_preconditions_has_a_formula_and_no_number(name, formula):
    """λ depends on the state of a lane, and so on its rate: no one number bounds the axis of rates."""
    content = BOWL | descending(name=name) | {"sweep": {"optimizer": {"learning_rate": RATES}}}
    found, table = known(content)
    assert np.isnan(found["known_limit"]) and np.isnan(found["sharpness"])
    assert found["limit_formula"].item() == FORMULAS[formula]
    said = tables.edge_words(table.assign(found.data_vars), "learning_rate")
    assert f"known limit {FORMULAS[formula]}" in said and "preconditioned by the optimizer's state" in said[-1]


@pytest.mark.parametrize("size", [None, 2, 4])
def test_no_limit_where_each_batch_is_another_cost(tmp_path, size):
    """Of four rows: all at once, and so one cost; two by two; and all as the one batch."""
    (tmp_path / "line.csv").write_text("x,y\n" + "".join(f"{x},{2 * x}\n" for x in (1, 2, 3, 4, 5, 6)), "utf-8")
    data = {"file": "line.csv", "target": "y", "split": [0.67, 0.17, 0.16]} | ({"batch_size": size} if size else {})
    content = {"data": data, "cost": {"network": {"loss": "squared_error"}}} | descending()
    config = cfg.checked(
        content | {"run": {"epochs": 300, "target": 1e-6}, "sweep": {"optimizer": {"learning_rate": RATES}}}, "test"
    )
    plan = lane.planned(config, "test", tmp_path)
    found = limits.known_limits(config, plan, in_memory(plan))["known_limit"].item()
    np.testing.assert_allclose(found, np.nan if size == 2 else 1, rtol=1e-6)


def test_no_limit_without_a_place_to_look_at():
    content = BOWL | descending() | {"sweep": {"optimizer": {"learning_rate": RATES}}}
    assert np.isnan(known(content | {"record": {"params": "none"}})[0]["known_limit"])
    assert np.isnan(known(content, carried_out=False)[0]["known_limit"])
    everywhere_gone = content | {"sweep": {"optimizer": {"learning_rate": {"values": [4.0, 5.0]}}}}
    assert np.isnan(known(everywhere_gone)[0]["known_limit"])
