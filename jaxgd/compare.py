"""Optimizers beside each other: the best setting of each, how much the choice matters, what few trials would give."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxgd import checks
from jaxgd.learning_rate import best_rates
from jaxgd.outcome import DIVERGED, has_run
from jaxgd.table import METRICS, REPLICATES, best, by_name, is_accuracy, merits, scores, selected_by, typical

if TYPE_CHECKING:
    import xarray

_MOST_COUNTS = 200  # points of a curve


class Figure(NamedTuple):
    """One figure of a setting over its seeds; a single lane's three are one."""

    median: float
    low: float
    high: float


class Range(NamedTuple):
    """From low to high of one hyperparameter, all that was tried comes within the factor of the best."""

    name: str
    low: float
    high: float
    best: float


class Contender(NamedTuple):
    """What one optimizer did at its best; `setting` and `figures` are empty where all its lanes diverged."""

    name: str
    trials: int  # settings tried
    diverged: float  # share of all lanes
    setting: "xarray.Dataset | None"
    figures: dict[str, Figure]  # the one that was compared first, then what is reported of test
    ranges: tuple[Range, ...]


def figures(table: "xarray.Dataset") -> list[str]:
    """What optimizers can be compared by: epochs to the target, if there is one, costs and accuracies; but none of
    test, which is for the report."""
    checks.table("figures", table)
    known = (*(["target_epoch"] if "target" in table.attrs else []), "final_cost", "best_cost", *METRICS)
    return [name for name in known if name in table and not name.startswith("test_")]


def compared(table: "xarray.Dataset", by: str | None = None, factor: float = 2.0) -> list[Contender]:
    """Each optimizer's best setting, and how sensitive it is to each of its hyperparameters, the best first.

    Args:
      table: the result of a sweep with a dimension of names, such as `optimizer`; or of one alone.
      by: as in `table.best`.
      factor: as in `learning_rate.best_rates`; the other hyperparameters stay at their best.

    >>> def lane(optimizer, rate):
    ...     return Descent(lambda x: x**2 + 5, 4.0, optimizer(rate))
    >>> results = sweep(lane, {"optimizer": each([optax.sgd, optax.adam]), "rate": [0.01, 0.1]}, epochs=100)
    >>> [(contender.name, contender.setting.rate.item()) for contender in compared(results)]
    [('sgd', 0.1), ('adam', 0.1)]
    """
    checks.table("compared", table)
    by = by or selected_by(table)
    checks.table("compared", table, by, "final_cost", "best_epoch")
    factor = checks.real("factor", factor, least=1, allowed="a finite number, 1 or more")
    found = [_contender(name, part, by, factor) for name, part in by_name(table).items()]
    return sorted(found, key=lambda c: [*map(float, merits(c.setting, by))] if c.figures else [1.0])


def _contender(name: str, table: "xarray.Dataset", by: str, factor: float) -> Contender:
    outcome = table["outcome"]
    replicates = [d for d in REPLICATES if d in outcome.dims]
    every = has_run(outcome)
    ran, share = every.any(replicates), float((outcome == DIVERGED).sum() / max(1, int(every.sum())))
    try:
        setting = best(table, by)
    except ValueError:
        return Contender(name, int(ran.sum()), share, None, {}, ())
    reported = [
        by,
        *(["final_cost"] if by == "target_epoch" else []),
        *(metric for metric in METRICS if metric.startswith("test") and metric in table),
    ]
    figures = {figure: figure_of(setting, figure) for figure in dict.fromkeys(reported)}
    varied = [str(c) for c in setting.coords if _varies(table, str(c))]
    setting = setting.drop_vars("trial", errors="ignore")
    ranges = tuple(_range(table, setting, along, by, factor) for along in varied)
    return Contender(name, int(ran.sum()), share, setting, figures, ranges)


def figure_of(setting: "xarray.Dataset", name: str) -> Figure:
    """Over the seeds of a setting the median, as in `table.typical`; the lowest and the highest of those that have the
    figure and did not diverge. Of epochs to the target over all seeds, infinite where it was not met."""
    score = scores(setting, name)
    values = score.values.ravel() if name == "target_epoch" else setting[name].values[np.isfinite(score)]
    if not values.size:
        return Figure(np.nan, np.nan, np.nan)
    return Figure(float(typical(setting, name)), float(values.min()), float(values.max()))


def _varies(table: "xarray.Dataset", name: str) -> bool:
    """Whether a coordinate is a number that changes from setting to setting, and not a mere index."""
    values = table[name]
    if values.ndim != 1 or values.dtype.kind not in "iuf" or any(str(c).startswith(f"{name}.") for c in table.coords):
        return False
    counts = name == "trial" or values.dims[0] in (*REPLICATES, "epoch")
    return not counts and len(np.unique(values.values[np.isfinite(values.values)])) > 1


def _range(table: "xarray.Dataset", setting: "xarray.Dataset", along: str, by: str, factor: float) -> Range:
    """How far one coordinate may move from the best, the others held there."""
    (dimension,) = table[along].dims
    for name in setting.coords:
        place = table[name].dims
        if name not in (along, dimension) and len(place) == 1 and place[0] not in (*REPLICATES, "epoch"):
            values, chosen = table[name].values, setting[name].values
            alike = (values == chosen) | ((values != values) & (chosen != chosen))  # where there is none, none
            table = table.isel({place[0]: np.flatnonzero(alike)})
    answer = best_rates(table, along, by=by, factor=factor).squeeze()
    return Range(along, *(float(answer[name]) for name in ("low", "high", "best")))


# --- few trials ---


def expected_best(table: "xarray.Dataset", by: str | None = None) -> "xarray.Dataset":
    """What the best of n trials is expected to score, had n been tried of the N that were.

        E[min of n] = Σᵢ C(N − i, n − 1) / C(N, n) · s₍ᵢ₎,   s₍₁₎ ≤ … ≤ s₍N₎

    The mean over all samples of n trials without replacement: unbiased for n independent trials from
    the same distribution. A trial's score is its median over seeds. No trial costs more than not to
    have descended at all: one that diverged, or ended above its start, counts as its start cost; an
    accuracy that diverged, as 0.

    Tang et al. (2020), "Showing Your Work Doesn't Always Work", ACL; after Dodge et al. (2019).

    Args:
      table: the result of a sweep; everything that varies, seeds and names apart, makes a trial.
      by: as in `table.best`; a cost or an accuracy; where that is `target_epoch`, `final_cost` in its place.

    Returns:
      A Dataset over `trials` (n), and `optimizer` or what else holds names: `expected`, in the figure's
      own unit, NaN beyond N.

    Raises:
      ValueError: `by` is neither a cost nor an accuracy.
    """
    import xarray

    checks.table("expected_best", table)
    by = by or selected_by(table)
    by = "final_cost" if by == "target_epoch" else by
    if not by.endswith(("cost", "accuracy")):
        raise ValueError(f"by = {by!r}: must be a cost or an accuracy, of which the best of some trials has a mean")
    checks.table("expected_best", table, by, "start_cost")
    rows = {name: _trial_scores(part, by) for name, part in by_name(table).items()}
    most = max(map(len, rows.values()))
    counts = np.unique(np.geomspace(1, most, min(most, _MOST_COUNTS)).round().astype(int))
    expected = np.stack([expected_minimum(row, counts) for row in rows.values()])
    if is_accuracy(by):
        expected = 1 - expected
    named = [d for d in table["outcome"].dims if table[d].dtype.kind not in "iuf"]
    over = str(named[0]) if len(named) == 1 else "name"
    attributes = {"by": by, "long_name": f"expected best {by.replace('_', ' ')}"}
    return xarray.Dataset({"expected": ((over, "trials"), expected, attributes)}, {over: [*rows], "trials": counts})


def _trial_scores(table: "xarray.Dataset", by: str) -> np.ndarray:
    """The score of every trial that has run, [trial]."""
    replicates = [d for d in REPLICATES if d in table["outcome"].dims]
    score = scores(table, by)
    ceiling = 1.0 if is_accuracy(by) else table["start_cost"].astype(float)
    score = score.where(score <= ceiling, ceiling).median(replicates)
    return score.values[has_run(table["outcome"]).all(replicates).values]


def expected_minimum(scores: Float[np.ndarray, " trial"], counts: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The mean of the lowest of n scores, over all ways to take n of the N there are; NaN where n > N.

    Where the lowest comes i-th among all, the n − 1 others are among the N − i above it. The weights
    come by their ratios, w₁ = n/N and wᵢ₊₁ = wᵢ (N − i − n + 1)/(N − i), since binomials overflow.
    """
    ordered, total = np.sort(scores), len(scores)
    rank = np.arange(1, total)
    means = np.full(len(counts), np.nan)
    for place, n in enumerate(counts):
        if n <= total:
            ratios = np.maximum(total - rank - n + 1, 0) / (total - rank)
            weights = n / total * np.cumprod(np.concatenate([[1.0], ratios]))
            some = weights > 0
            means[place] = weights[some] @ ordered[some]
    return means
