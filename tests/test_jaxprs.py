"""What a jaxpr says of its variables, and how it is carried out."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgd import Descent, jaxprs, program
from jaxgd.trace import trace_lane


def test_a_scan_carries_on_what_differs():
    def step(a, shared):
        return jax.lax.scan(lambda carry, x: ((carry[1], a), x), (shared, shared), jnp.arange(3.0))

    jaxpr = jax.make_jaxpr(step)(1.0, 2.0).jaxpr
    assert jaxprs.lane_dependent(jaxpr, [True, False]) == [True, True, False]
    assert jaxprs.lane_dependent(jaxpr, [False, False]) == [False, False, False]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x**2 + jnp.where(x > 0, jnp.sin(x), 1.5), True),
        (lambda x: jax.jit(jnp.linalg.norm)(x), True),
        (lambda x: jnp.stack([x, x]).sum(), False),
        (lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x * 2, x), False),
        (lambda x: jax.random.uniform(jax.random.key(0)) * x, True),
        (lambda x: jax.random.uniform(jax.random.key(x.astype(int))), False),
    ],
    ids=["arithmetic", "a function within", "an array", "a loop", "random, the same for all", "random"],
)
def test_what_is_of_numbers_alone(function, expected):
    assert jaxprs.is_of_numbers(jax.make_jaxpr(function)(2.0).jaxpr, [True]) is expected


@pytest.mark.parametrize(
    ("function", "depth"),
    [
        (lambda x, y: x, 0),
        (lambda x, y: y * y - 1, 0),
        (lambda x, y: 2 * x + jnp.exp(y), 2),
        (lambda x, y: x**2 + x**8, 4),
        (lambda x, y: jax.jit(lambda a: a + 1 - y)(x + y), 3),
        (lambda x, y: (x + 1) * (x + 2) * (x + 3), 3),
        (lambda x, y: jnp.exp(x), 20),
    ],
    ids=["nothing", "of another", "a sum", "powers", "a function within", "side by side", "dear"],
)
def test_how_many_operations_wait_for_each_other(function, depth):
    jaxpr = jax.make_jaxpr(function)(1.0, 2.0).jaxpr
    assert jaxprs.depth(jaxpr, jaxpr.invars[:1], jaxpr.outvars) == depth


@pytest.mark.parametrize(
    ("cost", "start", "optimizer", "is_shallow"),
    [
        (lambda x: x**2 + 5, 9.0, optax.sgd, True),
        (lambda x: x**2 + 5, 9.0, functools.partial(optax.sgd, momentum=0.9), True),
        (lambda x: jnp.sum(x**2), jnp.ones(5), optax.sgd, True),
        (lambda x: jnp.sum(x**2), jnp.ones(100), optax.sgd, True),
        (lambda x: x**4 - x**2, 2.0, optax.sgd, False),
        (lambda x: x**2 + 5, 9.0, optax.adam, False),
    ],
    ids=["parabola", "with momentum", "bowl", "large bowl", "quartic", "Adam"],
)
def test_which_steps_are_shallow(cost, start, optimizer, is_shallow):
    traced = trace_lane(
        lambda learning_rate: Descent(cost, start, optimizer(learning_rate)),
        {"learning_rate": jax.ShapeDtypeStruct((), jnp.float32)},
    )
    one = program.explicit(traced, "cpu")
    assert one.is_shallow is is_shallow


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


class Place(NamedTuple):
    platform: str


class Lowered:
    """A program as text, and what its compiler is asked for; it knows the option "plain" alone."""

    in_tree = None

    def __init__(self, text=""):
        self.text, self.asked = text, []

    def as_text(self):
        return self.text

    def compile(self, compiler_options):
        self.asked.append(compiler_options)
        if set(compiler_options) - {"plain"}:
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")
        return "compiled"


def test_a_compiler_that_does_not_know_an_option_compiles_without():
    lowered = Lowered()
    assert program._compiled(lowered, {"plain": 1}, {"further": 2}) == "compiled"
    assert lowered.asked == [{"plain": 1, "further": 2}, {"plain": 1}]
    with pytest.raises(jax.errors.JaxRuntimeError):  # a failure of another kind is told
        program._compiled(lowered, {"unknown": 1}, {})


@pytest.mark.parametrize(
    ("platform", "text", "in_a_graph", "options"),
    [
        ("cpu", "optimization_barrier", False, {program._PASSES: f"one,{program._UNFENCED}"}),
        ("cpu", "", True, {program._PASSES: "one"}),
        ("gpu", "optimization_barrier", False, {}),
        ("gpu", "", True, program._IN_A_GRAPH),
        ("tpu", "", True, {}),
    ],
)
def test_each_platform_is_asked_for_its_own(platform, text, in_a_graph, options, monkeypatch):
    monkeypatch.setattr(program, "_executables", {})
    monkeypatch.setattr(program, "_OPTIONS", {"cpu": {program._PASSES: "one"}})
    monkeypatch.setattr(Lowered, "compile", lambda lowered, compiler_options: lowered.asked.append(compiler_options))
    lowered = Lowered(text)
    program._executable(lowered, Place(platform), lambda: in_a_graph, again=False)
    assert lowered.asked == [options]


def test_of_many_programs_the_last_are_kept(monkeypatch):
    monkeypatch.setattr(program, "_KEPT", 3)
    monkeypatch.setattr(program, "_executables", {})

    def run(size):
        made = program.compiled(lambda x: x + 1, [jax.ShapeDtypeStruct((size,), jnp.float32)], jax.devices("cpu")[0])
        return made.run(jnp.zeros(size)).shape, program.compilations()

    begun = program.compilations()
    assert [run(size) for size in (1, 2, 3, 1, 4)] == [
        ((n,), begun + c) for n, c in [(1, 1), (2, 2), (3, 3), (1, 3), (4, 4)]
    ]
    assert len(program._executables) == 3
    assert run(1) == ((1,), begun + 4)  # used after 2, and so kept longer
    assert run(2) == ((2,), begun + 5)


def _bowl(params):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def _twice(params):
    return jnp.sum(jnp.exp(params) ** 2)  # whose grads need it again


def _waves(params):
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("platform", "cost", "start", "of_numbers", "fences"),
    [
        ("cpu", _bowl, (1.0, 2.0), True, 0),
        ("cpu", _bowl, jnp.ones(2), True, 0),
        ("cpu", _bowl, jnp.ones(10), True, 0),
        ("cpu", _bowl, jnp.ones(100), False, 2),
        ("cpu", _waves, (1.0, 2.0), True, 0),
        ("cpu", _waves, jnp.ones((2, 2)), True, 0),
        ("cpu", _waves, jnp.ones(100), False, 2),
        ("cpu", _twice, jnp.ones(100), False, 3),
        ("gpu", _bowl, (1.0, 2.0), True, 0),
        ("gpu", _bowl, jnp.ones(10), True, 0),
        ("gpu", _waves, jnp.ones(100), False, 0),
    ],
)
def test_only_cpus_get_kernels_of_many_arrays_and_fences(platform, cost, start, of_numbers, fences):
    def lane(learning_rate):
        return Descent(cost, start, optax.sgd(learning_rate))

    number = jax.ShapeDtypeStruct((), jnp.float32)
    one = program.explicit(trace_lane(lane, {"learning_rate": number}), platform)
    begun = jax.eval_shape(
        lambda rates: one.begin(one.constants, {"learning_rate": rates}, 1), jax.ShapeDtypeStruct((1,), jnp.float32)
    )
    step = jax.make_jaxpr(one.step)(*jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[:-1], a.dtype), begun))
    added = jax.make_jaxpr(one.over_lanes(lambda x: x + 1, (True,), as_one=True))(jnp.ones(3))
    assert one.of_numbers is of_numbers
    assert ("reduce_window" in str(added)) is (of_numbers and platform == "cpu")
    assert str(step).count("optimization_barrier") == fences
