"""Lanes that call Python while they run (to print, say): one after the other, each state evaluated once.

The engine evaluates states again, pads its blocks and lets ended lanes stand; to a callback each of that is a call.
Here a callback is called for the lanes that there are, and for the epochs that they run: once for each, the start and
the end included. The statistics are those of the engine, over the same windows.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgd.audit import Ends, figures_of
from jaxgd.descent import Opened, norm
from jaxgd.lanes import SEGMENT, SEGMENT_OF_BATCHES, Limits, within
from jaxgd.outcome import judgement
from jaxgd.trace import Trace
from jaxgd.watch import Watch, changes, choose, is_finite, look, rounding, watch_from


class _Carry(NamedTuple):
    """A lane between two epochs."""

    epoch: Int[Array, ""]
    runs: Bool[Array, ""]
    params: PyTree
    state: PyTree
    watch: Watch
    ends: Ends
    start: tuple[Float[Array, ""], Float[Array, ""]]  # cost and gradient norm there
    best_cost: Float[Array, ""]
    best_epoch: Int[Array, ""]
    window: Int[Array, ""]  # the epoch at which it began
    window_params: PyTree  # there
    low_before: Float[Array, ""]  # the lowest cost then
    history: Float[Array, " record"]


def batch_of(traced: Trace) -> Callable[..., dict[str, Any]]:
    """(constants, arguments [lane, ...], lanes in use, limits) → figures of every lane; of the others, zeros."""

    def batch(lanes, constants, arguments, used, limits):
        def one(index):
            return _lane(traced, constants, jax.tree.map(lambda a: a[index], arguments), limits)

        def put(index, found):
            return jax.tree.map(lambda all, new: all.at[index].set(new), found, one(index))

        shapes = jax.eval_shape(one, jnp.int32(0))
        nothing = jax.tree.map(lambda a: jnp.zeros((lanes, *a.shape), a.dtype), shapes)
        return lax.fori_loop(0, used, put, nothing)

    return batch


def _lane(traced: Trace, constants: list[Any], arguments: PyTree, limits: Limits) -> dict[str, Any]:
    """The figures of one lane."""
    one = traced.opened(arguments, constants)
    real = jax.eval_shape(one.evaluate, one.params)[0].dtype
    limits = limits._replace(target=limits.target.astype(real), ceiling=limits.ceiling.astype(real))
    unknown, none = jnp.full((), jnp.nan, real), jnp.int32(0)
    begin = _Carry(
        epoch=none,
        runs=jnp.bool_(True),
        params=one.params,
        state=one.init(one.params),
        watch=watch_from(one.params, unknown, by_cost=one.has_batches),
        ends=Ends(unknown, unknown, unknown, jnp.bool_(False)),
        start=(unknown, unknown),
        best_cost=jnp.full((), jnp.inf, real),
        best_epoch=none,
        window=none,
        window_params=one.params,
        low_before=unknown,
        history=jnp.full(limits.records.size, jnp.nan, real),
    )
    end = lax.while_loop(lambda carry: carry.runs, functools.partial(_epoch, one, limits), begin)
    counts = (end.epoch, end.best_epoch, end.low_before, end.best_cost, end.best_cost, end.epoch - end.window)
    ends = end.ends._replace(changed=_changed(end.window_params, end.watch.params))
    found = figures_of(limits, end.watch, ends, *counts)
    found["distance"] = norm(_difference(one.params, end.watch.params, real))
    found["rounding"] = jnp.maximum(rounding(one.params, real), rounding(end.watch.params, real))
    found["start_cost"], found["start_gradient_norm"] = end.start
    found["outcome"] = judgement(found, limits.goal, jnp)
    measured = one.metrics(end.watch.params)
    found |= {"params": jax.tree.leaves(found["params"]), "metrics": jax.tree.leaves(measured)}
    if limits.records.size:
        costs = jnp.where(limits.records == end.epoch, found["final_cost"], end.history)
        found["cost_history"] = jnp.where(limits.records <= end.epoch, costs, jnp.nan)
    return found


def _epoch(one: Opened, limits: Limits, carry: _Carry) -> _Carry:
    """One state, looked at, and the update that follows it, if one does."""
    epoch, params = carry.epoch, carry.params
    cost, grads = one.evaluate(params)
    gradient_norm, finite = norm(grads), is_finite(params, cost)
    runs = within(cost, limits) & is_finite(params) & (epoch < limits.epochs)
    length = SEGMENT_OF_BATCHES if one.has_batches else SEGMENT
    is_new = (epoch == 0) | (runs & ((limits.epochs - epoch) % length == 0))  # as `lanes.segment_end` divides epochs
    unknown = jnp.full_like(cost, jnp.nan)
    opening = Ends(unknown if one.has_batches else gradient_norm, unknown, unknown, jnp.bool_(False))
    watch = choose(is_new, watch_from(params, cost, by_cost=one.has_batches), carry.watch)
    ends = choose(is_new, opening, carry.ends)
    first = epoch == 0
    lower = first | ((cost < carry.best_cost) & (runs | finite))
    kept = choose(finite, (cost, gradient_norm), (ends.cost, ends.gradient_norm))
    # After the last state too, where the next update says how the lane moves and is not a pass over minibatches.
    advances = runs | (not one.has_batches)
    moved = lax.cond(advances, lambda: one.advance(params, carry.state, cost, grads), lambda: (params, carry.state))
    return _Carry(
        epoch=epoch + runs,
        runs=runs,
        params=choose(runs, moved[0], params),
        state=moved[1],
        watch=look(watch, params, cost, moved[0], jnp.bool_(True)),
        ends=Ends(ends.start_gradient_norm, *kept, ends.changed),
        start=choose(first, (cost, gradient_norm), carry.start),
        best_cost=jnp.where(lower, cost, carry.best_cost),
        best_epoch=jnp.where(lower, epoch, carry.best_epoch),
        window=jnp.where(is_new, epoch, carry.window),
        window_params=choose(is_new, params, carry.window_params),
        low_before=jnp.where(is_new, jnp.where(first, cost, carry.best_cost), carry.low_before),
        history=jnp.where(limits.records == epoch, cost, carry.history),
    )


def _difference(before: PyTree, after: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(lambda a, b: (b - a).astype(dtype), before, after)


def _changed(before: PyTree, after: PyTree) -> Bool[Array, ""]:
    return changes(after, jax.tree.map(jnp.subtract, after, before))
