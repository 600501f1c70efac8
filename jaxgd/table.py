"""Labelled results: what the variables of a sweep are called, which setting is best, where the edges lie."""

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxgd import checks
from jaxgd.boundary import margins
from jaxgd.outcome import (
    ABSENT,
    AT_REST,
    CONVERGED,
    DESCENDING,
    DIVERGED,
    FIGURES,
    NEVER,
    OUTCOMES,
    PENDING,
    goal,
    has_run,
    named,
    reach,
    tolerances,
)
from jaxgd.plan import Box, Each, Plan, selected
from jaxgd.ranges import visible

if TYPE_CHECKING:
    import xarray

COUNTS = (
    "best_epoch",
    "epochs",
    "target_epoch",
    "diverged_epoch",
    "minimum",
    "window",
    "moves",
    "crossings",
    "growths",
)
MAYBE_NEVER = ("target_epoch", "diverged_epoch", "minimum")
REPLICATES = ("seed", "network_seed", "data_seed")  # dimensions that repeat a setting rather than change it
_ALIGNED = 64  # bytes: where a variable may begin
EDGES = ("low", "high", "stable", "unstable", "surely_stable", "changes")  # what `edges` says
METRICS = tuple(f"{part}_{what}" for what in ("cost", "accuracy") for part in ("train", "validation", "test"))


class Variable(NamedTuple):
    """How one variable of a result is laid out."""

    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    fill: Any  # of lanes that have not run
    attributes: dict[str, Any]


def variables(plan: Plan) -> dict[str, Variable]:
    """The variables over the grid, by name."""
    grid = tuple(dimension.name for dimension in plan.dimensions)
    real = np.result_type(np.float32, *(leaf.dtype for leaf in jax.tree.leaves(plan.outline["params"])))
    described = {}
    for name, meaning in FIGURES.items():
        dtype, fill = (np.dtype(np.int32), NEVER) if name in COUNTS else (real, np.nan)
        described[name] = Variable(grid, plan.shape, dtype, fill, {"long_name": meaning})
    named_flags = flags(plan.absent is not None)
    described["outcome"] = Variable(
        grid, plan.shape, np.dtype(np.int8), PENDING, named_flags | {"long_name": FIGURES["outcome"]}
    )
    if plan.minima is not None and np.size(plan.minima):
        described["minimum"].attributes["known_minima"] = np.asarray(plan.minima).tolist()
    leaves = named("params", plan.outline["params"]) if plan.keep_params else {}
    for name, leaf in (plan.outline["metrics"] | leaves).items():
        inner = tuple(f"{name}.{axis}" for axis in range(len(leaf.shape)))
        attributes = {"long_name": f"{name} of the last finite state"}
        described[name] = Variable(grid + inner, plan.shape + leaf.shape, np.dtype(leaf.dtype), np.nan, attributes)
    if plan.records:
        attributes = {"long_name": "cost; NaN once the lane has ended"}
        described["cost_history"] = Variable(
            (*grid, "epoch"), (*plan.shape, len(plan.records)), real, np.nan, attributes
        )
    return described


def stored(plan: Plan) -> int:
    """Bytes of the variables over the grid, before compression."""
    return sum(int(v.dtype.itemsize * math.prod(v.shape)) for v in variables(plan).values())


def stored_factors(plan: Plan) -> tuple[tuple[int, str], tuple[int, str]]:
    """Of what these bytes are the product, in words: as `checks.over_memory` takes them."""
    return (plan.lanes, "lanes"), (stored(plan) // plan.lanes, "bytes, with params and records of the cost")


def coordinates(plan: Plan) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """What labels the grid: (dimensions, values) by name; vectors and trees get an index and their values beside it."""
    labels: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for dimension in plan.dimensions:
        for name, values in dimension.axes.items():
            if isinstance(values, Each):
                labels[name] = ((dimension.name,), np.array([_label(v) for v in values.values]))
            elif isinstance(values, np.ndarray) and values.ndim == 1:
                labels[name] = ((dimension.name,), values)
            else:
                labels[name] = ((dimension.name,), np.arange(dimension.size))
                for path, leaf in named(name, values).items():
                    path = f"{name}.value" if path == name else path
                    labels[path] = ((dimension.name, *(f"{path}.{axis}" for axis in range(leaf.ndim - 1))), leaf)
    if plan.records:
        labels["epoch"] = (("epoch",), np.asarray(plan.records))
    return labels | dict(plan.labels)


def attributes(plan: Plan) -> dict[str, Any]:
    """What a result says of its run as a whole."""
    names = ("epochs", "target", "ceiling", "minimum", "tolerance")
    known = {name: getattr(plan, name) for name in names}
    known = {name: value for name, value in known.items() if value is not None and np.isfinite(value)}
    known |= {} if plan.absent is None else {"trials": (~plan.absent).sum(axis=1).tolist()}
    return known | ({} if plan.select == selected(known.get("target")) else {"select": plan.select})


def room(plan: Plan) -> dict[str, np.ndarray]:
    """Arrays for a whole sweep, to be filled box by box; floats for the counts that may be "never".

    They share one piece of memory: a system hands out a large one in large pages, several times faster.
    """
    described = {
        name: v._replace(dtype=np.dtype(float)) if name in MAYBE_NEVER else v for name, v in variables(plan).items()
    }
    sizes = [v.dtype.itemsize * math.prod(v.shape) for v in described.values()]
    ends = np.cumsum([-(-size // _ALIGNED) * _ALIGNED for size in sizes])
    memory = np.empty(ends[-1], np.uint8)
    pieces = zip(described.items(), [0, *ends], sizes, strict=False)
    return {name: memory[start : start + size].view(v.dtype).reshape(v.shape) for (name, v), start, size in pieces}


def put(results: dict[str, np.ndarray], box: Box, figures: dict[str, np.ndarray]) -> None:
    """The figures of a box in their place; "never" becomes NaN, so that means stay honest."""
    for name, values in results.items():
        found = figures[name]
        values[box] = np.where(found == NEVER, np.nan, found) if name in MAYBE_NEVER else found


def labelled(plan: Plan, results: dict[str, np.ndarray]) -> "xarray.Dataset":
    """Results as a Dataset."""
    import xarray

    data = {name: (v.dimensions, results[name], v.attributes) for name, v in variables(plan).items()}
    return without_absent(xarray.Dataset(data, coords=coordinates(plan), attrs=attributes(plan)))


def without_absent(table: "xarray.Dataset") -> "xarray.Dataset":
    """A whole result whose lanes are absent, not pending, where an optimizer has fewer trials than another."""
    if "trials" not in table.attrs:
        return table
    import xarray

    there = np.arange(table.sizes["trial"]) < np.array(table.attrs["trials"])[:, None]
    outcome = table["outcome"].where(xarray.DataArray(there, dims=("optimizer", "trial")), ABSENT)
    return table.assign(outcome=outcome.astype(np.int8).assign_attrs(table["outcome"].attrs | flags(True)))


def best(table: "xarray.Dataset", by: str | None = None) -> "xarray.Dataset":
    """The best setting: the lowest median over seeds of `by`; never the luckiest lane.

    Settings of which no seed diverged come first, by the median. The others follow by the share of seeds that
    did not diverge, then by the median over these. By `target_epoch`, settings that meet the target with most
    of their seeds come before all others, by the median over all seeds, infinite where one does not meet it;
    those that take equally long are ranked by final cost, and so are the others, as above. Of equals, the one
    whose lowest cost came first.

    Args:
      table: the result of a sweep.
      by: a figure or a metric, the lower the better, but an accuracy the higher; by default what the
        run selects by, else `target_epoch` if there is a target, else `final_cost`.

    Returns:
      The table at that setting; a `seed` dimension stays.

    Raises:
      ValueError: every lane diverged, or none has run; or the table has no such figure.
      TypeError: `table` is no result of a sweep.

    >>> results = sweep(lane, {"learning_rate": [0.01, 0.4, 0.9, 2]}, epochs=10)
    >>> float(best(results).learning_rate)
    0.4
    """
    checks.table("best", table)
    by = by or selected_by(table)
    checks.table("best", table, by, "best_epoch", *(["final_cost"] if by == "target_epoch" else []))
    return table.isel(best_place(table, by))


def best_place(table: "xarray.Dataset", by: str) -> dict[Any, int]:
    """Where the best setting is, {dimension: index}; errors as `best`."""
    places = ranking(table, by, 1)
    if places:
        return places[0]
    ran = has_run(table["outcome"])
    if not ran.any():
        raise ValueError("there is no best setting: no lane has run")
    every = bool((table["outcome"] == DIVERGED).where(ran, True).all())
    raise ValueError(f"there is no best setting: {'every lane diverged' if every else f'no lane has a finite {by}'}")


def ranking(table: "xarray.Dataset", by: str, count: int) -> list[dict[Any, int]]:
    """Where the `count` best settings are, {dimension: index}, ranked as `best` does; without those that have no
    finite seed."""
    every = merits(table, by)
    dims, shape = every[0].dims, every[0].shape
    lost, *others = (merit.values.ravel() for merit in every)
    found = np.flatnonzero(lost < 1)
    if len(found) > count:  # to sort a million for the sake of a few would take long
        first = np.where(lost > 0, np.inf, others[0])
        found = found[first[found] <= np.partition(first[found], count - 1)[count - 1]]
    found = found[np.lexsort([merit[found] for merit in (*reversed(others), lost)])][:count]
    return [dict(zip(dims, map(int, np.unravel_index(place, shape)), strict=True)) for place in found]


def merits(table: "xarray.Dataset", by: str) -> "list[xarray.DataArray]":
    """What settings are ranked by, the lower the better: the share of seeds that have no finite score, 0 where most
    meet the target; the median of the finite ones, by the target its epoch first; then the epoch of the lowest cost."""
    lost, score = _over_seeds(scores(table, "final_cost" if by == "target_epoch" else by))
    epoch = table["best_epoch"].astype(float)
    epoch = epoch.median([name for name in REPLICATES if name in epoch.dims])
    if by != "target_epoch":
        return [lost, score, epoch]
    soonest = typical(table, by)
    return [lost.where(np.isinf(soonest), 0.0), soonest, score, epoch]


def typical(table: "xarray.Dataset", name: str) -> "xarray.DataArray":
    """A cost, an accuracy or the epoch of the target at each setting, as `best` compares it: the median over the seeds
    that have it and did not diverge. Of the epoch over all seeds, infinite where half or more do not meet the target;
    a cost is infinite, and an accuracy -inf, where no seed has it."""
    found = scores(table, name)
    if name == "target_epoch":
        return found.median([replicate for replicate in REPLICATES if replicate in found.dims])
    score = _over_seeds(found)[1]
    return 1 - score if is_accuracy(name) else score


def _over_seeds(scores: "xarray.DataArray") -> "tuple[xarray.DataArray, xarray.DataArray]":
    """Of each setting, the share of seeds whose score is infinite, and the median over the others; infinite if none."""
    replicates = [name for name in REPLICATES if name in scores.dims]
    ordered = scores.transpose(..., *replicates).values
    ordered = np.sort(ordered.reshape(*ordered.shape[: ordered.ndim - len(replicates)], -1), axis=-1)
    every, finite = ordered.shape[-1], np.isfinite(ordered).sum(axis=-1)
    middle = np.stack([(finite - 1) // 2, finite // 2], axis=-1)  # of none, -1 and 0, which both are infinite
    low, high = np.moveaxis(np.take_along_axis(ordered, middle, axis=-1), -1, 0)
    one = scores.isel(dict.fromkeys(replicates, 0), drop=True)
    return one.copy(data=1 - finite / every), one.copy(data=0.5 * low + 0.5 * high)


def selected_by(table: "xarray.Dataset") -> str:
    """The figure by which the best setting of a result is chosen."""
    return table.attrs.get("select", selected(table.attrs.get("target")))


def scores(table: "xarray.Dataset", by: str) -> "xarray.DataArray":
    """What each lane scored, the lower the better: a cost, an epoch, or the share that an accuracy misses of 1.

    Infinite for lanes that diverged, never got there, or have not run.
    """
    values = 1 - table[by].astype(float) if is_accuracy(by) else table[by].astype(float)
    return values.where(np.isfinite(values) & has_run(table["outcome"]) & (table["outcome"] != DIVERGED), np.inf)


def is_accuracy(name: str) -> bool:
    """Whether a figure is the better the higher it is, up to 1."""
    return name.endswith("accuracy")


def by_name(table: "xarray.Dataset") -> dict[str, "xarray.Dataset"]:
    """One table for each point of the dimensions that hold names (optimizers, say), or the whole as one, unnamed."""
    named = [d for d in table["outcome"].dims if table[d].dtype.kind not in "iuf"]
    found = {}
    for index in np.ndindex(*(table.sizes[d] for d in named)):
        part = table.isel(dict(zip(named, index, strict=True)))
        if "trial" in part.dims:
            part = part.isel(trial=(part["outcome"] != ABSENT).any([d for d in part["outcome"].dims if d != "trial"]))
        found[", ".join(visible(part[d].values) for d in named)] = part.drop_vars(named)
    return found


def tried(table: "xarray.Dataset") -> "tuple[xarray.Dataset, str]":
    """Trials of one name along the hyperparameter that they vary, if that is a number: (table, its dimension)."""
    if "trial" not in table["outcome"].dims:
        return table, "trial"
    columns = {str(name): c.values for name, c in table.coords.items() if name != "trial" and c.dims == ("trial",)}
    varied = [name for name, values in columns.items() if len({*values[_is_there(values)].tolist()}) > 1]
    if len(varied) != 1 or columns[varied[0]].dtype.kind not in "iuf":
        return table, "trial"
    there = table.isel(trial=np.flatnonzero(_is_there(columns[varied[0]])))  # others may have more of them
    return there.swap_dims(trial=varied[0]).drop_vars("trial"), varied[0]


def _is_there(values: np.ndarray) -> np.ndarray:
    """Which values of a hyperparameter there are; where one has no such trial, its label is NaN or empty."""
    return ~np.isnan(values) if values.dtype.kind == "f" else values.astype(str) != ""


def is_log(values: np.ndarray) -> bool:
    """Whether values are spread by ratios rather than by differences: where their middle lies says so."""
    values = np.sort(values[np.isfinite(values)].astype(float))
    if len(values) < 3 or values[0] <= 0 or values[-1] < 20 * values[0]:
        return False
    middle = np.median(values)
    return bool(
        abs(np.log(middle / np.sqrt(values[0] * values[-1]))) < abs(np.log(middle / ((values[0] + values[-1]) / 2)))
    )


def edges(table: "xarray.Dataset", along: str) -> "xarray.Dataset":
    """Where convergence and divergence end along one dimension, for each point of the others.

    Returns:
      A Dataset over the other dimensions: `low` and `high`, the smallest and the largest value at
      which a lane converged; `stable`, the largest value at which one did not diverge, and
      `unstable`, the next value above it at which one did (NaN where there is none); `surely_stable`,
      up to which so many epochs tell that none diverges, so that the boundary lies between that and
      `unstable`, by the margin of `boundary.margins`, which is that of a learning rate; `changes`, how
      often neighbours differ in whether they diverged (more than 1 or 2: the boundary is not one edge).

    Raises:
      ValueError: the table has no such dimension, or its values are not numbers.
      TypeError: `table` is no result of a sweep.

    >>> results = sweep(lane, {"learning_rate": [0.01, 0.4, 0.9, 2]}, epochs=100)
    >>> edge = edges(results, along="learning_rate")
    >>> [float(edge[name]) for name in ("low", "high", "stable", "unstable", "changes")]
    [0.4, 0.9, 0.9, 2.0, 1.0]
    """
    import xarray

    checks.table("edges", table)
    if along not in table.dims:
        raise ValueError(f"no dimension {along!r}: the table has {', '.join(map(str, table.outcome.dims))}")
    if table[along].dtype.kind not in "iuf":
        raise ValueError(f"dimension {along!r} holds names, which have no order and so no edge")
    table = table.sortby(along)
    values = table[along].astype(float)
    outcome = table["outcome"]
    converged, diverged, there = outcome == CONVERGED, outcome == DIVERGED, outcome != ABSENT
    stable = values.where(~diverged & has_run(outcome)).max(along)
    above = values.where(diverged & ~(values <= stable)).min(along)
    first = values.where(diverged).min(along).fillna(np.inf)
    return xarray.Dataset(
        {
            "low": values.where(converged).min(along),
            "high": values.where(converged).max(along),
            "stable": stable,
            "unstable": above,
            "surely_stable": (values - abs(values) * margins(table)).where(values < first).max(along),
            "changes": ((diverged.astype(int).diff(along) != 0) & (there.astype(int).diff(along) == 0)).sum(along),
        }
    )


def flags(has_absent: bool) -> dict[str, Any]:
    """Attributes that name the codes of outcomes, by the CF conventions."""
    outcomes = [*OUTCOMES, "absent"] if has_absent else OUTCOMES
    return {"flag_values": list(range(len(outcomes))), "flag_meanings": " ".join(outcomes)}


def _label(value: Any) -> Any:
    """Names, numbers and flags label themselves; functions go by their name."""
    return value if isinstance(value, (str, bool, int, float)) else getattr(value, "__name__", str(value))


def representative(table: "xarray.Dataset", count: int) -> list[tuple[int, ...]]:
    """Up to `count` lanes to look at, as indices: the best of each name, those at the edges, some of each
    outcome, and the rest spread along the axes."""
    codes = table["outcome"].values
    if codes.ndim == 0:
        return [()][:count]
    ran = np.flatnonzero(has_run(codes.ravel()))
    wanted = [int(np.ravel_multi_index(lane, codes.shape)) for lane in best_lanes(table, count)] + _at_edges(codes)
    for code in range(1, len(OUTCOMES)):
        alike = np.flatnonzero(codes.ravel() == code)
        wanted += _spread(alike, max(1, count // 10))
    wanted += _spread(ran, count)
    return [
        tuple(map(int, np.unravel_index(lane, codes.shape))) for lane in sorted(list(dict.fromkeys(wanted))[:count])
    ]


def best_lanes(table: "xarray.Dataset", count: int) -> list[tuple[int, ...]]:
    """The best setting of each of the first names, an optimizer's, say, as indices; of its seeds the first."""
    sizes, by, lanes = table["outcome"].sizes, selected_by(table), []
    named = [d for d in sizes if table[d].dtype.kind not in "iuf"]
    for index in itertools.islice(np.ndindex(*(sizes[d] for d in named)), count):
        name = dict(zip(named, index, strict=True))
        lanes += [tuple((name | place).get(d, 0) for d in sizes) for place in ranking(table.isel(name), by, 1)]
    return lanes


def _at_edges(codes: np.ndarray) -> list[int]:
    """Lanes along the first dimension whose neighbour fared differently, at most a few."""
    ran = has_run(codes)
    changed = np.argwhere((np.diff(codes, axis=0) != 0) & ran[1:] & ran[:-1])[:8]
    sides = [place + step for place in changed for step in (0, np.eye(codes.ndim, dtype=int)[0])]
    return [int(np.ravel_multi_index(tuple(place), codes.shape)) for place in sides]


def _spread(lanes: np.ndarray, count: int) -> list[int]:
    if not len(lanes):
        return []
    return lanes[np.unique(np.linspace(0, len(lanes) - 1, min(count, len(lanes))).round().astype(int))].tolist()


def epochs_missing(table: "xarray.Dataset") -> np.ndarray:
    """For lanes still descending, about how many more epochs they need at the pace of their last window.

    By the pace at which the gradient norm shrinks, until gradient and updates are small enough for rest; or, if that
    comes sooner, by the pace at which the cost nears the known minimum, to the target or to within the tolerance. NaN
    where there is no such pace, or the last update was zero.
    """
    lanes = (table["outcome"] == DESCENDING).values
    if any(name not in table for name in _PACE):  # a run of an earlier release
        return np.full(np.count_nonzero(lanes), np.nan)
    figure = {name: table[name].values[lanes] for name in _PACE}
    minimum, target = table.attrs.get("minimum"), table.attrs.get("target", -np.inf)
    within = tolerances(figure, goal(minimum, table.attrs.get("tolerance")))
    with np.errstate(all="ignore"):
        slope = figure["gradient_norm"]
        pace = np.log(slope / figure["window_gradient_norm"]) / figure["window"]
        steps = np.where(2 * figure["crossings"] >= figure["moves"], 1, figure["window"])  # as `verdict` counts them
        shares = within.gradient / slope, AT_REST * figure["rounding"] / (figure["last_update_norm"] * steps)
        rest = np.log(np.fmin(*shares)) / pace
        there = reach(np.abs(within.minimum), 0.0, table.attrs.get("tolerance"))  # at the minimum's own size
        now, end = figure["best_cost"] - within.minimum, np.fmax(there, target - within.minimum)
        sooner = np.log(end / now) / np.log(now / (now + figure["progress"])) * figure["window"]
        return np.where(
            figure["last_update_norm"] == 0,
            np.nan,
            np.fmin(*(np.where(np.isfinite(epochs) & (epochs > 0), epochs, np.nan) for epochs in (rest, sooner))),
        )


_PACE = (
    "start_cost",
    "final_cost",
    "best_cost",
    "start_gradient_norm",
    "gradient_norm",
    "window_gradient_norm",
    "distance",
    "rounding",
    "last_update_norm",
    "progress",
    "window",
    "moves",
    "crossings",
)
