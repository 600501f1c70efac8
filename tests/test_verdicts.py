"""Outcomes where an optimizer does more than follow the gradient, at any scale and in any dtype: the cases one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgd
from jaxgd.outcome import OUTCOMES

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

AT_REST = {"converged", "trapped", "stopped"}


def swept(cost, start, optimizer, rates, epochs, **options):
    """Learning rates from one start."""

    def lane(learning_rate):
        return jaxgd.Descent(cost, start, optimizer(learning_rate))

    return jaxgd.sweep(lane, {"learning_rate": rates}, epochs=epochs, **options)


def outcomes(*arguments, **options):
    return [OUTCOMES[code] for code in swept(*arguments, **options).outcome.values]


# --- the optimizer does more than follow the gradient ---


def frozen(rate):
    """SGD that leaves b where it is."""
    return optax.chain(optax.sgd(rate), optax.masked(optax.set_to_zero(), {"a": False, "b": True}))


def half_tilted(params):
    return (params["a"] - 1) ** 2 + 3 * params["b"]


def half_far(params):
    return (params["a"] - 1) ** 2 + (params["b"] - 3000) ** 2


ORIGIN = {"a": 0.0, "b": 0.0}


def test_frozen_params_do_not_hide_how_the_others_move(precision):
    found = outcomes(half_tilted, ORIGIN, frozen, [0.1, 0.5, 1.0, 1.05], 2000)
    assert found == ["stopped", "stopped", "oscillating", "diverged"]
    assert outcomes(half_far, ORIGIN, frozen, [0.5, 1.0, 1.001], 1000) == ["stopped", "oscillating", "diverged"]


def projected(rate):
    """SGD, and then the nearest point of the unit square."""

    def update(updates, state, params):
        moved = optax.apply_updates(params, updates)
        return optax.tree_utils.tree_sub(optax.projections.projection_box(moved, 0.0, 1.0), params), state

    return optax.chain(optax.sgd(rate), optax.GradientTransformation(lambda params: optax.EmptyState(), update))


def test_projection_to_a_box(precision):
    def cost(x):
        return (x[0] - 2) ** 2 + (x[1] - 0.5) ** 2

    start = jnp.array([0.1, 0.1])
    assert outcomes(cost, start, projected, [0.1, 1.0, 1.1], 1000) == ["stopped", "oscillating", "oscillating"]


def test_decoupled_weight_decay_rests_where_the_gradient_does_not_vanish(precision):
    def decayed(rate):
        return optax.chain(optax.add_decayed_weights(0.1), optax.sgd(rate))

    table = swept(lambda x: (x - 3) ** 2, 0.0, decayed, [0.1], 1000)
    assert [OUTCOMES[code] for code in table.outcome.values] == ["stopped"]
    assert float(table.params[0]) == pytest.approx(20 / 7, rel=1e-5)
    assert float(table.gradient_norm[0]) == pytest.approx(0.2857, rel=1e-3)


def test_schedule_that_ends(precision):
    def ending(rate):  # exactly at 0: where a compiler turns a division by 20 into a product, 1.5e-11 remains
        return optax.sgd(lambda count: jnp.where(count < 20, rate * (1 - count / 20), 0.0))

    table = swept(lambda x: x**2, 1.0, ending, [0.001], 1000)
    assert [OUTCOMES[code] for code in table.outcome.values] == ["stopped"]
    assert float(table.params[0]) == pytest.approx(0.9792, rel=1e-3)


def test_rate_below_the_rounding_of_the_params():
    assert outcomes(lambda x: x**2, 9000.0, optax.sgd, [1e-12], 1000) == ["stopped"]
    start = jnp.asarray(900, jnp.bfloat16)
    table = swept(lambda x: (x - 1000) ** 2, start, optax.sgd, [1e-4, 1e-3], 2000)
    assert [OUTCOMES[code] for code in table.outcome.values] == ["stopped"] * 2
    assert (table.distance == 0).all()


def every_fourth(rate):
    return optax.MultiSteps(optax.sgd(rate), 4).gradient_transformation()


def test_accumulated_gradients_pause_and_go_on(precision):
    rates = [0.1, 0.9, 0.99, 1.001, 1.01, 1.05]
    found = outcomes(lambda x: x**2, 1.0, every_fourth, rates, 400)
    # After 100 updates x is 0.8^100 = 2e-10 at 0.1 and 0.9: at rest to the rounding of float32, not of float64.
    assert found[:2] == (["converged"] * 2 if precision == "float32" else ["descending"] * 2)
    assert found[2:] == ["descending"] + ["diverged"] * 3


# --- scale ---


def test_a_flat_valley_is_no_minimum():
    assert outcomes(lambda x: 1e-8 * (x - 3) ** 2, 0.0, optax.sgd, [0.1, 0.5], 1000, minimum=0) == ["descending"] * 2
    assert outcomes(lambda x: 5 + 1e-4 * (x - 3) ** 2, 1.0, optax.sgd, [1.0], 2000) == ["descending"]


def test_far_from_the_origin(precision):
    found = outcomes(lambda x: (x - 123456789) ** 2, 0.0, optax.sgd, [0.1, 0.9], 1000)
    assert found == ["converged"] * 2


def test_known_minimum_where_the_gradient_is_not_a_number():
    start = jnp.array([3.0, 4.0])
    table = swept(lambda z: jnp.sqrt(jnp.sum(z * z)), start, optax.sgd, [1.0], 100, minimum=0)
    assert OUTCOMES[int(table.outcome[0])] == "converged"
    assert (float(table.final_cost[0]), int(table.best_epoch[0])) == (0, 5)


@pytest.mark.filterwarnings("ignore:.*minimum")
def test_stated_minimum_that_is_too_high_is_not_judged_by(precision):
    found = outcomes(lambda x: -(x**2), 1.0, optax.sgd, [1e-3, 0.1], 100, minimum=5)
    assert found == ["diverged"] * 2 or found == ["descending"] * 2
    assert outcomes(lambda x: x**2, 3.0, optax.sgd, [0.0, 0.5], 100, minimum=10) == ["stopped", "converged"]


def test_gradient_that_is_zero_from_the_start(precision):
    assert outcomes(lambda x: jnp.floor(x) ** 2, 3.5, optax.sgd, [0.1, 1, 10], 100) == ["stopped"] * 3
    assert outcomes(jnp.cos, 0.0, optax.sgd, [0.1], 100) == ["stopped"]
    saddle = outcomes(lambda x: x[0] ** 2 - x[1] ** 2, jnp.zeros(2), optax.sgd, [0.1], 100)
    assert saddle == ["stopped"]


# --- finite numbers ---


def half_rooted(params):
    return (params["a"] - 1) ** 2 + jnp.where(params["b"] > 0, jnp.sqrt(params["b"]), 0)


@pytest.mark.parametrize("target", [None, 0.5])
def test_params_that_are_not_finite_end_the_lane_though_its_cost_is(target, precision):
    lane = swept(half_rooted, ORIGIN, optax.sgd, [0.1], 60, target=target).isel(learning_rate=0)
    assert OUTCOMES[int(lane.outcome)] == "diverged"
    assert (int(lane.diverged_epoch), int(lane.epochs), int(lane.best_epoch)) == (1, 1, 0)
    assert np.isnan(lane.target_epoch)
    assert (float(lane.final_cost), float(lane["params.a"]), float(lane["params.b"])) == (1, 0, 0)


def test_params_that_are_not_finite_with_data(precision):
    data = jnp.ones(4)

    def lane(learning_rate):
        def cost(params, batch):
            return half_rooted(params) * jnp.mean(batch)

        return jaxgd.Descent(cost, ORIGIN, optax.sgd(learning_rate), data=data)

    found = jaxgd.sweep(lane, {"learning_rate": [0.1]}, epochs=60).isel(learning_rate=0)
    assert (int(found.diverged_epoch), float(found.final_cost), float(found["params.b"])) == (1, 1, 0)


def test_adam_whose_epsilon_underflows_in_float16():
    start = {"a": jnp.asarray(2, jnp.float16), "b": jnp.asarray(1, jnp.float16)}
    lane = swept(lambda p: 1.0 * p["a"] + 0 * p["b"], start, optax.adam, [0.01], 100).isel(learning_rate=0)
    assert (int(lane.diverged_epoch), float(lane.final_cost)) == (1, 2)


# --- dynamics ---


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def test_bounded_orbit_whose_swings_wobble():
    with jax.enable_x64(True):
        found = outcomes(rosenbrock, jnp.array([-1.2, 1.0]), optax.sgd, [0.0033246], 2000)
    assert found == ["oscillating"]


# --- minibatches and noise ---


@functools.cache
def diabetes():
    from sklearn.datasets import load_diabetes

    inputs, outputs = load_diabetes(return_X_y=True)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    return np.column_stack([inputs, np.ones(len(inputs))]), (outputs - outputs.mean()) / outputs.std()


def squares(weights, batch):
    return jnp.mean((batch[0] @ weights - batch[1]) ** 2)


def test_minibatches_from_the_optimum_hover_there():
    inputs, outputs = diabetes()
    solution = np.linalg.lstsq(inputs, outputs)[0]
    with jax.enable_x64(True):

        def lane(learning_rate):
            data = (inputs, outputs)
            return jaxgd.Descent(squares, solution, optax.sgd(learning_rate), data=data, batch_size=32)

        rates = 10 ** (np.arange(-12, 1) / 3)
        table = jaxgd.sweep(lane, {"learning_rate": rates}, epochs=100)
    found = [OUTCOMES[code] for code in table.outcome.values]
    assert found[-2:] == ["diverged"] * 2
    assert "diverged" not in found[:-2]
    assert found.count("oscillating") >= 10
    edge = jaxgd.edges(table, along="learning_rate")
    assert float(edge.stable) == pytest.approx(0.2154, rel=1e-3)
    assert float(edge.unstable) == pytest.approx(0.4642, rel=1e-3)


@pytest.mark.parametrize("rate, risk", [(0.1, 0.1207), (0.5, 0.656), (1.0, 1.531), (1.5, 3.143)])
def test_noisy_quadratic_is_stationary(rate, risk):
    """Zhang et al. (2019), "Which algorithmic choices matter at which batch sizes?", arXiv:1907.04164."""
    curvature = 1 / np.arange(1, 65)

    def noise(seed):
        def init(params):
            return jax.random.key(seed)

        def update(grads, key, params=None):
            key, now = jax.random.split(key)
            return grads + jnp.sqrt(curvature) * jax.random.normal(now, grads.shape), key

        return optax.GradientTransformation(init, update)

    def lane(seed):
        optimizer = optax.chain(noise(seed), optax.sgd(rate))
        return jaxgd.Descent(lambda x: 0.5 * jnp.sum(curvature * x**2), jnp.zeros(64), optimizer)

    table = jaxgd.sweep(lane, {"seed": np.arange(64)}, epochs=1000)
    assert "diverged" not in {OUTCOMES[code] for code in table.outcome.values}
    assert 0.5 * np.sum(rate * curvature / (2 - rate * curvature)) == pytest.approx(risk, rel=0.03)


def test_two_short_epochs_say_little():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 3)).astype("float32"), rng.normal(size=64).astype("float32")

    def lane(learning_rate):
        return jaxgd.Descent(squares, jnp.zeros(3), optax.adam(learning_rate), data=data, batch_size=8)

    table = jaxgd.sweep(lane, {"learning_rate": [0.03, 0.3]}, epochs=2)
    assert "diverged" not in {OUTCOMES[code] for code in table.outcome.values}
