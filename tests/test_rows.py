"""One lane made a row of lanes: the same as vmap, with the lanes along the last axis in all that happens within."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgd import program, rows

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
    "short sums": lambda a, s, c: (a.max(), a.min(), a.prod(), (a > 0).all(), (a > c).any(), a.reshape(5, 2).sum(1)),
    "long sums": lambda a, s, c: (jnp.tile(a, 200).sum(), jnp.tile(a, (7, 13)).max(1), jnp.tile(a > s, 33).all()),
    "parts": lambda a, s, c: (a[2:5], a[::3], a[-1], a[:-1] * a[1:]),
    "an index of its own": lambda a, s, c: (a[jnp.argmax(a)], jax.lax.dynamic_slice(a, (jnp.argmin(a),), (3,))),
    "shapes": lambda a, s, c: (a.reshape(5, 2).T, a.reshape(2, 5)[:, ::-1], jnp.squeeze(a[None])),
    "pieces": lambda a, s, c: (jnp.concatenate([a, c, s[None]]), jnp.stack([s, 2 * s, c[1]]), jnp.roll(a, 1)),
    "products": lambda a, s, c: (
        jnp.outer(a, c) @ c,
        a @ a,
        jnp.ones((3, 10)) @ a,
        a.reshape(5, 2).T @ c.reshape(5, 2),
        c.reshape(5, 2) @ a.reshape(2, 5),
        jnp.einsum("ijk,lki->jl", a.reshape(1, 5, 2), c.reshape(5, 2, 1)),
        jnp.einsum("ijk,lki->jl", c.reshape(1, 5, 2), a.reshape(5, 2, 1)),
        jnp.einsum("bi,bij->bj", a.reshape(5, 2), c.reshape(5, 2, 1)),
    ),
    "products of its own": lambda a, s, c: (
        jnp.einsum("ij,kj->ik", a.reshape(5, 2), a.reshape(5, 2) * s),
        jnp.einsum("bij,jbk->bki", a.reshape(1, 5, 2), a.reshape(2, 1, 5)),
        jnp.einsum("ij,ij->", a.reshape(5, 2), a.reshape(5, 2)),
        jnp.outer(a, a) @ a,
        jnp.tile(a.reshape(2, 5), (20, 8)) @ jnp.tile(a.reshape(5, 2), (8, 20)),
    ),
    "nothing at all": lambda a, s, c: (a[:0].sum(), a[:0] @ a[:0], c[:0] @ a[:0], (a[:0] > 0).all()),
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


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_many_lanes_do_what_one_does(function, on_cpu):
    ours = jax.jit(rows.over_last(function, (True, True, False), on_cpu=on_cpu))(OWN, NUMBER, SHARED)
    plain = jax.jit(jax.vmap(function, (-1, -1, None), -1))(OWN, NUMBER, SHARED)
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["arithmetic", "a choice by a number", "bounds", "sums", "parts", "pieces", "shapes", "neighbours"]
)
def test_lanes_stay_along_the_last_axis(name):
    many = jax.make_jaxpr(rows.over_last(FUNCTIONS[name], (True, True, False)))(OWN, NUMBER, SHARED)
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

    a, count, counts = rows.over_last(jax.jit(step), (True, False), (True, False, False))(OWN, jnp.float32(2))
    assert a.shape == OWN.shape
    assert (count, counts.tolist()) == (5, [2, 3, 4])


def test_what_lanes_share_may_be_a_plain_number():
    ours = rows.over_last(lambda a, first, shift: (jnp.where(first, a, 0), shift), (True, False, False), (True, False))
    assert (ours(OWN, True, 2)[0] == OWN).all()
    assert ours(OWN, True, 2)[1] == 2


OTHER = np.random.default_rng(2).normal(size=LANES).astype(np.float32)
COUNT = np.arange(LANES, dtype=np.int32)

OF_NUMBERS = {
    "arithmetic": lambda x, y, n, c: (x * y + c, (x - y) / c, x),
    "choices": lambda x, y, n, c: (jnp.where(x > c, y, -x), jnp.clip(x, -c, y), (x > y) & (n > 3)),
    "whole numbers": lambda x, y, n, c: (n * 2, jnp.where(x > 0, n, n + 1), n % 3, jnp.float32(n) + c),
    "gradients": lambda x, y, n, c: jax.value_and_grad(lambda xy: (c - xy[0]) ** 2 + jnp.sin(xy[1] * xy[0]))((x, y)),
    "functions within": lambda x, y, n, c: (jnp.linalg.norm(x), jax.jit(lambda x: jax.jit(jnp.exp)(x * c))(x), x.sum()),
    "more that comes out than goes in": lambda x, y, n, c: [x * i for i in range(7)],
    "the same twice": lambda x, y, n, c: (lambda z: (z, z, x, x))(x + y),
    "nothing made": lambda x, y, n, c: (x, c, 2.0),
    "what lanes share": lambda x, y, n, c: (c * 2, x + jnp.sqrt(c), 3),
    "more that lanes share than they have": lambda x, y, n, c: (x * c + (c + 1) * y * (c - 2) - (c / 3), c - 2, c / 3),
    "nothing of a lane": lambda x, y, n, c: c + 1,
}


@pytest.mark.parametrize("function", OF_NUMBERS.values(), ids=OF_NUMBERS)
def test_numbers_in_one_kernel_are_the_same(function):
    given = (OTHER, NUMBER, COUNT, np.float32(0.3))
    many = jax.jit(rows.over_last(function, (True, True, True, False), in_one_kernel=True))
    plain = jax.jit(jax.vmap(function, (-1, -1, -1, None), -1))
    assert many.lower(*given).as_text().count("reduce_window") <= 1
    for a, b in zip(jax.tree.leaves(many(*given)), jax.tree.leaves(plain(*given)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_what_is_not_of_numbers_is_carried_out_all_the_same():
    many = rows.over_last(lambda x, a: (x * a).sum(), (True, True), in_one_kernel=True)
    np.testing.assert_allclose(many(NUMBER, OWN), (NUMBER * OWN).sum(0), rtol=1e-5)


def test_a_number_that_dies_leaves_its_neighbours_alone():
    numbers = np.array([1, np.nan, np.inf, 0, -1, 3, 2], np.float32)
    many = rows.over_last(lambda x: (jnp.sqrt(x), 1 / x), (True,), in_one_kernel=True)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(many(numbers), (np.sqrt(numbers), 1 / numbers), rtol=1e-6)


@pytest.mark.compiled_well
def test_one_kernel_computes_nothing_twice():
    def step(x, m, v):
        return x - jnp.sin(x), 0.9 * m + jnp.sin(x), 0.9 * v + jnp.sin(x) ** 2

    def sines(many):
        def run(*moving):
            return jax.lax.fori_loop(0, 10, lambda _, moving: many(*moving), moving)

        program.compiled(run, [jax.ShapeDtypeStruct((2048,), jnp.float32)] * 3, jax.devices("cpu")[0])
        return list(program._executables.values())[-1].as_text().count(" sine(")

    assert sines(jax.vmap(step)) == 3
    assert sines(rows.over_last(step, [True] * 3, in_one_kernel=True)) == 1
