"""The outcome of a lane: its statistics, and the verdict over them.

The statistics of the window (`window`, `moves`, `crossings`, `growths`, `progress` and others) are taken over a
lane's last segment, as `watch` describes it. The verdict asks how the params move, and the gradient why.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxgd import checks

OUTCOMES = ("pending", "converged", "trapped", "oscillating", "descending", "diverged", "stopped")
PENDING, CONVERGED, TRAPPED, OSCILLATING, DESCENDING, DIVERGED, STOPPED = range(7)
ABSENT = len(OUTCOMES)  # no outcome, for there is no such lane: an optimizer that has fewer trials than another
AT_REST = 8  # times the rounding of the params: updates up to that are rest, where the gradient vanishes
NEVER = -1  # an epoch or an index that does not apply

FIGURES = {
    "outcome": "the verdict over the lane's statistics",
    "start_cost": "cost at the start",
    "final_cost": "cost of the last finite state",
    "best_cost": "lowest cost on the way",
    "best_epoch": "first epoch with the lowest cost, to rounding",
    "epochs": "updates made; where the lane ended before the last epoch, to rounding",
    "gradient_norm": "gradient norm of the last finite state",
    "start_gradient_norm": "gradient norm at the start",
    "target_epoch": "epoch that met the target",
    "diverged_epoch": "epoch at which cost or params left the finite numbers, or cost passed the ceiling",
    "minimum": "which of the known minima was reached",
    "distance": "distance of the last finite state from the start",
    "rounding": "rounding of the params, √Σ (eps·x)², at the start or of the last finite state, whichever is larger",
    "window": "updates in the lane's last segment",
    "progress": "how far the window lowered the lowest cost",
    "moves": "updates from the window's states, the last included, that change a param by more than rounding",
    "crossings": "turns: successive moves that point against each other; over minibatches, turns of the cost",
    "growths": "swings in the window, from turn to turn, whose highest update norm outgrew that of the swing before",
    "highest_update_norm": "highest norm of an update in the window",
    "last_update_norm": "norm of the update from the last finite state, where it would go",
    "swing_update_norm": "highest norm of an update in the last two swings of the window",
    "window_gradient_norm": "gradient norm at the start of the window",
    "highest_cost": "highest cost in the window",
    "window_cost": "over minibatches, median cost of the first half of the window",
    "late_cost": "over minibatches, median cost of the second half of the window",
    "cost_noise": "over minibatches, median change of the cost from epoch to epoch in the window",
}


def has_run(outcome: Any) -> Any:
    """Which lanes have run: of those that there are, all but the pending ones."""
    return (outcome != PENDING) & (outcome != ABSENT)


def verdict(table: Mapping[str, Any], minimum: float | None = None, tolerance: float | None = None) -> Any:
    """Outcome codes (int8) of the statistics in `table`; the first rule that holds wins.

    The rules ask how the params move over the window, the last at most 50 updates. Every tolerance is relative to what
    the lane itself has seen, or to rounding, so that cost → a·cost + b, with rates that go with it, and params →
    c·params + d change no outcome, as far as the dtypes resolve it. With eps of the cost's dtype, ρ = `rounding` and
    g₀ = `start_gradient_norm`:

    - The cost has reached the known minimum m if |cost − m| ≤ 8 eps·max(|cost|, |m|), or ≤ tolerance. A cost lower
      than that shows that m is no minimum: the lane is judged without it.
    - The gradient vanishes if its norm at the end is at most g₀·max(eps^¾, 64 ρ/distance). The second term is the
      rounding of the params times the mean curvature g₀/distance of the way; it counts up to √eps.
    - The lane is at rest if no update in the window, nor the window as a whole, changed a param by more than
      4 eps·|param|. Where the gradient vanishes, it also is if the last update is zero; or if the norm of that is at
      most 8 ρ, where most moves turn, else at most 8 ρ/window, for updates that do not turn add up, and the window
      lowered the cost by no more than 8 eps·|cost|, or eps² of the whole fall; or if the lane turns, with costs within
      8 eps·|cost| of the lowest ever, and gradient norms at both ends of the window within √eps·g₀.

    0 pending: not run.
    5 diverged: cost or params left the finite numbers, or cost passed the ceiling; but not if the last finite state has
      reached the known minimum, and only its gradient is not a number, as that of a norm at 0.
    1 converged: the target was met; or the known minimum is reached; or the lane is at rest, its gradient vanishes, and
      the cost is above the known minimum by at most 8 eps·max(|cost|, |m|), and the lesser of gradient norm · distance
      and √eps·(start cost − m); or no minimum is known.
    2 trapped: at rest, its gradient vanishes, though not from the start on, and the cost lies above the known minimum.
    6 stopped: at rest, and the gradient does not vanish, or was zero from the start.
    5 diverged, but slowly: no new low in the window, and the cost is above the start's, or was never below it, where
      most moves turn, and at least three in four swings outgrow the one before; or where no move turns, the cost was
      never below the start's, and is at its highest in the window, with an update as long as any, to rounding; or has
      come down from that, but at the pace of the window cost or gradient norm, by differences and by ratios, would not
      be back at the start's after as many epochs again.
    4 descending: the window lowered the lowest cost by more than 8 eps·|cost|, but not by less than a hundredth of the
      costs' range in the window, where most moves turn, and more than one in four swings outgrew the one before; or no
      move turns; or the swings shrink: the last two are less than a tenth of the widest, where at most half of them
      outgrew the one before, or less than nine tenths, where at most one in four did, or less by more than rounding,
      where none did.
    3 oscillating: the rest, which moves within bounds and gets no lower.

    A lane that passes over several minibatches is judged by the cost of the whole data over its last at most 10 epochs,
    against its own noise (`cost_noise`): with the medians of the window's halves as `window_cost` and `late_cost`. It
    has diverged slowly if the later one is higher by more than four times the noise, and above the start's, the cost
    turns at most twice, and it grows since the lowest cost faster than the square of the epochs. It descends if the
    window made a new low and the later median is lower, or is so by three times the noise, or the window has less than
    four epochs, or the cost does not turn and does not rise.

    Pauses longer than the window, as of gradients accumulated over more than 50 updates, look like rest.

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

    Warns:
      UserWarning: a cost is below the minimum by more than rounding, or than the tolerance.

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
    warn_below_minimum(figure["best_cost"], minimum, tolerance)
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


def reach(cost: Any, minimum: float, tolerance: float | None) -> Any:
    """How far a cost may be off the known minimum: the tolerance, or 8 eps·max(|cost|, |minimum|)."""
    eps = float(np.finfo(cost.dtype).eps)
    return 8 * eps * np.maximum(np.abs(cost), abs(minimum)) if tolerance is None else tolerance


def below_minimum(best_cost: Any, minimum: float | None, tolerance: float | None) -> str:
    """That a cost lies below the stated minimum by more than rounding or the tolerance; empty if none does.

    Args:
      best_cost: the lowest costs of some lanes.
    """
    costs = np.asarray(best_cost)
    costs = costs[np.isfinite(costs)]
    if minimum is None or not costs.size:
        return ""
    lowest = costs.min()
    if not lowest < minimum - reach(lowest, minimum, tolerance):
        return ""
    below = f"the lowest cost, {float(lowest)!r}, is below the stated minimum, {minimum!r}"
    return f"{below}: lanes that come below it are judged without one"


def warn_below_minimum(best_cost: Any, minimum: float | None, tolerance: float | None) -> None:
    """A UserWarning of what `below_minimum` says."""
    if said := below_minimum(best_cost, minimum, tolerance):
        warnings.warn(said, stacklevel=3)


def judgement(figure: Mapping[str, Any], goal: Goal, xp: Any) -> Any:
    """`verdict` in NumPy, or, within a program, in jax.numpy."""
    cost, moves, crossings = (figure[name] for name in ("final_cost", "moves", "crossings"))
    gradient_norm, start_norm = figure["gradient_norm"], figure["start_gradient_norm"]
    within = tolerances(figure, goal, xp)
    eps = np.finfo(cost.dtype).eps
    above = cost - within.minimum
    arrived = above <= within.cost
    slope = xp.maximum(gradient_norm, figure["window_gradient_norm"])
    slope = xp.where(xp.isnan(figure["window_gradient_norm"]), gradient_norm, slope)  # over minibatches
    still = moves == 0
    flickers = (crossings > 0) & (figure["highest_cost"] <= figure["best_cost"] + 8 * eps * xp.abs(cost))
    steps = xp.where(2 * crossings >= moves, 1, figure["window"])  # those that point the same way add up
    fall = xp.maximum(figure["start_cost"] - figure["best_cost"], 0)
    quiet = figure["progress"] <= xp.maximum(8 * eps * xp.abs(cost), eps * eps * fall)
    rests = (
        still
        | (figure["last_update_norm"] == 0)
        | ((figure["last_update_norm"] * steps <= AT_REST * figure["rounding"]) & quiet)
    )
    settles = (gradient_norm <= within.gradient) & rests
    settles |= within.is_given & (slope <= within.gradient)
    settles |= flickers & (slope <= np.sqrt(eps) * start_norm)
    is_known = ~xp.isnan(within.minimum)
    near = xp.where(is_known, above <= within.flat, (start_norm > 0) | within.is_given)
    lost = (figure["diverged_epoch"] >= 0) & ~(arrived & xp.isnan(gradient_norm))
    rules = [
        (PENDING, ~(figure["epochs"] >= 0)),
        (DIVERGED, lost),
        (CONVERGED, (figure["target_epoch"] >= 0) | arrived | (settles & near)),
        (TRAPPED, settles & is_known & (start_norm > 0)),
        (STOPPED, still),
        (DIVERGED, _runs_away(figure, xp)),
        (DESCENDING, _descends(figure, xp)),
    ]
    codes, conditions = zip(*rules, strict=True)
    return xp.select(conditions, [xp.asarray(code, np.int8) for code in codes], np.int8(OSCILLATING))


def _runs_away(figure: Mapping[str, Any], xp: Any) -> Any:
    """Which lanes diverge, though all their numbers are finite yet."""
    cost, start_cost, crossings = (figure[name] for name in ("final_cost", "start_cost", "crossings"))
    eps = np.finfo(cost.dtype).eps
    ground = 8 * eps * xp.maximum(xp.abs(start_cost), xp.abs(cost))
    risen, never_below = cost > start_cost + ground, figure["best_cost"] >= start_cost - 8 * eps * xp.abs(start_cost)
    grows = (2 * crossings >= figure["moves"]) & (4 * figure["growths"] >= 3 * crossings)
    epochs, window = (xp.asarray(figure[name], cost.dtype) for name in ("epochs", "window"))
    returns = (figure["highest_cost"] - cost) * epochs >= (cost - start_cost) * window
    slope, start_slope = figure["gradient_norm"], figure["start_gradient_norm"]
    returns &= xp.log(figure["window_gradient_norm"] / slope) * epochs >= xp.log(slope / start_slope) * window
    fades = figure["last_update_norm"] < figure["highest_update_norm"] * (1 - xp.asarray(window * eps, cost.dtype))
    climbs = (crossings == 0) & never_below & risen & xp.where(cost < figure["highest_cost"], ~returns, ~fades)
    late, before, best = (figure[name] for name in ("late_cost", "window_cost", "best_cost"))
    since = epochs - xp.asarray(figure["best_epoch"], cost.dtype)
    then, now = since - window * 0.75, since - window * 0.25  # about when each half of the window was
    outgrows = (late - best) * then > (before - best) * (2 * now - then)
    worse = outgrows & (late > start_cost + ground) & (late - before > 4 * figure["cost_noise"]) & (crossings <= 2)
    has_batches = ~xp.isnan(late)
    return ~(figure["progress"] > 0) & xp.where(has_batches, worse, (grows & (risen | never_below)) | climbs)


def _descends(figure: Mapping[str, Any], xp: Any) -> Any:
    """Which lanes are still on their way."""
    cost, crossings, growths = (figure[name] for name in ("final_cost", "crossings", "growths"))
    swing, widest = figure["swing_update_norm"], figure["highest_update_norm"]
    eps = np.finfo(cost.dtype).eps
    swings = (2 * crossings >= figure["moves"]) & (4 * growths > crossings)
    by_chance = swings & (100 * figure["progress"] < figure["highest_cost"] - figure["best_cost"])
    lowers = (figure["progress"] > 8 * eps * xp.abs(cost)) & ~by_chance
    rounding = xp.asarray(figure["window"] * eps, cost.dtype)
    shrinks = (10 * swing < widest) & (2 * growths <= crossings)
    shrinks |= (10 * swing < 9 * widest) & (4 * growths <= crossings)
    shrinks |= (swing < widest * (1 - rounding)) & (growths == 0)
    late, before = figure["late_cost"], figure["window_cost"]
    fallen = before - late
    falls = (lowers & (fallen > 0)) | ((fallen > 3 * figure["cost_noise"]) & (late - figure["best_cost"] <= fallen))
    falls |= (figure["window"] < 4) | ((crossings == 0) & (fallen >= 0))
    return xp.where(xp.isnan(late), lowers | shrinks | (crossings == 0), falls)


class Tolerances(NamedTuple):
    """How near is there."""

    minimum: Any  # the known one; NaN where there is none, or the lane's lowest cost lies below it
    cost: Any  # of the cost to that
    flat: Any  # the same, where the gradient vanishes
    gradient: Any  # of the gradient norm to zero
    is_given: bool | Any  # whether that is the user's


def tolerances(figure: Mapping[str, Any], goal: Goal, xp: Any = np) -> Tolerances:
    """What counts as there, as `verdict` describes it.

    Args:
      figure: arrays; `start_cost`, `final_cost`, `best_cost`, `gradient_norm`, `start_gradient_norm`, `distance` and
        `rounding`.
      goal: with a tolerance in place of both of the cost's; or, where no minimum is known, of the gradient's.
      xp: NumPy, or jax.numpy.
    """
    cost, best, gradient_norm, start_norm, distance, rounding = (
        figure[name]
        for name in ("final_cost", "best_cost", "gradient_norm", "start_gradient_norm", "distance", "rounding")
    )
    eps = np.finfo(cost.dtype).eps
    minimum, tolerance = (xp.asarray(number, cost.dtype) for number in goal)
    given, stated = ~xp.isnan(tolerance), ~xp.isnan(minimum)
    allowed = xp.where(given, tolerance, 8 * eps * xp.maximum(xp.abs(minimum), xp.abs(best)))
    minimum = xp.where(best < minimum - allowed, xp.asarray(np.nan, cost.dtype), minimum)
    near = 8 * eps * xp.maximum(xp.abs(minimum), xp.abs(cost))
    share = 64 * rounding / xp.where(distance > 0, distance, 1)
    share = xp.where((share <= np.sqrt(eps)) & (distance > 0), share, 0)
    fall = np.sqrt(eps) * xp.maximum(figure["start_cost"] - minimum, 0)
    slope = xp.minimum(gradient_norm * distance, fall)
    gradient = start_norm * xp.maximum(share, xp.asarray(eps**0.75, cost.dtype))
    return Tolerances(
        minimum,
        xp.where(given, tolerance, near),
        xp.where(given, tolerance, near + slope),
        xp.where(given & ~stated, tolerance, gradient),
        given & ~stated,
    )


_JUDGED = (
    "start_cost",
    "final_cost",
    "best_cost",
    "best_epoch",
    "epochs",
    "gradient_norm",
    "start_gradient_norm",
    "target_epoch",
    "diverged_epoch",
    "distance",
    "rounding",
    "window",
    "progress",
    "moves",
    "crossings",
    "growths",
    "highest_update_norm",
    "last_update_norm",
    "swing_update_norm",
    "window_gradient_norm",
    "highest_cost",
    "window_cost",
    "late_cost",
    "cost_noise",
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
