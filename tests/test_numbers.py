"""Small arrays carried out number by number: the same as the arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgd import Descent, numbers, program, sweep
from jaxgd.surfaces import SURFACES
from jaxgd.trace import trace_lane

CUBE = np.arange(12, dtype=np.float32).reshape(3, 2, 2) / 7

FUNCTIONS = {
    "arithmetic": lambda a: (a * 2 + a / 3, jnp.where(a > 0.5, a, -a), jnp.clip(a, 0.2, 1), a**3),
    "whole numbers": lambda a: (jnp.arange(3) * 2, jnp.arange(6).reshape(2, 3) % 4, a > 1, a.astype(int) << 1),
    "parts": lambda a: (a[1], a[::2, ::-1], a[..., -1], a[:-1] * a[1:], jnp.split(a, [1], axis=2)),
    "shapes": lambda a: (a.T, a.reshape(2, 6), a[None], jnp.squeeze(a[:1], 0), jnp.flip(a, 1), jnp.broadcast_to(a, (2, *a.shape))),
    "pieces": lambda a: (jnp.concatenate([a, 2 * a], 1), jnp.stack([a, a + 1], 1), jnp.roll(a, 1, 0)),
    "sums": lambda a: (a.sum(), a.mean(1), a.max((0, 2)), a.min(), a.prod(2), (a > 0).all(0), (a > 1).any(), a.sum(())),
    "products": lambda a: (a @ CUBE[:, :, :1], jnp.einsum("bij,bkj->bik", a, a), jnp.outer(a[0], a[1]), a[0, 0] @ a[2, 1]),
    "borders": lambda a: (
        jax.lax.pad(a, jnp.float32(9), ((1, 2, 0), (0, 0, 3), (-1, 1, 0))),
        jax.lax.pad(a[:, 0, 0], a[0, 0, 1], ((-1, -1, 2),)),
    ),
    "functions within": lambda a: (jnp.linalg.norm(a), jax.jit(lambda a: jax.jit(jnp.exp)(a * CUBE))(a)),
    "constants": lambda a: (a * jnp.asarray(CUBE), jnp.float32(3), CUBE),
    "gradients": lambda a: jax.grad(lambda a: jnp.sum(jnp.sin(a[1:] - a[:-1] ** 2)) + jnp.max(a) + jnp.prod(a[0]))(a),
}  # fmt: skip


def same(function, *arguments):
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    outputs = len(closed.jaxpr.outvars)
    assert numbers.fits(closed.jaxpr, outputs)
    found = numbers.of_numbers(closed.jaxpr, outputs)
    assert {v.aval.shape for e in found.eqns for v in (*e.invars, *e.outvars)} <= {()}
    constants, inputs = ([x for a in arrays for x in np.asarray(a).ravel()] for arrays in (closed.consts, arguments))
    results = numbers.put_together(
        [jnp.asarray(x) for x in jax.core.eval_jaxpr(found, constants, *inputs)],
        [leaf.shape for leaf in jax.tree.leaves(shapes)],
    )
    for ours, plain in zip(results, jax.tree.leaves(function(*arguments)), strict=True):
        assert (ours.shape, ours.dtype) == (np.shape(plain), jnp.asarray(plain).dtype)
        np.testing.assert_allclose(ours, plain, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_number_by_number_comes_to_the_same(function):
    same(function, CUBE)


@pytest.mark.parametrize("name", SURFACES)
def test_every_surface_and_its_gradient(name):
    surface = SURFACES[name]
    point = np.linspace(0.3, 0.9, surface.dimension or 3, dtype=np.float32)
    same(jax.value_and_grad(surface.cost), point[0] if surface.dimension == 1 else point)


def test_what_comes_first_is_all_that_counts():
    closed = jax.make_jaxpr(lambda a: (a * 2, jnp.sort(a)))(jnp.ones(3))
    assert numbers.fits(closed.jaxpr, 1)
    assert not numbers.fits(closed.jaxpr, 2)
    assert len(numbers.of_numbers(closed.jaxpr, 1).outvars) == 3


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (lambda a: a + 1, np.ones(25)),  # many numbers
        (lambda a: jnp.outer(a, a) @ a, np.ones(20)),  # many operations
        (jnp.argmax, np.ones(3)),
        (lambda a: jax.lax.fori_loop(0, 3, lambda _, a: a * 2, a), np.ones(3)),
        (lambda a: jnp.sum(a) + 1, np.ones(0)),
        (lambda key: jax.random.normal(key, (2,)), jax.random.key(0)),
    ],
)
def test_what_is_left_as_it_is(function, argument):
    assert not numbers.fits(jax.make_jaxpr(function)(argument).jaxpr, 1)


def test_a_lane_of_small_arrays_is_told_as_it_was_written():
    """Params, metrics and what each lane closes over keep their shapes."""

    def lane(learning_rate, scale):
        matrix = scale * jnp.array([[2.0, 0.5], [0.5, 1.0]])
        params = {"x": jnp.array([3.0, -2.0]), "shift": jnp.float32(1)}
        return Descent(
            lambda p: p["x"] @ matrix @ p["x"] / 2 + (p["shift"] - 2) ** 2,
            params,
            optax.adam(learning_rate),
            metrics={"turned": lambda p: jnp.sort(p["x"])},
        )

    number = jax.ShapeDtypeStruct((), jnp.float32)
    assert program.explicit(trace_lane(lane, {"learning_rate": number, "scale": number}), "cpu").of_numbers
    table = sweep(lane, {"learning_rate": [0.1, 0.3], "scale": [0.5, 1.0, 2.0]}, epochs=400)
    assert table["params.x"].shape == (2, 3, 2)
    assert table["params.shift"].shape == (2, 3)
    np.testing.assert_allclose(table["params.x"], 0, atol=1e-3)
    np.testing.assert_allclose(table["params.shift"], 2, atol=1e-3)
    np.testing.assert_array_equal(table["turned"], np.sort(table["params.x"], -1))
