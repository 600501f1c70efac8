"""Blocks of lanes: the compiled loop that carries out many descents at once.

One loop is the truth: it moves the lanes, freezes each at its own end, and carries only what
decides. A segment in which some lane ended runs a second time in an audit loop, whose path is
thrown away and whose figures count for the lanes that ended there. So what becomes of a lane does
not depend on its neighbours, its block or its batch. A block retires when its last lane has ended.

A block is a `vmap` with a named axis: every branch and every loop condition is a maximum over that
axis, hence one scalar, so that branches stay branches and what lanes share stays unbatched.
"""

import functools
import hashlib
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxgd.descent import Descent, norm, opened, step_of
from jaxgd.outcome import NEVER, Watch, choose, look, watch_from

SEGMENT = 50  # epochs between two looks at who has ended; also the longest window
_CACHE_BYTES = 1 << 17  # of params, grads and state that a block may hold and still live in a core's L2
_FEWEST, _MOST = 64, 2048  # lanes per block: never less than full vectors, never more than retirement likes


class Limits(NamedTuple):
    """What ends a lane; runtime values, so that changing them compiles nothing."""

    epochs: Int[Array, ""]
    target: Float[Array, ""]
    ceiling: Float[Array, ""]
    records: Int[Array, " record"]  # epochs whose cost is kept


class _Lane(NamedTuple):
    """What the truth loop carries; every array of it costs a kernel in every epoch."""

    params: PyTree
    state: PyTree
    best_cost: Float[Array, ""]
    clock: Int[Array, ""]
    history: Float[Array, " record"]


def block_size(lane_bytes: int) -> int:
    """Lanes per block: a power of two whose states fit a core's cache."""
    lanes = max(_FEWEST, min(_MOST, _CACHE_BYTES // max(1, lane_bytes)))
    return 1 << (lanes.bit_length() - 1)


class Program(NamedTuple):
    """A compiled batch: (arguments [blocks × block, ...], blocks in use, limits) → figures of every lane."""

    run: Callable[[PyTree, int, Limits], dict[str, Any]]
    calls_back: bool  # whether it calls Python while it runs; two of those side by side deadlock


def compiled(
    lane: Callable[..., Descent], arguments: PyTree, limits: Limits, block: int, blocks: int, device: Any
) -> Program:
    """The program that carries out up to `blocks` blocks of `block` lanes, compiled once per program.

    Args:
      lane: one descent as a pure function of keyword arguments.
      arguments: what varies, as shapes and dtypes of one lane.
      limits: shapes and dtypes of the limits.
      block, blocks: lanes per block, and blocks per batch at most.
      device: where it runs.
    """
    many = jax.tree.map(lambda a: jax.ShapeDtypeStruct((blocks * block, *a.shape), a.dtype), arguments)
    inputs = (many, jax.ShapeDtypeStruct((), jnp.int32), limits)
    closed, outputs = jax.make_jaxpr(functools.partial(_batch, lane, block, blocks), return_shape=True)(*inputs)

    def with_constants(constants, *leaves):  # constants become arguments: no second copy, no new program
        return jax.core.eval_jaxpr(closed.jaxpr, constants, *leaves)

    calls_back = _calls_back(closed.jaxpr)
    if calls_back:
        warnings.warn("the cost calls back into Python, which runs one lane at a time: one worker only", stacklevel=2)
    place = jax.sharding.SingleDeviceSharding(device)
    program = jax.jit(with_constants, in_shardings=place, out_shardings=place)
    lowered = program.lower(closed.consts, *jax.tree.leaves(inputs))
    executable = lowered.compile() if calls_back else _compiled_once(lowered, device)
    constants = jax.device_put(closed.consts, device)
    tree = jax.tree.structure(outputs)

    def run(arguments, used, limits):
        leaves = jax.device_put(jax.tree.leaves((arguments, np.int32(used), limits)), device)
        return tree.unflatten(executable(constants, *leaves))

    return Program(run, calls_back)


def text_of(lane: Callable[..., Descent], arguments: PyTree) -> str:
    """What a lane computes, as text: its start and one step, with a digest of every constant."""

    def one(arguments):
        descent = lane(**arguments)
        cost, params, optimizer = opened(descent)
        return params, step_of(cost, optimizer)(params, optimizer.init(params))

    closed = jax.make_jaxpr(one)(arguments)
    return "\n".join([re.sub(r" at 0x[0-9a-f]+", "", str(closed.jaxpr)), *map(digest, closed.consts)])


def digest(array: Any) -> str:
    """A short name for an array's dtype, shape and bytes."""
    if jax.dtypes.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.ascontiguousarray(array)
    return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def compilations() -> int:
    """How many programs this process has compiled so far."""
    return len(_executables)


_executables: dict[tuple[str, Any], Any] = {}
_EMBEDDED = 1 << 24  # characters of program text, two for each byte of a constant in it


def _compiled_once(lowered: Any, device: Any) -> Any:
    """Programs are known by their text, not by the function that made it."""
    text = lowered.as_text()
    if len(text) > _EMBEDDED:
        warnings.warn(
            "the program holds more than 8 MB of constants, from a cost that is already jitted: each new one is "
            "compiled and copied anew; leave the jit away",
            stacklevel=3,
        )
    key = (hashlib.sha256(text.encode()).hexdigest(), device)
    if key not in _executables:
        _executables[key] = lowered.compile()
    return _executables[key]


def _calls_back(jaxpr: Any) -> bool:
    inner = (
        sub
        for equation in jaxpr.eqns
        for value in equation.params.values()
        for sub in (value if isinstance(value, (tuple, list)) else (value,))
    )
    return any("callback" in equation.primitive.name for equation in jaxpr.eqns) or any(
        _calls_back(getattr(sub, "jaxpr", sub)) for sub in inner if hasattr(getattr(sub, "jaxpr", sub), "eqns")
    )


def _batch(
    lane: Callable[..., Descent], block: int, blocks: int, arguments: PyTree, used: Int[Array, ""], limits: Limits
) -> dict[str, Any]:
    """All blocks of a batch, one after the other; those beyond `used` are left as zeros."""
    descents = jax.vmap(lambda one: _descent(lane(**one), limits), axis_name="lane", axis_size=block)
    arguments = jax.tree.map(lambda a: a.reshape(blocks, block, *a.shape[1:]), arguments)

    def one_block(index, figures):
        here = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, index, keepdims=False), arguments)
        return jax.tree.map(lambda all, new: lax.dynamic_update_index_in_dim(all, new, index, 0), figures, descents(here))

    one = jax.eval_shape(descents, jax.tree.map(lambda a: a[0], arguments))
    empty = jax.tree.map(lambda a: jnp.zeros((blocks, *a.shape), a.dtype), one)
    figures = lax.fori_loop(0, used, one_block, empty)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), figures)


def _descent(descent: Descent, limits: Limits) -> dict[str, Any]:
    """One lane, from its start to its end, as seen from inside the block."""
    cost, params, optimizer = opened(descent)
    step = step_of(cost, optimizer)
    evaluate = jax.value_and_grad(cost)
    start_cost, start_grads = evaluate(params)
    dtype = start_cost.dtype
    limits = limits._replace(target=limits.target.astype(dtype), ceiling=limits.ceiling.astype(dtype))
    history = jnp.full(limits.records.shape, jnp.nan, dtype)
    lane = _Lane(params, optimizer.init(params), start_cost, jnp.int32(0), history)
    counts = {"epochs": jnp.int32(0), "best_epoch": jnp.int32(0)}
    unseen = _figures(watch_from(params, start_cost), counts, lane.best_cost, lane.best_cost, limits, 0)

    def segment(carry):
        first, _, slot, before, counts, figures = carry
        last = first + 1 + (limits.epochs - first - 1) % SEGMENT  # the short segment, if any, comes first
        alive = counts["epochs"] == first
        mine = limits._replace(target=jnp.where(alive, limits.target, jnp.inf))  # no cost of an ended lane exceeds it
        after, slot = _truth(step, before._replace(clock=jnp.int32(0)), slot, first, last, mine)
        made, new_low = after.clock % _NEW_LOW, after.clock // _NEW_LOW
        counts = {
            "epochs": counts["epochs"] + made,
            "best_epoch": jnp.where(new_low > 0, first + new_low - 1, counts["best_epoch"]),
        }
        ended = alive & ((counts["epochs"] < last) | (last == limits.epochs))

        def audit():
            watch = _audit(step, before, first, last, limits)
            watch = look(watch, after.params, *evaluate(after.params))
            at_end = _figures(watch, counts, before.best_cost, after.best_cost, limits, first)
            return choose(ended, at_end, figures)

        figures = lax.cond(_any(ended), audit, lambda: figures)
        runs = counts["epochs"] == last
        rest = jax.tree.map(jnp.nan_to_num, figures["params"])  # what has ended stands still on finite params
        return last, _any(runs), slot, after._replace(params=choose(runs, after.params, rest)), counts, figures

    def goes_on(carry):
        first, runs, *_ = carry
        return (first < limits.epochs) & runs

    begin = (jnp.int32(0), jnp.bool(True), jnp.int32(0), lane, counts, unseen)
    *_, lane, _, figures = lax.while_loop(goes_on, segment, begin)
    if history.size:
        at_end = jnp.where(figures["epochs"] == limits.epochs, figures["final_cost"], jnp.nan)
        figures["cost_history"] = lane.history.at[-1].set(at_end)
    return figures | {"start_cost": start_cost, "start_gradient_norm": norm(start_grads)}


# The clock of a lane within its segment, one array for two counts: the updates made, and, in units
# of _NEW_LOW, one more than the update before which the lowest cost was seen (0: not in this segment).
_NEW_LOW = 64  # a power of two above SEGMENT


def _truth(step, lane: _Lane, slot, first, last, limits: Limits):
    """Moves the lane from epoch `first` to `last`, or to its own end."""

    def epoch(now, carry):
        lane, slot = carry
        cost, _, params, state = step(lane.params, lane.state)
        runs = _within(cost, limits)  # what stands still keeps its cost, so that it stays so
        lower = runs & (cost < lane.best_cost)
        clock = jnp.where(lower, now - first + _NEW_LOW * (now - first + 1), lane.clock) + runs
        history = lane.history
        if history.size:
            reached = (lane.clock % _NEW_LOW == now - first) & (limits.target < jnp.inf)
            history = lax.dynamic_update_index_in_dim(history, jnp.where(reached, cost, jnp.nan), slot, 0)
            slot = slot + (now == limits.records[slot])
        lane = _Lane(
            choose(runs, params, lane.params), state, jnp.where(lower, cost, lane.best_cost), clock, history
        )
        return lane, slot

    return lax.fori_loop(first, last, epoch, (lane, slot))


def _audit(step, lane: _Lane, first, last, limits: Limits) -> Watch:
    """Sees again, more closely, what the truth loop did from `first` to `last`."""

    def epoch(_, carry):
        watch, params, state = carry
        cost, grads, moved, state = step(params, state)
        return look(watch, params, cost, grads), choose(_within(cost, limits), moved, params), state

    watch = watch_from(lane.params, lane.best_cost)
    return lax.fori_loop(first, last, epoch, (watch, lane.params, lane.state))[0]


def _figures(watch: Watch, counts, low_before, low_after, limits: Limits, first) -> dict[str, Any]:
    """The figures of a lane that has ended, from its last window."""
    epochs = counts["epochs"]
    lower = watch.finite & (watch.cost < low_after)
    best_cost = jnp.where(lower, watch.cost, low_after)
    met = watch.finite & (watch.cost <= limits.target)
    return {
        "final_cost": watch.cost,
        "best_cost": best_cost,
        "best_epoch": jnp.where(lower, epochs, counts["best_epoch"]),
        "epochs": epochs,
        "gradient_norm": watch.gradient_norm,
        "target_epoch": jnp.where(met, epochs, NEVER),
        "diverged_epoch": jnp.where(watch.finite & (watch.cost <= limits.ceiling), NEVER, epochs),
        "crossings": watch.crossings,
        "window": epochs - first,
        "growths": watch.growths,
        "progress": low_before - best_cost,
        "window_gradient_norm": watch.window_gradient_norm,
        "highest_gradient_norm": watch.highest_gradient_norm,
        "swing_gradient_norm": jnp.fmax(watch.swing, watch.swing_before),
        "params": watch.params,
    }


def _within(cost, limits: Limits):
    """Whether a lane of this cost goes on; False for NaN and −inf too."""
    return (cost > limits.target) & (cost <= limits.ceiling)


def _any(condition):
    """True for the whole block if it is true for one of its lanes: one scalar, never a batch of them."""
    return lax.pmax(condition.astype(jnp.int32), "lane") > 0
