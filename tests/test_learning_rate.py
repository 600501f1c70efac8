"""Which learning rate, how much it matters, and where convergence ends: measured against what is known."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgd
from jaxgd import learning_rate, program
from jaxgd.learning_rate import best_rates, critical_learning_rate, find_learning_rate
from jaxgd.outcome import CONVERGED, DESCENDING, DIVERGED, PENDING
from jaxgd.stability import gradient_descent_limit, nesterov_limit, polyak_limit, sharpness
from jaxgd.surfaces import chaotic

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

RULES = {
    "gradient descent": (
        lambda rate, beta: jaxgd.gradient_descent(rate),
        lambda sharpness, beta: gradient_descent_limit(sharpness),
    ),
    "Polyak": (jaxgd.momentum, polyak_limit),
    "Nesterov": (jaxgd.nesterov, nesterov_limit),
}


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def parabola(x):
    return x**2 + 5


def parabola_lane(learning_rate):
    return jaxgd.Descent(parabola, 9.0, jaxgd.gradient_descent(learning_rate))


def quadratic_lane(rule, size, kappa, beta, seed, most=50):
    """A descent on a random quadratic, the rate at which it should turn unstable, and the part of the
    first gradient that lies along the steepest direction. One program does for all of them: params that
    one lacks stay at 0, and a reflection, I − 2vvᵀ, turns its axes."""
    rng, inside = np.random.default_rng(seed), np.arange(most) < size
    eigenvalues = rng.uniform(1, kappa, most) * inside
    eigenvalues[size - 1], eigenvalues[0] = 1, kappa
    v, start = rng.normal(size=(2, most)) * inside
    v /= np.linalg.norm(v)
    (optimizer, limit), given = RULES[rule], [*map(jnp.asarray, (eigenvalues, v, start, beta))]

    def lane(learning_rate):
        curves, v, x, beta = given
        return jaxgd.Descent(lambda x: curves @ (x - 2 * v * (v @ x)) ** 2 / 2, x, optimizer(learning_rate, beta))

    along = eigenvalues * (start - 2 * v * (v @ start))
    return lane, float(limit(kappa, beta)), abs(along[0]) / np.linalg.norm(along)


def relative_error(rule, size, kappa, beta, seed, epochs, most=50, **more):
    """Of the measured edge, and how large it may be.

    At a rate ε above the limit, relatively, the steepest direction grows by 1 + 2ε per epoch or more.
    The divergence shows once that direction has outgrown the gradient at the start; a factor of ten
    leaves room for what else swings. By then the flat directions are at rest: 4 epochs/κ ≫ 1.
    """
    lane, limit, share = quadratic_lane(rule, size, kappa, beta, seed, most)
    found = critical_learning_rate(lane, 0.4 * limit, 3 * limit, epochs=epochs, **more)
    assert found.single and found.low <= found.value <= found.high
    return abs(found.value / limit - 1), np.log(10 / share) / (2 * epochs)


QUADRATICS = {
    "size": st.integers(1, 50),
    "kappa": st.floats(1, 100),
    "beta": st.floats(0, 0.95),
    "seed": st.integers(0, 2**32 - 1),
}


@pytest.mark.compiled_well
@pytest.mark.parametrize("rule", RULES)
@given(**QUADRATICS)
@settings(deadline=None, max_examples=3)
def test_critical_rate_is_the_known_limit(rule, **quadratic):
    with mock.patch.object(learning_rate, "_SECTION", 64):  # more would tell the same, and take longer
        error, _ = relative_error(rule, **quadratic, epochs=20_000)
    assert error < 1e-4


@pytest.mark.parametrize("rule", RULES)
@given(**QUADRATICS)
@settings(deadline=None, max_examples=2)
def test_divergence_shows_no_further_above_the_known_limit_than_it_takes_to_outgrow_the_start(rule, **quadratic):
    error, allowed = relative_error(rule, **quadratic, epochs=400, unstable="diverged")
    assert error < allowed


@pytest.mark.parametrize("rule", RULES)
def test_error_falls_as_the_epochs_grow(rule):
    for epochs, unstable in (((50, 100, 2000), None), ((400, 2000, 20_000), "diverged")):
        found = [relative_error(rule, 4, 100.0, 0.8, 0, count, most=4, unstable=unstable) for count in epochs]
        first, second, third = (max(error, 2e-5) for error, _ in found)  # sections no finer than the epochs tell
        assert first >= second >= third and third < 1e-4
        assert not unstable or all(error < max(allowed, 2e-5) for error, allowed in found)


def test_until_the_epochs_tell_rates_apart_outcomes_alternate():
    """Flat directions that still swing hide how the steepest one does: the closer to its limit, the longer."""

    def found(epochs, momentum):
        def lane(rate):
            return jaxgd.Descent(
                lambda x: x @ (jnp.array([1.0, 10.0]) * x), jnp.ones(2), jaxgd.momentum(rate, momentum)
            )

        return critical_learning_rate(lane, 0.02, 0.6, epochs=epochs)

    limit = polyak_limit(20.0, 0.93)
    within = found(400, 0.93)
    assert within.single and within.changes > 1 and "where outcomes alternate" in str(within)
    assert within.low < within.value < limit <= within.high and within.value == pytest.approx(limit, rel=1 / 400)
    assert found(4000, 0.93).value == pytest.approx(limit, rel=1e-4)
    nowhere = found(300, 0.95)
    assert np.isnan(nowhere.value) and "or the epochs too few to tell" in str(nowhere)


def test_swings_of_rounding_are_at_rest():
    """In float32 its gradient swings by 1e-3 for ever, which is more than vanishes."""

    def lane(rate):
        far = jnp.float32(100.0)
        return jaxgd.Descent(lambda x: 50 * (x - far) ** 2, jnp.float32(90.0), jaxgd.momentum(rate, 0.9))

    found = critical_learning_rate(lane, 1e-4, 1.0, epochs=2000)
    assert found.single and found.value == pytest.approx(polyak_limit(100.0, 0.9), rel=1e-5)
    swings = critical_learning_rate(lane, 1e-4, 1.0, epochs=2000, unstable=("diverged", "oscillating"))
    assert swings.value < 0.99 * found.value  # those of rounding count


@pytest.mark.parametrize("x64", [False, True])
def test_critical_rate_says_what_the_epochs_tell(x64):
    with jax.enable_x64(x64):
        found = critical_learning_rate(parabola_lane, 1e-3, 10.0, epochs=200)
        grown = critical_learning_rate(parabola_lane, 1e-3, 10.0, epochs=200, unstable="diverged")
    for answer in (found, grown):
        assert answer.single and 0.9 < answer.low < answer.value < 1 <= answer.high < 1.001
    assert "the outcome is diverged or oscillating (" in str(found) and "the outcome is diverged (" in str(grown)
    assert "so many epochs place the edge between" in str(found)


def test_every_section_runs_in_one_program():
    def lane(rate):
        return jaxgd.Descent(lambda x: jnp.cosh(x) + 0.125 * x**2, 2.0, jaxgd.gradient_descent(rate))

    before = program.compilations()
    critical_learning_rate(lane, 1e-3, 10.0, epochs=100)
    assert program.compilations() == before + 1


def test_any_hyperparameter_and_either_side():
    """At η = 3/λ Polyak's momentum is stable for β > ½ only; there the stable side is the upper one."""

    def lane(momentum, learning_rate=1.5):
        return jaxgd.Descent(parabola, 9.0, jaxgd.momentum(learning_rate, momentum))

    found = critical_learning_rate(lane, 0.1, 0.9, epochs=2000)
    assert found.single and found.low < 0.5 < found.high and found.value == pytest.approx(0.5, abs=1e-4)


def test_a_fractal_boundary_has_no_critical_rate():
    def lane(learning_rate):
        return jaxgd.Descent(chaotic, 1.0, jaxgd.gradient_descent(learning_rate))

    found = critical_learning_rate(lane, 1e-3, 1.5, epochs=200)
    assert np.isnan(found.value) and not found.single and found.changes > 10
    assert 1e-3 <= found.low < found.high <= 1.5 and "alternates" in str(found)


def test_no_edge_in_the_range():
    found = critical_learning_rate(parabola_lane, 0.1, 0.5, epochs=50)
    assert np.isnan(found.value) and found.changes == 0 and "widen" in str(found)


def test_unstable_may_mean_diverged_alone():
    """A step of one size for every gradient swings around the minimum, and never runs away."""

    def lane(rate):
        return jaxgd.Descent(lambda x: x**2, 1.0, optax.sign_sgd(rate))

    assert critical_learning_rate(lane, 1e-3, 1e3, epochs=50).changes >= 1
    assert critical_learning_rate(lane, 1e-3, 1e3, epochs=50, unstable="diverged").changes == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 1.0}, "low below high"),
        ({"high": np.inf}, "finite"),
        ({"unstable": "exploded"}, "exploded"),
        ({"lane": lambda a, b: parabola_lane(a)}, "a, b have no default"),
        ({"lane": lambda a=1.0: parabola_lane(a)}, "none has no default"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_critical_rate_refuses(change, message):
    arguments = {"lane": parabola_lane, "low": 1e-3, "high": 1.0, "epochs": 10} | change
    with pytest.raises(ValueError, match=message):
        critical_learning_rate(**arguments)


def test_the_lessons_answer():
    found = find_learning_rate(parabola, 9000.0, optax.sgd, epochs=100)
    assert found.best == pytest.approx(0.5, abs=0.01)  # one step to the bottom, and first among its equals
    assert found.low < 0.1 and 0.9 < found.high < 1 and found.ties > 100
    assert found.edge == pytest.approx(1, rel=1e-3) and found.below_edge == found.edge / found.best
    assert found.table.sizes["learning_rate"] > 900 and (np.diff(found.table["learning_rate"]) > 0).all()
    assert f"{found.best:.6g}" in str(found) and "diverges above" in str(found)


def test_soonest_to_a_target():
    """|1 − 2η|ᵏ · 9000 ≤ √0.001 takes two epochs from |1 − 2η| ≤ 0.00187 on, and one nowhere on the grid but near ½."""
    found = find_learning_rate(parabola, 9000.0, optax.sgd, epochs=100, target=5.001)
    assert found.by == "target_epoch" and float(found.table["target_epoch"].min()) in (1, 2)
    assert found.best == pytest.approx(0.5, abs=1e-3) and found.low < 0.5 < found.high


def test_agrees_with_the_best_on_a_quadratic():
    """½((1 − η)²ᴺ + 10(1 − 10η)²ᴺ) is lowest where 1 − η = c(10η − 1), c = 100^(1/(2N − 1)): near 2/(L + μ)."""
    c = 100 ** (1 / 799)
    found = find_learning_rate(
        lambda x: (x[0] ** 2 + 10 * x[1] ** 2) / 2, jnp.ones(2), jaxgd.gradient_descent, epochs=400
    )
    assert found.best == pytest.approx((1 + c) / (1 + 10 * c), rel=2e-3)
    assert found.edge == pytest.approx(2 / 10, rel=1e-3) and found.below_edge == pytest.approx(1.1, rel=3e-3)


def test_an_optimizer_that_never_diverges():
    found = find_learning_rate(parabola, 9.0, optax.adam, epochs=50)
    assert np.isfinite(found.best) and np.isnan(found.edge) and np.isnan(found.below_edge)
    assert "none above it diverges" in str(found)


def test_all_diverged():
    found = find_learning_rate(lambda x: x**4, 1e3, optax.sgd, epochs=50, low=1.0, high=10.0)
    assert np.isnan([found.best, found.low, found.high, found.edge]).all() and found.ties == 0
    assert "all diverged" in str(found)


def test_the_end_of_the_range_is_named():
    found = find_learning_rate(parabola, 9.0, optax.sgd, epochs=5, low=1e-6, high=1e-3)
    assert found.best == pytest.approx(1e-3) and "widen" in str(found)


def test_of_a_fit_to_data():
    """A line through the origin with noise: its cost is a quadratic, and the edge is 2/λ; batches choose on other data."""
    x, noise = np.linspace(1, 2, 32), 0.3 * np.random.default_rng(0).normal(size=32)
    data, others = (x[::2], 3 * x[::2] + noise[::2]), (x[1::2], 3 * x[1::2] + noise[1::2])

    def cost(slope, batch):
        return jnp.mean((slope * batch[0] - batch[1]) ** 2)

    fit = {"epochs": 40, "low": 1e-3, "high": 10.0, "points": 64, "data": data}
    edge = 2 / float(sharpness(cost, 0.0, data))
    found = find_learning_rate(cost, 0.0, optax.sgd, **fit)
    assert found.edge == pytest.approx(edge, rel=0.01) and found.best < edge
    metrics = {"validation_cost": lambda slope: cost(slope, others)}
    found = find_learning_rate(cost, 0.0, optax.sgd, **fit, batch_size=4, key=3, metrics=metrics, by="validation_cost")
    lowest = found.table["validation_cost"].where(found.table["outcome"] != DIVERGED).min()
    assert found.table["validation_cost"].sel(learning_rate=found.best) == lowest
    assert found.by == "validation_cost" and "validation cost" in str(found)
    critical = critical_learning_rate(
        lambda rate: jaxgd.Descent(cost, 0.0, optax.sgd(rate), data=data), 1e-3, 10.0, epochs=2000
    )
    assert critical.low < edge <= critical.high and critical.value == pytest.approx(edge, rel=1e-4)
    batches = critical_learning_rate(
        lambda rate: jaxgd.Descent(cost, 0.0, optax.sgd(rate), data=data, batch_size=4, key=3), 1e-3, 10.0, epochs=100
    )
    assert batches.single and "diverged" in str(batches)  # what swings there is the batches' doing


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"points": 3}, ValueError, "points = 3: must be a whole number, 4 or more"),
        ({"by": "test_loss"}, ValueError, "by = 'test_loss': must be one of final_cost, best_cost, target_epoch$"),
        ({"by": "validation_cost"}, ValueError, "give a metric of that name to every lane"),
        ({"batch_size": 2}, ValueError, "give data="),
        ({"optimizer": optax.sgd(0.01)}, TypeError, "optax.sgd, not"),
        ({"low": 0.0}, ValueError, "above 0"),
        ({"epochs": 1.5}, ValueError, "epochs"),
        ({"factor": 0.5}, ValueError, "factor"),
        ({"cost": lambda x: jnp.ones(2) * x}, TypeError, "one real number"),
    ],
)
def test_find_refuses(change, error, message):
    arguments = {"cost": parabola, "params": 1.0, "optimizer": optax.sgd, "epochs": 10} | change
    with pytest.raises(error, match=message):
        find_learning_rate(**arguments)


def result(costs, outcomes, dims=("learning_rate",), rates=None, **figures):
    """A table as a sweep would return it."""
    costs = np.asarray(costs, float)
    data = {"final_cost": (dims, costs), "outcome": (dims, np.asarray(outcomes, np.int8))}
    data |= {"best_epoch": (dims, np.broadcast_to(figures.pop("best_epoch", 0), costs.shape))}
    data |= {name: (dims, np.asarray(values, float)) for name, values in figures.items()}
    size = costs.shape[dims.index("learning_rate")] if "learning_rate" in dims else 0
    return xarray.Dataset(data, {"learning_rate": rates if rates is not None else np.arange(1.0, size + 1)})


OK, GONE, WAITS = CONVERGED, DIVERGED, PENDING


def test_best_range_and_edge():
    table = result([9, 3, 2, 3.9, 4.1, np.inf, np.inf], [DESCENDING, OK, OK, OK, OK, GONE, GONE])
    found = best_rates(table)
    assert np.isnan(found["surely_stable"])  # the table has no figures of updates
    assert {name: float(found[name]) for name in found.drop_vars("surely_stable")} == {
        "best": 3, "score": 2, "low": 2, "high": 4, "ties": 1, "edge": 5, "unstable": 6, "below_edge": 5 / 3, "changes": 1,
        "diverged": 0,
    }  # fmt: skip
    assert float(best_rates(table, factor=5)["high"]) == 5 and float(best_rates(table, factor=1)["low"]) == 3


def test_the_known_minimum_is_what_the_factor_counts_from():
    table = result([-3, -4, -4.5, -4], [OK] * 4)
    assert float(best_rates(table, factor=1.2)["low"]) == 2  # within 20 % of |best|
    assert float(best_rates(table.assign_attrs(minimum=-5.0), factor=1.2)["low"]) == 3
    assert float(best_rates(table.assign_attrs(minimum=-5.0), factor=2)["low"]) == 2


def test_ties_go_to_the_one_that_was_there_first():
    found = best_rates(result([1, 0, 0, 0], [OK] * 4, best_epoch=[9, 9, 4, 4]))
    assert float(found["best"]) == 3 and float(found["ties"]) == 3 and np.isnan(found["edge"])


def test_order_of_the_axis_does_not_matter():
    shuffled = result([2, np.inf, 9, 3], [OK, GONE, DESCENDING, OK], rates=[3.0, 5.0, 1.0, 2.0])
    found = best_rates(shuffled)
    assert (float(found["best"]), float(found["low"]), float(found["edge"])) == (3, 2, 3)


def test_nothing_works_and_nothing_ran():
    gone = best_rates(result([np.nan, np.inf, 1e300], [GONE] * 3))
    assert np.isnan([float(gone[name]) for name in ("best", "low", "high", "edge", "below_edge")]).all()
    assert float(gone["ties"]) == 0
    assert np.isnan(float(best_rates(result([np.nan] * 3, [WAITS] * 3))["best"]))


def test_a_cost_that_is_not_a_number_never_wins():
    found = best_rates(result([np.nan, 5, -np.inf], [DESCENDING, OK, DESCENDING]))
    assert float(found["best"]) == 2


def test_an_alternating_boundary_shows_in_the_changes():
    found = best_rates(result([3, 2, np.inf, 1.5, np.inf], [OK, OK, GONE, OK, GONE]))
    assert float(found["changes"]) == 3 and float(found["best"]) == 4 and float(found["low"]) == 4


def test_seeds_are_replicates_and_other_axes_are_kept():
    costs = np.array([[[1, 1, 9], [2, 2, 2]], [[5, 5, 5], [np.inf, 4, 4]]])  # momentum, rate, seed
    outcomes = np.where(np.isfinite(costs), OK, GONE)
    found = best_rates(result(costs, outcomes, ("momentum", "learning_rate", "seed")))
    assert found["best"].dims == ("momentum",)
    np.testing.assert_array_equal(found["best"], [1, 1])  # no seed lost, then medians, not the luckiest lane
    np.testing.assert_array_equal(found["score"], [1, 5])
    np.testing.assert_array_equal(found["changes"], [0, 1])  # one seed that diverged is one too many


def test_rates_of_their_own_per_optimizer():
    rates = xarray.DataArray([[1.0, 2.0, 3.0], [10.0, 20.0, np.nan]], dims=("optimizer", "trial"))
    table = result([[3, 1, 2], [4, 5, 0]], [[OK] * 3, [OK, OK, WAITS]], ("optimizer", "trial"), rates)
    found = best_rates(table.assign_coords(optimizer=["a", "b"]))
    np.testing.assert_array_equal(found["best"], [2, 10])
    assert list(found["optimizer"].values) == ["a", "b"]


def test_by_epochs_to_the_target():
    table = result([1, 1, 1, 1], [OK, OK, OK, DESCENDING], target_epoch=[40, 10, 15, np.nan])
    found = best_rates(table, by="target_epoch")
    assert (float(found["best"]), float(found["low"]), float(found["high"])) == (2, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"along": "momentum"}, "no axis"), ({"by": "speed"}, "final_cost"), ({"factor": 0.9}, "1 or more")],
)
def test_best_rates_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        best_rates(result([1, 2], [OK, OK]), **arguments)


def test_best_rates_of_a_real_sweep():
    def lane(learning_rate, momentum):
        return jaxgd.Descent(parabola, 9.0, jaxgd.momentum(learning_rate, momentum))

    axes = {"learning_rate": np.geomspace(1e-3, 10, 64), "momentum": np.array([0.0, 0.5, 0.9])}
    found = best_rates(jaxgd.sweep(lane, axes, epochs=300))
    limits = polyak_limit(2.0, axes["momentum"])
    assert (found["edge"] <= limits).all() and (found["unstable"] >= limits).all()


def test_hypergradients_agree_with_finite_differences():
    """The final cost is a differentiable function of one learning rate per layer."""

    def final_cost(rates):
        cost = functools.partial(lambda x, scale: jnp.sum((x["a"] * x["b"] - scale) ** 2), scale=3.0)
        start = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}
        return jaxgd.descend(cost, start, jaxgd.gradient_descent(rates), epochs=20).cost[-1]

    rates, step = {"a": 0.01, "b": 0.02}, 1e-6
    gradient = jax.grad(final_cost)(rates)
    for layer in rates:
        up, down = (final_cost(rates | {layer: rates[layer] + sign * step}) for sign in (1, -1))
        assert float(gradient[layer]) == pytest.approx(float(up - down) / (2 * step), rel=1e-6)
