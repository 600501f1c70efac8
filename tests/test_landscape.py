"""Surfaces of a cost: where they look, what they say of their axes, and how paths lie on them."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

from jaxgd import Descent, landscape, store, sweep
from jaxgd import config as cfg
from jaxgd import paths as kept
from jaxgd import plan as plans
from jaxgd import run as runs
from jaxgd.outcome import CONVERGED, DIVERGED
from jaxgd.surfaces import SURFACES
from jaxgd.sweep import carried_out
from jaxgd.table import best_lanes

pytestmark = pytest.mark.usefixtures("compiled_in_haste")


def paths_of(points, costs=None, outcomes=None):
    """Paths [path, epoch, param] as a run keeps them."""
    points = np.asarray(points, float)
    costs = (points**2).sum(-1) if costs is None else np.asarray(costs, float)
    outcomes = [CONVERGED] * len(points) if outcomes is None else outcomes
    return xarray.Dataset(
        {"cost": (("path", "epoch"), costs), "params": (("path", "epoch", "i"), points), "outcome": ("path", outcomes)}
    )


def bowl(x):
    return jnp.sum(x**2)


def test_two_params_are_their_own_axes_and_the_cost_is_the_cost():
    surface = SURFACES["himmelblau"]
    found = landscape.surface(
        surface.cost, jnp.zeros(2), paths_of([[[4.0, 4], [3, 2]]]), minima=surface.minima(), domain=surface.box()
    )
    assert found["cost"].dims == ("y", "x") and found["cost"].attrs["kind"] == "params"
    assert [found[name].attrs["long_name"] for name in "xy"] == ["x_0", "x_1"]
    i, j = 30, 70
    np.testing.assert_allclose(found["cost"][i, j], surface.cost(jnp.array([found.x[j], found.y[i]])), rtol=1e-5)
    assert found.x[0] < 3 < 4 < found.x[-1] and found.y[0] < 2 < 4 < found.y[-1]
    assert found.x[-1] - found.x[0] < 4  # no larger than needed
    np.testing.assert_allclose(found["minima"], [[3, 2]])
    np.testing.assert_allclose(found["minimum_cost"], [0], atol=1e-6)


def test_one_param_has_a_line_and_a_minimum_that_nobody_named_is_found():
    found = landscape.surface(lambda x: (x - 3) ** 2 + 5, 0.0, paths_of([[[8714.0], [1155]]]))
    assert found["cost"].dims == ("x",) and found.x.attrs["long_name"] == "x"
    np.testing.assert_allclose(found["minima"], [[3]], atol=1e-2)
    assert found.x[0] < -1000 and found.x[-1] > 8714
    without_one = landscape.surface(lambda x: x, 0.0, paths_of([[[1.0], [-4]]], [[1, -4]]))
    assert without_one.sizes["minimum"] == 0


@pytest.mark.parametrize("away", [1e30, np.inf, np.nan])
def test_a_path_that_ran_away_spoils_nothing(away):
    paths = paths_of([[[2.0, 1], [0, 0]], [[2, 1], [away, -away]]], outcomes=[CONVERGED, DIVERGED])
    found = landscape.surface(bowl, jnp.zeros(2), paths)
    assert -3 < found.x[0] < found.x[-1] < 4 and np.isfinite(found["cost"]).all()
    on_it = landscape.projected(found, paths)
    np.testing.assert_allclose(on_it[0], paths["params"][0])


def test_where_nothing_is_known_it_looks_around_the_start():
    nowhere = paths_of(np.full((1, 3, 2), np.nan), outcomes=[DIVERGED])
    for paths in (None, nowhere):
        found = landscape.surface(bowl, jnp.array([10.0, 0.0]), paths)
        assert found.x[0] < 10 < found.x[-1] and found.x[-1] - found.x[0] < 60
    named = landscape.surface(bowl, jnp.array([1.0, 0.0]), domain=[[-5, 5], [-4, 4]])
    assert (named.x[0], named.x[-1], named.y[0]) == (-5, 5, -4)


def test_nan_and_constant_costs_have_surfaces_too():
    paths = paths_of([[[1.0, 1], [1, 1]]], [[3, 3]])
    assert (landscape.surface(lambda x: 3.0 + 0 * x[0], jnp.zeros(2), paths)["cost"] == 3).all()
    half = landscape.surface(lambda x: jnp.sqrt(x[0]) + x[1] ** 2, jnp.ones(2), paths)["cost"]
    assert np.isnan(half).any() and np.isfinite(half).any()


def test_many_params_are_cut_along_the_paths():
    rng = np.random.default_rng(0)
    along, across = np.linalg.qr(rng.normal(size=(1000, 2)))[0].T
    points = np.stack([[3 * t * along + t**2 * across for t in np.linspace(1, 0, 20)]])
    found = landscape.surface(bowl, jnp.zeros(1000), paths_of(points))
    assert found["cost"].attrs["kind"] == "principal"
    assert "1st principal direction (9" in found.x.attrs["long_name"]
    np.testing.assert_allclose(found["direction"].values @ found["direction"].values.T, np.eye(2), atol=1e-12)
    on_it = landscape.projected(found, paths_of(points))
    np.testing.assert_allclose(np.linalg.norm(on_it, axis=-1), np.linalg.norm(points, axis=-1), atol=1e-9)
    again = landscape.surface(bowl, jnp.zeros(1000), seed=1)
    assert again["cost"].attrs["kind"] == "random" and again.x.attrs["long_name"] == "a random direction"


def test_a_straight_path_has_one_principal_direction():
    found = landscape.surface(bowl, jnp.zeros(3), paths_of([[[t, t, 0] for t in np.linspace(1, 0, 9)]]))
    assert "(100 %" in found.x.attrs["long_name"] and found.y.attrs["long_name"] == "a random direction"


def test_a_cost_that_varies_is_drawn_at_the_best_setting_and_says_so():
    def lane(learning_rate, steepness):
        return Descent(lambda x: steepness * jnp.sum(x**2), jnp.array([3.0, 1.0]), optax.sgd(learning_rate))

    axes = {"learning_rate": [0.01, 0.1], "steepness": [1.0, 4.0]}
    results, plan = sweep(lane, axes, epochs=20), plans.planned(lane, axes, epochs=20)
    found = landscape.of_run(plan, results, None)
    assert found["cost"].attrs["at"] == "steepness = 4"  # the steeper bowl is descended sooner
    np.testing.assert_allclose(
        found["cost"].max(), 4 * (found.x.values**2).max() + 4 * (found.y.values**2).max(), rtol=1e-5
    )


def test_a_run_keeps_its_surface_and_a_sweep_a_few_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.toml").write_text(
        '[cost]\nsurface = "sphere"\n[start]\nx = [1.0, 2.0, 3.0, 4.0]\n[optimizer]\nname = "momentum"\n'
        "learning_rate = 0.1\n[run]\nepochs = 400\n[sweep]\noptimizer.learning_rate = {geomspace = [0.01, 9, 64]}\n"
    )
    run = runs.prepared(tmp_path / "one.toml")
    assert run.config == cfg.checked(run.config.model_dump(exclude_none=True), "again")
    runs.carry_out(run)
    surface, paths = store.opened_surface(run.folder), store.opened_paths(run.folder)
    ((best,),) = best_lanes(store.opened_table(run.folder), 1)
    assert paths["learning_rate"].values[paths["best"].values] == run.plan.dimensions[0].axes["learning_rate"][best]
    assert paths.sizes["path"] == 8 and surface["cost"].attrs["kind"] == "principal"
    monkeypatch.setattr(kept, "_BYTES", 8 * 32 * 150)  # no room for 201 records with their params
    runs.set_aside(run)
    runs.carry_out(run)
    thin = store.opened_paths(run.folder)
    assert "position" in thin and "params.x" not in thin and "origin" not in store.opened_surface(run.folder)
    assert landscape.projected(store.opened_surface(run.folder), thin).shape == (8, thin.sizes["epoch"], 2)


def test_a_cost_that_prints_has_paths_and_no_surface(tmp_path):
    def lane(learning_rate):
        def cost(x):
            jax.debug.callback(lambda x: None, x)
            return x**2

        return Descent(cost, 1.0, optax.sgd(learning_rate))

    plan = plans.planned(lane, {"learning_rate": [0.1, 0.3]}, epochs=3)
    folder = store.opened(tmp_path / "loud", plan, "loud")
    with pytest.warns(UserWarning, match="lanes run one after the other"):
        for box, figures in carried_out(plan, folder.unfinished()):
            folder.keep(box, figures)
    with pytest.warns(UserWarning, match="at every point of a surface too: none is drawn"):
        kept.keep(folder)
    assert store.opened_surface(folder.path) is None and store.opened_paths(folder.path).sizes == {
        "path": 2,
        "epoch": 4,
    }
    kept.keep(folder)  # nothing is left to do, and nothing more to say


def test_a_cost_that_prints_keeps_no_more_paths_than_asked_for_and_once(tmp_path, monkeypatch):
    calls = []

    def lane(learning_rate):
        def cost(x):
            jax.debug.callback(lambda x: calls.append(x), x)
            return x**2

        return Descent(cost, 1.0, optax.sgd(learning_rate))

    def swept():
        sweep(lane, {"learning_rate": np.linspace(0.1, 0.3, 8)}, epochs=3, run=tmp_path / "loud", paths=2)
        jax.effects_barrier()
        return store.opened_paths(tmp_path / "loud").sizes["path"], len(calls)

    monkeypatch.setattr(kept, "_BYTES", 120)  # 3 records of 2 paths, or 4 of 7
    with warnings.catch_warnings(action="ignore"):
        count, called = swept()
        assert (count, called) == (2, (8 + 2) * 4)
        assert swept() == (count, called)


@pytest.mark.parametrize(
    "call", [lambda x: jax.debug.print("{x}", x=x), lambda x: jax.debug.callback(lambda x: None, x)]
)
def test_a_cost_within_a_cost_calls_back_too(call):
    def lane(x):
        inner = jax.jit(lambda x: call(x) or x**2)
        return Descent(lambda x: jax.lax.cond(x > 0, inner, lambda x: 0 * x, x), x, optax.sgd(0.1))

    assert landscape.calls_back(plans.planned(lane, {"x": [1.0]}, epochs=1))
    assert not landscape.calls_back(plans.planned(lambda x: Descent(bowl, x, optax.sgd(0.1)), {"x": [[1.0]]}, epochs=1))
