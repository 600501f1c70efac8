"""Words for the terminal: the epoch lines of one descent, the closing table of a run."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from jaxgd.compare import figure_of
from jaxgd.outcome import CONVERGED, DIVERGED, OUTCOMES, PENDING, has_run
from jaxgd.ranges import visible
from jaxgd.show.ends import UNSETTLED, below_words, is_unsettled, near_words
from jaxgd.show.rates import rate_words
from jaxgd.show.style import COLOURS, MEANINGS
from jaxgd.table import METRICS, REPLICATES, best, by_name, edges, epochs_missing, merits, scores, tried, typical

if TYPE_CHECKING:
    import xarray

_MOST_LINES = 201  # of epochs; longer descents show every so many
_MOST_NUMBERS = 8  # of params in an epoch line
_MOST_NAMES = 8  # of optimizers, say, that are listed; the best of them


def epoch_lines(paths: "xarray.Dataset") -> Iterator[str]:
    """EPOCH i: Cost = …, x = …   for the first stored path, as long as it ran."""
    path = paths.isel(path=0)
    names = [name for name in path.data_vars if str(name).split(".")[0] == "params"]
    if sum(path[name][0].size for name in names) > _MOST_NUMBERS and any(name in path for name in METRICS):
        names = [name for name in METRICS if name in path and not name.startswith("train")]  # more than one can read
    ran = np.flatnonzero(~np.isnan(path["cost"].values) | (path["epoch"].values == 0))
    for i in ran[_evenly(len(ran), _MOST_LINES)]:
        values = ", ".join(f"{_short(name)} = {vector(path[name].values[i])}" for name in names)
        yield f"EPOCH {path['epoch'].values[i]}: Cost = {number(path['cost'].values[i])}, {values}"


def closing(table: "xarray.Dataset", select: str) -> Group:
    """How many lanes met which end, the best setting, where convergence ends along each axis, what is missing."""
    rows = by_name(table)
    some = [*rows.items()][:_MOST_NAMES]
    lines = Table.grid(padding=(0, 2, 0, 0))
    for column in range(3 if len(rows) > 1 else 2):
        lines.add_column(no_wrap=column == 0, overflow="fold")
    for label, entries in (
        (_best_label(table, select), _bests(rows, select)),
        ("rates", _rates(rows, select)),
        ("edge", _edges(rows)),
        ("missing", _missing(rows)),
        ("below", [(name, below) for name, part in some if (below := below_words(part))]),
        ("near", [(name, f"trapped {near}") for name, part in some if (near := near_words(part))]),
        ("unsure", [(name, _unsettled(count)) for name, part in some if (count := is_unsettled(part).sum())]),
        ("start", _begun_nowhere(rows)),
    ):
        for i, (name, text) in enumerate(entries):
            cells = [Text(name), Text(text)] if len(rows) > 1 else [Text(text)]
            lines.add_row(Text("" if i else f"{label:7s}", "bold"), *cells)
    return Group(_outcomes(table), Text(), lines)


def is_axis(table: "xarray.Dataset", dimension: str) -> bool:
    """Whether a dimension is a scale along which something varies: numbers, more than one, no replicates."""
    return dimension not in REPLICATES and table[dimension].dtype.kind in "iuf" and table.sizes[dimension] > 1


def setting(lane: "xarray.Dataset") -> str:
    """The coordinates of one setting in words: learning_rate = 0.5, x = 3."""
    said = []
    for name in lane.coords:
        value = lane[name].values
        if value.ndim == 0 and not (isinstance(value.item(), float) and np.isnan(value.item())):
            said.append(f"{name} = {visible(value.item()) if value.dtype.kind != 'f' else f'{value.item():.6g}'}")
    return ", ".join(said) or "the only one"


def names(rows: Iterable[tuple[str, str]], *headings: str) -> Table:
    """A plain list of things with a word on each."""
    table = Table(*headings, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def spread(lane: "xarray.Dataset", name: str) -> str:
    """A figure of a setting: its median over seeds, and from where to where it goes."""
    figure = figure_of(lane, name)
    if not np.isfinite(figure.median):
        return "none"
    return f"{figure.median:.4g}" + (f" ({figure.low:.4g} … {figure.high:.4g})" if figure.high > figure.low else "")


def number(value: Any) -> str:
    """Three decimals, as in the lesson; powers of ten where these would say nothing."""
    value = float(value)
    plain = value == 0 or 1e-3 <= abs(value) < 1e12
    return f"{value:.3f}" if plain or not np.isfinite(value) else f"{value:.3e}"


def vector(values: np.ndarray) -> str:
    if values.ndim == 0:
        return number(values)
    few = [number(v) for v in values.ravel()[:4]]
    return "[" + ", ".join(few) + (", …]" if values.size > 4 else "]")


def thousands(count: Any) -> str:
    return f"{int(count):,}".replace(",", " ")


def _short(name: Any) -> str:
    return "x" if name == "params" else str(name).removeprefix("params.")


def _evenly(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.arange(0)


def tally(table: "xarray.Dataset") -> np.ndarray:
    """How many lanes met which end, [outcome]."""
    return np.bincount(table["outcome"].values.ravel(), minlength=len(OUTCOMES))[: len(OUTCOMES)]


def _outcomes(table: "xarray.Dataset") -> Table:
    counts = tally(table)
    shown = Table("outcome", "lanes", "share", "", box=None, header_style="bold", pad_edge=False)
    shown.columns[1].justify = shown.columns[2].justify = "right"
    for name, count in zip(OUTCOMES, counts, strict=True):
        if count:
            share = f"{100 * count / counts.sum():.1f} %"
            shown.add_row(Text(name, COLOURS[name]), thousands(count), share, Text(MEANINGS[name], "dim"))
    return shown


def varies_start(table: "xarray.Dataset") -> bool:
    """Whether lanes start from different costs: then the lowest end need not be the better setting."""
    costs = table["start_cost"].isel({d: 0 for d in table["outcome"].dims if d in REPLICATES}).values
    costs = costs[np.isfinite(costs)]
    return bool(costs.size and costs.min() < costs.max())


def _best_label(table: "xarray.Dataset", select: str) -> str:
    if not varies_start(table):
        return "best"
    return "soonest" if select == "target_epoch" else "lowest"


def _bests(rows: dict[str, "xarray.Dataset"], select: str) -> list[tuple[str, str]]:
    """The best setting of each name, the best name first."""
    found = []
    for name, table in rows.items():
        try:
            lane = best(table, select)
        except ValueError as error:
            found.append(([1.0], name, f"none: {str(error).removeprefix('there is no best setting: ')}"))
        else:
            found.append(([*map(float, merits(lane, select))], name, _best_text(lane, select)))
    found.sort(key=lambda row: row[0])
    listed = [(name, text) for _, name, text in found[:_MOST_NAMES]]
    return listed + ([(f"… and {len(found) - _MOST_NAMES} more", "")] if len(found) > _MOST_NAMES else [])


def _best_text(lane: "xarray.Dataset", select: str) -> str:
    replicates = lane["outcome"].dims
    if select in METRICS:
        figures = [select, *(name for name in METRICS if name in lane and name.startswith("test"))]
        said = [f"{name.replace('_', ' ')} {spread(lane, name)}" for name in figures]
        over = f"over {lane['outcome'].size} {'s and '.join(map(str, replicates))}s: " if replicates else ""
        return f"{setting(lane)}\n{over}{', '.join(said)}"
    cost = f"final cost {float(typical(lane, 'final_cost')):.6g}"
    if select == "target_epoch":
        cost = f"{met_words(lane)}, {cost}{f' (medians {of_seeds(lane)})' * bool(replicates)}"
    elif replicates:
        cost = f"median {cost} {of_seeds(lane)}"
    else:
        cost += f", lowest in epoch {int(lane['best_epoch'])} of {int(lane['epochs'])}"
    said = setting(lane)
    return cost if said == "the only one" else f"{said}\n{cost}"


def met_words(lane: "xarray.Dataset") -> str:
    """How soon a setting met the target, in the median over its seeds; or how many of these did."""
    epochs, met = float(typical(lane, "target_epoch")), int(np.isfinite(scores(lane, "target_epoch")).sum())
    if np.isfinite(epochs):
        return f"target met in epoch {epochs:.6g}"
    return f"target met by {met} of {lane['outcome'].size} seeds" if met else "target not met"


def of_seeds(lane: "xarray.Dataset") -> str:
    """Over which seeds of a setting `typical` takes its median, and what became of those that it leaves out."""
    finite = int(np.isfinite(scores(lane, "final_cost")).sum())
    lost = lost_seeds(lane)
    return f"of {finite} {_seeds(lane, finite)}" + f", with {lost}" * bool(lost)


def lost_seeds(lane: "xarray.Dataset") -> str:
    """How many seeds of a setting diverged, or have not run; empty if none."""
    codes, seeds = lane["outcome"].values, _seeds(lane, 2)
    lost = {"diverged": np.count_nonzero(codes == DIVERGED), "not run yet": np.count_nonzero(codes == PENDING)}
    return " and ".join(f"{count} of {codes.size} {seeds} {what}" for what, count in lost.items() if count and seeds)


def _seeds(lane: "xarray.Dataset", count: int) -> str:
    return " and ".join(f"{name}{'s' * (count != 1)}" for name in map(str, lane["outcome"].dims))


def _rates(rows: dict[str, "xarray.Dataset"], select: str) -> list[tuple[str, str]]:
    """How much the choice of the learning rate matters, for each name."""
    said = {name: rate_words(table, select) for name, table in list(rows.items())[:_MOST_NAMES]}
    return [(name, "\n".join(lines)) for name, lines in said.items() if lines]


def _edges(rows: dict[str, "xarray.Dataset"]) -> list[tuple[str, str]]:
    """Where convergence and divergence end along each numeric axis, for each name."""
    found = []
    for name, table in list(rows.items())[:_MOST_NAMES]:
        table, _ = tried(table)
        axes = [str(d) for d in table["outcome"].dims if is_axis(table, str(d)) and d != "trial"]
        width = max(map(len, axes), default=0)
        for along in axes:
            said = f"\n{'':{width}s}  ".join(edge_words(table, along))
            found.append((name, f"{along:{width}s}  {said}"))
    return found


def edge_words(table: "xarray.Dataset", along: str) -> list[str]:
    table = table.sortby(along)
    edge, values = edges(table, along), table[along].values
    converged = table["outcome"] == CONVERGED
    somewhere = converged.any(edge.dims).values
    if not somewhere.any():
        said = [] if "train_cost" in table else ["converges nowhere"]  # of data in batches none can
    elif bool(converged.all()):
        said = ["converges at every value"]
    else:
        first, last = np.flatnonzero(somewhere)[[0, -1]]
        said = [f"converges {'somewhere ' if edge.dims else ''}at {_span(values[first], values[last])}"]
        said += [] if edge.dims or somewhere[first : last + 1].all() else ["with gaps"]
    unstable, gone = edge["unstable"].values, np.isnan(edge["stable"].values) & np.isfinite(edge["unstable"].values)
    if (begins := np.isfinite(unstable) & ~gone).any():
        said.append(f"diverges from {_span(unstable[begins].min(), unstable[begins].max())} on")
        if begins.ndim == 0 and np.isfinite(edge["surely_stable"]) and int(edge["changes"]) == 1:
            said[-1] += f" (the boundary is above {float(edge['surely_stable']):.4g})"
    if gone.any():
        where = f" for {thousands(gone.sum())} of {thousands(gone.size)} {' × '.join(edge.dims)}" if edge.dims else ""
        said.append(f"diverges at every value{where}")
    return (said or ["diverges nowhere"]) + _limit_words(table, along)


def _limit_words(table: "xarray.Dataset", along: str) -> list[str]:
    """Up to which rate theory calls the rule stable, where it knows."""
    limit = table.get("known_limit")
    if limit is None or limit.attrs["along"] != along:
        return []
    if not np.isfinite(limit).any():
        return [f"known limit {formula}", _OF_EACH_LANE] if (formula := table["limit_formula"].item()) else []
    said = [np.unique(values[np.isfinite(values)])[[0, -1]] for values in (limit.values, table["sharpness"].values)]
    return [f"known limit {table['limit_formula'].item()} = {_span(*said[0])}", f"at sharpness λ = {_span(*said[1])}"]


_OF_EACH_LANE = "λ preconditioned by the optimizer's state, so each lane has its own: jaxgd explain gives it"


def _span(low: Any, high: Any) -> str:
    return f"{low:.6g}" + (f" … {high:.6g}" if high > low else "")


def _unsettled(count: int) -> str:
    return f"{thousands(count)} counted as diverged for a cost that rose over a few epochs: {UNSETTLED}"


def _begun_nowhere(rows: dict[str, "xarray.Dataset"]) -> list[tuple[str, str]]:
    """How many lanes had no finite cost, no finite gradient or none at all to begin with, for each name."""
    found = []
    for name, table in list(rows.items())[:_MOST_NAMES]:
        ran = has_run(table["outcome"].values)
        cost, gradient = (table[name].values for name in ("start_cost", "start_gradient_norm"))
        counts = {
            "cost is not finite": ran & ~np.isfinite(cost),
            "gradient is not finite": ran & np.isfinite(cost) & ~np.isfinite(gradient),
            "gradient is 0": ran & np.isfinite(cost) & (gradient == 0),
        }
        said = [f"{thousands(where.sum())} where the {what}" for what, where in counts.items() if where.any()]
        if said:
            found.append((name, f"of the lanes, {' and '.join(said)}"))
    return found


def _missing(rows: dict[str, "xarray.Dataset"]) -> list[tuple[str, str]]:
    """About how many epochs lanes lack that are still descending, for each name."""
    found = []
    for name, table in list(rows.items())[:_MOST_NAMES]:
        missing = epochs_missing(table)
        if np.isfinite(missing).any():
            median = float(f"{np.nanmedian(missing):.3g}")
            about = thousands(median) if median < 1e9 else f"{median:.3g}"
            found.append(
                (name, f"about {about} epochs{' (median)' if missing.size > 1 else ''} where still descending")
            )
    return found
