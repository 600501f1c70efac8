"""One descent: the closed form, any tree of params, derivatives through it, and what it refuses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgd
from jaxgd.descent import norm


def parabola(x):
    return x**2 + 5


def steps(cost, params=1.0, optimizer=None, epochs=3):
    return jaxgd.descend(cost, params, optimizer or optax.sgd(0.1), epochs=epochs)


@pytest.mark.parametrize("rate", [0.01, 0.5, 0.9, 1.0])
def test_parabola_follows_the_closed_form(rate, precision):
    history = jaxgd.descend(parabola, 9000.0, optax.sgd(rate), epochs=100)
    k, factor, eps = np.arange(101), 1 - 2 * rate, np.finfo(precision).eps
    # A step rounds the rate, its product with the gradient, and their difference from x, which may cancel.
    error = k * eps * (1 + 4 * rate / abs(factor)) if factor else 0 * k
    exact = 9000 * factor**k
    assert history.params.dtype == history.cost.dtype == precision
    np.testing.assert_array_equal(history.epoch, k)
    assert (np.abs(history.params - exact) <= error * np.abs(exact)).all()
    x = np.asarray(history.params)
    np.testing.assert_allclose(history.cost, x**2 + 5, rtol=2 * eps)
    np.testing.assert_allclose(history.gradient_norm, 2 * np.abs(x), rtol=2 * eps)


@pytest.mark.parametrize("epochs", [0, 1, 7, np.int64(7)])
def test_history_has_a_record_more_than_epochs(epochs):
    history = steps(parabola, epochs=epochs)
    assert {leaf.shape for leaf in jax.tree.leaves(history)} == {(epochs + 1,)}
    assert history.params[0] == 1 and history.cost[0] == 6


def test_trees_of_params_keep_their_structure_and_integers_become_floats():
    def cost(p):
        return jnp.sum(p["hidden"][0] ** 2) + p["hidden"][1] ** 2 + jnp.sum(p["bias"])

    history = steps(cost, {"hidden": (np.ones((2, 3), int), 3), "bias": jnp.ones(2)}, optax.adam(0.1))
    shapes = jax.tree.map(jnp.shape, history.params)
    assert shapes == {"hidden": ((4, 2, 3), (4,)), "bias": (4, 2)}
    assert {leaf.dtype for leaf in jax.tree.leaves(history.params)} == {jnp.dtype("float32")}
    assert steps(parabola, 2).params.tolist() == steps(parabola, 2.0).params.tolist()


@jax.tree_util.register_pytree_node_class
class Module:
    """As model libraries have them: functions, flags and whole numbers among the leaves."""

    def __init__(self, *leaves):
        self.weight, self.shift, self.activation, self.count, self.rate = leaves

    def tree_flatten(self):
        return (self.weight, self.shift, self.activation, self.count, self.rate), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)

    def cost(self):
        return jnp.sum(self.activation(self.weight + self.shift) ** 2) * self.count * self.rate


def test_what_is_no_floating_point_array_is_set_aside_and_given_back():
    module = Module(jnp.ones(2), np.ones(2, np.float32), jnp.sin, 3, 0.5)
    history = steps(Module.cost, module)
    assert history.params.weight.shape == history.params.shift.shape == (4, 2)
    assert history.params.activation is None and history.params.count is None and history.params.rate is None
    assert history.cost[-1] < history.cost[0]
    alone = steps(lambda w: jnp.sum(jnp.sin(w[0] + w[1]) ** 2) * 3 * 0.5, [jnp.ones(2), jnp.ones(2)])
    np.testing.assert_array_equal(history.cost, alone.cost)


def test_constant_cost_may_be_a_python_number():
    assert steps(lambda x: 3.0).cost.tolist() == [3.0] * 4


# Pure.


def last_cost(rate, start=2.0, optimizer=optax.adam):
    return jaxgd.descend(lambda x: jnp.cosh(x) + x, start, optimizer(rate), epochs=20).cost[-1]


@pytest.mark.parametrize("optimizer", [optax.sgd, optax.adam, jaxgd.momentum])
def test_gradient_of_the_final_cost_by_rate_and_start_agrees_with_finite_differences(optimizer):
    with jax.enable_x64(True):
        h = np.finfo(float).eps ** (1 / 3)  # where a central difference is as sharp as it gets, to h²
        for at in (0, 1):
            point = [0.03, 2.0]
            beside = [last_cost(*(p + s * h * (i == at) for i, p in enumerate(point)), optimizer) for s in (1, -1)]
            derivative = jax.grad(last_cost, argnums=at)(*point, optimizer)
            np.testing.assert_allclose(derivative, (beside[0] - beside[1]) / (2 * h), rtol=1e4 * h**2)


def test_derivative_of_the_parabola_by_its_rate_is_exact():
    def last(rate):
        return jaxgd.descend(parabola, 3.0, optax.sgd(rate), epochs=10).cost[-1]

    exact = 9 * 20 * 0.5**19 * -2  # of 9 (1 − 2η)²⁰ + 5 at η = 1/4
    np.testing.assert_allclose(jax.grad(last)(0.25), exact, rtol=40 * np.finfo(np.float32).eps)


def test_jit_and_vmap_change_nothing_but_rounding():
    rates = jnp.array([0.01, 0.1, 0.3])
    alone = np.array([last_cost(rate) for rate in rates])
    tolerance = {"rtol": 20 * 8 * np.finfo(np.float32).eps}  # epochs, and roundings of each
    np.testing.assert_allclose(jax.vmap(last_cost)(rates), alone, **tolerance)
    np.testing.assert_allclose([jax.jit(last_cost)(rate) for rate in rates], alone, **tolerance)


# The norm.


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1.0, 1e30, 1e37])
def test_norm_neither_overflows_nor_vanishes(scale):
    tree = {"a": jnp.array([0.6, 0.0]) * scale, "b": jnp.float32(0.8 * scale)}
    np.testing.assert_allclose(norm(tree), scale, rtol=4 * np.finfo(np.float32).eps)


def test_norm_at_zero_has_a_gradient_and_what_is_not_a_number_shows():
    assert jnp.isfinite(jax.grad(lambda x: norm([x, x]))(0.0))
    assert norm([jnp.zeros(3), jnp.zeros((0,))]) == 0
    assert not jnp.isfinite(norm([jnp.array([1.0, jnp.nan])]))
    assert not jnp.isfinite(norm([jnp.array([1.0, jnp.inf])]))


# What is refused, and why.


class Counts:
    """A cost that remembers."""

    total = 0.0

    def __call__(self, x):
        self.total = self.total + x
        return self.total


def uses_mutable_array(x, seen=jax.new_ref(jnp.zeros(()))):
    seen[...] = seen[...] + 1
    return x**2 + seen[...]


def pure_callback(x):
    return jax.pure_callback(np.float32, jax.ShapeDtypeStruct((), jnp.float32), x)


@pytest.mark.parametrize(
    ("cost", "says"),
    [
        (lambda x: jnp.stack([x, x]), r"shape \(2,\); it must return one real number: take its sum or mean"),
        (lambda x: x.astype(int), "cost returns int32; it must return a real"),
        (lambda x: 3, "cost returns int32; it must return a real"),
        (lambda x: x > 0, "cost returns bool; it must return a real"),
        (lambda x: x + 1j, "cost returns complex64; it must return a real"),
        (lambda x: (x, x), "cost returns a tuple; it must return one real number"),
        (lambda x: {"loss": x}, "cost returns a dict; it must return one real number"),
        (lambda x: None, "cost returns None; it must return one real number"),
        (lambda x: "low", "cost returns a str; it must return one real number"),
        (lambda x: lambda: x, "cost returns a function; it must return one real number"),
        (lambda x: "low" + x, "can only concatenate str"),  # its own complaint
        (lambda x: np.sin(x), "cost cannot be traced by JAX: .* write it with jax.numpy"),
        (lambda x: np.asarray(x) ** 2, "cost cannot be traced by JAX"),
        (lambda x: math.sin(x), "cost cannot be traced by JAX"),
        (lambda x: x if x > 0 else -x, "cost cannot be traced by JAX: .* branches .* jnp.where"),
        (
            lambda x: jax.lax.while_loop(lambda v: v > 1, lambda v: v / 2, x),
            "cannot be differentiated by JAX: Reverse-mode",
        ),
        (pure_callback, "cost cannot be differentiated by JAX: Pure callbacks"),
        (Counts(), "keeps something from one call to the next"),
        (uses_mutable_array, "keeps something from one call to the next"),
        (3.0, "cost is a float; it must be a function of the params"),
    ],
)
def test_costs_that_are_no_costs(cost, says):
    with pytest.raises(TypeError, match=says):
        steps(cost)
    with pytest.raises(TypeError, match=says):
        jaxgd.sweep(lambda rate: jaxgd.Descent(cost, 1.0, optax.sgd(rate)), {"rate": [0.1]}, epochs=3)


@pytest.mark.parametrize(
    ("dtype", "of", "precision"),
    [
        ("float16", "both", "float32"),
        ("bfloat16", "params", "float64"),
        ("bfloat16", "cost", "float64"),
        ("float32", "cost", "float64"),
    ],
    indirect=["precision"],
)
def test_the_cost_is_watched_in_single_precision_at_least(dtype, of, precision):
    def cost(x):
        return jnp.asarray(x, jnp.float32 if of == "params" else dtype) ** 2

    start = jnp.asarray(3.0, precision if of == "cost" else dtype)
    table = jaxgd.sweep(lambda rate: jaxgd.Descent(cost, start, optax.sgd(rate)), {"rate": [0.25]}, epochs=2)
    history = jaxgd.descend(cost, start, optax.sgd(0.25), epochs=2)
    real = np.result_type("float32", start.dtype)
    assert history.cost.dtype == table.final_cost.dtype == table.start_cost.dtype == real
    assert history.params.dtype == table["params"].dtype == start.dtype
    assert history.cost.tolist() == [9.0, 2.25, 0.5625] and table.final_cost.item() == 0.5625


@pytest.mark.parametrize("params", [{}, None, True, "a", [], {"key": jax.random.key(0), "x": 1.0}])
def test_params_without_anything_to_move(params):
    with pytest.raises(TypeError, match="params hold nothing to move"):
        steps(lambda x: 1.0, params)


@pytest.mark.parametrize("params", [1j, jnp.array(1j), [1.0, np.ones(2, complex)]])
def test_complex_params(params):
    with pytest.raises(TypeError, match="complex numbers; give their real and imaginary parts"):
        steps(lambda x: 1.0, params)


@pytest.mark.parametrize("optimizer", [0.1, optax.sgd, None])
def test_optimizers_that_are_none(optimizer):
    with pytest.raises(TypeError, match="it must be an optax GradientTransformation, such as"):
        jaxgd.descend(parabola, 1.0, optimizer, epochs=3)


def test_optimizers_that_do_not_fit_the_params():
    with pytest.raises(
        TypeError, match=r"turns params from float32\[\] into float32\[2\]; its hyperparameters must fit"
    ):
        steps(parabola, 1.0, optax.scale(jnp.array([-0.1, -0.2])))
    with pytest.raises(ValueError, match=r"learning_rate has shape \[2\] where x has shape \[\]: it must broadcast"):
        steps(parabola, 1.0, jaxgd.gradient_descent(jnp.array([0.1, 0.2])))
    with pytest.raises(TypeError, match=r"turns state.*trace from bfloat16\[\] into float32\[\]"):
        steps(parabola, jnp.bfloat16(3), optax.sgd(0.1, momentum=jnp.float32(0.9)))


@pytest.mark.parametrize("epochs", [-1, 2.0, True, "3", None])
def test_epochs_that_are_no_number_of_epochs(epochs):
    with pytest.raises(ValueError, match=r"epochs = .*: must be a whole number, 0 or more"):
        steps(parabola, epochs=epochs)


def test_what_the_cost_itself_raises_is_left_as_it_is():
    with pytest.raises(KeyError, match="weight"):
        steps(lambda p: p["weight"], {"bias": 1.0})
