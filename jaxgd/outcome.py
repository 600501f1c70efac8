"""What became of a lane: the figures watched while it descends, and the verdict over them.

The figures of the window (`window`, `crossings`, `growths`, `progress` and the gradient norms of
it) are taken over a lane's last segment: at most its last 50 updates. What lies between two
crossings is a swing: a single update where each overshoots, many where a ball with momentum rolls.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgd import checks
from jaxgd.descent import norm

OUTCOMES = ("pending", "converged", "trapped", "oscillating", "descending", "diverged")
PENDING, CONVERGED, TRAPPED, OSCILLATING, DESCENDING, DIVERGED = range(6)
ABSENT = len(OUTCOMES)  # no outcome, for there is no such lane: an optimizer that has fewer trials than another
NEVER = -1  # an epoch or an index that does not apply

FIGURES = {
    "outcome": "what became of the lane",
    "start_cost": "cost at the start",
    "final_cost": "cost of the last finite state",
    "best_cost": "lowest cost on the way",
    "best_epoch": "first epoch with the lowest cost, to rounding",
    "epochs": "updates made; where the lane ended before the last epoch, to rounding",
    "gradient_norm": "gradient norm of the last finite state",
    "start_gradient_norm": "gradient norm at the start",
    "target_epoch": "epoch that met the target",
    "diverged_epoch": "epoch at which cost or params left the finite numbers, or cost passed the ceiling",
    "crossings": "successive gradients in the window that point against each other; with batches, turns of the cost",
    "minimum": "which of the known minima was reached",
    "window": "updates in the lane's last segment",
    "growths": "swings in the window whose highest gradient norm outgrew that of the swing before",
    "progress": "how far the window lowered the lowest cost",
    "window_gradient_norm": "gradient norm at the start of the window",
    "highest_gradient_norm": "highest gradient norm in the window",
    "swing_gradient_norm": "highest gradient norm of the last two swings in the window",
}


def has_run(outcome: Any) -> Any:
    """Which lanes have run: of those that there are, all but the pending ones."""
    return (outcome != PENDING) & (outcome != ABSENT)


class Watch(NamedTuple):
    """What is seen of a lane along one window; no more than that, for each array costs as much as a step."""

    params: PyTree  # of the last finite state
    cost: Float[Array, ""] | None  # the last, where the lane is judged by its cost alone
    grads: PyTree  # the last; or, where the lane is judged by its cost alone, the last change of that
    crossings: Int[Array, ""]
    growths: Int[Array, ""]
    swing: Float[Array, ""]  # highest gradient norm of the present swing
    swing_before: Float[Array, ""]
    highest_gradient_norm: Float[Array, ""]


def watch_from(params: PyTree, cost: Float[Array, ""], by_cost: bool = False) -> Watch:
    """A watch before its first look, at grads or at the cost alone."""
    unseen = jnp.full_like(cost, jnp.nan)
    still = jax.tree.map(jnp.zeros_like, cost if by_cost else params)
    none = jnp.int32(0)
    return Watch(params, unseen if by_cost else None, still, none, none, unseen, unseen, unseen)


def look(watch: Watch, params: PyTree, cost: Float[Array, ""], grads: PyTree | None) -> Watch:
    """One look at a lane. To look again at a lane that stands still changes nothing.

    Without grads (those of the whole data say little of a lane that follows those of batches), a
    crossing is a turn of the cost, and there are no gradient norms.
    """
    gradient_norm = jnp.full_like(cost, jnp.nan) if grads is None else norm(grads)
    grads = _course(watch, cost) if grads is None else grads
    finite = is_finite(params, cost)
    seen = jnp.where(finite, gradient_norm, jnp.nan)  # fmax passes over what has not been, or can't be, seen
    crossed = dot(watch.grads, grads) < 0
    swing_before = jnp.where(crossed, watch.swing, watch.swing_before)
    swing = jnp.fmax(jnp.where(crossed, jnp.nan, watch.swing), seen)
    outgrows = (swing > swing_before) & (crossed | ~(watch.swing > swing_before))  # counted once a swing
    return Watch(
        params=choose(finite, params, watch.params),
        cost=None if watch.cost is None else jnp.where(finite, cost, watch.cost),
        grads=grads,
        crossings=watch.crossings + crossed,
        growths=watch.growths + outgrows,
        swing=swing,
        swing_before=swing_before,
        highest_gradient_norm=jnp.fmax(watch.highest_gradient_norm, seen),
    )


def _course(watch: Watch, cost: Float[Array, ""]) -> Float[Array, ""]:
    """The last change of the cost that was more than rounding."""
    change = cost - watch.cost
    return jnp.where(jnp.abs(change) > 8 * jnp.finfo(cost.dtype).eps * jnp.abs(cost), change, watch.grads)


def choose(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def dot(a: PyTree, b: PyTree) -> Float[Array, ""]:
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def is_finite(params: PyTree, cost: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether a state holds finite numbers alone."""
    return functools.reduce(jnp.logical_and, (jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((params, cost))))


def verdict(table: Mapping[str, Any], minimum: float | None = None, tolerance: float | None = None) -> Any:
    """Outcome codes (int8) of the figures in `table`; the first rule that holds wins.

    A gradient vanishes if its norm stays within the gradient tolerance all through the window: the
    last at most 50 updates, for the last update alone would judge a flicker around a minimum. With
    eps of the cost's dtype:

    5 diverged: cost or params left the finite numbers, or cost passed the ceiling.
    1 converged: the target was met; or the cost lies within the cost tolerance of the known
      minimum; or the gradient vanishes, where no minimum is known, or as near the known one as a
      vanishing gradient can tell.
    2 trapped: the gradient vanishes, and the cost lies above the known minimum.
    5 diverged, but slowly: no new low in the window, and the gradient norm has outgrown the start's
      by more than rounding, where most updates overshoot and at least three in four overshoot
      further than the one before; or where none does, and the lane climbs above its start.
    4 descending: the window lowered the lowest cost by more than the cost tolerance; or the swings
      shrink: the last two are less than a tenth of the widest, or they are less by more than
      rounding and at most one in four outgrew the one before; or nothing swings, and the lane is
      still on its way.
    3 oscillating: the rest.
    0 pending: not run.

    A lane that passes over batches follows the gradients of those, so it is judged by the cost of
    the whole data alone, over its last at most 10 epochs, in which it turns (`crossings`) instead of
    overshooting. It has converged only if it met the target or a known minimum; it has diverged,
    too, if it made no new low in the window and ends above its start; and it is descending if it
    made one, or if its cost does not turn.

    Args:
      table: figures by the names of `FIGURES`; NumPy arrays, or an xarray.Dataset.
      minimum: the lowest cost, if it is known.
      tolerance: as in `tolerances`.

    Returns:
      An array of codes; for a Dataset, a DataArray.

    Raises:
      ValueError: figures that are missing, costs that are no floats, or a minimum or a tolerance that is no finite
        number, or that the dtype of the costs can't hold.
      TypeError: `table` holds nothing by name.

    >>> results = sweep(lane, {"learning_rate": [0.01, 0.4, 0.9, 2]}, epochs=10)
    >>> [OUTCOMES[code] for code in verdict(results, minimum=5, tolerance=0.25).values]
    ['descending', 'converged', 'converged', 'diverged']
    """
    if not isinstance(table, Mapping) and not hasattr(table, "data_vars"):
        raise TypeError(f"verdict takes figures by name, or the result of a sweep; it got {checks.kind_of(table)}")
    if missing := [name for name in _JUDGED if name not in table]:
        raise ValueError(f"verdict: the table has no {', '.join(missing)}")
    figure = {name: np.asarray(table[name]) for name in _JUDGED}
    cost = figure["final_cost"].dtype
    if cost.kind not in "fV":
        raise ValueError(f"verdict: final_cost holds {cost}; it must hold floats")
    minimum, tolerance = checks.goal(minimum, tolerance)
    for name, limit in (("minimum", minimum), ("tolerance", tolerance)):
        if limit is not None:
            checks.within_dtype(name, limit, cost, vanishes=True)
    with np.errstate(all="ignore"):  # dead lanes hold infinities, and comparisons with NaN are False by design
        codes = judgement(figure, goal(minimum, tolerance), np)
    return table["final_cost"].copy(data=codes) if hasattr(table, "dims") else codes


class Goal(NamedTuple):
    """What lanes are judged by: numbers, so that a program does for all of them."""

    minimum: Float[Array, ""]  # the lowest cost; NaN if it isn't known
    tolerance: Float[Array, ""]  # NaN for that of the dtype


def goal(minimum: float | None, tolerance: float | None, dtype: type = np.float64) -> Goal:
    """The goal of arguments as in `verdict`."""
    return Goal(*(dtype(np.nan if number is None else number) for number in (minimum, tolerance)))


def judgement(figure: Mapping[str, Any], goal: Goal, xp: Any) -> Any:
    """`verdict` in NumPy, or, within a program, in jax.numpy."""
    cost, n, crossings = figure["final_cost"], figure["window"], figure["crossings"]
    start_cost, start_norm = figure["start_cost"], figure["start_gradient_norm"]
    swing, widest = figure["swing_gradient_norm"], figure["highest_gradient_norm"]
    eps = np.finfo(cost.dtype).eps
    within = tolerances(figure, goal, xp)
    vanishes = widest <= within.gradient
    above = cost - xp.asarray(goal.minimum, cost.dtype)
    arrived = (above <= within.cost) | (vanishes & ((above <= within.flat) | xp.isnan(goal.minimum)))
    risen = cost > start_cost + 8 * eps * xp.maximum(1, xp.abs(start_cost))
    overshoots = (2 * crossings > n) & (4 * figure["growths"] >= 3 * crossings)
    climbs = (crossings == 0) & risen
    worse = xp.isnan(widest) & risen
    rounding, rounding_here = (xp.asarray(updates * eps, cost.dtype) for updates in (figure["epochs"], n))
    outgrown = swing > start_norm * (1 + rounding)
    shrinks = (10 * swing < widest) | ((swing < widest * (1 - rounding_here)) & (4 * figure["growths"] <= crossings))
    rules = [
        (PENDING, ~(figure["epochs"] >= 0)),
        (DIVERGED, figure["diverged_epoch"] >= 0),
        (CONVERGED, (figure["target_epoch"] >= 0) | arrived),
        (TRAPPED, vanishes),
        (DIVERGED, ~(figure["progress"] > 0) & (worse | (outgrown & (overshoots | climbs)))),
        (DESCENDING, (figure["progress"] > within.cost) | shrinks | (crossings == 0)),
    ]
    codes, conditions = zip(*rules, strict=True)
    return xp.select(conditions, [xp.asarray(code, np.int8) for code in codes], np.int8(OSCILLATING))


class Tolerances(NamedTuple):
    """How near is there."""

    cost: Any  # of the cost to a known minimum
    flat: Any  # the same, where the gradient vanishes
    gradient: Any  # of the gradient norm to zero


def tolerances(figure: Mapping[str, Any], goal: Goal, xp: Any = np) -> Tolerances:
    """What counts as there, to the precision of the lanes' dtype.

    The cost: 8 eps·max(1, |minimum|), or √eps·max(1, |minimum|) where the gradient vanishes, since a
    wide valley looks flat before its bottom is reached. The gradient norm: √eps, in the cost's own
    unit where start cost and start gradient are both below 1.

    Args:
      figure: arrays; `final_cost`, `start_cost` and `start_gradient_norm` are read.
      goal: with a tolerance in place of both of the cost's; or, where no minimum is known, of the gradient's.
      xp: NumPy, or jax.numpy.
    """
    cost, start_cost, start_norm = (figure[name] for name in ("final_cost", "start_cost", "start_gradient_norm"))
    eps = np.finfo(cost.dtype).eps
    minimum, tolerance = (xp.asarray(number, cost.dtype) for number in goal)
    known, given = ~xp.isnan(minimum), ~xp.isnan(tolerance)
    size = xp.maximum(1, xp.abs(xp.where(known, minimum, cost)))
    gradient = np.sqrt(eps) * xp.minimum(1, xp.fmax(xp.abs(start_cost), start_norm))
    return Tolerances(
        xp.where(known & given, tolerance, 8 * eps * size),
        xp.where(known & given, tolerance, np.sqrt(eps) * size),
        xp.where(~known & given, tolerance, gradient),
    )


_JUDGED = (
    "start_cost",
    "final_cost",
    "epochs",
    "gradient_norm",
    "start_gradient_norm",
    "target_epoch",
    "diverged_epoch",
    "crossings",
    "window",
    "growths",
    "progress",
    "highest_gradient_norm",
    "swing_gradient_norm",
)


def told(figures: dict[str, Any], minima: Any) -> dict[str, Any]:
    """Figures of lanes [lane, ...] as a program returns them, with the minimum that each reached.

    The params become one entry per leaf: `params`, `params.x`, `params.hidden.kernel`.
    """
    params, metrics = figures.pop("params"), figures.pop("metrics", {})
    codes = figures["outcome"]
    there = np.full(len(codes), NEVER, np.int32)
    if minima is not None:
        settled = (codes == CONVERGED) | (codes == TRAPPED)
        there = np.where(settled, reached(params, minima, figures["target_epoch"] >= 0), there).astype(np.int32)
    return {"outcome": codes, **figures, "minimum": there, **metrics, **named("params", params)}


def reached(params: PyTree, minima: Any, met: Any) -> Any:
    """Index of the known minimum [minimum, params] at which each lane [lane, ...] lies, or NEVER.

    A lane lies at its nearest minimum if no coordinate is further off than eps^¼·max(1, |coordinate|),
    the distance from which a quadratic valley looks flat; a lane that met the target, at the nearest.
    """
    points = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(params)], axis=1)
    if minima is None or np.size(minima) == 0 or np.shape(minima)[1] != points.shape[1]:
        return np.full(len(points), NEVER)
    eps = np.finfo(points.dtype).eps
    nearest, least = np.full(len(points), NEVER), np.full(len(points), np.inf)
    for index, there in enumerate(np.asarray(minima)):  # few minima, many lanes
        distance = np.max(np.abs(points - there) / np.maximum(1, np.abs(there)), axis=1)
        closer = (distance < least) & ((distance <= eps**0.25) | met)
        nearest, least = np.where(closer, index, nearest), np.where(closer, distance, least)
    return nearest


def named(prefix: str, tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by the path that leads to them, joined with dots, which slashes become too.

    Raises:
      ValueError: two leaves would share a name.
    """
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        parts = (re.sub(r"[/\\]", ".", jax.tree_util.keystr((key,), simple=True)) for key in path)
        name = ".".join([prefix, *parts])
        if name in found:
            raise ValueError(f"two leaves would both be called {name}: rename one")
        found[name] = leaf
    return found
