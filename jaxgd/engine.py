"""Batches of lanes: the compiled loops that carry out many descents at once.

A batch is a row of blocks that fit a core's cache; a block runs in segments of up to 50 epochs, and
retires when its last lane has ended. One loop is the truth: it moves the lanes, and carries only what
decides, and for how long the lowest cost has stood. What a lane was when its last segment began is kept:
from that the audit finds its figures. A lane that a segment leaves as it was, bit for bit, has ended
too: all further segments would repeat that one. What becomes of a lane does not depend on its
neighbours, its block or its batch.

Accelerators carry out the same, in other portions: they wait for their host wherever a program asks
whether to go on, and a launch takes them longer than what is launched. So they ask seldom, and do what may
not be needed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgd import one_by_one
from jaxgd.audit import Seen, audited, epoch_of_low, figures, last_look, unseen, updates_made, watched
from jaxgd.descent import norm
from jaxgd.lanes import Begin, Lanes, Last, Limits, costs_of, length_of, over_segment, segment_end, within
from jaxgd.outcome import NEVER, judgement
from jaxgd.program import Explicit, Leaves, Program, compiled, explicit
from jaxgd.trace import Trace
from jaxgd.watch import choose, is_finite, rounding

_CACHE_BYTES = 1 << 17  # of params, grads and state that a block may hold and still live in a core's L2
FEWEST, _MOST = 64, 4096  # lanes per block: never less than full vectors, never more than retirement likes
_VECTOR = 16  # lanes
_LAUNCH = 80_000  # operations beside which it costs next to nothing to launch one array's kernel
_BUSY, _MOST_ELSEWHERE = 400_000_000, 1 << 22  # operations and lanes at a time, with which to fill an accelerator


def block_size(lane_bytes: int) -> int:
    """Lanes per block: a power of two whose states fit a core's cache."""
    return _power_of_two(_CACHE_BYTES // max(1, lane_bytes), _MOST)


def block_size_of(lane_bytes: int, arrays: int, work: float, platform: str) -> int:
    """The same for a platform, and for lanes of so many arrays and of so much work per step.

    The more a step costs, the smaller a block may be, and the sooner it retires. Accelerators want to be filled.
    """
    if platform != "cpu":
        return _power_of_two(int(_BUSY / work), _MOST_ELSEWHERE)
    return min(block_size(lane_bytes), _power_of_two(int(_LAUNCH * arrays / work), _MOST))


def apart(block: int, platform: str) -> int:
    """So many lanes, or a few more, so that a CPU's cache has a place of its own for each array.

    Arrays of a power of two of bytes, one after the other, all fall upon the same few places of it.
    """
    return block + _VECTOR if platform == "cpu" and block >= 32 * _VECTOR else block


def _power_of_two(lanes: int, most: int) -> int:
    return 1 << (max(FEWEST, min(most, lanes)).bit_length() - 1)


def program(
    traced: Trace,
    arguments: PyTree,
    limits: Limits,
    *,
    block: int,
    blocks: int,
    device: Any,
) -> Program:
    """The program (arguments [blocks · block, ...], lanes in use, limits) → figures of every lane.

    Args:
      traced: one descent.
      arguments: what varies, as shapes and dtypes of one lane.
      limits: such as it will run with; their shapes and dtypes count.
      block, blocks: lanes per block, and blocks per batch.
      device: where it runs.
    """
    shape = jax.ShapeDtypeStruct
    many = jax.tree.map(lambda a: shape((blocks * block, *a.shape), a.dtype), arguments)
    limits = jax.tree.map(lambda a: shape(np.shape(a), a.dtype), limits)

    @functools.cache
    def one() -> Explicit:  # of no program that is known already
        return explicit(traced, device.platform)

    def batch(constants, *inputs):
        if traced.calls_back:
            return one_by_one.batch_of(traced)(block * blocks, constants, *inputs)
        return _batch(one(), block, blocks, constants, *inputs)

    made = compiled(
        batch,
        ([shape(a.shape, a.dtype) for a in traced.begin.consts], many, shape((), jnp.int32), limits),
        device,
        name="" if traced.text is None else "\n".join([*map(str, (block, blocks, limits, device, many)), traced.text]),
        in_a_graph=lambda: one().of_numbers,
    )
    constants, params, measures = jax.device_put(traced.begin.consts, device), traced.params, sorted(traced.measures)

    def run(*inputs):  # holds no trace, which holds it: both go as soon as the call returns, and their data with them
        figures = made.run(constants, *inputs)
        if made.calls_back:
            jax.effects_barrier()  # what was printed is there when the sweep returns
        metrics = dict(zip(measures, figures["metrics"], strict=True))
        return figures | {"params": params.unflatten(figures["params"]), "metrics": metrics}

    return Program(run, made.calls_back)


class _Round(NamedTuple):
    """How far a batch has come."""

    first: Int[Array, ""]  # epochs made by the lanes that go on
    segments: Int[Array, ""]  # that the next round takes
    shared: Leaves
    lanes: Lanes


def _batch(
    one: Explicit, block: int, blocks: int, constants: Leaves, arguments: PyTree, used: Int[Array, ""], limits: Limits
) -> dict[str, Any]:
    """Figures of the first `used` lanes of a batch; those of the others mean nothing.

    The batch goes in rounds, each as long as all before it. Between rounds the lanes that go on move
    together, if that empties blocks: so what has ended costs nothing, wherever in the batch it lies.
    """
    common, *begun, shared = one.begin(constants, arguments, block * blocks)
    one = one._replace(step=functools.partial(one.step, common), metrics=functools.partial(one.metrics, common))
    lanes, start = _at_start(one, Lanes(*begun, *[None] * 7), shared, used, limits, block)
    real = lanes.best_cost.dtype
    limits = limits._replace(target=limits.target.astype(real), ceiling=limits.ceiling.astype(real))

    def one_round(now: _Round) -> _Round:
        further = jnp.where(
            now.first > 0, now.first + now.segments * length_of(one), segment_end(one, now.first, limits)
        )
        until = limits.epochs if limits.records.size else jnp.minimum(further, limits.epochs)
        lanes = now.lanes
        if blocks > 1:
            lanes = lax.cond(_is_scattered(now, block), lambda: _gathered(now, one.axis), lambda: now.lanes)

        def one_block(index, carry):
            lanes, shared = carry
            reached, own, here = _block(one, _cut(lanes, index, block, one.axis), now.shared, now.first, until, limits)
            lanes = jax.tree.map(
                lambda all, new: lax.dynamic_update_slice_in_dim(all, new, index * block, one.axis), lanes, here
            )
            return lanes, choose(reached == until, own, shared)

        if blocks > 1:
            in_use = jnp.max(jnp.where(_blocks_on(lanes, now.first, block), 1 + jnp.arange(blocks), 0))
            lanes, shared = lax.fori_loop(0, in_use, one_block, (lanes, now.shared))
        else:
            lanes, shared = one_block(0, (lanes, now.shared))
        return _Round(until, jnp.where(now.first > 0, 2 * now.segments, 1), shared, lanes)

    def goes_on(now: _Round):
        return (now.first < limits.epochs) & jnp.any(now.lanes.epochs == now.first)

    begin = _Round(jnp.int32(0), jnp.int32(1), shared, lanes)
    lanes = lax.while_loop(goes_on, one_round, begin).lanes
    if not one.has_data:
        lanes = _with_figures(one, lanes, begun[0], block, limits)
    ended = _as_they_came(one, lanes)
    found = start | jax.tree.map(lambda a: jnp.moveaxis(a, one.axis, 0), ended.figures)
    found |= _apart_from_start(one, begun[1], ended.figures["params"], lanes.best_cost.dtype)
    closed_over = (begun[0], ended.figures["params"], begun[2])  # by metrics
    found["outcome"] = judgement(found, limits.goal, jnp)
    found["metrics"] = _by_block(one, closed_over, block, lambda *lane: one.metrics(*lane, shared))
    found["params"] = one.params(found["params"])
    if limits.records.size:
        found["cost_history"] = _history(jnp.moveaxis(ended.history, one.axis, 0), found, limits)
    return found


def _at_start(
    one: Explicit, lanes: Lanes, shared: Leaves, used, limits: Limits, block: int
) -> tuple[Lanes, dict[str, Any]]:
    """The lanes before their first epoch, and what is known of their start."""

    def seen(*lane):
        cost, grads, *_ = one.step(*lane, shared)
        return cost, norm(grads)

    cost, gradient_norm = _by_block(one, (lanes.constants, lanes.params, lanes.state), block, seen)
    place = jnp.arange(cost.size, dtype=jnp.int32)
    history = jnp.full((limits.records.size, cost.size), jnp.nan, cost.dtype)
    lanes = lanes._replace(
        best_cost=cost,
        since_low=jnp.zeros_like(place),
        epochs=jnp.where(place < used, jnp.int32(0), NEVER),
        place=place,
        history=history if one.axis else history.T,
    )
    if one.has_data:
        watch, none = unseen(one, lanes.params, cost)
        unknown = jax.eval_shape(lambda: figures(one, lanes, lanes, watch, shared, none, place, cost, limits))
        lanes = lanes._replace(figures=jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), unknown))
    else:
        begin = _each_begin(_begin_of(lanes, jnp.int32(0), shared), one.axis)
        never = begin._replace(first=jnp.full_like(place, NEVER))
        lanes = lanes._replace(last=Last(never, cost, jnp.zeros_like(place, bool)))
    return lanes, {"start_cost": cost, "start_gradient_norm": gradient_norm}


def _apart_from_start(one: Explicit, start: Leaves, end: Leaves, dtype: Any) -> dict[str, Any]:
    """How far the params came, and how finely they are known."""

    def of_one(start, end):
        away = [(b - a).astype(dtype) for a, b in zip(start, end, strict=True)]
        return norm(away), jnp.maximum(rounding(start, dtype), rounding(end, dtype))

    distance, finest = one.over_lanes(of_one, (True, True))(start, end)
    return {"distance": distance, "rounding": finest}


def _with_figures(one: Explicit, lanes: Lanes, constants: Leaves, block: int, limits: Limits) -> Lanes:
    """The lanes, all of which have ended, with the figures that an audit finds; constants are as they came."""
    if lanes.last.begin.shared and one.on_cpu:  # those that share the same come into the same blocks
        lanes = _permuted(lanes, jnp.argsort(lanes.last.begin.first, stable=True), one.axis)
    lanes = lanes._replace(constants=_permuted(constants, lanes.place, one.axis))
    blocks = jnp.arange(lanes.place.size // block)
    found = lax.map(lambda index: audited(one, _cut(lanes, index, block, one.axis), limits), blocks)

    def joined(a):  # of [block, ..., lane] or [block, lane, ...]
        a = jnp.moveaxis(a, one.axis if one.axis else 1, 1)
        return jnp.moveaxis(a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), 0, one.axis)

    return lanes._replace(figures=jax.tree.map(joined, found))


def _as_they_came(one: Explicit, lanes: Lanes) -> Lanes:
    """Of lanes that have ended what is told of them, in the order of their places."""
    told = Lanes(*[None] * 7, place=lanes.place, history=lanes.history, figures=lanes.figures)
    moved = jnp.any(lanes.place != jnp.arange(lanes.place.size))
    return lax.cond(moved, lambda: _permuted(told, jnp.argsort(told.place), one.axis), lambda: told)


def _by_block(one: Explicit, lanes: tuple, block: int, function: Callable[..., Any]) -> Any:
    """Results [lane, ...] of a function of one lane's (constants, params, state).

    With data, block by block: what a cost makes of every row of it would not fit for all lanes at once.
    """

    def many(*lanes):
        own = one.over_lanes(function, (True, True, True), as_one=True)(*lanes)
        return jax.tree.map(lambda a: jnp.moveaxis(a, one.axis, 0), own)

    if not one.has_data:
        return many(*lanes)

    def in_blocks(a):
        a = jnp.moveaxis(a, one.axis, 0)
        return a.reshape(-1, block, *a.shape[1:])

    def of_block(lanes):
        return many(*jax.tree.map(lambda a: jnp.moveaxis(a, 0, one.axis), lanes))

    results = lax.map(of_block, jax.tree.map(in_blocks, lanes))
    return jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), results)


# --- between rounds ---


def _cut(lanes: Lanes, index, block: int, axis: int) -> Lanes:
    """A block of the lanes."""
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, index * block, block, axis), lanes)


def _blocks_on(lanes: Lanes, first, block: int):
    """Which blocks hold a lane that goes on."""
    return (lanes.epochs == first).reshape(-1, block).any(1)


def _is_scattered(now: _Round, block: int):
    """Whether the lanes that go on would fit into three quarters of the blocks that hold them."""
    needed = -(-jnp.sum(now.lanes.epochs == now.first) // block)
    return 4 * needed <= 3 * jnp.sum(_blocks_on(now.lanes, now.first, block))


def _gathered(now: _Round, axis: int) -> Lanes:
    return _permuted(now.lanes, jnp.argsort(now.lanes.epochs != now.first, stable=True), axis)


def _permuted(lanes: PyTree, order, axis: int) -> PyTree:
    return jax.tree.map(lambda a: jnp.take(a, order, axis), lanes)


def _history(costs, figures: dict[str, Any], limits: Limits) -> Float[Array, "lane record"]:
    """The costs kept of each lane, NaN once it has ended."""
    epochs = figures["epochs"][:, None]
    costs = jnp.where(limits.records == epochs, figures["final_cost"][:, None], costs)
    return jnp.where(limits.records <= epochs, costs, jnp.nan)


# --- a block ---


class _Segment(NamedTuple):
    """A segment that the lanes of a block have made."""

    last: Int[Array, ""]
    slot: Int[Array, ""]  # of the history, for the next record
    begin: Begin  # where it began; with one first epoch, and one of what is shared, for all
    shared: Leaves  # at its end
    lanes: Lanes  # likewise
    ended: Bool[Array, " lane"]  # within it
    repeats: Bool[Array, " lane"]  # for ever what it did in this segment
    seen: Seen | None  # with data


def _block(one: Explicit, lanes: Lanes, shared: Leaves, first, until, limits: Limits) -> tuple[Any, Leaves, Lanes]:
    """A block from epoch `first` to `until`, or to where its last lane ends.

    Returns that epoch, the state that the lanes share then, and the lanes.
    """

    def goes_on(carry):
        first, _, _, lanes = carry
        return (first < until) & jnp.any(lanes.epochs == first)

    def to_the_next_end(carry):
        first, slot, shared, lanes = carry
        goes = lanes.epochs == first
        segment = _segments(one, lanes, goes, shared, slot, first, until, limits)
        on = goes & ~(segment.ended | segment.repeats) & (segment.last < limits.epochs)
        moved = segment.lanes._replace(epochs=jnp.where(on, segment.last, NEVER))

        def closed():
            name, new = (
                ("figures", _found_of(one, segment, limits)) if one.has_data else ("last", _last_of(one, segment))
            )
            new = one.over_lanes(choose, (True, True, True))(goes & ~on, new, getattr(moved, name))
            return _stood_in(moved, on, one.axis)._replace(**{name: new})

        is_dear = one.on_cpu or one.has_data  # in comparison with the question
        lanes = lax.cond(jnp.any(goes & ~on), closed, lambda: moved) if is_dear else closed()
        return segment.last, segment.slot, segment.shared, lanes

    lanes = _stood_in(lanes, lanes.epochs == first, one.axis)
    reached, _, shared, lanes = lax.while_loop(goes_on, to_the_next_end, (first, jnp.int32(0), shared, lanes))
    return reached, shared, lanes


def _segments(one: Explicit, lanes: Lanes, goes, shared: Leaves, slot, first, until, limits: Limits) -> _Segment:
    """Segment after segment, up to epoch `until` or to one in which a lane ends: the last of them.

    On an accelerator one, for to ask takes it as long as to look after lanes that ended.
    """

    def quiet(segment: _Segment):
        return (segment.last < until) & ~jnp.any(segment.ended | segment.repeats)

    def one_more(segment: _Segment) -> _Segment:
        first, lanes, shared = segment.last, segment.lanes, segment.shared
        last = segment_end(one, first, limits)
        begin = _begin_of(lanes, first, shared)
        move = _looked_at if one.has_data else _truth
        moved, after, slot, seen = move(one, lanes, shared, segment.slot, first, last, limits)
        on = within(moved.best_cost, limits) & within(costs_of(one, moved, after), limits)
        ended = goes & ~(on & one.over_lanes(is_finite, (True,))(moved.params))
        repeats = goes & ~ended & _repeats(one, begin, moved, after, last, limits)
        return _Segment(last, slot, begin, after, moved, ended, repeats, seen)

    seen, none = unseen(one, lanes.params, lanes.best_cost) if one.has_data else None, jnp.zeros_like(goes)
    begun = _Segment(first, slot, _begin_of(lanes, first, shared), shared, lanes, none, none, seen)
    return lax.while_loop(quiet, one_more, begun) if one.on_cpu else one_more(begun)


def _last_of(one: Explicit, segment: _Segment) -> Last:
    """What is kept of a segment for the audit of the lanes that ended with it."""
    return Last(_each_begin(segment.begin, one.axis), segment.lanes.best_cost, segment.repeats)


def _found_of(one: Explicit, segment: _Segment, limits: Limits) -> dict[str, Any]:
    """The figures of lanes with data that ended with a segment."""
    begin, end = segment.begin, segment.lanes
    made = jnp.where(segment.ended, updates_made(segment.seen), segment.last - begin.first)
    end = end._replace(epochs=jnp.where(segment.repeats, limits.epochs, begin.first + made))
    start = end._replace(params=begin.params, state=begin.state, best_cost=begin.best_cost)
    seen = last_look(one, segment.seen, segment.lanes, segment.shared, segment.last - begin.first, limits)
    low = segment.last - end.since_low
    return figures(one, start, end, seen.watch, segment.shared, made, low, end.best_cost, limits)


def _begin_of(lanes: Lanes, first, shared: Leaves) -> Begin:
    """What a segment that the lanes begin now can be run again from."""
    return Begin(first, lanes.params, lanes.state, shared, lanes.best_cost, lanes.since_low)


def _each_begin(begin: Begin, axis: int) -> Begin:
    """The same, for each lane."""
    lanes = begin.best_cost.size
    shared = [jnp.repeat(jnp.expand_dims(a, axis), lanes, axis) for a in begin.shared]
    return begin._replace(first=jnp.full(lanes, begin.first), shared=shared)


def _repeats(one: Explicit, begin: Begin, moved: Lanes, shared: Leaves, last, limits: Limits):
    """Which lanes a segment has left as they were, to the bit; none where each epoch's cost is kept."""
    if limits.records.size:
        return False
    before, after = ((a.params, a.state, a.best_cost) for a in (begin, moved))
    is_full = last - begin.first == length_of(one)
    return one.over_lanes(_same, (True, True))(before, after) & _same(begin.shared, shared) & is_full


def _same(a: PyTree, b: PyTree) -> Bool[Array, ""]:
    """Whether two trees hold the same bits; what holds random keys never does."""

    def equal(a, b):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.extended):
            return False
        bits = jnp.signbit(a) == jnp.signbit(b) if jnp.issubdtype(a.dtype, jnp.floating) else True
        return jnp.all((a == b) & bits)

    return functools.reduce(jnp.logical_and, map(equal, jax.tree.leaves(a), jax.tree.leaves(b)), jnp.bool_(True))


def _stood_in(lanes: Lanes, on, axis: int) -> Lanes:
    """Lanes whose ended ones copy one that goes on: finite numbers, and no flag to look at in every epoch."""
    donor = jnp.argmax(on)

    def filled(a):
        copy = lax.dynamic_index_in_dim(a, donor, axis, keepdims=True)
        return jax.vmap(jnp.where, (axis, axis, None), axis)(on, a, jnp.squeeze(copy, axis))

    constants, params, state = jax.tree.map(filled, (lanes.constants, lanes.params, lanes.state))
    return lanes._replace(constants=constants, params=params, state=state)


# --- a segment ---


def _truth(one: Explicit, lanes: Lanes, shared: Leaves, slot, first, last, limits: Limits):
    """Moves the lanes from epoch `first` to `last`: the lanes then, what they share, the slot of the history.

    Every array carried along costs as much as a simple step. So nothing holds back a lane that has
    come to its end within the segment, and the lowest cost says whether one has: it lies outside
    the limits, and is NaN, for ever, once a cost was NaN or above the ceiling.
    """

    def of_one(count, constants, params, state, shared, best_cost, since_low):
        costs = []
        for ahead in range(count):
            cost, _, params, state, shared = one.step(constants, params, state, shared)
            since_low = jnp.where(cost < best_cost, -ahead, since_low)
            best_cost = jnp.where(cost < best_cost, cost, best_cost)
            best_cost = jnp.where(cost <= limits.ceiling, best_cost, jnp.nan)
            costs.append(cost)
            if not (one.on_cpu or one.of_numbers):  # or what an epoch makes might be computed anew for all that follow
                params, state, best_cost, since_low = lax.optimization_barrier((params, state, best_cost, since_low))
        return params, state, shared, best_cost, since_low + count, costs if limits.records.size else []

    def epochs(now, carry, count):
        *moving, history, slot = carry
        many = one.over_lanes(
            functools.partial(of_one, count),
            (True, True, True, False, True, True),
            (True, True, False, True, True, True),
            as_one=True,
        )
        *moved, costs = many(lanes.constants, *moving)
        return *moved, *_recorded(history, costs, slot, now, limits, one.axis)

    begin = (lanes.params, lanes.state, shared, lanes.best_cost, lanes.since_low, lanes.history, slot)
    params, state, shared, low, since, history, slot = over_segment(epochs, one, first, last, begin)
    moved = lanes._replace(params=params, state=state, best_cost=low, since_low=since, history=history)
    return moved, shared, slot, None


def _looked_at(one: Explicit, lanes: Lanes, shared: Leaves, slot, first, last, limits: Limits):
    """The same, of lanes with data: each stops at its own end; and what was seen on the way."""

    def epochs(now, carry, count):
        *moving, history, slot = carry
        moving, costs = watched(one, now - first, count, lanes.constants, moving, None, limits)
        return *moving, *_recorded(history, costs, slot, now, limits, one.axis)

    begin = (lanes.params, lanes.state, shared, lanes.best_cost, unseen(one, lanes.params, lanes.best_cost))
    *moving, history, slot = over_segment(epochs, one, first, last, (*begin, lanes.history, slot))
    params, state, shared, low, seen = moving
    fell = low < lanes.best_cost
    since = jnp.where(fell, last - epoch_of_low(seen.clock, first), lanes.since_low + (last - first))
    moved = lanes._replace(params=params, state=state, best_cost=low, since_low=since, history=history)
    return moved, shared, slot, seen


def _recorded(history, costs, slot, now, limits: Limits, axis: int):
    """The history with the costs of some epochs from this one on, those that are kept, and the slot for the next."""
    if not limits.records.size:
        return history, slot
    for offset, cost in enumerate(costs):
        history = lax.dynamic_update_index_in_dim(history, cost, slot, 1 + axis)
        slot = slot + (now + offset == limits.records[slot])
    return history, slot
