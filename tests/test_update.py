"""The pure rules are optax's steps, on any tree; and the lesson's loop runs with nothing but its import changed.

A step of a stable descent rounds a handful of times, and errors add up over the steps: hence
`ROUNDINGS` · steps · eps · the largest number met.
"""

import inspect
import random
import re

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgd

STEPS = 20
ROUNDINGS = 8

numbers = st.floats(-10, 10, width=32, allow_subnormal=False)
leaves = hnp.arrays(np.float32, st.sampled_from([(), (3,), (2, 3)]), elements=numbers).map(jnp.asarray)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from(["kernel", "bias"]), inner, min_size=1)
    ),
    max_leaves=4,
)
rates = st.floats(0, 0.25, width=32, allow_subnormal=False)  # stable on the slope below, with every momentum
momenta = st.floats(0, 0.9375, width=32, allow_subnormal=False)

RULES = {  # ours, and what optax calls it
    "gradient_descent": (jaxgd.gradient_descent, optax.sgd),
    "gradient_ascent": (jaxgd.gradient_ascent, lambda rate: optax.chain(optax.scale(-1), optax.sgd(rate))),
    "momentum": (jaxgd.momentum, lambda rate: optax.sgd(rate, momentum=0.9)),
    "nesterov": (jaxgd.nesterov, lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True)),
}
every_rule = pytest.mark.parametrize("rule", RULES)


def slope(x):
    """A gradient that pulls to the point 1, never further away than the start."""
    return jax.tree.map(lambda leaf: leaf - 1, x)


def same(ours, theirs, *, steps=STEPS):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        eps = float(jnp.finfo(jax.tree.leaves(ours)[0].dtype).eps)
        np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDINGS * steps * eps * max(10, np.abs(b).max(initial=0)))


def walked(optimizer, x, steps=STEPS):
    """The params after some steps of an optax transformation."""

    def step(carry, _):
        x, state = carry
        updates, state = optimizer.update(slope(x), state, x)
        return (optax.apply_updates(x, updates), state), None

    return jax.lax.scan(step, (x, optimizer.init(x)), length=steps)[0][0]


# The rules are optax's.


@settings(deadline=None, max_examples=15)
@given(trees, rates)
def test_gradient_descent_and_ascent_are_sgd_down_and_up(x, rate):
    down = up = x
    for _ in range(STEPS):
        down = jaxgd.gradient_descent_update(down, slope(down), rate)
        up = jaxgd.gradient_ascent_update(up, jax.tree.map(jnp.negative, slope(up)), rate)
    same(down, walked(optax.sgd(rate), x))
    same(up, down)


@settings(deadline=None, max_examples=15)
@given(trees, rates, momenta, st.booleans())
def test_momentum_and_nesterov_are_sgd_with_momentum(x, rate, momentum, nesterov):
    rule = jaxgd.nesterov_update if nesterov else jaxgd.momentum_update
    at, velocity = x, jax.tree.map(jnp.zeros_like, x)
    for _ in range(STEPS):
        at, velocity = rule(at, velocity, slope(at), rate, momentum)
    same(at, walked(optax.sgd(rate, momentum=momentum, nesterov=nesterov), x))


@every_rule
@pytest.mark.parametrize("rate", [0.125, optax.cosine_decay_schedule(0.25, STEPS)], ids=["constant", "schedule"])
def test_transformations_are_the_rules(rule, rate):
    ours, theirs = RULES[rule]
    x = {"kernel": jnp.linspace(-4, 4, 6).reshape(2, 3), "bias": (jnp.float32(3), jnp.ones(3))}
    steps = 5 if rule == "gradient_ascent" else STEPS  # uphill leads away: stay near
    same(walked(ours(rate), x, steps), walked(theirs(rate), x, steps))


@every_rule
def test_the_step_from_zero_is_the_update(rule):
    optimizer = RULES[rule][0](0.5)
    grads = {"x": jnp.array([1.0, -2.0])}
    updates, _ = optimizer.update(grads, optimizer.init(grads))  # needs no params
    sign = 1 if rule == "gradient_ascent" else -1
    gain = 1.9 if rule == "nesterov" else 1
    same(updates, {"x": sign * 0.5 * gain * grads["x"]}, steps=1)


# Learning rates of every form.


def test_learning_rate_is_a_number_an_array_or_one_per_layer():
    x = {"hidden": [jnp.ones((2, 3)), jnp.ones(3)], "out": jnp.ones(3)}
    ones = jax.tree.map(jnp.ones_like, x)
    each = {"hidden": 0.5, "out": jnp.array([0.0, 0.25, 1.0])}
    expected = {"hidden": [jnp.full((2, 3), 0.5), jnp.full(3, 0.5)], "out": jnp.array([1.0, 0.75, 0.0])}
    same(jaxgd.gradient_descent_update(x, ones, each), expected)
    same(jaxgd.momentum_update(x, ones, ones, each, {"hidden": 0.0, "out": 0.0})[0], expected)
    same(jaxgd.gradient_descent_update(x, ones, jnp.float32(0.5)), jax.tree.map(lambda a: a / 2, ones))
    updates, _ = jaxgd.gradient_descent(each).update(ones, optax.EmptyState())
    same(optax.apply_updates(x, updates), expected)


# Types in, types out.


def rules_of(x, gradx, rate):
    """Every rule's new params and velocity."""
    return [
        jaxgd.gradient_descent_update(x, gradx, rate),
        jaxgd.gradient_ascent_update(x, gradx, rate),
        *jaxgd.momentum_update(x, gradx, gradx, rate, rate),
        *jaxgd.nesterov_update(x, gradx, gradx, rate, rate),
    ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtype_is_kept_whatever_the_rate(dtype):
    with jax.enable_x64(True):
        x = jnp.ones(3, dtype)
        for rate in (0.5, jnp.float32(0.5), jnp.float64(0.5), np.float64(0.5)):
            assert {new.dtype for new in rules_of(x, x, rate)} == {x.dtype}


def test_python_numbers_stay_python_numbers():
    assert all(type(new) is float for new in rules_of(9000.0, 18000.0, 0.01))
    assert all(type(new) is float for new in rules_of(9000, 18000, 0.01))
    assert all(type(new) is int for new in rules_of(9000, 18000, 1))
    assert jaxgd.gradient_descent_update(3, 6, 0.5) == 0


@pytest.mark.parametrize("zeros", [jnp.zeros, np.zeros], ids=["jax", "numpy"])
def test_integer_arrays_are_refused(zeros):
    x, ones = {"x": zeros(3, int)}, {"x": jnp.ones(3)}
    integers = pytest.raises(TypeError, match="cannot hold a fraction of a step")
    with integers:
        jaxgd.gradient_descent_update(x, ones, 0.1)
    with integers:
        jaxgd.gradient_ascent_update(x, ones, 0.1)
    with integers:
        jaxgd.momentum_update(x, ones, ones, 0.1, 0.9)
    with integers:
        jaxgd.nesterov_update(ones, x, ones, 0.1, 0.9)


@pytest.mark.parametrize(
    "gradx, rate",
    [
        ({"b": 1.0}, 0.1),
        ([1.0], 0.1),
        (1.0, 0.1),
        ({"a": 1.0, "b": 1.0}, 0.1),
        ({"a": 1.0}, {"b": 0.1}),
        ({"a": 1.0}, [1]),
    ],
)
def test_structures_that_do_not_fit_are_refused(gradx, rate):
    with pytest.raises(ValueError):
        jaxgd.gradient_descent_update({"a": 1.0}, gradx, rate)
    with pytest.raises(ValueError):
        jaxgd.momentum_update({"a": 1.0}, {"a": 0.0}, gradx, rate, 0.9)


# Pure: jit, vmap and grad.


@every_rule
def test_rules_pass_through_jit_vmap_and_grad(rule):
    def end(rate, x=2.0):
        return walked(RULES[rule][0](rate), x, steps=4)

    rates = jnp.linspace(0.01, 0.1, 5)
    alone = jnp.stack([end(rate) for rate in rates])
    same(jax.vmap(end)(rates), alone)
    same(jax.jit(end)(rates[0]), alone[0])
    with jax.enable_x64(True):
        h = np.finfo(np.float64).eps ** (1 / 3)  # where a central difference is as sharp as it gets, to h²
        slope_by_rate = (end(0.1 + h) - end(0.1 - h)) / (2 * h)
        np.testing.assert_allclose(jax.grad(end)(0.1), slope_by_rate, rtol=1e3 * h**2)


def test_the_derivative_of_a_step_by_its_rate_is_minus_the_gradient():
    assert jax.grad(jaxgd.gradient_descent_update, argnums=2)(1.0, 3.0, 0.1) == -3
    assert jax.grad(jaxgd.gradient_ascent_update, argnums=2)(1.0, 3.0, 0.1) == 3


# The lesson.

LESSON = """
import random
import jax
from jaxgd import gradient_descent_update

def cost(x):
    return x**2 + 5

x = random.randint(0, 10000)
learning_rate = 0.01
for epoch in range(100):
    gradx = jax.grad(cost)(float(x))
    x = gradient_descent_update(x, gradx, learning_rate)
    print("EPOCH {}: Cost = {:.3f}, x = {:.3f}".format(epoch, cost(x), x))
"""


def test_signature_is_the_lessons():
    assert list(inspect.signature(jaxgd.gradient_descent_update).parameters) == ["x", "gradx", "learning_rate"]


@pytest.mark.parametrize("seed", range(3))
def test_the_lesson_runs(seed, capsys):
    random.seed(seed)
    start = random.randint(0, 10000)
    random.seed(seed)
    exec(LESSON, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 100
    tolerance = ROUNDINGS * len(lines) * float(np.finfo(np.float32).eps)
    for k, line in enumerate(lines):
        epoch, cost, x = map(float, re.fullmatch(r"EPOCH (\d+): Cost = (\S+), x = (\S+)", line).groups())
        expected = start * (1 - 2 * 0.01) ** (k + 1)
        assert epoch == k
        assert x == pytest.approx(expected, rel=tolerance, abs=5e-4)  # printed with three digits
        assert cost == pytest.approx(expected**2 + 5, rel=2 * tolerance, abs=5e-4)
