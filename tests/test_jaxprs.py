"""Jaxprs for many lanes: the same as vmap, with the lanes along the last axis in all that happens within."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgd import jaxprs, program

LANES = 7
OWN = np.random.default_rng(0).normal(size=(10, LANES)).astype(np.float32)
NUMBER = np.random.default_rng(1).normal(size=LANES).astype(np.float32)
SHARED = np.arange(10, dtype=np.float32)

FUNCTIONS = {
    "arithmetic": lambda a, s, c: a * s + c / 2,
    "a number alone": lambda a, s, c: jnp.exp(s),
    "a choice by a number": lambda a, s, c: jnp.where(s > 0, a, c),
    "a choice by an array": lambda a, s, c: jnp.where(a > c, s, 0),
    "bounds": lambda a, s, c: jnp.clip(a, -jnp.abs(s), 2),
    "sums": lambda a, s, c: (a.sum(), (a * c).mean(), jnp.linalg.norm(a - s), jnp.cumsum(a)),
    "parts": lambda a, s, c: (a[2:5], a[::3], a[-1], a[:-1] * a[1:]),
    "an index of its own": lambda a, s, c: (a[jnp.argmax(a)], jax.lax.dynamic_slice(a, (jnp.argmin(a),), (3,))),
    "shapes": lambda a, s, c: (a.reshape(5, 2).T, a.reshape(2, 5)[:, ::-1], jnp.squeeze(a[None])),
    "pieces": lambda a, s, c: (jnp.concatenate([a, c, s[None]]), jnp.stack([s, 2 * s, c[1]]), jnp.roll(a, 1)),
    "products": lambda a, s, c: (
        jnp.outer(a, c) @ c,
        a @ a,
        jnp.ones((3, 10)) @ a,
        a.reshape(5, 2).T @ c.reshape(5, 2),
    ),
    "products of its own": lambda a, s, c: (
        jnp.einsum("ij,kj->ik", a.reshape(5, 2), a.reshape(5, 2) * s),
        jnp.einsum("bij,jbk->bki", a.reshape(1, 5, 2), a.reshape(2, 1, 5)),
        jnp.einsum("ij,ij->", a.reshape(5, 2), a.reshape(5, 2)),
        jnp.outer(a, a) @ a,
    ),
    "order": lambda a, s, c: (jnp.sort(a), jnp.argsort(a)),
    "functions within": lambda a, s, c: (jax.nn.logsumexp(a), jax.nn.relu(s), jax.jit(lambda a: a * s)(a)),
    "gradients": lambda a, s, c: jax.grad(lambda a: jnp.sum(jnp.sin(a) * s) + (a * c).max())(a),
    "neighbours": lambda a, s, c: jax.grad(lambda a: jnp.sum((1 - a[:-1]) ** 2 + s * (a[1:] - a[:-1] ** 2) ** 2))(a),
    "a scan": lambda a, s, c: jax.lax.scan(lambda total, x: (total + x * s, total), jnp.float32(1), a),
    "a loop of its own length": lambda a, s, c: jax.lax.fori_loop(0, jnp.argmax(a), lambda i, x: x * 1.5, s),
    "a condition": lambda a, s, c: jax.lax.cond(s > 0, lambda: a * 2, lambda: c),
    "random numbers": lambda a, s, c: jax.random.normal(jax.random.key(jnp.argmax(a)), (3,)),
    "a fence": lambda a, s, c: jax.lax.optimization_barrier((a, s, c)),
    "whole numbers": lambda a, s, c: (jnp.argmax(a) % 3, a.astype(int) << 1, ~(a > s)),
    "a word to the outside": lambda a, s, c: (jax.debug.callback(lambda _: None, s), a)[1],
    "nothing of its own": lambda a, s, c: (c * 2, 1.0),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_many_lanes_do_what_one_does(function):
    ours = jax.jit(jaxprs.over_last(function, (True, True, False), True))(OWN, NUMBER, SHARED)
    plain = jax.jit(jax.vmap(function, (-1, -1, None), -1))(OWN, NUMBER, SHARED)
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["arithmetic", "a choice by a number", "bounds", "sums", "parts", "pieces", "shapes", "neighbours"]
)
def test_lanes_stay_along_the_last_axis(name):
    many = jax.make_jaxpr(jaxprs.over_last(FUNCTIONS[name], (True, True, False), True))(OWN, NUMBER, SHARED)
    arrays = [v.aval.shape for e in many.jaxpr.eqns for v in e.outvars if LANES in v.aval.shape]
    assert arrays
    assert {shape.index(LANES) - len(shape) for shape in arrays} == {-1}


def test_what_lanes_share_is_computed_once_for_all_of_them():
    def step(a, count):
        def one(carry, _):
            a, count = carry
            return (a * 0.9**count, count + 1), count

        (a, count), counts = jax.lax.scan(one, (a, count), length=3)
        return a, count, counts

    a, count, counts = jaxprs.over_last(jax.jit(step), (True, False), (True, False, False))(OWN, jnp.float32(2))
    assert a.shape == OWN.shape
    assert (count, counts.tolist()) == (5, [2, 3, 4])


def test_what_lanes_share_may_be_a_plain_number():
    ours = jaxprs.over_last(
        lambda a, first, shift: (jnp.where(first, a, 0), shift), (True, False, False), (True, False)
    )
    assert (ours(OWN, True, 2)[0] == OWN).all()
    assert ours(OWN, True, 2)[1] == 2


def test_a_scan_carries_on_what_differs():
    def step(a, shared):
        return jax.lax.scan(lambda carry, x: ((carry[1], a), x), (shared, shared), jnp.arange(3.0))

    jaxpr = jax.make_jaxpr(step)(1.0, 2.0).jaxpr
    assert jaxprs.lane_dependent(jaxpr, [True, False]) == [True, True, False]
    assert jaxprs.lane_dependent(jaxpr, [False, False]) == [False, False, False]


@pytest.mark.compiled_well
def test_what_is_fenced_is_computed_once_on_cpus():
    closed = jax.make_jaxpr(lambda x, m, v: (g := jnp.sin(x), x - g, 0.9 * m + g, 0.9 * v + g * g))(*[jnp.ones(64)] * 3)
    fenced = jaxprs.fenced(closed.jaxpr, slice(0, 1))

    def sines(step):
        def run(x, m, v):
            return jax.lax.fori_loop(0, 10, lambda _, moving: tuple(step([], *moving)[1:]), (x, m, v))

        device = jax.devices("cpu")[0]
        made = program.compiled(run, [jax.ShapeDtypeStruct((64,), jnp.float32)] * 3, device)
        found = made.run(*[jnp.linspace(0, 1, 64)] * 3)
        return list(program._executables.values())[-1].as_text().count(" sine("), found

    (plain, expected), (ours, found) = sines(functools.partial(jax.core.eval_jaxpr, closed.jaxpr)), sines(fenced)
    assert (plain, ours) == (3, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
