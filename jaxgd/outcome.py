"""What became of a lane: the figures watched while it descends, and the verdict over them.

The figures of the window (`window`, `crossings`, `growths`, `progress` and the gradient norms of
it) are taken over a lane's last segment: at most its last 50 updates.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgd.descent import norm

OUTCOMES = ("pending", "converged", "trapped", "oscillating", "descending", "diverged")
PENDING, CONVERGED, TRAPPED, OSCILLATING, DESCENDING, DIVERGED = range(6)
NEVER = -1  # an epoch or an index that does not apply

FIGURES = {
    "outcome": "what became of the lane",
    "start_cost": "cost at the start",
    "final_cost": "cost of the last finite state",
    "best_cost": "lowest cost on the way",
    "best_epoch": "first epoch with the lowest cost",
    "epochs": "updates made",
    "gradient_norm": "gradient norm of the last finite state",
    "start_gradient_norm": "gradient norm at the start",
    "target_epoch": "epoch that met the target",
    "diverged_epoch": "epoch at which cost or params left the finite numbers, or cost passed the ceiling",
    "crossings": "successive gradients in the window that point against each other",
    "minimum": "which of the known minima was reached",
    "window": "updates in the lane's last segment",
    "growths": "updates in the window after which the gradient norm had grown",
    "progress": "how far the window lowered the lowest cost",
    "window_gradient_norm": "gradient norm at the start of the window",
    "highest_gradient_norm": "highest gradient norm in the window",
}


class Watch(NamedTuple):
    """What is seen of a lane along one window."""

    params: PyTree  # of the last finite state, as are cost and gradient_norm
    cost: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    finite: Bool[Array, ""]  # whether the last state was
    grads: PyTree
    crossings: Int[Array, ""]
    growths: Int[Array, ""]
    window_gradient_norm: Float[Array, ""]
    highest_gradient_norm: Float[Array, ""]


def watch_from(params: PyTree, cost: Float[Array, ""]) -> Watch:
    """A watch before its first look."""
    unseen = jnp.full_like(cost, jnp.nan)
    still = jax.tree.map(jnp.zeros_like, params)
    return Watch(params, unseen, unseen, jnp.bool(False), still, jnp.int32(0), jnp.int32(0), unseen, unseen)


def look(watch: Watch, params: PyTree, cost: Float[Array, ""], grads: PyTree) -> Watch:
    """One look at a lane. To look again at a lane that stands still changes nothing."""
    gradient_norm = norm(grads)
    finite = jnp.isfinite(cost) & all_finite(params)
    highest = watch.highest_gradient_norm
    return Watch(
        params=choose(finite, params, watch.params),
        cost=jnp.where(finite, cost, watch.cost),
        gradient_norm=jnp.where(finite, gradient_norm, watch.gradient_norm),
        finite=finite,
        grads=grads,
        crossings=watch.crossings + (dot(watch.grads, grads) < 0),
        growths=watch.growths + (finite & (gradient_norm > watch.gradient_norm)),  # not at the first look
        window_gradient_norm=jnp.where(
            jnp.isnan(watch.window_gradient_norm), gradient_norm, watch.window_gradient_norm
        ),
        highest_gradient_norm=jnp.where(finite & ~(gradient_norm <= highest), gradient_norm, highest),
    )


def choose(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def dot(a: PyTree, b: PyTree) -> Float[Array, ""]:
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def verdict(table: Mapping[str, Any], minimum: float | None = None, tolerance: float | None = None) -> Any:
    """Outcome codes (int8) of the figures in `table`; the first rule that holds wins.

    With |g₀|, |g| the gradient norms at the start and the end of the window of N updates, and eps
    of the cost's dtype:

    5 diverged: cost or params left the finite numbers, or cost passed the ceiling; or N sees no
      new low while the gradient norm grew, |g| > |g₀|(1 + N eps) and after at least three quarters
      of the updates, and either most updates reversed (each overshoots further than the last) or
      the lane has climbed above its start.
    1 converged: the target was met; or the cost lies within the cost tolerance of the minimum;
      or, no minimum known, the gradient vanishes: its norm stays below the gradient tolerance
      all through the window.
    2 trapped: the gradient vanishes, and the cost lies above the known minimum.
    4 descending: the window lowered the lowest cost by more than the cost tolerance; or most
      updates reversed and |g| < |g₀|(1 - N eps); or none did, and the lane is still on its way.
    3 oscillating: the rest.
    0 pending: not run.

    Args:
      table: figures by the names of `FIGURES`; NumPy arrays, or an xarray.Dataset.
      minimum: the lowest cost, if it is known.
      tolerance: of the cost to a known minimum, absolute, in place of 8 eps·max(1, |minimum|);
        where no minimum is known, of the gradient norm, in place of √eps.

    Returns:
      An array of codes; for a Dataset, a DataArray.
    """
    figure = {name: np.asarray(table[name]) for name in _JUDGED}
    cost, n = figure["final_cost"], figure["window"]
    eps = np.finfo(cost.dtype).eps
    known = minimum is not None
    with np.errstate(all="ignore"):  # dead lanes hold infinities, and comparisons with NaN are False by design
        resolution = 8 * eps * np.maximum(1, np.abs(minimum if known else cost))
        cost_tolerance = tolerance if known and tolerance is not None else resolution
        gradient_tolerance = tolerance if not known and tolerance is not None else np.sqrt(eps)
        start, end = figure["window_gradient_norm"], figure["gradient_norm"]
        no_new_low = ~(figure["progress"] > 0)
        reverses = 2 * figure["crossings"] > n
        grows = (end > start * (1 + n * eps)) & (4 * figure["growths"] >= 3 * n)
        climbed = cost > figure["start_cost"] + 8 * eps * np.maximum(1, np.abs(figure["start_cost"]))
        vanishes = figure["highest_gradient_norm"] <= gradient_tolerance
        at_minimum = (cost <= minimum + cost_tolerance) if known else vanishes
        rules = {
            PENDING: ~(figure["epochs"] >= 0),
            DIVERGED: (figure["diverged_epoch"] >= 0) | (no_new_low & grows & (n > 0) & (reverses | climbed)),
            CONVERGED: (figure["target_epoch"] >= 0) | at_minimum,
            TRAPPED: vanishes,
            DESCENDING: (figure["progress"] > cost_tolerance)
            | (reverses & (end < start * (1 - n * eps)))
            | (figure["crossings"] == 0),
        }
    codes = np.select(list(rules.values()), list(rules), default=OSCILLATING).astype(np.int8)
    return table["final_cost"].copy(data=codes) if hasattr(table, "dims") else codes


_JUDGED = (
    "start_cost",
    "final_cost",
    "epochs",
    "gradient_norm",
    "target_epoch",
    "diverged_epoch",
    "crossings",
    "window",
    "growths",
    "progress",
    "window_gradient_norm",
    "highest_gradient_norm",
)


def judged(figures: dict[str, Any], minimum: float | None, minima: Any, tolerance: float | None) -> dict[str, Any]:
    """Figures of lanes [lane, ...] with their outcome and the minimum that each reached.

    The params become one entry per leaf: `params`, `params.x`, `params.hidden.kernel`.
    """
    params = figures.pop("params")
    codes = verdict(figures, minimum, tolerance)
    settled = np.isin(codes, (CONVERGED, TRAPPED))
    return {
        "outcome": codes,
        **figures,
        "minimum": np.where(settled, reached(params, minima, figures["target_epoch"] >= 0), NEVER).astype(np.int32),
        **named("params", params),
    }


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
    """The leaves of a tree by the path that leads to them, joined with dots."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join([prefix, *(jax.tree_util.keystr((key,), simple=True) for key in path)]): v for path, v in leaves}
