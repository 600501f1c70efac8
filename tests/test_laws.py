"""Laws that hold across the rooms: a lane does not depend on its company, and its figures are those of its descent."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import said

import jaxgd
from jaxgd import engine, program
from jaxgd.outcome import DIVERGED
from jaxgd.plan import planned
from jaxgd.program import explicit
from jaxgd.surfaces import SURFACES

COUNTS = ("best_epoch", "epochs", "crossings", "growths", "target_epoch", "diverged_epoch")


def well(x):
    return x**4 - 4 * x**2 + x


def lane(learning_rate, x):
    return jaxgd.Descent(well, x, optax.adam(learning_rate))


def swept(rates, starts, **options):
    axes = {"learning_rate": np.asarray(rates), "x": np.asarray(starts)}
    return jaxgd.sweep(
        lane, axes, paired=[["learning_rate", "x"]], **{"epochs": 120, "target": -5.0, "history": 9} | options
    )


def bits(table):
    """Every figure of every lane, as bytes."""
    return [np.stack([row.view(np.uint8) for row in table[name].values[:, None].copy()]) for name in sorted(table)]


def same_bits(a, b):
    for left, right in zip(bits(a), bits(b), strict=True):
        np.testing.assert_array_equal(left, right)


# A lane alone equals itself in the crowd, bit for bit.

rates = st.floats(2**-13, 32, width=32)
starts = st.floats(-3, 3, width=32, allow_subnormal=False) | st.sampled_from([float("nan"), float("inf"), 2.0**100, -(2.0**33)])


@settings(max_examples=8)
@given(st.lists(st.tuples(rates, starts), min_size=2, max_size=300), st.randoms())
def test_order_and_neighbours_change_no_bit(lanes, random):
    """One program, since the number of lanes stays within a batch; neighbours dead from the start included."""
    table = swept(*zip(*lanes, strict=True))
    order = list(range(len(lanes)))
    random.shuffle(order)
    same_bits(swept(*zip(*(lanes[i] for i in order), strict=True)), table.isel(learning_rate=order))
    alone = random.choice(order)
    same_bits(swept(*zip(lanes[alone])), table.isel(learning_rate=[alone]))


CHAOTIC = {
    "gradient descent": optax.sgd,
    "momentum": lambda rate: jaxgd.momentum(rate, 0.9),
    "adam": optax.adam,
}


@pytest.mark.parametrize("name", CHAOTIC)
@settings(max_examples=4)
@given(st.integers(257, 511), st.randoms(use_true_random=False))
def test_company_changes_no_bit_of_a_chaotic_descent(name, size, random):
    """On the rippled bowl the last bit of any epoch decides all that follow: were one rounded otherwise, it would show."""
    rates = np.geomspace(0.01, 1.5, 511)
    everyone = list(range(511))
    random.shuffle(everyone)
    some = everyone[:size]
    whole = jaxgd.sweep(CHAOTIC_LANES[name], {"rate": rates}, epochs=301)
    same_bits(jaxgd.sweep(CHAOTIC_LANES[name], {"rate": rates[some]}, epochs=301), whole.isel(rate=some))


def _chaotic_lane(optimizer):
    return lambda rate: jaxgd.Descent(SURFACES["chaotic"].cost, 1.0, optimizer(rate))


CHAOTIC_LANES = {name: _chaotic_lane(optimizer) for name, optimizer in CHAOTIC.items()}


def test_size_of_blocks_and_batches_changes_no_bit(monkeypatch):
    lanes = np.geomspace(1e-4, 30, 700), np.linspace(-3, 3, 700)
    table = swept(*lanes)
    for block in (64, 256):
        monkeypatch.setattr(engine, "block_size_of", lambda *_, block=block: block)
        same_bits(swept(*lanes), table)


def _close(a, b, epochs):
    """The same to the roundings of so many updates, a handful each, of numbers of the values' own size."""
    for name in sorted(a):
        left, right = a[name].values, b[name].values
        scale = np.maximum(1, np.abs(left)) if left.dtype.kind == "f" else 0
        with np.errstate(invalid="ignore"):
            near = np.abs(left - right) <= 8 * epochs * np.finfo(np.float32).eps * scale
        assert (near | (left == right) | (np.isnan(left) & np.isnan(right))).all(), name


POINTS = np.linspace(-1, 1, 12, dtype=np.float32)[:, None]


def _fitting(params, inputs):
    return jnp.mean((jnp.tanh(inputs * params["a"] + params["b"]) @ jnp.ones(3) - jnp.sin(2 * inputs[:, 0])) ** 2)


LAYER = {"a": jnp.array([0.5, -0.3, 0.8]), "b": jnp.array([0.1, 0.2, -0.4])}
ANYWHERE = {
    "numbers, gradient descent": lambda rate: jaxgd.Descent(well, 0.5, optax.sgd(rate)),
    "numbers, adam": lambda rate: jaxgd.Descent(
        lambda p: well(p[0]) + (p[1] - p[0]) ** 2, jnp.zeros(2), optax.adam(rate)
    ),
    "arrays, adam": lambda rate: jaxgd.Descent(lambda p: jnp.sum(jnp.cos(p) + p**2), jnp.ones(40), optax.adam(rate)),
    "data closed over": lambda rate: jaxgd.Descent(lambda p: _fitting(p, POINTS), LAYER, jaxgd.momentum(rate, 0.9)),
    "data": lambda rate: jaxgd.Descent(_fitting, LAYER, optax.adam(rate), data=POINTS),
    "batches": lambda rate: jaxgd.Descent(_fitting, LAYER, optax.sgd(rate), data=POINTS, batch_size=5),
}


@pytest.mark.parametrize("name", ANYWHERE)
def test_what_accelerators_carry_out_comes_to_the_same(name, monkeypatch):
    def swept():
        grid = {"rate": np.geomspace(1e-3, 0.05, 90)}
        return jaxgd.sweep(lambda rate: ANYWHERE[name](rate), grid, epochs=120, target=-4.0, history=9)

    here = swept()
    with monkeypatch.context() as there:
        there.setattr(engine, "explicit", lambda traced, _: explicit(traced, "gpu"))
        there.setattr(program, "_named", {})  # the same lanes and device, and so the same names
        _close(swept(), here, epochs=120)


def test_a_dead_lane_never_wins_and_never_poisons_its_neighbours():
    starts = np.where(np.arange(200) % 2, np.nan, 2.0)
    rates = np.geomspace(1e-3, 0.1, 200)
    table = swept(rates, starts)
    assert (table.outcome[1::2] == DIVERGED).all() and (table.epochs[1::2] == 0).all()
    same_bits(swept(rates[::2], starts[::2]), table.isel(learning_rate=slice(None, None, 2)))
    assert np.isfinite(jaxgd.best(table).final_cost)


# The figures are those of the descent.


def figures(history, target, ceiling):
    """What the engine watches, from a whole history, in plain NumPy."""
    cost, norms = np.asarray(history.cost), np.asarray(history.gradient_norm)
    params = np.asarray(history.params)
    epochs = len(cost) - 1
    inside = np.isfinite(cost) & np.isfinite(params.reshape(epochs + 1, -1)).all(1) & (cost <= ceiling)
    ended = ~inside | (cost <= target)
    last = int(np.argmax(ended)) if ended.any() else epochs
    finite = np.isfinite(cost[: last + 1])
    return {
        "start_cost": cost[0],
        "start_gradient_norm": norms[0],
        "epochs": last,
        "final_cost": cost[: last + 1][finite][-1],
        "gradient_norm": norms[: last + 1][finite][-1],
        "best_cost": np.nanmin(np.where(finite, cost[: last + 1], np.inf)),
        "best_epoch": int(np.argmin(np.where(finite, cost[: last + 1], np.inf))),
        "target_epoch": last if inside[last] and cost[last] <= target else np.nan,
        "diverged_epoch": np.nan if inside[last] else last,
        "params": params[: last + 1][finite][-1],
    }


@pytest.mark.parametrize("optimizer", [optax.sgd, lambda rate: jaxgd.momentum(rate, 0.9), optax.adam])
@pytest.mark.parametrize("name", ["double_well", "rosenbrock"])
def test_figures_are_those_of_the_whole_history(name, optimizer, precision):
    cost = SURFACES[name].cost
    start = jnp.asarray(2.0 if name == "double_well" else [-1.2, 1.0])
    rates = np.array([1e-4, 1e-3, 3e-3, 0.02, 0.5, 10.0], precision)
    epochs, target, ceiling = 130, -2.0 if name == "double_well" else 4.1, 1e10

    def one(rate):
        return jaxgd.Descent(cost, start, optimizer(rate))

    table = jaxgd.sweep(one, {"rate": rates}, epochs=epochs, target=target, ceiling=ceiling, history=14)
    replay = jax.jit(lambda rate: jaxgd.replay(one, {"rate": rate}, epochs))
    # Another program rounds each epoch otherwise: a few eps per epoch, and chaos would multiply them.
    tolerance = epochs * 16 * float(np.finfo(precision).eps)
    for index, rate in enumerate(rates):
        history, row = replay(rate), table.isel(rate=index)
        for figure, value in figures(history, target, ceiling).items():
            scale = np.abs(value).max()
            where = f"{figure} at rate {rate}"
            if figure in COUNTS:
                np.testing.assert_array_equal(row[figure], value, err_msg=where)
            else:
                np.testing.assert_allclose(
                    row[figure], value, rtol=tolerance * 10, atol=tolerance * scale, err_msg=where
                )
        kept = np.asarray(history.cost)[table.epoch.values]
        ended = table.epoch.values > int(row.epochs)
        assert np.isnan(row.cost_history.values[ended]).all()
        np.testing.assert_allclose(
            row.cost_history.values[~ended & np.isfinite(kept)], kept[~ended & np.isfinite(kept)], rtol=tolerance * 10
        )


@pytest.mark.parametrize("target", [None, 1.0])
def test_a_low_long_before_the_end_keeps_its_epoch(target):
    """The ball rolls down until epoch 120 and is then driven up again, far from where any window ends."""

    def one(rate):
        return jaxgd.Descent(lambda x: x**2 + 5, 9.0, optax.sgd(lambda count: jnp.where(count < 120, rate, -rate / 10)))

    table = jaxgd.sweep(one, {"rate": np.geomspace(1e-3, 1e-2, 70)}, epochs=301, target=target)
    assert (table.best_epoch == 120).all()
    assert (table.best_cost < table.final_cost).all()


@pytest.mark.parametrize("optimizer", [jaxgd.gradient_descent, lambda rate: jaxgd.momentum(rate, 0.5)])
def test_lanes_that_repeat_themselves_for_ever_are_told_as_if_they_went_on(optimizer, monkeypatch):
    """At rest (rates to 0.9), or to and fro (1): cut short, and carried out to the last epoch."""

    def table():
        def one(rate):
            return jaxgd.Descent(lambda x: x**2 + 5, 4.0, optimizer(rate))

        return jaxgd.sweep(one, {"rate": [0.001, 0.25, 0.3, 0.5, 0.9, 1.0, 2.0]}, epochs=1230)

    short = table()
    monkeypatch.setattr(engine, "_repeats", lambda one, begin, *_: jnp.zeros_like(begin.best_cost, bool))
    same_bits(table(), short)
    assert short.epochs[:6].values.tolist() == [1230] * 6 and (short.window[:6] == 50).all()


def test_a_block_is_the_smaller_the_longer_a_step_takes():
    def block(cost):
        def one(rate):
            return jaxgd.Descent(cost, 4.0, jaxgd.gradient_descent(rate))

        return planned(one, {"rate": np.geomspace(0.1, 1, 10_000)}, epochs=10).block

    def in_steps(x):
        return jax.lax.fori_loop(0, 100, lambda _, x: x - 0.1 * x**3, x) ** 2

    quick, slow = block(lambda x: x**2 + 5), block(lambda x: jnp.sin(x) * jnp.cos(x))
    assert 64 <= slow < quick and 64 <= block(in_steps) < quick


def test_arrays_of_a_block_do_not_all_fall_upon_the_same_places_of_a_cache():
    for block in (512, 1024, 4096):
        assert block < engine.apart(block, "cpu") < 1.05 * block and (4 * engine.apart(block, "cpu")) % 4096
        assert engine.apart(block, "gpu") == block
    assert engine.apart(64, "cpu") == 64


def test_a_record_where_a_lane_ends_is_of_that_lane():
    """At rate 0.5 the ball lands in one step, where a segment ends, beside lanes that go on."""
    table = jaxgd.sweep(
        lambda rate: jaxgd.Descent(lambda x: x**2 + 5, 4.0, optax.sgd(rate)),
        {"rate": [0.5, 0.01, 0.02]},
        epochs=101,
        target=5.0,
        history=102,
    )
    assert table.epochs[0] == 1
    np.testing.assert_array_equal(table.cost_history[0, :3], [21, 5, np.nan])


def test_swings_are_counted_as_the_ball_makes_them():
    """Momentum on a parabola, against the updates of the whole history; the last of them leads on from the end."""

    def one(rate):
        return jaxgd.Descent(lambda x: x**2, 1.0, jaxgd.momentum(rate, 0.9))

    table = jaxgd.sweep(one, {"rate": [0.01, 0.1, 1.0, 1.95]}, epochs=80)
    for index, rate in enumerate(table.rate.values):
        params = np.asarray(jaxgd.replay(one, {"rate": rate}, 81).params)[30:]
        updates = np.diff(params)
        crossed = updates[1:] * updates[:-1] < 0
        swings = [np.abs(swing).max() for swing in np.split(updates, np.flatnonzero(crossed) + 1)]
        row = table.isel(rate=index)
        assert (row.window, row.moves, row.crossings) == (50, 51, crossed.sum())
        assert row.growths == (np.diff(swings) > 0).sum()
        for name, value in {
            "window_gradient_norm": 2 * abs(params[0]),
            "highest_update_norm": max(swings),
            "swing_update_norm": max(swings[-2:]),
            "last_update_norm": abs(updates[-1]),
        }.items():
            np.testing.assert_allclose(row[name], value, rtol=80 * 64 * np.finfo(np.float32).eps)


# The package as a whole.

HEAVY = ("matplotlib", "plotly", "pandas", "xarray", "zarr", "pydantic", "rich", "typer", "scipy.optimize")


def test_importing_loads_nothing_heavy_and_changes_no_setting():
    program = f"""
import jax, sys
before = dict(jax.config.values)
import jaxgd
assert jaxgd.sweep and jax.config.values == before
loaded = [name for name in {HEAVY} if name in sys.modules]
assert not loaded, loaded
"""
    said(program)


def test_the_command_answers_about_itself_without_jax():
    program = "import sys; from jaxgd.cli import answered; answered(['--help']); assert 'jax' not in sys.modules"
    said(program)


def test_public_names_mean_what_is_public_also_where_a_room_has_the_same_name():
    program = """
import jaxgd.run, jaxgd.sweep, types
import jaxgd
public = {name: getattr(jaxgd, name) for name in dir(jaxgd) if name != "show"}  # a room that is used by its name
assert not any(isinstance(value, types.ModuleType) for value in public.values()), public
from jaxgd import *
assert sweep is jaxgd.sweep is public["sweep"] and not hasattr(jaxgd, "nonsense")
"""
    said(program)


def modules():
    found = pkgutil.walk_packages(jaxgd.__path__, "jaxgd.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def test_every_room_can_be_the_first_to_be_imported():
    program = """
import sys, importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
    for loaded in [name for name in sys.modules if name.split(".")[0] == "jaxgd"]:
        del sys.modules[loaded]
"""
    said(program, *modules())


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name):
    def example(learning_rate):
        return jaxgd.Descent(lambda x: x**2 + 5, 4.0, optax.sgd(learning_rate))

    public = {each: getattr(jaxgd, each) for each in jaxgd.__all__}
    names = public | {"jax": jax, "jnp": jnp, "np": np, "optax": optax, "jaxgd": jaxgd, "lane": example}
    assert doctest.testmod(importlib.import_module(name), extraglobs=names).failed == 0


@pytest.mark.parametrize("name", ["descend", "sweep", "best", "edges", "replay", "verdict"])
def test_public_functions_have_an_example(name):
    assert ">>> " in getattr(jaxgd, name).__doc__
