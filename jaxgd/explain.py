"""Why a lane of a run did what it did: the lane followed once more, and what there is to compare it with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from jaxgd import lane as lanes
from jaxgd import plan as plans
from jaxgd import run as runs
from jaxgd import store
from jaxgd import watch as watching
from jaxgd.descent import norm
from jaxgd.limits import sharpness_at
from jaxgd.nearest import nearest
from jaxgd.outcome import CONVERGED, DESCENDING, DIVERGED, OUTCOMES, TRAPPED, named
from jaxgd.stability import FORMULAS, PRECONDITIONED, known_limit, known_rule, preconditioner, sharpness
from jaxgd.table import REPLICATES, best, epochs_missing
from jaxgd.trace import Trace

if TYPE_CHECKING:
    import xarray

_LOOKS, _FEW = 65, 3  # at the lane along its way; few where there are many params, and each takes long
_SMALL = 64  # params up to which the Hessian is solved whole

Index = tuple[int, ...]  # one lane of the grid


class Course(NamedTuple):
    """A lane followed once more, [look] from its start to its end."""

    epoch: Int[Array, " look"]
    params: Float[Array, "look params"]
    cost: Float[Array, " look"]
    gradient_norm: Float[Array, " look"]
    sharpness: Float[Array, " look"]
    crossings: int  # successive moves that point against each other, all the way
    lowest_curvature: float  # at the end; NaN where there are too many params to say
    preconditioned: Float[Array, " look"] | None = None  # sharpness, of an optimizer whose preconditioner is known


class Adaptive(NamedTuple):
    """What theory allows an optimizer that preconditions, with the preconditioner of the lane's own state."""

    formula: str
    limits: Float[Array, " look"]  # of the rate; NaN before the first update, which no preconditioner precedes


@dataclass(frozen=True)
class Facts:
    """What there is to say about a lane."""

    figures: "xarray.Dataset"  # the lane's own
    course: Course
    optimizer: str | None  # by its name in the config; None if that only names a function
    rule: str | None  # in `stability.FORMULAS`
    rate: float | None
    momentum: float | None
    adaptive: Adaptive | None  # None of an optimizer that does not precondition, or that theory doesn't know
    sharpness: float  # at the minimum that it settled in, or that its neighbour did; NaN if none is known
    nearest: "xarray.Dataset | None"  # the nearest setting that converged
    best: "xarray.Dataset | None"  # the best setting of the run; None if all diverged
    missing: float  # epochs, of a lane still descending; NaN if not known
    select: str  # the figure by which it is the best
    lanes: int  # in the run
    diverged: int  # of them
    remarks: list[str]
    settings: list[str]  # KEY=VALUE, which make the run's config this one lane
    folder: Path

    @property
    def outcome(self) -> str:
        return OUTCOMES[int(self.figures["outcome"])]

    @property
    def bound(self) -> float | None:
        """What rate × sharpness must not exceed; None where theory knows no bound."""
        return None if self.rule is None else float(known_limit(self.rule, 1.0, {"momentum": self.momentum}))


def explained(folder: Path, asked: Mapping[str, Any]) -> Facts:
    """The facts about the lane of a run that is nearest to some coordinates.

    Args:
      folder: of the run.
      asked: coordinates by name, as in `nearest.nearest`.

    Raises:
      ConfigError: no such lane, its config can't be run any more, or the code or a package has changed since.
      StoreError: the folder can't be read.
    """
    run = runs.reopened(folder)
    run.check_unchanged(_OTHERWISE)
    table = store.opened_table(folder).load()
    found = nearest(table, asked)
    index = tuple(found.place[str(d)] for d in table["outcome"].dims)
    figures = table.isel(found.place)
    single = lanes.at(run.config, figures)
    optimizer = single.optimizer
    given = single.lane.arguments if single.lane else optimizer.arguments
    rate, momentum = given.get("learning_rate"), given.get("momentum")
    batches = single.data is not None and single.data.batch_size is not None  # theory is of one cost
    rule = known_rule(optimizer.name, given) if optimizer and optimizer.name and not batches else None
    stated = {name: value for name, value in given.items() if value is not None}
    numbers = rate is not None and all(isinstance(value, (int, float)) for value in stated.values())
    has_diagonal = numbers and rule is not None and optimizer.name in PRECONDITIONED
    diagonal = partial(_diagonal, optimizer.name, stated) if has_diagonal else None
    course = followed(run.plan, index, _length(figures), diagonal)
    adaptive = None
    if has_diagonal:
        allowed = known_limit(optimizer.name, course.preconditioned, stated)
        adaptive = Adaptive(FORMULAS[rule], np.where(course.epoch > 0, allowed, np.nan))
    beside = _nearest_converged(table, index)
    try:
        winner = best(table, run.config.run.select)
    except ValueError:
        winner = None
    missing = epochs_missing(figures.expand_dims("lane")) if figures["outcome"] == DESCENDING else [np.nan]
    return Facts(
        figures=figures,
        course=course,
        optimizer=optimizer.name if optimizer else None,
        rule=rule if numbers and not has_diagonal else None,
        rate=float(rate) if isinstance(rate, (int, float)) else None,
        momentum=float(momentum) if isinstance(momentum, (int, float)) else None,
        adaptive=adaptive,
        sharpness=_sharpness_at_minimum(run.plan, table, index, course, beside),
        nearest=None if beside is None else table.isel(dict(zip(table["outcome"].dims, beside, strict=True))),
        best=winner,
        missing=float(missing[0]),
        select=run.config.run.select,
        lanes=plans.present(run.plan),
        diverged=int((table["outcome"] == DIVERGED).sum()),
        remarks=found.remarks,
        settings=lanes.settings(run.config, single),
        folder=folder,
    )


_OTHERWISE = (
    "a lane that is followed again would be of another cost (what the run stored: jaxgd best and jaxgd report show it)"
)


def _length(figures: "xarray.Dataset") -> int:
    """How many updates to follow: to where it left the finite numbers, if it did."""
    ends = [float(figures[name]) for name in ("epochs", "diverged_epoch")]
    return int(np.nanmax([0.0, *ends]))


# --- the lane itself ---


def followed(plan: plans.Plan, index: Index, epochs: int, diagonal: Callable[[Any], Any] | None = None) -> Course:
    """One lane again, looked at some times along its way; equal to the lane within the sweep to rounding.

    With `diagonal`, which reads the preconditioner from an optimizer state, the preconditioned sharpness too.
    """
    size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(plan.outline["params"]))
    looks = np.unique(np.linspace(0, epochs, _LOOKS if size <= _SMALL else _FEW).round().astype(np.int32))
    static = next(iter(plans.by_program(plan, [index])))
    point = jax.tree.map(lambda values: values[0], plans.points(plan, [index]))
    with jax.enable_x64(plan.x64), plans.plain_words():
        course = jax.jit(partial(_course, plan.trace(static), diagonal))(looks, point)
        course = jax.tree.map(np.asarray, course)
    return course._replace(crossings=int(course.crossings), lowest_curvature=float(course.lowest_curvature))


def _diagonal(optimizer: str, hyperparameters: dict[str, Any], state: Any) -> Float[Array, " params"]:
    return ravel_pytree(preconditioner(optimizer, state, hyperparameters))[0]


def _course(lane: Trace, diagonal: Any, looks: Int[Array, " look"], point: dict[str, Any]) -> Course:
    cost, start, init, step, *_ = lane.opened(point)
    flat, as_params = ravel_pytree(start)

    def moved(_, carry):
        (params, state), watch = carry
        value, _, *after = step(params, state)
        return tuple(after), watching.look(watch, params, value, after[0], True)

    def look(carry, span):
        now, following = span
        params, state = carry[0]
        value, grads = jax.value_and_grad(cost)(params)
        seen = ravel_pytree(params)[0], value, norm(grads), None if diagonal is None else diagonal(state)
        return jax.lax.fori_loop(now, following, moved, carry), seen

    watch = watching.watch_from(start, jnp.zeros_like(cost(start)))
    spans = (looks, jnp.append(looks[1:], looks[-1]))
    carry, (*seen, diagonals) = jax.lax.scan(look, ((start, init(start)), watch), spans)
    _, watch = moved(0, carry)  # after the last epoch too: where it would go says how it moves
    (last, _), _ = carry
    curves = jax.lax.map(lambda place: sharpness(cost, as_params(place)), seen[0])
    preconditioned = None
    if diagonal is not None:
        preconditioned = jax.lax.map(
            lambda here: sharpness(cost, as_params(here[0]), preconditioner=as_params(here[1])), (seen[0], diagonals)
        )
    lowest = -sharpness(lambda params: -cost(params), last) if flat.size <= _SMALL else jnp.nan
    return Course(looks, *seen, curves, watch.crossings, lowest, preconditioned)


# --- what it is compared with ---


def _nearest_converged(table: "xarray.Dataset", index: Index) -> Index | None:
    """The other lane that converged, of the same optimizer, that differs along the fewest axes and then by the fewest
    steps; with the same seed, if there is one."""
    places = np.argwhere(table["outcome"].values == CONVERGED)
    places = places[(places != index).any(axis=1)]
    away = np.zeros((len(places), 0))
    alike = np.ones(len(places), bool)
    for along, name in enumerate(map(str, table["outcome"].dims)):
        if name == "optimizer":
            alike &= places[:, along] == index[along]
            continue
        chosen = {"optimizer": index[0]} if name == "trial" else {}
        for ranks in _ranks(table.isel(chosen), name):
            steps = np.abs(ranks[places[:, along]] - ranks[index[along]]).astype(float)
            away = np.column_stack([away, steps * len(places) if name in REPLICATES else steps])
    if not alike.any():
        return None
    order = np.lexsort((away.sum(axis=1), (away > 0).sum(axis=1), ~alike))
    return tuple(map(int, places[order[0]]))


def _ranks(table: "xarray.Dataset", dimension: str) -> list[np.ndarray]:
    """Where each point stands along a dimension, by its value; along trials, by each hyperparameter that varies."""
    if dimension != "trial":
        numbers = table[dimension].dtype.kind in "iuf"
        return [
            np.unique(table[dimension].values, return_inverse=True)[1] if numbers else np.arange(table.sizes[dimension])
        ]
    columns = [table[name].values for name in table.coords if name != "trial" and table[name].dims == ("trial",)]
    return [np.unique(column, return_inverse=True)[1] for column in columns] or [np.arange(table.sizes["trial"])]


def _sharpness_at_minimum(
    plan: plans.Plan, table: "xarray.Dataset", index: Index, course: Course, beside: Index | None
) -> float:
    """λ where the lane settled; or else where its neighbour did, or at the only minimum that is known."""
    known = np.zeros((0, 0)) if plan.minima is None else np.asarray(plan.minima, float)
    place = None
    if table["outcome"].values[index] in (CONVERGED, TRAPPED):
        place = _known_place(table, index, known)
        place = course.params[-1] if place is None else place
    elif beside is not None:
        place = _known_place(table, beside, known)
        leaves = [table.get(name) for name in named("params", plan.outline["params"])]
        if place is None and all(leaf is not None for leaf in leaves):
            place = np.concatenate([leaf.values[beside].ravel() for leaf in leaves])
    elif len(known) == 1:
        place = known[0]
    if place is None:
        return float("nan")
    lane = np.ravel_multi_index(index, plan.shape) if index else 0
    return float(sharpness_at(plan, np.array([lane]), np.asarray(place, float)[None], [])[0])


def _known_place(table: "xarray.Dataset", index: Index, known: np.ndarray) -> np.ndarray | None:
    reached = float(table["minimum"].values[index])
    return known[int(reached)] if np.isfinite(reached) and len(known) else None
