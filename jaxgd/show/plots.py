"""Figures of a run, drawn from its stored results."""

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from jaxgd.outcome import OUTCOMES
from jaxgd.show.atlas import drawn, height_map, outcome_map
from jaxgd.show.scales import has, is_log, longest, rows
from jaxgd.show.style import COLOURS, DASHES, LINES, MARKS, RC, legend_below, titled
from jaxgd.show.tables import is_axis
from jaxgd.show.terrain import last_costs, representative, words
from jaxgd.table import REPLICATES, best, edges, selected_by, tried

if TYPE_CHECKING:
    import xarray

Rows = dict[str, "xarray.Dataset"]  # by name

_MOST_POINTS = 20_000  # drawn along one axis; beyond it they only hide each other
_MOST_CURVES = 12


def overview(table: "xarray.Dataset", paths: "xarray.Dataset | None" = None, title: str = "") -> Figure:
    """One figure that shows the run: cost over epochs where no axis has a scale; final cost over one axis; or
    maps of outcome and final cost over two."""
    along = [str(d) for d in table["outcome"].dims if is_axis(table, str(d))]
    with matplotlib.rc_context(RC):
        if not along and paths is not None:
            return curves(table, paths, title)
        if len(along) < 2 or "trial" in along:
            return final_cost(table, along[0] if along else longest(table, 1)[0], title)
        return drawn(rows(table), *longest(table, 2), title, [outcome_map, height_map])


# --- cost over epochs ---


def curves(table: "xarray.Dataset", paths: "xarray.Dataset", title: str = "") -> Figure:
    """Cost over epochs, and the same on a logarithmic scale where it spans one; of a dozen paths, if there are more."""
    with matplotlib.rc_context(RC):
        return _curves(table, paths, representative(paths, _MOST_CURVES), title)


def _curves(table: "xarray.Dataset", paths: "xarray.Dataset", some: list[int], title: str) -> Figure:
    costs = paths["cost"].values[some].astype(float)
    minimum = table.attrs.get("minimum")
    above = np.where(costs > (minimum or 0), costs - (minimum or 0), np.nan)  # a logarithm has no room for 0
    seen = above[np.isfinite(above)]
    spans = bool(seen.size) and (minimum is not None or not (costs <= 0).any()) and seen.max() > 10 * seen.min()
    several = len(some) > 1
    ends = [OUTCOMES[int(paths["outcome"].values[place])] for place in some]
    names = [f"{words(paths, place, some)}: {end}".removeprefix(": ") for place, end in zip(some, ends, strict=True)]
    beside = max(2.0, 0.5 + 0.075 * max(map(len, names))) if several else 0  # inches of legend
    figure = Figure(figsize=((9 if spans else 6) + beside, 3.6))
    panels = [("cost", costs, "linear"), (f"cost{' above the minimum' * bool(minimum)}", above, "log")][: 1 + spans]
    for axes, (label, heights, scale) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for row, (end, name) in enumerate(zip(ends, names, strict=True)):
            _curve(axes, paths["epoch"].values, heights[row], row, end, name if several else None)
        axes.set(xlabel="epoch", ylabel=label, yscale=scale)
        _keep_in_sight(axes, heights, scale)
        if scale == "log" and minimum is not None:  # what lies lower is rounding
            least = 4 * float(np.finfo(paths["cost"].dtype).eps) * max(1.0, abs(minimum))
            axes.set_ylim(bottom=max(axes.get_ylim()[0], min(least, float(np.nanmax(above)) / 10)))
        _few_ticks(axes, scale)
    if several:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
    verdict = "" if several else f": {OUTCOMES[int(paths['outcome'].values[0])]}"
    return titled(figure, title + verdict)


def _curve(axes: Axes, epochs: np.ndarray, heights: np.ndarray, row: int, end: str, name: str | None) -> None:
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    heights = np.where(np.isfinite(heights), heights, np.nan)
    style = {"color": LINES[row % len(LINES)], "linestyle": DASHES[row // len(LINES) % len(DASHES)]}
    drawn = np.flatnonzero(np.isfinite(heights))
    mark = {"marker": MARKS[end], "markevery": drawn[-1:].tolist() or None, "markersize": 6}
    axes.plot(epochs, heights, label=name, **style, **mark)


def _few_ticks(axes: Axes, scale: str) -> None:
    """1, 2, 5 on a logarithmic scale that is too short for powers of ten alone."""
    low, high = axes.get_ylim()
    if scale == "log" and high < 1000 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _keep_in_sight(axes: Axes, heights: np.ndarray, scale: str) -> None:
    """Keeps one that runs away from flattening the others."""
    rows = [row[np.isfinite(row)] for row in heights]
    if not any(row.size for row in rows):
        axes.text(0.5, 0.5, "no finite cost", transform=axes.transAxes, ha="center")
        return
    tame = [row for row in rows if row.size and row[-1] <= 10 * abs(row[0])]
    low, high = (min(map(np.min, tame)), max(map(np.max, tame))) if tame else (0.0, 0.0)
    if max(row.max() for row in rows if row.size) > 100 * high > 0:
        axes.set_ylim((low / 2, 10 * high) if scale == "log" else (min(low, 0.0) - 0.05 * high, 1.5 * high))


# --- over one axis ---


def final_cost(table: "xarray.Dataset", along: str | None = None, title: str = "") -> Figure:
    """Final cost over one axis, by default the longest, marked by outcome, with the best value, the edge and the known
    limit; a row per name.

    Raises:
      ValueError: the table has no such axis of numbers.
    """
    along = along or next(iter(longest(table, 1)), None)
    if along is None or along not in table["outcome"].dims or table[along].dtype.kind not in "iuf":
        raise ValueError(f"no axis of numbers{f' {along!r}' if along else ''}: {has(table)}")
    with matplotlib.rc_context(RC):
        return _strips(rows(table), along, title)


def _strips(rows: Rows, along: str, title: str) -> Figure:
    rows, along = _over_one_scale(rows, along)
    alike = len({table[along].values.tobytes() for table in rows.values()}) == 1  # of a look closer each has its own
    figure = Figure(figsize=(8, 1.2 + 2.8 * len(rows) if len(rows) < 3 else 1 + 2.1 * len(rows)))
    every = figure.subplots(len(rows), 1, sharex=alike, sharey=True, squeeze=False)[:, 0]
    for axes, (name, table) in zip(every, rows.items(), strict=True):
        _strip(axes, table, along)
        _few_ticks(axes, axes.get_yscale())
        axes.set(title=name, ylabel=table["height"].attrs["label"].replace(" above", "\nabove"))
    every[-1].set_xlabel(along)
    handles = {label: handle for axes in every for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    best_of_all = _best_in_legend(next(iter(rows.values())))
    every_label = (*map(_in_legend, OUTCOMES), "median", best_of_all, "edge", "known limit")
    legend_below(figure, {label: handles[label] for label in every_label if label in handles})
    return titled(figure, title)


def _over_one_scale(rows: Rows, along: str) -> tuple[Rows, str]:
    """The tables over what a picture shows, and its name: for trials the hyperparameter that they vary, if it is a
    single number and the same for all of them."""
    found = {name: tried(table) for name, table in rows.items()}
    scales = {scale for _, scale in found.values()}
    if along != "trial" or len(scales) > 1:
        return rows, along
    return {name: table for name, (table, _) in found.items()}, scales.pop()


def _strip(axes: Axes, table: "xarray.Dataset", along: str) -> None:
    scale = table[along].values
    codes, heights = (table[name].transpose(along, ...).values for name in ("outcome", "height"))
    where = np.broadcast_to(scale.reshape(-1, *(1,) * (codes.ndim - 1)), codes.shape).ravel()
    if is_log(scale):
        axes.set_xscale("log")
    if table["height"].attrs["log"]:
        axes.set_yscale("log")
    some = np.unique(np.linspace(0, codes.size - 1, min(codes.size, _MOST_POINTS)).astype(int))
    for code, name in enumerate(OUTCOMES):
        here = some[codes.ravel()[some] == code]
        if here.size:
            style = {"color": COLOURS[name], "markersize": 4, "rasterized": True, "clip_on": False}
            axes.plot(where[here], heights.ravel()[here], MARKS[name], label=_in_legend(name), **style)
    if codes.size > len(scale):
        order = np.argsort(scale, kind="stable")
        middle = np.median(heights.reshape(len(scale), -1), axis=1)
        axes.plot(scale[order], middle[order], color="black", linewidth=0.8, label="median")
    if along not in REPLICATES and along != "trial" and len(scale) > 1:
        _mark_ends(axes, table, along)
    try:
        winner = best(table)[along]
    except ValueError:
        return  # nothing to mark: every lane diverged
    if along not in REPLICATES and len(scale) > 1:
        axes.axvline(float(winner), color="black", linewidth=0.8, linestyle=":", label=_best_in_legend(table))


def _best_in_legend(table: "xarray.Dataset") -> str:
    """What the best is best by, where that is another figure than the picture's."""
    by = selected_by(table)
    return "best" if by in ("final_cost", "best_cost") else f"best by {by.replace('_', ' ')}"


def _mark_ends(axes: Axes, table: "xarray.Dataset", along: str) -> None:
    """Where divergence begins: as it was found, half way between two values, and as theory has it."""
    edge = edges(table, along)
    if edge["unstable"].ndim == 0 and np.isfinite(edge["unstable"]) and int(edge["changes"]) == 1:
        low, high = float(edge["stable"]), float(edge["unstable"])
        at = np.sqrt(low * high) if is_log(table[along].values) else (low + high) / 2
        axes.axvline(at, color="#6e1f00", linewidth=1, linestyle="-.", label="edge")
    limit = table.get("known_limit")
    there = limit is not None and limit.attrs["along"] == along and limit.size == 1
    if there and table[along].min() <= limit.item() <= table[along].max():  # elsewhere it would squeeze the rest
        axes.axvline(limit.item(), color="#0072b2", linewidth=1.6, linestyle="--", label="known limit", zorder=0)


def _in_legend(outcome: str) -> str:
    return "diverged (above)" if outcome == "diverged" else outcome


# --- optimizers beside each other ---


def optimizers(table: "xarray.Dataset", paths: "xarray.Dataset | None" = None, title: str = "") -> Figure:
    """Optimizers compared: cost over epochs of the best stored path of each, and final cost over the longest axis."""
    every_name, along = rows(table), next(iter(longest(table, 1)), None)
    with matplotlib.rc_context(RC):
        panels = [paths is not None and bool(np.isfinite(last_costs(paths)).any()), along is not None]
        figure = Figure(figsize=(1 + 4.6 * max(1, sum(panels)), 4))
        every = iter(np.atleast_1d(figure.subplots(1, max(1, sum(panels)))))
        if panels[0]:
            _best_curves(next(every), table, paths)
        if panels[1]:
            _lowest_over(next(every), *_over_one_scale(every_name, along))
        handles, labels = figure.axes[-1].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
        return titled(figure, title)


def _best_curves(axes: Axes, table: "xarray.Dataset", paths: "xarray.Dataset") -> None:
    minimum, some = table.attrs.get("minimum", 0.0), representative(paths, _MOST_CURVES)
    costs = paths["cost"].values[some].astype(float) - minimum
    is_rounding = "minimum" in table.attrs  # what lies below it
    scale = "linear" if (costs < 0).any() and not is_rounding else "log"
    heights = np.where(costs > 0, costs, np.nan) if scale == "log" else costs
    for row, place in enumerate(some):
        _curve(
            axes,
            paths["epoch"].values,
            heights[row],
            row,
            OUTCOMES[int(paths["outcome"].values[place])],
            words(paths, place, some),
        )
    label = "cost above the minimum" if minimum else "cost"
    axes.set(xlabel="epoch", ylabel=label, yscale=scale, title="the best of each, by epoch")
    _keep_in_sight(axes, heights, scale)


def _lowest_over(axes: Axes, rows: Rows, along: str) -> None:
    for row, (name, table) in enumerate(rows.items()):
        height = table["height"]
        height = height.median([d for d in height.dims if d in REPLICATES])
        height = height.min([d for d in height.dims if d != along])
        style = {"color": LINES[row % len(LINES)], "linestyle": DASHES[row % len(DASHES)]}
        height = height.sortby(along)
        axes.plot(height[along].values, height.values, label=name, **style)
    axes.set(xlabel=along, ylabel=table["height"].attrs["label"], title="final cost, what ran away on top")
    every = np.concatenate([table[along].values for table in rows.values()])
    axes.set_xscale("log" if is_log(every) else "linear")
    axes.set_yscale("log" if table["height"].attrs["log"] else "linear")
