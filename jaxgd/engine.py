"""Batches of lanes: the compiled loops that carry out many descents at once.

A batch is a row of blocks that fit a core's cache; a block runs in segments of up to 50 epochs, and
retires when its last lane has ended. One loop is the truth: it moves the lanes, and carries only what
decides. A segment in which some lane ended runs a second time in an audit loop, which stops each lane
at its own end, and whose figures count for the lanes that ended there; so does the segment of a lane's
lowest cost, from what was kept when that began. What becomes of a lane does not depend on its
neighbours, its block or its batch.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgd.descent import Descent, norm
from jaxgd.outcome import NEVER, Watch, choose, is_finite, look, watch_from
from jaxgd.program import Explicit, Leaves, Program, compiled, explicit

SEGMENT = 50  # epochs between two looks at who has ended; also the longest window
SEGMENT_OF_BATCHES = 10  # the same, where each epoch makes several updates
_AT_ONCE = 2  # epochs per turn of the truth loop, which saves copies; of more, XLA computes each epoch several times
_UNTIL_A_CHECK = 10  # epochs that an audit makes before it asks whether any lane goes on
_CACHE_BYTES = 1 << 17  # of params, grads and state that a block may hold and still live in a core's L2
_FEWEST, _MOST = 64, 2048  # lanes per block: never less than full vectors, never more than retirement likes
_MOST_ELSEWHERE = 1 << 16  # on an accelerator, which a block has to fill


class Limits(NamedTuple):
    """What ends a lane; runtime values, so that changing them compiles nothing."""

    epochs: Int[Array, ""]
    target: Float[Array, ""]
    ceiling: Float[Array, ""]
    records: Int[Array, " record"]  # epochs whose cost is kept


class _Lanes(NamedTuple):
    """All that is known of the lanes of a batch, or of a block of it; they lie along one axis of every array."""

    constants: Leaves
    params: Leaves
    state: Leaves
    best_cost: Float[Array, " lane"]
    best_epoch: Int[Array, " lane"]  # or, without data, where its segment began
    before: "_Kept | None"  # without data: what the lane was when that began
    epochs: Int[Array, " lane"]  # made so far by a lane that goes on, NEVER once it has ended
    place: Int[Array, " lane"]  # in the batch as it came
    history: Float[Array, "record lane"]
    figures: dict[str, Any]  # of those that have ended


class _Kept(NamedTuple):
    """What a segment can be run again from."""

    params: Leaves
    state: Leaves
    shared: Leaves  # here each lane its own, as each falls when it does
    best_cost: Float[Array, " lane"]


class _Ends(NamedTuple):
    """What the two ends of a window are."""

    start_gradient_norm: Float[Array, " lane"]  # NaN where lanes are judged by their cost alone
    finite: Bool[Array, " lane"]  # whether the last state is
    cost: Float[Array, " lane"]  # of the last finite state; NaN if there was none
    gradient_norm: Float[Array, " lane"]  # likewise


class _Round(NamedTuple):
    """How far a batch has come."""

    first: Int[Array, ""]  # epochs made by the lanes that go on
    segments: Int[Array, ""]  # that the next round takes
    shared: Leaves
    lanes: _Lanes


def block_size(lane_bytes: int, platform: str = "cpu") -> int:
    """Lanes per block: a power of two whose states fit a core's cache, or fill an accelerator."""
    most = _MOST if platform == "cpu" else _MOST_ELSEWHERE
    cache = _CACHE_BYTES if platform == "cpu" else _CACHE_BYTES * _MOST_ELSEWHERE // _MOST
    lanes = max(_FEWEST, min(most, cache // max(1, lane_bytes)))
    return 1 << (lanes.bit_length() - 1)


def program(
    lane: Callable[..., Descent],
    arguments: PyTree,
    *,
    records: int,
    block: int,
    blocks: int,
    dtype: Any,
    device: Any,
) -> Program:
    """The program (arguments [blocks · block, ...], lanes in use, limits) → figures of every lane.

    Args:
      lane: one descent as a pure function of keyword arguments.
      arguments: what varies, as shapes and dtypes of one lane.
      records: how many costs are kept of each lane.
      block, blocks: lanes per block, and blocks per batch.
      dtype: of the limits.
      device: where it runs.
    """
    shape = jax.ShapeDtypeStruct
    many = jax.tree.map(lambda a: shape((blocks * block, *a.shape), a.dtype), arguments)
    limits = Limits(shape((), jnp.int32), shape((), dtype), shape((), dtype), shape((records,), jnp.int32))
    one = explicit(lane, arguments)
    function = functools.partial(_batch, one, block, blocks)
    return compiled(function, (many, shape((), jnp.int32), limits), device)


def _batch(
    one: Explicit, block: int, blocks: int, arguments: PyTree, used: Int[Array, ""], limits: Limits
) -> dict[str, Any]:
    """Figures of the first `used` lanes of a batch; those of the others mean nothing.

    The batch goes in rounds, each as long as all before it. Between rounds the lanes that go on move
    together, if that empties blocks: so what has ended costs nothing, wherever in the batch it lies.
    """
    common, *begun, shared = one.begin(arguments, block * blocks)
    one = one._replace(step=functools.partial(one.step, common), metrics=functools.partial(one.metrics, common))
    lanes, start = _at_start(one, _Lanes(*begun, *[None] * 7), shared, used, limits, block)
    real = lanes.best_cost.dtype
    limits = limits._replace(target=limits.target.astype(real), ceiling=limits.ceiling.astype(real))

    def one_round(now: _Round) -> _Round:
        further = jnp.where(
            now.first > 0, now.first + now.segments * _length(one), _segment_end(one, now.first, limits)
        )
        until = limits.epochs if limits.records.size else jnp.minimum(further, limits.epochs)
        lanes = lax.cond(_is_scattered(now, block), lambda: _gathered(now, one.axis), lambda: now.lanes)

        def one_block(index, carry):
            lanes, shared = carry
            here = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, index * block, block, one.axis), lanes)
            reached, own, here = _block(one, here, now.shared, now.first, until, limits)
            lanes = jax.tree.map(
                lambda all, new: lax.dynamic_update_slice_in_dim(all, new, index * block, one.axis), lanes, here
            )
            return lanes, choose(reached == until, own, shared)

        in_use = jnp.max(jnp.where(_blocks_on(lanes, now.first, block), 1 + jnp.arange(blocks), 0))
        lanes, shared = lax.fori_loop(0, in_use, one_block, (lanes, now.shared))
        return _Round(until, jnp.where(now.first > 0, 2 * now.segments, 1), shared, lanes)

    def goes_on(now: _Round):
        return (now.first < limits.epochs) & jnp.any(now.lanes.epochs == now.first)

    begin = _Round(jnp.int32(0), jnp.int32(1), shared, lanes)
    lanes = lax.while_loop(goes_on, one_round, begin).lanes
    moved = jnp.any(lanes.place != jnp.arange(block * blocks))
    lanes = lax.cond(moved, lambda: _permuted(lanes, jnp.argsort(lanes.place), one.axis), lambda: lanes)
    figures = start | jax.tree.map(lambda a: jnp.moveaxis(a, one.axis, 0), lanes.figures)
    ended = (begun[0], lanes.figures["params"], begun[2])  # what metrics close over, as it came
    figures["metrics"] = _by_block(one, ended, block, lambda *lane: one.metrics(*lane, shared))
    figures["params"] = one.params.unflatten(figures["params"])
    if limits.records.size:
        figures["cost_history"] = _history(jnp.moveaxis(lanes.history, one.axis, 0), figures, limits)
    return figures


def _at_start(
    one: Explicit, lanes: _Lanes, shared: Leaves, used, limits: Limits, block: int
) -> tuple[_Lanes, dict[str, Any]]:
    """The lanes before their first epoch, and what is known of their start."""

    def seen(*lane):
        cost, grads, *_ = one.step(*lane, shared)
        return cost, norm(grads)

    axis = one.axis
    cost, gradient_norm = _by_block(one, (lanes.constants, lanes.params, lanes.state), block, seen)
    place = jnp.arange(cost.size, dtype=jnp.int32)
    history = jnp.full((limits.records.size, cost.size), jnp.nan, cost.dtype)
    lanes = lanes._replace(
        best_cost=cost,
        best_epoch=jnp.zeros_like(place),
        before=None if one.has_data else _Kept(lanes.params, lanes.state, _each(shared, cost.size, axis), cost),
        epochs=jnp.where(place < used, jnp.int32(0), NEVER),
        place=place,
        history=history if axis else history.T,
    )
    ends = _Ends(gradient_norm, jnp.zeros_like(place, bool), cost, gradient_norm)
    watch = _watch_from(one, lanes.params, cost)
    figures = _figures_of(one, lanes, lanes, lanes, (watch, ends), limits, 0)  # of no meaning until a lane has ended
    start = {"start_cost": cost, "start_gradient_norm": gradient_norm}
    return lanes._replace(figures=figures), start


def _by_block(one: Explicit, lanes: tuple, block: int, function: Callable[..., Any]) -> Any:
    """Results [lane, ...] of a function of one lane's (constants, params, state).

    With data, block by block: what a cost makes of every row of it would not fit for all lanes at once.
    """
    many = jax.vmap(function, one.axis)
    if not one.has_data:
        return many(*lanes)

    def in_blocks(a):
        a = jnp.moveaxis(a, one.axis, 0)
        return a.reshape(-1, block, *a.shape[1:])

    def of_block(lanes):
        return many(*jax.tree.map(lambda a: jnp.moveaxis(a, 0, one.axis), lanes))

    results = lax.map(of_block, jax.tree.map(in_blocks, lanes))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), results)


# --- between rounds ---


def _blocks_on(lanes: _Lanes, first, block: int):
    """Which blocks hold a lane that goes on."""
    return (lanes.epochs == first).reshape(-1, block).any(1)


def _is_scattered(now: _Round, block: int):
    """Whether the lanes that go on would fit into three quarters of the blocks that hold them."""
    needed = -(-jnp.sum(now.lanes.epochs == now.first) // block)
    return 4 * needed <= 3 * jnp.sum(_blocks_on(now.lanes, now.first, block))


def _gathered(now: _Round, axis: int) -> _Lanes:
    return _permuted(now.lanes, jnp.argsort(now.lanes.epochs != now.first, stable=True), axis)


def _permuted(lanes: _Lanes, order, axis: int) -> _Lanes:
    return jax.tree.map(lambda a: jnp.take(a, order, axis), lanes)


def _history(costs, figures: dict[str, Any], limits: Limits) -> Float[Array, "lane record"]:
    """The costs kept of each lane, NaN once it has ended."""
    epochs = figures["epochs"][:, None]
    costs = jnp.where(limits.records == epochs, figures["final_cost"][:, None], costs)
    return jnp.where(limits.records <= epochs, costs, jnp.nan)


# --- a block ---


class _Segment(NamedTuple):
    """A segment that the lanes of a block have made."""

    first: Int[Array, ""]
    last: Int[Array, ""]
    slot: Int[Array, ""]  # of the history, for the next record
    begin: _Kept  # what the lanes were at its first epoch; here with what they shared then
    shared: Leaves  # at its last
    lanes: _Lanes  # likewise
    ended: Bool[Array, " lane"]  # within it
    seen: tuple[Watch, Int[Array, " lane"]] | None  # with data: watches and clocks


def _block(one: Explicit, lanes: _Lanes, shared: Leaves, first, until, limits: Limits) -> tuple[Any, Leaves, _Lanes]:
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
        on = goes & ~segment.ended & (segment.last < limits.epochs)
        moved = segment.lanes._replace(epochs=jnp.where(on, segment.last, NEVER))

        def with_figures():
            figures = _figures_of_ended(one, segment, goes & ~on, limits)
            figures = jax.vmap(choose, one.axis, one.axis)(goes & ~on, figures, moved.figures)
            return _stood_in(moved, on, one.axis)._replace(figures=figures)

        return segment.last, segment.slot, segment.shared, lax.cond(jnp.any(goes & ~on), with_figures, lambda: moved)

    lanes = _stood_in(lanes, lanes.epochs == first, one.axis)
    reached, _, shared, lanes = lax.while_loop(goes_on, to_the_next_end, (first, jnp.int32(0), shared, lanes))
    return reached, shared, lanes


def _segments(one: Explicit, lanes: _Lanes, goes, shared: Leaves, slot, first, until, limits: Limits) -> _Segment:
    """Segment after segment, up to epoch `until` or to one in which a lane ends: the last of them."""

    def quiet(segment: _Segment):
        return (segment.last < until) & ~jnp.any(segment.ended)

    def one_more(segment: _Segment) -> _Segment:
        first, lanes, shared, seen = segment.last, segment.lanes, segment.shared, None
        last = _segment_end(one, first, limits)
        if one.has_data:  # a step passes over data, beside which looks cost nothing: one loop is truth and audit
            moved, seen, after, slot = _audit(one, lanes, shared, segment.slot, first, last, limits)
        else:
            moved, after, slot = _truth(one, lanes, shared, segment.slot, first, last, limits)
        ended = goes & ~(_within(moved.best_cost, limits) & _within(_evaluated(one, moved, after)[0], limits))
        begin = _Kept(lanes.params, lanes.state, shared, lanes.best_cost)
        fell = goes & (moved.best_cost < begin.best_cost)
        if one.has_data:
            moved = moved._replace(best_epoch=jnp.where(fell, first + _low(seen[1]), lanes.best_epoch))
        else:
            moved = _keeping(one, moved, fell, begin, first)
        return _Segment(first, last, slot, begin, after, moved, ended, seen)

    begin = _Kept(lanes.params, lanes.state, shared, lanes.best_cost)
    seen = _unseen(one, lanes) if one.has_data else None
    none = _Segment(first, first, slot, begin, shared, lanes, jnp.zeros_like(goes), seen)
    return lax.while_loop(quiet, one_more, none)


def _figures_of_ended(one: Explicit, segment: _Segment, over, limits: Limits) -> dict[str, Any]:
    """Figures of the lanes that are over with a segment; of no meaning for the others."""
    first, last, begin, moved = segment.first, segment.last, segment.begin, segment.lanes
    lanes = moved._replace(params=begin.params, state=begin.state, best_cost=begin.best_cost)
    if one.has_data:
        (watch, clock), exact = segment.seen, moved
    else:
        stopped, (watch, clock), *_ = _audit(
            one, lanes._replace(history=None), begin.shared, jnp.int32(0), first, last, limits
        )
        exact = _settled(one, over, _chosen(one, segment.ended, stopped, moved), clock, first, limits)
    made = jnp.where(segment.ended, jnp.minimum(_made(clock), last - first), last - first)
    exact = exact._replace(epochs=first + made)
    window = _last_look(one, watch, lanes, exact, segment.shared)
    return _figures_of(one, lanes, exact, moved, window, limits, first)


def _keeping(one: Explicit, moved: _Lanes, fell, begin: _Kept, first) -> _Lanes:
    """The lanes, those that fell with what they were when the segment began."""
    now = begin._replace(shared=_each(begin.shared, fell.size, one.axis))
    before = jax.vmap(choose, one.axis, one.axis)(fell, now, moved.before)
    return moved._replace(before=before, best_epoch=jnp.where(fell, first, moved.best_epoch))


def _settled(one: Explicit, over, lanes: _Lanes, clock, first, limits: Limits) -> _Lanes:
    """The lanes with their best epochs, from the clock of the segment that ended them or that of their lowest cost."""
    found = clock >= _NEW_LOW
    earlier = over & ~found & (lanes.best_epoch < first)
    began = lanes.best_epoch

    def again():
        params, state, shared, best_cost = lanes.before
        kept = lanes._replace(params=params, state=state, best_cost=best_cost, history=None)
        updates = _segment_end(one, began, limits) - began
        _, (_, clock), *_ = _audit(one, kept, shared, jnp.int32(0), jnp.int32(0), _length(one), limits, updates)
        return jnp.where(earlier & (clock >= _NEW_LOW), began + _low(clock), began)

    began = lax.cond(jnp.any(earlier), again, lambda: began)
    return lanes._replace(best_epoch=jnp.where(found, first + _low(clock), began))


def _each(shared: Leaves, lanes: int, axis: int) -> Leaves:
    """What lanes share, for each of them."""
    return [jnp.repeat(jnp.expand_dims(a, axis), lanes, axis) for a in shared]


def _length(one: Explicit) -> int:
    return SEGMENT_OF_BATCHES if one.has_batches else SEGMENT


def _segment_end(one: Explicit, first, limits: Limits):
    """Where the segment that begins at `first` ends; the short segment, if any, comes first."""
    return first + 1 + (limits.epochs - first - 1) % _length(one)


def _stood_in(lanes: _Lanes, on, axis: int) -> _Lanes:
    """Lanes whose ended ones copy one that goes on: finite numbers, and no flag to look at in every epoch."""
    donor = jnp.argmax(on)

    def filled(a):
        copy = lax.dynamic_index_in_dim(a, donor, axis, keepdims=True)
        return jax.vmap(jnp.where, (axis, axis, None), axis)(on, a, jnp.squeeze(copy, axis))

    constants, params, state = jax.tree.map(filled, (lanes.constants, lanes.params, lanes.state))
    return lanes._replace(constants=constants, params=params, state=state)


# The clock of a lane within its segment, one array for two counts: the updates made, and, in units
# of _NEW_LOW, one more than the update before which the lowest cost was seen (0: not in this segment).
_NEW_LOW = 64  # a power of two above SEGMENT


def _ticked(clock, offset, runs, lower):
    return jnp.where(lower, offset + _NEW_LOW * (offset + 1), clock) + runs


def _made(clock):
    return clock % _NEW_LOW


def _low(clock):
    return clock // _NEW_LOW - 1


def _truth(one: Explicit, lanes: _Lanes, shared: Leaves, slot, first, last, limits: Limits):
    """Moves the lanes from epoch `first` to `last`: the lanes then, the state they share, the slot of the history.

    Every array carried along costs as much as a simple step. So nothing holds back a lane that has
    come to its end within the segment, and the lowest cost says whether one has: it lies outside
    the limits, and is NaN, for ever, once a cost was NaN or above the ceiling.
    """

    def epoch(constants, params, state, shared, best_cost):
        cost, _, params, state, shared = one.step(constants, params, state, shared)
        lowest = jnp.where(cost < best_cost, cost, best_cost)
        return params, state, shared, jnp.where(cost <= limits.ceiling, lowest, jnp.nan), cost

    own = one.axis
    epochs = jax.vmap(epoch, (own, own, own, None, own), (own, own, None, own, own))

    def one_epoch(now, carry):
        params, state, shared, best_cost, history, slot = carry
        *moved, cost = epochs(lanes.constants, params, state, shared, best_cost)
        return *moved, *_recorded(history, cost, slot, now, limits, own)

    begin = (lanes.params, lanes.state, shared, lanes.best_cost, lanes.history, slot)
    params, state, shared, best_cost, history, slot = _looped(one_epoch, first, last, begin)
    return lanes._replace(params=params, state=state, best_cost=best_cost, history=history), shared, slot


def _audit(one: Explicit, lanes: _Lanes, shared: Leaves, slot, first, last, limits: Limits, updates=None):
    """Moves the lanes from epoch `first` to `last`, each to its own end, and looks at every epoch.

    With a number of updates for each lane, they stop there, what they share is each one's own, and
    the clock is all that is looked at.
    Returns the lanes then, watches and clocks, the state they share, and the slot of the history.
    """

    def epoch(offset, constants, params, state, shared, best_cost, clock, watch, updates):
        cost, grads, moved, state, shared = one.step(constants, params, state, shared)
        runs = _within(cost, limits)  # what stands still keeps its cost, so that it stays so
        runs = runs if updates is None else runs & (offset < updates)
        lower = runs & (cost < best_cost)
        watch = None if watch is None else look(watch, params, cost, None if one.has_batches else grads)
        moved, best_cost = choose(runs, moved, params), jnp.where(lower, cost, best_cost)
        return moved, state, shared, best_cost, _ticked(clock, offset, runs, lower), watch, cost

    own = one.axis
    common = None if updates is None else own
    given = (None, own, own, own, common, own, own, own, own)
    epochs = jax.vmap(epoch, given, (own, own, common, own, own, own, own))

    def one_epoch(now, carry):
        *moving, history, slot = carry
        *moving, cost = epochs(now - first, lanes.constants, *moving, updates)
        return *moving, *_recorded(history, cost, slot, now, limits, own)

    def a_few(at):
        now, carry = at
        then = jnp.minimum(now + _UNTIL_A_CHECK, last)
        return then, _looped(one_epoch, now, then, carry)

    def goes_on(at):
        now, (*_, clock, _, _, _) = at
        return (now < last) & jnp.any(_made(clock) == now - first)

    watch, clock = _unseen(one, lanes)
    watch = watch if updates is None else None
    carry = (lanes.params, lanes.state, shared, lanes.best_cost, clock, watch, lanes.history, slot)
    if one.has_data:  # these epochs are the truth, of what is shared too
        carry = _looped(one_epoch, first, last, carry)
    else:
        _, carry = lax.while_loop(goes_on, a_few, (first, carry))
    params, state, shared, best_cost, clock, watch, history, slot = carry
    moved = lanes._replace(params=params, state=state, best_cost=best_cost, history=history)
    return moved, (watch, clock), shared, slot


def _unseen(one: Explicit, lanes: _Lanes) -> tuple[Watch, Int[Array, " lane"]]:
    """Watches and clocks at the start of a segment."""
    return _watch_from(one, lanes.params, lanes.best_cost), jnp.zeros_like(lanes.best_epoch)


def _looped(one_epoch: Callable[[Any, Any], Any], first, last, begin: Any) -> Any:
    """What comes of the epochs from `first` to `last`, several in a turn."""

    def one_turn(turn, carry):
        for now in range(_AT_ONCE):
            carry = one_epoch(first + turn * _AT_ONCE + now, carry)
        return carry

    turns = (last - first) // _AT_ONCE
    carry = lax.fori_loop(0, turns, one_turn, begin)
    return lax.fori_loop(first + turns * _AT_ONCE, last, one_epoch, carry)


def _recorded(history, cost, slot, now, limits: Limits, axis: int):
    """The history with this epoch's cost, if that is kept, and the slot for the next."""
    if history is None or not limits.records.size:
        return history, slot
    history = lax.dynamic_update_index_in_dim(history, cost, slot, 1 + axis)
    return history, slot + (now == limits.records[slot])


def _chosen(one: Explicit, ended, stopped: _Lanes, moved: _Lanes) -> _Lanes:
    """The lanes as the truth loop moved them; but those that ended within the segment, where they did."""
    pick = jax.vmap(choose, one.axis, one.axis)
    at_end = [(lanes.params, lanes.state, lanes.best_cost) for lanes in (stopped, moved)]
    params, state, best_cost = pick(ended, *at_end)
    return moved._replace(params=params, state=state, best_cost=best_cost)


def _watch_from(one: Explicit, params: Leaves, cost) -> Watch:
    begin = functools.partial(watch_from, by_cost=one.has_batches)
    return jax.vmap(begin, one.axis, one.axis)(params, cost)


def _last_look(one: Explicit, watch: Watch, lanes: _Lanes, after: _Lanes, shared: Leaves) -> tuple[Watch, _Ends]:
    """The watch, once it has seen where the lanes have come to; and the window's ends."""
    own = one.axis
    norms = jax.vmap(norm, own)
    cost, grads = _evaluated(one, after, shared)
    finite = jax.vmap(is_finite, own)(after.params, cost)
    watch = jax.vmap(look, own, own)(watch, after.params, cost, None if one.has_batches else grads)
    cost, grads = _evaluated(one, after._replace(params=watch.params), shared)
    once = jax.vmap(is_finite, own)(watch.params, cost)
    cost, gradient_norm = (jnp.where(once, a, jnp.nan) for a in (cost, norms(grads)))
    first = jnp.full_like(cost, jnp.nan) if one.has_batches else norms(_evaluated(one, lanes, shared)[1])
    return watch, _Ends(first, finite, cost, gradient_norm)


def _evaluated(one: Explicit, lanes: _Lanes, shared: Leaves) -> tuple[Float[Array, " lane"], Leaves]:
    """Cost and grads where the lanes are."""
    evaluate = jax.vmap(lambda *own: one.step(*own, shared)[:2], one.axis, one.axis)
    return evaluate(lanes.constants, lanes.params, lanes.state)


def _figures_of(
    one: Explicit, before: _Lanes, after: _Lanes, moved: _Lanes, seen: tuple[Watch, _Ends], limits: Limits, first
) -> dict[str, Any]:
    counts = (after.epochs, after.best_epoch, before.best_cost, after.best_cost, moved.best_cost)
    return jax.vmap(functools.partial(_figures, limits, first), one.axis, one.axis)(*seen, *counts)


def _figures(
    limits: Limits, first, watch: Watch, ends: _Ends, epochs, best_epoch, low_before, low_after, decided
) -> dict[str, Any]:
    """The figures of a lane that has ended, from its last window.

    Where two loops that round differently disagree whether it ended at all, what the truth loop found
    its lowest cost to be has decided.
    """
    lower = ends.finite & (ends.cost < low_after)
    best_cost = jnp.where(lower, ends.cost, low_after)
    met = (ends.finite & (ends.cost <= limits.target)) | (jnp.isfinite(decided) & (decided <= limits.target))
    lost = ~(ends.finite & (ends.cost <= limits.ceiling)) | jnp.isnan(decided)
    return {
        "final_cost": ends.cost,
        "best_cost": best_cost,
        "best_epoch": jnp.where(lower, epochs, best_epoch),
        "epochs": epochs,
        "gradient_norm": ends.gradient_norm,
        "target_epoch": jnp.where(met, epochs, NEVER),
        "diverged_epoch": jnp.where(lost, epochs, NEVER),
        "crossings": watch.crossings,
        "window": epochs - first,
        "growths": watch.growths,
        "progress": low_before - best_cost,
        "window_gradient_norm": ends.start_gradient_norm,
        "highest_gradient_norm": watch.highest_gradient_norm,
        "swing_gradient_norm": jnp.fmax(watch.swing, watch.swing_before),
        "params": watch.params,
    }


def _within(cost, limits: Limits):
    """Whether a lane of this cost goes on; False for NaN and −inf too."""
    return (cost > limits.target) & (cost <= limits.ceiling)
