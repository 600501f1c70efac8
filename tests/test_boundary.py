"""The interval in which so many epochs place the boundary of stability holds what theory says."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgd
from jaxgd import learning_rate
from jaxgd.boundary import margins
from jaxgd.stability import nesterov_limit, polyak_limit

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

CURVES = np.array([1.0, 3.0, 10.0])


def quadratic(x):
    return 0.5 * jnp.sum(jnp.asarray(CURVES, x.dtype) * x**2)


def half_far(params):
    return (params["a"] - 1) ** 2 + (params["b"] - 3000) ** 2


def every_fourth(rate):
    return optax.MultiSteps(optax.sgd(rate), 4).gradient_transformation()


def decayed(rate):
    return optax.chain(optax.add_decayed_weights(0.5), optax.sgd(rate))


def frozen(rate):
    return optax.chain(optax.sgd(rate), optax.masked(optax.set_to_zero(), {"a": False, "b": True}))


def momentum(rate):
    return jaxgd.momentum(rate, 0.9)


def nesterov(rate):
    return jaxgd.nesterov(rate, 0.9)


FAINT = (1.0, 1.0, 1e-3)  # little lies along the steepest direction
KNOWN = {
    "descent": (quadratic, FAINT, optax.sgd, 2 / 10),
    "momentum": (quadratic, FAINT, momentum, polyak_limit(10.0, 0.9)),
    "Nesterov": (quadratic, FAINT, nesterov, nesterov_limit(10.0, 0.9)),
    "weight decay": (quadratic, FAINT, decayed, 2 / 10.5),
    "accumulated": (lambda x: x**2, 1.0, every_fourth, 1.0),
    "frozen": (half_far, {"a": 0.0, "b": 0.0}, frozen, 1.0),
}


def lane_of(name):
    cost, start, optimizer, limit = KNOWN[name]
    start = start if isinstance(start, dict) else np.asarray(start)

    def lane(learning_rate):
        real = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
        return jaxgd.Descent(cost, jax.tree.map(lambda x: jnp.asarray(x, real), start), optimizer(learning_rate))

    return lane, float(limit)


@pytest.mark.parametrize("name", KNOWN)
def test_critical_rate_is_in_its_interval(name, precision):
    lane, limit = lane_of(name)
    for unstable in (None, "diverged"):
        widths = []
        for epochs in (100, 1000):
            found = jaxgd.critical_learning_rate(lane, limit / 20, 8 * limit, epochs=epochs, unstable=unstable)
            assert found.single and found.low < limit <= found.high, found
            assert found.low <= found.value <= found.high
            widths.append(found.high / found.low)
        assert widths[1] < widths[0] and widths[1] < 1.1


@pytest.mark.parametrize("name", KNOWN)
def test_edges_and_best_rates_hold_the_limit(name, precision):
    lane, limit = lane_of(name)
    table = jaxgd.sweep(lane, {"learning_rate": np.geomspace(limit / 30, 5 * limit, 96)}, epochs=400)
    edge, rates = jaxgd.edges(table, along="learning_rate"), jaxgd.best_rates(table)
    for found in (edge, rates):
        assert float(found["surely_stable"]) < limit <= float(found["unstable"]) * (1 + 1e-6)
    assert float(edge["surely_stable"]) > limit / 2


def test_found_rate_places_the_boundary_of_accumulated_gradients(precision):
    found = jaxgd.find_learning_rate(lambda x: x**2, 1.0, every_fourth, epochs=400, low=1e-3, high=10, points=128)
    assert found.surely_stable < 1 <= found.unstable * (1 + 1e-6)
    assert "so many epochs place the boundary between" in str(found)


@functools.cache
def breast_cancer():
    from sklearn.datasets import load_breast_cancer

    inputs, labels = load_breast_cancer(return_X_y=True)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    return np.column_stack([inputs, np.ones(len(inputs))]), 2.0 * labels - 1


def test_logistic_regression(precision):
    """2/L at the minimum, with the intercept, is 4.48679437."""
    inputs, signs = breast_cancer()

    def cost(weights):
        scores = jnp.asarray(signs, weights.dtype) * (jnp.asarray(inputs, weights.dtype) @ weights)
        return jnp.mean(jnp.logaddexp(0, -scores)) + 0.025 * weights @ weights

    def lane(learning_rate):
        real = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
        return jaxgd.Descent(cost, jnp.zeros(31, real), optax.sgd(learning_rate))

    with mock.patch.object(learning_rate, "_SECTION", 64):  # more would tell the same, and take longer
        found = jaxgd.critical_learning_rate(lane, 0.1, 30, epochs=300)
    assert found.single and found.low < 4.48679437 <= found.high, found
    assert found.high / found.low < 1.1


def test_linear_regression(precision):
    from sklearn.datasets import load_diabetes

    inputs, outputs = load_diabetes(return_X_y=True)
    inputs, outputs = inputs / inputs.std(0), outputs / outputs.std()
    limit = 2 / np.linalg.eigvalsh(2 * inputs.T @ inputs / len(inputs))[-1]

    def cost(weights):
        return jnp.mean((jnp.asarray(inputs, weights.dtype) @ weights - jnp.asarray(outputs, weights.dtype)) ** 2)

    def lane(learning_rate):
        real = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
        return jaxgd.Descent(cost, jnp.zeros(10, real), optax.sgd(learning_rate))

    found = jaxgd.critical_learning_rate(lane, 0.01, 10, epochs=500)
    assert found.single and found.low < limit <= found.high, found


def test_margins_by_their_formula():
    def lane(learning_rate):
        return jaxgd.Descent(lambda x: x**2 + 5, jnp.float32(9), optax.sgd(learning_rate))

    table = jaxgd.sweep(lane, {"learning_rate": [0.5, 0.99, 2.0]}, epochs=200)
    found = margins(table).values
    eps = float(np.finfo(np.float32).eps)
    highest = 2 * 0.99 * 9 * 0.98**150  # the first of the last 50 updates
    assert found[0] == pytest.approx(1 / 64)  # does not move at all
    assert found[1] == pytest.approx(np.log(highest / (9 * eps)) / 400, rel=1e-4)
    assert np.isnan(found[2])
    assert np.isnan(margins(table.drop_vars("rounding"))).all()
