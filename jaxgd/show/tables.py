"""Words for the terminal: the epoch lines of one descent, the closing table of a run."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from jaxgd.outcome import OUTCOMES
from jaxgd.show.style import COLOURS, MEANINGS
from jaxgd.table import best, edges, epochs_missing

if TYPE_CHECKING:
    import xarray

_MOST_LINES = 201  # of epochs; longer descents show every so many


def epoch_lines(paths: "xarray.Dataset") -> Iterator[str]:
    """EPOCH i: Cost = …, x = …   for the first stored path, as long as it ran."""
    path = paths.isel(path=0)
    names = [name for name in path.data_vars if str(name).split(".")[0] == "params"]
    ran = np.flatnonzero(~np.isnan(path["cost"].values) | (path["epoch"].values == 0))
    for i in ran[_evenly(len(ran), _MOST_LINES)]:
        values = ", ".join(f"{_short(name)} = {vector(path[name].values[i])}" for name in names)
        yield f"EPOCH {path['epoch'].values[i]}: Cost = {number(path['cost'].values[i])}, {values}"


def closing(table: "xarray.Dataset", select: str) -> Group:
    """How many lanes met which end, the best setting, and where convergence ends along each axis."""
    parts: list[Any] = [_outcomes(table), Text()]
    parts += [Text.from_markup(line) for line in [_best_line(table, select), *_edge_lines(table), *_missing_line(table)]]
    return Group(*parts)


def setting(lane: "xarray.Dataset") -> str:
    """The coordinates of one setting in words: learning_rate = 0.5, x = 3."""
    said = []
    for name in lane.coords:
        value = lane[name].values
        if value.ndim == 0 and not (isinstance(value.item(), float) and np.isnan(value.item())):
            said.append(f"{name} = {value.item() if value.dtype.kind not in 'f' else f'{value.item():.6g}'}")
    return ", ".join(said) or "the only one"


def names(rows: Iterable[tuple[str, str]], *headings: str) -> Table:
    """A plain list of things with a word on each."""
    table = Table(*headings, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


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


def _short(name: Any) -> str:
    return str(name).removeprefix("params.").replace("params", "x")


def _evenly(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.arange(0)


def _outcomes(table: "xarray.Dataset") -> Table:
    counts = np.bincount(table["outcome"].values.ravel(), minlength=len(OUTCOMES))
    shown = Table("outcome", "lanes", "share", "", box=None, header_style="bold", pad_edge=False)
    for name, count in zip(OUTCOMES, counts, strict=True):
        if count:
            share = f"{100 * count / counts.sum():.1f} %"
            shown.add_row(Text(name, COLOURS[name]), f"{count:,}".replace(",", " "), share, Text(MEANINGS[name], "dim"))
    shown.columns[1].justify = shown.columns[2].justify = "right"
    return shown


def _best_line(table: "xarray.Dataset", select: str) -> str:
    try:
        lane = best(table, select)
    except ValueError as error:
        return f"[bold]best[/]     none: {str(error).removeprefix('there is no best setting: ')}"
    replicates = lane["outcome"].dims
    cost = float(lane["final_cost"].median()) if replicates else float(lane["final_cost"])
    median = "median " if replicates else ""
    line = f"[bold]best[/]     {setting(lane)}:  {median}final cost {cost:.6g}"
    if not replicates:
        line += f" after {int(lane['epochs'])} epochs, lowest from epoch {int(lane['best_epoch'])} on"
    return line


def _edge_lines(table: "xarray.Dataset") -> Iterator[str]:
    for along in table["outcome"].dims:
        if along in ("seed", "trial") or table[along].dtype.kind not in "iuf" or table.sizes[along] < 2:
            continue
        edge = edges(table, along)
        others = f", over all {' and '.join(map(str, edge.dims))}" if edge.dims else ""
        low, high, unstable = float(edge["low"].min()), float(edge["high"].max()), edge["unstable"]
        said = f"converges between {low:.6g} and {high:.6g}" if np.isfinite(low) else "converges nowhere"
        if np.isfinite(unstable).any():
            first, last = float(unstable.min()), float(unstable.max())
            said += f", diverges for good from {first:.6g}" + (f" to {last:.6g}" if last > first else "")
        yield f"[bold]edge[/]     {along}: {said}{others}"


def _missing_line(table: "xarray.Dataset") -> Iterator[str]:
    missing = epochs_missing(table)
    if np.isfinite(missing).any():
        yield (
            f"[bold]missing[/]  what is still descending needs about {np.nanmedian(missing):.3g} more epochs (median), "
            f"at the pace of its last {int(table['window'].max())}"
        )
