"""Which learning rate: the best one, how much the choice matters, and where convergence ends."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from jaxgd import checks
from jaxgd import plan as plans
from jaxgd.boundary import margins
from jaxgd.descent import Descent, Metrics
from jaxgd.outcome import DESCENDING, DIVERGED, OSCILLATING, OUTCOMES, has_run, warn_below_minimum
from jaxgd.sweep import in_memory
from jaxgd.table import METRICS, REPLICATES, is_accuracy, merits
from jaxgd.trace import check_untraced

if TYPE_CHECKING:
    import xarray

_SECTION = 256  # values in each section of `critical_learning_rate`: always as many, so that one program serves all


class LearningRate(NamedTuple):
    """The answer to "which learning rate?"; NaN where there is none. `print` it for the answer in words."""

    best: float
    low: float  # from low to high, every rate comes within the factor of the best
    high: float
    edge: float  # the largest rate above the best before the first that diverges; NaN: none does
    below_edge: float  # edge / best
    unstable: float  # the first that diverges
    surely_stable: float  # the boundary lies between this and `unstable`, as far as so many epochs tell
    ties: int  # rates that do exactly as well as the best, itself included
    by: str  # the figure that was compared
    factor: float
    table: "xarray.Dataset"  # of all rates tried

    def __str__(self) -> str:
        if np.isnan(self.best):
            return f"no learning rate from {self._first:.3g} to {self._last:.3g} works: all diverged"
        figure = self.by.replace("_", " ")
        score = float(self.table[self.by].sel(learning_rate=self.best))
        near = "of what it misses" if is_accuracy(self.by) else "of that"
        said = (
            f"best learning rate {self.best:.6g} ({figure} {score:.6g}); within a factor of {self.factor:g} "
            f"{near} from {self.low:.6g} to {self.high:.6g}, a span of {self.high / self.low:.3g}"
        )
        if self.ties > 1:
            first = "ended lowest" if self.by == "target_epoch" else "was there first"
            said += f"; {self.ties} rates do exactly as well, and this one {first}"
        if self.best in (self._first, self._last):
            said += "; it is the end of the range tried: widen it"
        if np.isnan(self.edge):
            return f"{said}; none above it diverges, up to {self._last:.3g}"
        between = f"so many epochs place the boundary between {self.surely_stable:.6g} and {self.unstable:.6g}"
        return f"{said}; diverges above {self.edge:.6g}, {self.below_edge:.3g} times the best ({between})"

    @property
    def _first(self) -> float:
        return float(self.table["learning_rate"][0])

    @property
    def _last(self) -> float:
        return float(self.table["learning_rate"][-1])


def find_learning_rate(
    cost: Callable[..., Float[Array, ""]],
    params: PyTree,
    optimizer: Callable[[Any], optax.GradientTransformation],
    *,
    epochs: int,
    low: float = 1e-12,
    high: float = 1e6,
    points: int = 512,
    target: float | None = None,
    minimum: float | None = None,
    by: str | None = None,
    factor: float = 2.0,
    data: PyTree = None,
    batch_size: int | None = None,
    key: Any = 0,
    remainder: str = "drop",
    metrics: Metrics | None = None,
) -> LearningRate:
    """The learning rate that brings the cost lowest within `epochs`, or soonest down to a target.

    Two sweeps: a coarse one from `low` to `high`, in equal ratios; then a fine one over the rates
    that come within `factor` of the best, closely around it, and over the gap in which divergence
    begins.

    Every rate descends from the same start, over the same batches. To judge a rate by several seeds,
    sweep it with a `seed` axis and ask `best_rates`.

    Args:
      cost, params, data, batch_size, key, remainder, metrics: as in `Descent`.
      optimizer: learning rate → optax transformation, as `optax.sgd`, or
        `lambda rate: optax.adam(rate, b1=0.95)`.
      epochs: updates per rate. What is best for few epochs need not be so for many.
      low, high: the range of rates.
      points: how many rates there are to each of the two sweeps.
      target: a cost; given it, and if any rate gets there, the best is the one that takes the fewest epochs.
      minimum: the lowest cost, if known.
      by: what is compared, as in `best_rates`; by default the final cost, or the epochs to the target. A
        metric called `validation_cost` or `validation_accuracy` chooses on data that is not trained on.
      factor: how close to the best is good enough, as in `best_rates`.

    Returns:
      A `LearningRate`: `best`, `low`, `high`, `edge`, `below_edge`, `unstable`, `surely_stable`, `ties` and the whole
      `table`.

    Raises:
      ValueError, TypeError: a range that is none, an optimizer that already has its rate, a figure that
        there isn't, or what `sweep` refuses.

    >>> data = jnp.arange(1.0, 5.0), 3 * jnp.arange(1.0, 5.0)
    >>> def squares(slope, batch):
    ...     return jnp.mean((slope * batch[0] - batch[1]) ** 2)
    >>> found = find_learning_rate(squares, 0.0, optax.sgd, epochs=300, low=1e-3, high=1, points=64, data=data)
    >>> print(f"diverges above {found.edge:.3f}; in theory above {2 / sharpness(squares, 3.0, data):.3f}")
    diverges above 0.133; in theory above 0.133
    """
    import xarray

    check_untraced(low, high)
    low, high = _checked_range(low, high, positive=True)
    points = checks.whole("points", points, least=4, most=checks.MOST_VALUES)
    factor = _checked_factor(factor)
    if by is not None:
        _check_figure(by, metrics or {})
    if isinstance(optimizer, optax.GradientTransformation) or not callable(optimizer):
        raise TypeError("optimizer must be a function of the learning rate: optax.sgd, not optax.sgd(0.01)")

    shared = {"data": data, "batch_size": batch_size, "key": key, "remainder": remainder, "metrics": metrics or {}}

    def lane(learning_rate):
        return Descent(cost, params, optimizer(learning_rate), **shared)

    rates = np.geomspace(low, high, points)
    plan = plans.planned(lane, {"learning_rate": rates}, epochs=epochs, target=target, minimum=minimum)
    coarse = in_memory(plan)
    by = by or ("target_epoch" if np.isfinite(coarse["target_epoch"]).any() else "final_cost")
    finer = _finer(best_rates(coarse, by=by, factor=factor), rates)
    table = coarse
    if finer.size:
        fine = in_memory(plans.over(plan, {"learning_rate": finer}))  # of the same trace
        table = xarray.concat([coarse, fine], "learning_rate", data_vars="all", combine_attrs="override")
        table = table.drop_duplicates("learning_rate").sortby("learning_rate")
    warn_below_minimum(table["best_cost"], minimum, None)
    answer = best_rates(table, by=by, factor=factor)
    names = ("best", "low", "high", "edge", "below_edge", "unstable", "surely_stable")
    figures = {name: float(answer[name]) for name in names}
    return LearningRate(**figures, ties=int(answer["ties"]), by=by, factor=factor, table=table)


def best_rates(
    table: "xarray.Dataset", along: str = "learning_rate", *, by: str = "final_cost", factor: float = 2.0
) -> "xarray.Dataset":
    """The best rate of a sweep, how much the choice matters, and how far below the edge the best lies.

    For each point of the other dimensions, an optimizer or a start; seeds are replicates: the rates at
    which the fewest of them diverged are compared, by the median over the others. Of rates that do
    equally well, the best is chosen as by `table.best`, then it is the smallest.

    Args:
      table: the result of a sweep over a learning rate, or over anything else with an order.
      along: its name: a dimension, or a coordinate along one (as `learning_rate` along `trial`).
      by: `final_cost`, `best_cost`, `target_epoch` or a metric's cost, the lower the better; or its
        accuracy, of which the share that it misses of 1 is compared.
      factor: a rate is within it if its cost exceeds the best cost by no more than (factor − 1) times
        what the best lies above the known minimum (above 0, if none is known), or by rounding; or
        if it took no more than factor times the epochs.

    Returns:
      A Dataset over the other dimensions: `best` and its `score`; `low` and `high`, between which
      every rate tried comes within the factor; `ties`, how many rates share the best score; `edge`,
      the largest rate above the best before the first at which any seed diverged, and `unstable`,
      that one; `surely_stable`, up to which so many epochs tell that none diverges (see `edges`);
      `below_edge`, edge / best; `changes`, how often neighbours differ in whether they
      diverged; `diverged`, the share of seeds that diverged at the best. NaN where there is no such
      rate: where every lane diverged; of the edge, where none above the best did, or a seed at the best.

    Raises:
      ValueError: no such dimension or figure, a dimension of names, or a factor below 1.
      TypeError: `table` is no result of a sweep.
    """
    import xarray

    checks.table("best_rates", table)
    dimension = _dimension(table, along)
    factor = _checked_factor(factor)
    _check_figure(by, map(str, table.data_vars))
    replicates = [name for name in REPLICATES if name in table["outcome"].dims and name != dimension]
    diverged, ran = table["outcome"] == DIVERGED, has_run(table["outcome"])
    figures = {
        "rates": table[along].astype(float).broadcast_like(ran.isel(dict.fromkeys(replicates, 0), drop=True)),
        "diverged": diverged.mean(replicates),
        "ran": ran.all(replicates),
        "margin": margins(table).max(replicates),
    }
    figures |= {f"merit {place}": merit for place, merit in enumerate(merits(table, by))}
    others = [name for name in figures["diverged"].dims if name != dimension]
    figures = {name: values.transpose(*others, dimension).values for name, values in figures.items()}
    allowed = _allowance(table, by, factor)
    shape = figures["diverged"].shape[:-1]
    answers = {name: np.full(shape, np.nan) for name in ANSWERS}
    for point in np.ndindex(shape):
        here = {name: values[point] for name, values in figures.items()}
        for name, value in _answer(here, allowed).items():
            answers[name][point] = value
    coordinates = {name: c for name, c in table.coords.items() if set(c.dims) <= set(others)}
    return xarray.Dataset({name: (others, values) for name, values in answers.items()}, coordinates)


_SCORES = ("final_cost", "best_cost", "target_epoch")
ANSWERS = (
    "best",
    "score",
    "low",
    "high",
    "ties",
    "edge",
    "unstable",
    "surely_stable",
    "below_edge",
    "changes",
    "diverged",
)


class CriticalRate(NamedTuple):
    """Where convergence ends. `print` it for the answer in words."""

    value: float  # the last that looks stable before the edge; NaN if there is no edge, or not one alone
    low: float  # the edge lies between low and high, as far as so many epochs tell
    high: float
    single: bool  # whether low and high hold one edge
    changes: int  # of the outcome between neighbours of the last section
    unstable: tuple[str, ...]  # the outcomes that count as unstable

    def __str__(self) -> str:
        ends = " or ".join(self.unstable)
        if self.single:
            alternates = ", where outcomes alternate" * (self.changes > 1)
            known = f"so many epochs place the edge between {self.low:.6g} and {self.high:.6g}{alternates}"
            return f"{self.value:.6g}: from there on the outcome is {ends} ({known})"
        if self.changes:
            return (
                f"no one critical value: the outcome alternates {self.changes} times between {self.low:.6g} and "
                f"{self.high:.6g} as far as was looked, so the boundary may be a fractal, or "
                "the epochs too few to tell"
            )
        span = f"{self.low:.6g} and {self.high:.6g}"
        return f"no critical value between {span}: either all are {ends}, or none is; widen the range"


def critical_learning_rate(
    lane: Callable[..., Descent],
    low: float,
    high: float,
    *,
    epochs: int,
    unstable: str | Sequence[str] | None = None,
) -> CriticalRate:
    """The value between `low` and `high` at which convergence ends.

    Section by section: 256 values side by side, then the gap between the two neighbours that differ, until it is much
    narrower than what the epochs can tell apart. Every section runs in the same compiled program. Close to the limit a
    lane contracts or grows ever more slowly, and directions that still move hide it. So the edge may lie below the last
    value that looks stable, by the margin of `boundary.margins`: the `low` of the answer is that much lower, and `high`
    the first value that does not look stable. Where outcomes change more than once in a section, over more than that
    margin, there is no one edge, and none is returned.

    A lane is stable as long as it gets nearer, or is there. One whose swings go on or grow (oscillating,
    diverged) is not, long before it has outgrown its start; unless its updates are down to eps^¼ of the way
    that it came, where rounding or slower swings may hide that it gets nearer, or its swings are those of batches,
    which never die down.

    Args:
      lane: one descent as a function of the value, with data or without; further arguments need defaults.
      low, high: one of them stable, the other not.
      epochs: updates per descent.
      unstable: in place of that, the outcomes that end stability. With "diverged", swings between bounds
        are stable. A slow divergence shows only once the steepest direction has outgrown the start, so that
        `value` comes out too high: on a quadratic by log(1/s) / 2·epochs, relatively, with s that direction's
        part of the start. `low` allows for it.

    Returns:
      A `CriticalRate`.

    Raises:
      ValueError, TypeError: a range that is none, an unknown outcome, a lane without the one
        argument that varies, or what `sweep` refuses.

    >>> def lane(learning_rate):
    ...     return Descent(lambda x: x**2 + 5, 9.0, gradient_descent(learning_rate))
    >>> found = critical_learning_rate(lane, 0.1, 10, epochs=200)
    >>> bool(found.low < 1 <= found.high)
    True
    """
    check_untraced(low, high)
    low, high = _checked_range(low, high, positive=False)
    epochs = checks.whole("epochs", epochs, least=1, most=checks.MOST_EPOCHS)
    ends = (unstable,) if isinstance(unstable, str) else tuple(unstable or ("diverged", "oscillating"))
    if unknown := [name for name in ends if name not in OUTCOMES]:
        raise ValueError(f"unstable = {unknown[0]!r}: must be among {', '.join(OUTCOMES[1:])}")
    name = _the_argument(lane)
    real = np.float64 if jax.config.jax_enable_x64 else np.float32
    is_stable = _still_nears if unstable is None else functools.partial(_is_none_of, ends)
    low, high = real(low), real(high)
    plan = plans.planned(lane, {name: np.array([low, high])}, epochs=epochs)
    surely = None  # how far the edge lies off for certain, seen from the stable side
    while True:
        space = np.geomspace if 0 < 2 * low < high else np.linspace  # the latter misses no number in a narrow gap
        values = np.sort(np.clip(space(low, high, _SECTION, dtype=np.float64).astype(real), low, high))
        table = in_memory(plans.over(plan, {name: values}))
        stable = is_stable(table)
        changes = np.flatnonzero(np.diff(stable))
        if not changes.size:
            return CriticalRate(np.nan, float(low), float(high), False, 0, ends)
        rises = bool(stable[0])
        last = changes[0] if rises else changes[-1] + 1  # on the stable side
        surely = _surely(values, table, last, rises, surely)
        low, high = values[changes[0]], values[changes[-1] + 1]
        width, blurred = high - low, abs(values[last] - surely)
        single = changes.size == 1 or width <= max(blurred, np.sqrt(np.finfo(real).eps) * max(abs(low), abs(high)))
        if changes.size == 1 and width > _FINE * blurred and np.nextafter(low, high) < high:
            continue
        value = float(values[last]) if single else np.nan
        if single:
            slack = _slack(table, changes[-1] + 1 if rises else changes[0]) * max(abs(low), abs(high))
            low, high = (surely, high + slack) if rises else (low - slack, surely)
        return CriticalRate(value, float(low), float(high), single, len(changes), ends)


_FINE = 1 / 64  # of the margin: to look closer would say nothing


def _surely(values: np.ndarray, table: "xarray.Dataset", last: int, rises: bool, known: Any) -> Any:
    """The furthest value up to which all are stable for certain, in this section or in those before."""
    margin = np.abs(values) * margins(table).values
    if rises:
        return np.nanmax([(values - margin)[: last + 1].max(), known if known is not None else -np.inf])
    return np.nanmin([(values + margin)[last:].min(), known if known is not None else np.inf])


def _slack(table: "xarray.Dataset", place: int) -> float:
    """How far, relatively, swings at a place may be kept up by rounding alone: ρ/u, as in `margins`; 8 eps at least."""
    lane = table.isel({str(table["outcome"].dims[0]): place})
    kept = float(lane["rounding"]) / float(lane["highest_update_norm"])
    least = 8 * float(np.finfo(lane["final_cost"].dtype).eps)
    return max(least, min(kept, 1 / 64)) if np.isfinite(kept) and lane["outcome"] == OSCILLATING else least


def _is_none_of(ends: Sequence[str], table: "xarray.Dataset") -> np.ndarray:
    return ~np.isin(table["outcome"].values, [OUTCOMES.index(end) for end in ends])


def _still_nears(table: "xarray.Dataset") -> np.ndarray:
    """Which lanes get nearer, or have come as near as rounding, long swings or their batches let them.

    What becomes unstable turns with every update. Swings of several updates, as of heavy momentum, are too few in a
    window to tell how they shrink.
    """
    names = ("outcome", "highest_update_norm", "distance", "rounding", "late_cost", "moves", "crossings")
    outcome, update, distance, rounding, late, moves, crossings = (table[name].values for name in names)
    slope, start_slope = table["gradient_norm"].values, table["start_gradient_norm"].values
    share = np.finfo(update.dtype).eps ** 0.25
    few = (update <= share * (distance + update)) & (slope <= share * start_slope)
    few |= (update <= 64 * rounding) | (2 * crossings < moves) | ~np.isnan(late)
    # In chaos some lanes make a new low, or a narrow swing, just before they end.
    above, progress = table["final_cost"].values - table["best_cost"].values, table["progress"].values
    by_chance = (outcome == DESCENDING) & (4 * table["growths"].values > crossings) & (above > 3 * progress)
    return ~(((outcome == OSCILLATING) | by_chance) & ~few) & (outcome != DIVERGED)


def _the_argument(lane: Callable[..., Descent]) -> str:
    every = plans.parameters(lane)
    needed = [name for name, p in every.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if len(needed) != 1:
        raise ValueError(
            f"the lane must take one argument, the value that varies, and have defaults for all others; "
            f"{', '.join(needed) or 'none'} {'have' if len(needed) > 1 else 'has'} no default"
        )
    return needed[0]


def _checked_range(low: Any, high: Any, *, positive: bool) -> tuple[float, float]:
    """The ends of a range as floats that differ in the dtype of the lanes, too."""
    above = "above 0, " if positive else ""
    allowed = f"finite, {above}and low below high"
    numbers = low, high = checks.real("low", low, allowed=allowed), checks.real("high", high, allowed=allowed)
    if not (low < high and (low > 0 or not positive)):
        raise ValueError(f"low = {low!r}, high = {high!r}: must be {allowed}")
    dtype = np.dtype(np.float64 if jax.config.jax_enable_x64 else np.float32)
    checks.within_dtype("low", low, dtype)
    checks.within_dtype("high", high, dtype)
    if dtype.type(low) == dtype.type(high):
        raise ValueError(f"low = {low!r}, high = {high!r}: are the same number in {dtype}; give a wider range")
    return numbers


def _checked_factor(factor: Any) -> float:
    return checks.real("factor", factor, least=1, allowed="a finite number, 1 or more")


def _check_figure(by: str, given: Iterable[str]) -> None:
    known = [*_SCORES, *(name for name in given if name in METRICS)]
    if by not in known:
        hint = f"; to compare by it, give a metric of that name to every lane: metrics={{{by!r}: ...}}"
        raise ValueError(f"by = {by!r}: must be one of {', '.join(known)}{hint if by in METRICS else ''}")


def _finer(answer: "xarray.Dataset", rates: np.ndarray) -> np.ndarray:
    """Rates where more are worth trying than a coarse grid has: all that come within the factor, those
    around the best, and the gap in which divergence begins; none if all diverged."""
    if np.isnan(answer["best"]):
        return np.empty(0)
    low, best, high = (int(np.searchsorted(rates, float(answer[name]))) for name in ("low", "best", "high"))
    spans = [(max(0, first - 1), min(len(rates) - 1, last + 1)) for first, last in ((low, high), (best, best))]
    if not np.isnan(answer["edge"]):
        spans.append(tuple(np.searchsorted(rates, [float(answer["edge"]), float(answer["unstable"])])))
    return np.unique(np.concatenate([np.geomspace(rates[i], rates[j], len(rates) // len(spans)) for i, j in spans]))


def _dimension(table: "xarray.Dataset", along: str) -> str:
    """The dimension along which `along` varies, optimizers and replicates apart."""
    if along not in table.coords:
        raise ValueError(f"no axis {along!r}: the table has {', '.join(map(str, table['outcome'].dims))}")
    if table[along].dtype.kind not in "iuf":
        raise ValueError(f"axis {along!r} holds names, which have no order")
    return along if along in table.dims else str(table[along].dims[-1])


def _allowance(table: "xarray.Dataset", by: str, factor: float) -> Callable[[float], float]:
    """The worst score that is within the factor of the best."""
    if by == "target_epoch":
        return lambda best: factor * best
    ground = table.attrs.get("minimum", 0.0) if by in _SCORES else 0.0  # of the cost that descends alone
    eps = float(np.finfo(table[by].dtype).eps)
    return lambda best: best + max((factor - 1) * abs(best - ground), 8 * eps * max(1.0, abs(best)))


def _answer(figures: dict[str, np.ndarray], allowed: Callable[[float], float]) -> dict[str, float]:
    """What `best_rates` says of one row of rates."""
    there = figures["ran"] & ~np.isnan(figures["rates"])
    order = np.flatnonzero(there)[np.argsort(figures["rates"][there], kind="stable")]
    rates, share, margin = (figures[name][order] for name in ("rates", "diverged", "margin"))
    lost, score, *others = (values[order] for name, values in figures.items() if name.startswith("merit"))
    if not there.any():
        return {}
    diverged, score = share > 0, np.where(lost == lost.min(), score, np.inf)
    answer = {"changes": float(np.count_nonzero(np.diff(diverged))), "ties": 0.0}
    if not np.isfinite(score).any():
        return answer
    tied = score == score.min()
    best = int(np.lexsort([*reversed(others), score])[0])
    beyond = np.flatnonzero(~(score <= allowed(score[best])))
    first, last = beyond[beyond < best].max(initial=-1) + 1, beyond[beyond > best].min(initial=len(rates)) - 1
    answer |= {"best": rates[best], "score": score[best], "low": rates[first], "high": rates[last], "ties": tied.sum()}
    answer["diverged"] = share[best]
    above = np.flatnonzero(diverged[best:])
    if above.size and above[0] > 0:
        edge = rates[best + above[0] - 1]
        ratio = edge / rates[best] if rates[best] else np.nan  # nothing is so many times 0
        answer |= {"edge": edge, "unstable": rates[best + above[0]], "below_edge": ratio}
        surely = (rates - np.abs(rates) * margin)[: best + above[0]]
        if np.isfinite(surely).any():
            answer["surely_stable"] = np.nanmax(surely)
    return answer
