"""What is observed of a lane along its last window, in constant memory.

A window is a lane's last segment: at most its last 50 updates, or 10 epochs of several minibatches. An update that
leaves every param where it was, to rounding, is a pause: it is no move, and no turn. Two successive moves that point
against each other are a turn, or crossing; what lies between two turns is a swing, of a single update where each
overshoots, of many where a ball with momentum rolls.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgd.descent import norm

_RESTS = 4  # times eps·|param|, up to which a change of a param is rounding
_COSTS = 11  # that a window over minibatches holds: of 10 epochs, and of the start


class Watch(NamedTuple):
    """What is observed along one window; no more than that, for each array costs as much as a step."""

    params: PyTree  # of the last finite state
    finite: Bool[Array, ""]  # whether the last state was
    direction: PyTree | None  # of the last move, of length 1; None over minibatches
    costs: Float[Array, " cost"] | None  # over minibatches: the last ones
    moves: Int[Array, ""]
    crossings: Int[Array, ""]
    growths: Int[Array, ""]
    swing: Float[Array, ""]  # highest norm of a move in the present swing
    swing_before: Float[Array, ""]
    highest_update_norm: Float[Array, ""]
    last_update_norm: Float[Array, ""]
    highest_cost: Float[Array, ""]


def watch_from(params: PyTree, cost: Float[Array, ""], by_cost: bool = False) -> Watch:
    """A watch before its first look, at the updates or, over minibatches, at the cost."""
    unseen, none = jnp.full_like(cost, jnp.nan), jnp.int32(0)
    return Watch(
        params=params,
        finite=jnp.full_like(none, False, bool),
        direction=None if by_cost else jax.tree.map(jnp.zeros_like, params),
        costs=jnp.full(_COSTS, jnp.nan, cost.dtype) if by_cost else None,
        moves=none,
        crossings=none,
        growths=none,
        swing=unseen,
        swing_before=unseen,
        highest_update_norm=unseen,
        last_update_norm=unseen,
        highest_cost=unseen,
    )


def look(watch: Watch, params: PyTree, cost: Float[Array, ""], moved: PyTree, is_new: Any) -> Watch:
    """One look at a state, and at the update that leads on from it to `moved`.

    Args:
      moved: the next params. After the last epoch the lane does not go there, but where it would go says how it moves.
      is_new: whether the state has not been looked at before; a lane that has ended stands still.
    """
    finite = is_finite(params, cost)
    watch = watch._replace(
        params=choose(finite, params, watch.params),
        finite=finite,
        highest_cost=jnp.fmax(watch.highest_cost, jnp.where(finite, cost, jnp.nan)),  # fmax passes over NaN
    )
    update = jax.tree.map(jnp.subtract, moved, params)
    length = norm(update).astype(cost.dtype)
    counts = is_new & finite & jnp.isfinite(length)
    moves = counts & changes(params, update)
    watch = watch._replace(
        moves=watch.moves + moves,
        highest_update_norm=jnp.fmax(watch.highest_update_norm, jnp.where(counts, length, jnp.nan)),
        last_update_norm=jnp.where(counts, length, watch.last_update_norm),
    )
    if watch.costs is not None:
        return watch._replace(costs=jnp.where(is_new & finite, jnp.append(watch.costs[1:], cost), watch.costs))
    return _followed(watch, update, length, moves)


def _followed(watch: Watch, update: PyTree, length: Float[Array, ""], moves: Bool[Array, ""]) -> Watch:
    """The watch after an update that may be a move."""
    crossed = moves & (dot(watch.direction, update) < 0)
    swing_before = jnp.where(crossed, watch.swing, watch.swing_before)
    swing = jnp.where(moves, jnp.fmax(jnp.where(crossed, jnp.nan, watch.swing), length), watch.swing)
    outgrows = moves & (swing > swing_before) & (crossed | ~(watch.swing > swing_before))  # counted once a swing
    # Of length 1, for the product of two tiny updates would vanish, and that of two huge ones overflow.
    direction = jax.tree.map(lambda u: u / length.astype(u.dtype), update)
    return watch._replace(
        direction=choose(moves, direction, watch.direction),
        crossings=watch.crossings + crossed,
        growths=watch.growths + outgrows,
        swing=swing,
        swing_before=swing_before,
    )


def by_cost(costs: Float[Array, " cost"]) -> dict[str, Any]:
    """What the last costs over minibatches say: their turns, the medians of both halves, the median change."""
    eps = jnp.finfo(costs.dtype).eps
    seen = jnp.isfinite(costs)
    change = jnp.diff(costs)
    sign = jnp.where(jnp.abs(change) > 8 * eps * jnp.abs(costs[1:]), jnp.sign(change), 0)
    sign = jnp.where(jnp.isfinite(change), sign, 0)

    last, turns = jnp.zeros_like(costs[0]), jnp.int32(0)
    for now in sign:  # unrolled: of ten numbers
        turns = turns + (last * now < 0)
        last = jnp.where(now == 0, last, now)
    count = jnp.sum(seen)
    late = jnp.arange(costs.size) >= costs.size - (count + 1) // 2
    return {
        "crossings": turns,
        "window_cost": jnp.nanmedian(jnp.where(seen & ~late, costs, jnp.nan)),
        "late_cost": jnp.nanmedian(jnp.where(seen & late, costs, jnp.nan)),
        "cost_noise": jnp.nanmedian(jnp.where(jnp.isfinite(change), jnp.abs(change), jnp.nan)),
    }


def changes(params: PyTree, update: PyTree) -> Bool[Array, ""]:
    """Whether an update changes a param by more than its rounding."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(update), strict=True)
    return functools.reduce(
        jnp.logical_or, (jnp.any(jnp.abs(u) > _RESTS * jnp.finfo(p.dtype).eps * jnp.abs(p)) for p, u in pairs)
    )


def rounding(params: PyTree, dtype: Any) -> Float[Array, ""]:
    """√Σ (eps·x)²: the rounding of the params as a whole, each leaf by the eps of its dtype."""
    return norm(jax.tree.map(lambda x: x.astype(dtype) * float(jnp.finfo(x.dtype).eps), params))


def choose(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def dot(a: PyTree, b: PyTree) -> Float[Array, ""]:
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def is_finite(*trees: PyTree) -> Bool[Array, ""]:
    """Whether all numbers of some trees are finite."""
    return functools.reduce(jnp.logical_and, (jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trees)))
