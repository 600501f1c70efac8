"""The known limits of a run: where theory ends its learning rates, at the minimum that its lanes settled in."""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxgd import config as cfg
from jaxgd import plan as plans
from jaxgd.config import Config
from jaxgd.descent import norm
from jaxgd.outcome import CONVERGED, TRAPPED, named
from jaxgd.stability import FORMULAS, PRECONDITIONED, known_limit, known_rule, sharpness
from jaxgd.trace import Trace

if TYPE_CHECKING:
    import xarray

LIMITS = ("known_limit", "limit_formula", "sharpness")  # what a run's table holds beside the figures of its lanes
_OPTIMIZERS = ("optimizer", "optimizers")  # tables of a config
_MOST_NUMBERS = 1 << 22  # in all the places where the sharpness is looked at


def known_limits(config: Config, plan: plans.Plan, table: "xarray.Dataset") -> "xarray.Dataset | None":
    """η = 2/λ, (2 + 2β)/λ, (2 + 2β)/(λ(1 + 2β)):   the largest stable rates, with λ the sharpness of the minimum.

    For the rules that theory knows (gradient descent, momentum, Nesterov, optax's sgd), in a run that
    varies their learning rate. The minimum is the known one that lanes settled in, the least sharp if
    they settled in several, for that one bears the largest rates; or the only one that is known; or,
    where none is known, where the best of the converged lanes ended.

    For an optimizer that preconditions (Adam, AdamW, RMSProp) there is a formula, and no number: λ is then that of the
    Hessian preconditioned by the state of a lane, which depends on the lane's own rate, so that no one number bounds
    the axis of rates. Near a minimum the averages of squared gradients fade, and the limit with them. What theory says
    of one lane, `explain` finds along its way.

    Args:
      config, plan: of the run.
      table: its results, all of them.

    Returns:
      None if theory knows no rule of the run, or its rates are not single numbers. Else a Dataset
      without coordinates, each variable over those dimensions of the table on which it depends:

      `known_limit`: the rate; NaN where there is none: another rule, several batches, no minimum
        reached, none that is smooth. `known_limit.attrs["along"]` names the axis of learning rates that it lies on.
      `limit_formula`: "2/λ" and so on; empty where theory knows none.
      `sharpness`: λ; NaN where it is not known.
    """
    import xarray

    along = learning_rates(config)
    rules = {name: rule_of(config, table, name) for name in config.optimizers or (None,)}
    if not along or not any(rules.values()):
        return None
    is_bound = any(rule is not None and not rule.is_preconditioned for rule in rules.values())
    curvature = _sharpness(config, plan, table, is_bound)
    parts = []
    for name, rule in rules.items():
        here = curvature if name is None else curvature[{"optimizer": list(rules).index(name)}]
        limit = here * np.nan if rule is None else rule.limit(here)
        formula = xarray.DataArray(rule.formula if rule and (rule.is_preconditioned or limit.notnull().any()) else "")
        parts.append({"known_limit": limit, "limit_formula": formula, "sharpness": here})
    found = {}
    for name in LIMITS:
        values = xarray.broadcast(*(part[name] for part in parts))
        found[name] = values[0] if None in rules else xarray.concat(values, "optimizer")
    found["known_limit"].attrs = {"along": along[0], "long_name": "largest stable learning rate in theory"}
    found["sharpness"].attrs = {"long_name": "largest Hessian eigenvalue at the minimum"}
    return xarray.Dataset(found)


def learning_rates(config: Config) -> list[str]:
    """The axes of a config along which a learning rate varies, by their names in the result."""
    axes = [axis for axis in cfg.axes(config) if axis.path[0] in _OPTIMIZERS and axis.path[-1] == "learning_rate"]
    return list(dict.fromkeys(axis.name for axis in axes))


class Rule(NamedTuple):
    """A rule that theory knows, with the momentum it is given: none, a number, or a variable over its axis."""

    name: str  # in `stability.FORMULAS`
    momentum: Any
    is_preconditioned: bool = False  # λ is that of the Hessian preconditioned by the state of a lane

    @property
    def formula(self) -> str:
        return FORMULAS[self.name]

    def limit(self, sharpness: Any) -> Any:
        import xarray

        if self.is_preconditioned:
            return sharpness * np.nan
        if self.momentum is None:
            return xarray.apply_ufunc(lambda curve: known_limit(self.name, curve, {}), sharpness)
        return xarray.apply_ufunc(
            lambda curve, momentum: known_limit(self.name, curve, {"momentum": momentum}), sharpness, self.momentum
        )


def rule_of(config: Config, table: "xarray.Dataset", name: str | None) -> Rule | None:
    """The rule of an optimizer of a config (None: of its only one), if theory knows it and its settings are numbers."""
    optimizer = config.optimizers[name] if name is not None else config.optimizer
    if optimizer is None or optimizer.function is not None:
        return None
    given = dict(optimizer.arguments)
    mine = [axis for axis in cfg.axes(config) if axis.path[0] in _OPTIMIZERS and axis.optimizer in (None, name)]
    if any(axis.is_of_layer for axis in mine):  # no one rate that a limit could bound
        return None
    for axis in mine:
        values = table[axis.name]
        number = values.dtype.kind in "iuf" and f"{axis.name}.value" not in table.coords
        values = values.sel(optimizer=name) if "optimizer" in values.dims else values
        given[axis.hyperparameter] = values.drop_vars(list(values.coords)) if number else ()
    called = optimizer.name or name
    rule = known_rule(called, given)
    if rule is None or any(isinstance(value, (list, tuple, dict)) for value in given.values()):
        return None
    return Rule(rule, given.get("momentum"), called in PRECONDITIONED)


def _sharpness(config: Config, plan: plans.Plan, table: "xarray.Dataset", is_bound: bool) -> "xarray.DataArray":
    """λ at the minimum, over the dimensions along which optimizer, start or cost differ; NaN if it bounds no rate."""
    import xarray

    kinds = {axis.name: axis.path[0] for axis in cfg.axes(config)} | {"optimizer": "each of several"}
    along = [{kinds.get(name) for name in dimension.axes} for dimension in plan.dimensions]
    apart = [i for i, these in enumerate(along) if these & {"each of several", "start", "cost"}]
    shape = tuple(plan.shape[i] for i in apart)
    lanes = np.moveaxis(np.arange(plan.lanes).reshape(plan.shape), apart, range(len(apart)))
    found = np.full(shape, np.nan).ravel()
    row, lane, places = _settled(plan, table, lanes.reshape(len(found), -1))
    if is_bound and len(row) and places.size <= _MOST_NUMBERS and not plan.trace().calls_back:
        costs = [i for i, these in enumerate(along) if these & {"cost", "seed"}]
        np.fmin.at(found, row, sharpness_at(plan, lane, places, costs))
    return xarray.DataArray(found.reshape(shape), dims=[plan.dimensions[i].name for i in apart])


def _settled(plan: plans.Plan, table: "xarray.Dataset", lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where lanes [row, lane] settled: for each minimum, its row, one of the lanes, and the place [minimum, params]."""
    codes, costs, minimum = (table[name].values.ravel()[lanes] for name in ("outcome", "final_cost", "minimum"))
    if plan.minima is not None and len(plan.minima):
        known = np.asarray(plan.minima, float)
        settled = np.where(np.isin(codes, (CONVERGED, TRAPPED)), minimum, np.nan)
        reached = [(settled == index).any(axis=1) | (len(known) == 1) for index in range(len(known))]
        row, which = np.nonzero(np.stack(reached, axis=1))
        return row, lanes[row, 0], known[which]
    worth = np.where((codes == CONVERGED) & np.isfinite(costs), costs, np.inf)
    row = np.flatnonzero(np.isfinite(worth).any(axis=1) & plan.keep_params)
    lane = lanes[row, worth[row].argmin(axis=1)]
    leaves = [table[name].values for name in named("params", plan.outline["params"])] if len(row) else []
    return row, lane, np.concatenate([lanes[row, :0], *(leaf.reshape(plan.lanes, -1)[lane] for leaf in leaves)], axis=1)


def sharpness_at(plan: plans.Plan, lanes: np.ndarray, places: np.ndarray, costs: list[int]) -> np.ndarray:
    """λ at each place, of the cost of the lane beside it; `costs` are the dimensions along which costs differ."""
    indices = np.stack(np.unravel_index(lanes, plan.shape or (1,)), axis=1)[:, : len(plan.shape)]
    alike = np.concatenate([places, indices[:, costs]], axis=1)
    _, first, again = np.unique(alike, axis=0, return_index=True, return_inverse=True)
    few, found = list(map(tuple, indices[first].tolist())), np.full(len(first), np.nan)
    with jax.enable_x64(plan.x64), plans.plain_words():
        for static, some in plans.by_program(plan, few).items():
            program = jax.jit(jax.vmap(partial(curvature, plan.trace(static))))
            found[some] = program(places[first[some]], plans.points(plan, [few[i] for i in some]))
    return found[again.ravel()]


def curvature(lane: Trace, place: Float[Array, " params"], point: dict[str, Any]) -> Float[Array, ""]:
    """λ of a lane's cost at a place; NaN if that is no smooth minimum, where the slope is small and grows as Hv, or if
    each batch is another cost.

    How it grows is looked at over a distance at which rounding is small, and no shorter than that at
    which the minimum may yet lie: along one random direction, for a kink shows along almost every one.
    """
    one = lane.opened(point)
    if one.has_batches:  # each step descends another cost
        return jnp.full((), jnp.nan)
    cost = one.cost
    flat, as_params = ravel_pytree(one.params)
    place, eps = place.astype(flat.dtype), float(jnp.finfo(flat.dtype).eps)
    slope = jax.grad(lambda x: cost(as_params(x)))
    size, here = jnp.maximum(1, jnp.max(jnp.abs(place))), sharpness(cost, as_params(place))
    direction = jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)
    direction /= norm(direction)
    still, grows = jax.jvp(slope, (place,), (direction,))
    step = jnp.maximum(eps ** (1 / 3) * size, 2 * norm(still) / here)
    difference = slope(place + step * direction) - slope(place - step * direction) - 2 * step * grows
    smooth = (norm(still) <= _FLAT * here * size) & (norm(difference) <= _SMOOTH * here * 2 * step)
    return jnp.where(smooth & (here > 0), here, jnp.nan)  # comparisons with NaN are False


_FLAT = 0.01  # how far from the minimum, in its own size, a place may lie by its slope
_SMOOTH = 0.1  # how far the slope may differ from that of a quadratic, as a share of what the sharpness allows
