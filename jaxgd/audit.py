"""The audit: a lane's last segment once more, looked at epoch by epoch, for the figures that tell what became of it.

The loop that moves the lanes carries only what decides. Once all have ended, each one's last segment
runs again from what was kept when it began, up to the lane's own end. Lanes that share nothing are
audited side by side, whenever it was that they ended; those that share a part of their state, with all
that share the same.

With data there is no audit: a step passes over that, beside which looks cost nothing, so that the one
loop looks at every epoch.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxgd.descent import norm
from jaxgd.lanes import Begin, Lanes, Limits, evaluated, length_of, looped, segment_end, within
from jaxgd.outcome import NEVER
from jaxgd.program import Explicit, Leaves
from jaxgd.watch import Watch, by_cost, changes, choose, is_finite, look, watch_from

_UNTIL_A_CHECK = 10  # epochs that an audit makes before it asks whether any lane goes on


class Seen(NamedTuple):
    """What is looked at along a segment."""

    watch: Watch
    clock: Int[Array, " lane"]


class Ends(NamedTuple):
    """What the two ends of a window are."""

    start_gradient_norm: Float[Array, " lane"]  # NaN over minibatches
    cost: Float[Array, " lane"]  # of the last finite state; NaN if there was none
    gradient_norm: Float[Array, " lane"]  # likewise
    changed: Bool[Array, " lane"]  # whether the window as a whole changed a param by more than rounding


# --- looks ---

# The clock of a lane within its segment, one array for two counts: the updates made, and, in units
# of _NEW_LOW, one more than the update before which the lowest cost was seen (0: not in this segment).
_NEW_LOW = 64  # a power of two above SEGMENT


def _ticked(clock, offset, runs, lower):
    return jnp.where(lower, offset + _NEW_LOW * (offset + 1), clock) + runs


def updates_made(seen: Seen):
    """How many updates each lane made in its segment."""
    return seen.clock % _NEW_LOW


def epoch_of_low(clock, first):
    """The epoch of the lowest cost, by the clock of the segment from `first` on; of no meaning if that saw none."""
    return first + clock // _NEW_LOW - 1


def unseen(one: Explicit, params: Leaves, cost) -> Seen:
    """What has been looked at when a segment begins."""
    begin = functools.partial(watch_from, by_cost=one.has_batches)
    return Seen(one.over_lanes(begin, (True, True))(params, cost), jnp.zeros(cost.shape, jnp.int32))


def watched(one: Explicit, offset, count: int, constants: Leaves, moving, updates, limits: Limits, is_each=False):
    """Some epochs of lanes that are looked at, each up to its own end, or until it has made so many updates.

    Args:
      offset: epochs since the segment began.
      count: how many more to make.
      moving: params, state, what is shared (one for all, or each lane's own), lowest cost, and what has been seen.

    Returns:
      What moves, so many epochs later, and the costs before each.
    """

    def epoch(offset, constants, params, state, shared, best_cost, seen, updates):
        cost, _, moved, state, shared = one.step(constants, params, state, shared)
        runs = within(cost, limits) & is_finite(params)  # what stands still keeps its cost, so that it stays so
        runs = runs if updates is None else runs & (offset < updates)
        lower = runs & (cost < best_cost)
        watch = look(seen.watch, params, cost, moved, updates_made(seen) == offset)
        moved, best_cost = choose(runs, moved, params), jnp.where(lower, cost, best_cost)
        return (moved, state, shared, best_cost, Seen(watch, _ticked(seen.clock, offset, runs, lower))), cost

    def of_one(offset, constants, *moving_and_updates):
        *moving, updates = moving_and_updates
        costs = []
        for ahead in range(count):
            moving, cost = epoch(offset + ahead, constants, *moving, updates)
            costs.append(cost)
        return moving, costs if one.has_data else []

    moves = (True, True, is_each, True, True)
    many = one.over_lanes(of_one, (False, True, *moves, True), (moves, True), as_one=True)
    return many(offset, constants, *moving, updates)


def last_look(one: Explicit, seen: Seen, lanes: Lanes, shared: Leaves, offset, limits: Limits) -> Seen:
    """What has been seen of lanes with data once a segment is over, and they are looked at where they have come to."""
    if not one.has_batches:
        moving = (lanes.params, lanes.state, shared, lanes.best_cost, seen)
        made = jnp.full_like(lanes.place, offset)
        return watched(one, offset, 1, lanes.constants, moving, made, limits)[0][-1]
    cost, _ = evaluated(one, lanes, shared)  # the next update would be a pass over all minibatches

    def look_at(watch, params, cost, made, offset):
        return look(watch, params, cost, params, made == offset)

    own = (True, True, True, True, False)
    watch = one.over_lanes(look_at, own)(seen.watch, lanes.params, cost, updates_made(seen), offset)
    return seen._replace(watch=watch)


# --- audits ---


def audited(one: Explicit, lanes: Lanes, limits: Limits) -> dict[str, Any]:
    """Figures of the lanes of a block, without data, all of which have ended; of no meaning for those never used."""
    begin, best_cost, repeats = lanes.last
    updates = jnp.where(begin.first == NEVER, 0, segment_end(one, begin.first, limits) - begin.first)
    params, lowest, seen = _by_what_they_share(one, lanes.constants, begin, updates, limits)
    made = jnp.minimum(updates_made(seen), updates)
    epochs = jnp.where(repeats, limits.epochs, begin.first + made)
    low = jnp.where(seen.clock < _NEW_LOW, begin.first - begin.since_low, epoch_of_low(seen.clock, begin.first))
    start = lanes._replace(params=begin.params, state=begin.state, best_cost=begin.best_cost)
    end = start._replace(params=params, best_cost=lowest, epochs=epochs)
    return figures(one, start, end, seen.watch, begin.shared, made, low, best_cost, limits, is_each=True)


def _by_what_they_share(one: Explicit, constants: Leaves, begin: Begin, updates, limits: Limits):
    """Lanes at the ends of their last segments: params, lowest cost, what was seen.

    What they share is one for all while they descend, and so it is here: to raise the same number to
    the same power for each lane would take longer than all the rest.
    """
    if not (begin.shared and one.on_cpu):
        return _rerun(one, constants, begin, updates, limits, is_each=True)

    def one_group(carry):
        waiting, found = carry
        now = waiting & (begin.first == jnp.min(jnp.where(waiting, begin.first, limits.epochs)))
        shared = [lax.dynamic_index_in_dim(a, jnp.argmax(now), one.axis, keepdims=False) for a in begin.shared]
        new = _rerun(one, constants, begin._replace(shared=shared), jnp.where(now, updates, 0), limits)
        return waiting & ~now, one.over_lanes(choose, (True, True, True))(now, new, found)

    nothing = begin.params, begin.best_cost, unseen(one, begin.params, begin.best_cost)
    return lax.while_loop(lambda carry: jnp.any(carry[0]), one_group, (begin.first != NEVER, nothing))[1]


def _rerun(one: Explicit, constants: Leaves, begin: Begin, updates, limits: Limits, is_each: bool = False):
    """Lanes so many updates after their segments began, or at their own ends: params, lowest cost, what was seen.

    What is shared is one for all, or each lane's own.
    """

    def a_few(at):
        now, moving = at
        until = now + _UNTIL_A_CHECK
        return until, looped(epochs, one, now, _UNTIL_A_CHECK, moving)

    def epochs(offset, moving, count):
        return watched(one, offset, count, constants, moving, updates, limits, is_each)[0]

    def goes_on(at):
        now, (*_, seen) = at
        return jnp.any((updates_made(seen) == now) & (now < updates))

    seen = unseen(one, begin.params, begin.best_cost)
    start = (begin.params, begin.state, begin.shared, begin.best_cost, seen)
    if one.on_cpu:
        now, end = lax.while_loop(goes_on, a_few, (jnp.int32(0), start))
    else:  # to ask takes longer than to go on
        now = length_of(one)
        end = looped(epochs, one, jnp.int32(0), now, start)
    params, _, _, best_cost, seen = epochs(now, end, 1)  # where they have come to, and where they would go
    return params, best_cost, seen


# --- figures ---


def figures(
    one: Explicit,
    start: Lanes,
    end: Lanes,
    watch: Watch,
    shared: Leaves,
    made,
    best_epoch,
    decided,
    limits: Limits,
    is_each=False,
) -> dict[str, Any]:
    """Figures of lanes by the start and the end of their last window, and by what was seen in between.

    Args:
      made: updates in the window.
      best_epoch: of the lowest cost, unless the end's is lower.
      decided: the lowest costs by which they were found to have ended.
    """
    ends = _ends(one, watch, start, shared, is_each)
    counts = (end.epochs, best_epoch, start.best_cost, end.best_cost, decided, made)
    return one.over_lanes(functools.partial(figures_of, limits), [True] * 8, as_one=True)(watch, ends, *counts)


def _ends(one: Explicit, watch: Watch, start: Lanes, shared: Leaves, is_each) -> Ends:
    """The two ends of a window, once the watch has seen the last state."""
    norms = one.over_lanes(norm, (True,))
    cost, grads = evaluated(one, start._replace(params=watch.params), shared, is_each)
    once = one.over_lanes(is_finite, (True, True))(watch.params, cost)
    cost, gradient_norm = (jnp.where(once, a, jnp.nan) for a in (cost, norms(grads)))
    first = jnp.full_like(cost, jnp.nan) if one.has_batches else norms(evaluated(one, start, shared, is_each)[1])
    return Ends(first, cost, gradient_norm, one.over_lanes(_changed, (True, True))(start.params, watch.params))


def _changed(before: Leaves, after: Leaves) -> Bool[Array, ""]:
    return changes(after, [b - a for a, b in zip(after, before, strict=True)])


def figures_of(
    limits: Limits, watch: Watch, ends: Ends, epochs, best_epoch, low_before, low_after, decided, made
) -> dict[str, Any]:
    """The figures of a lane that has ended, from its last window.

    Where two loops that round differently disagree whether it ended at all, what the truth loop found
    its lowest cost to be has decided.
    """
    lower = watch.finite & (ends.cost < low_after)
    best_cost = jnp.where(lower, ends.cost, low_after)
    met = watch.finite & ((ends.cost <= limits.target) | (jnp.isfinite(decided) & (decided <= limits.target)))
    lost = ~(watch.finite & (ends.cost <= limits.ceiling)) | jnp.isnan(decided)
    unknown = jnp.full_like(best_cost, jnp.nan)
    course = {"crossings": watch.crossings, "window_cost": unknown, "late_cost": unknown, "cost_noise": unknown}
    return {
        "final_cost": ends.cost,
        "best_cost": best_cost,
        "best_epoch": jnp.where(lower, epochs, best_epoch),
        "epochs": epochs,
        "gradient_norm": ends.gradient_norm,
        "target_epoch": jnp.where(met, epochs, NEVER),
        "diverged_epoch": jnp.where(lost, epochs, NEVER),
        "window": made,
        "progress": low_before - best_cost,
        "moves": jnp.maximum(watch.moves, ends.changed),
        "growths": watch.growths,
        "highest_update_norm": watch.highest_update_norm,
        "last_update_norm": watch.last_update_norm,
        "swing_update_norm": jnp.fmax(watch.swing, watch.swing_before),
        "window_gradient_norm": ends.start_gradient_norm,
        "highest_cost": watch.highest_cost,
        "params": watch.params,
        **(course if watch.costs is None else by_cost(watch.costs)),
    }
