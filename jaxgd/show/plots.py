"""Figures of a run, drawn from its stored results."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from jaxgd.outcome import OUTCOMES
from jaxgd.show.scales import WIDE, borders, is_log, with_heights
from jaxgd.show.style import COLOURS, DASHES, LINES, MARKS, NOWHERE, RC, titled
from jaxgd.show.tables import is_axis, setting
from jaxgd.table import REPLICATES, best, by_name

if TYPE_CHECKING:
    import xarray

_MOST_POINTS = 20_000  # drawn along one axis; beyond it they only hide each other
_MOST_CELLS = 1_000  # of a map, each way: more than a page has dots
_MOST_CURVES, _MOST_ROWS, _MOST_MINIMA = 12, 8, 10


def overview(table: "xarray.Dataset", paths: "xarray.Dataset | None", title: str) -> Figure:
    """One figure that shows the run: cost over epochs where no axis has a scale; final cost over one axis; or
    maps of outcome and final cost over two."""
    along = [str(d) for d in table["outcome"].dims if is_axis(table, str(d))]
    with matplotlib.rc_context(RC):
        if not along and paths is not None:
            return _curves(table, paths, title)
        rows = dict(list(by_name(with_heights(table)).items())[:_MOST_ROWS])
        if len(along) < 2 or "trial" in along:
            return _strips(rows, along[0] if along else _longest(table, 1)[0], title)
        return _maps(rows, *_longest(table, 2), title)


def _longest(table: "xarray.Dataset", count: int) -> list[str]:
    """The longest numeric dimensions, in their own order: axes before replicates, the first of equals."""
    numeric = [str(d) for d in table["outcome"].dims if table[d].dtype.kind in "iuf"]
    chosen = sorted(numeric, key=lambda d: (not is_axis(table, d), -table.sizes[d]))[:count]
    return [d for d in numeric if d in chosen]


# --- cost over epochs ---


def _curves(table: "xarray.Dataset", paths: "xarray.Dataset", title: str) -> Figure:
    """Cost over epochs, and the same on a logarithmic scale where it spans one."""
    some = np.unique(
        np.linspace(0, paths.sizes["path"] - 1, min(paths.sizes["path"], _MOST_CURVES)).round().astype(int)
    )
    costs = paths["cost"].values[some].astype(float)
    minimum = table.attrs.get("minimum")
    above = np.where(costs > (minimum or 0), costs - (minimum or 0), np.nan)  # a logarithm has no room for 0
    seen = above[np.isfinite(above)]
    spans = bool(seen.size) and (minimum is not None or not (costs <= 0).any()) and seen.max() > 10 * seen.min()
    several = len(some) > 1
    figure = Figure(figsize=((9 if spans else 6) + 2 * several, 3.6))
    panels = [("cost", costs, "linear"), (f"cost{' above the minimum' * bool(minimum)}", above, "log")][: 1 + spans]
    for axes, (label, heights, scale) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for row, place in enumerate(some):
            path = paths.isel(path=place)
            end = OUTCOMES[int(path["outcome"])]
            name = f"{setting(path.drop_vars('epoch')).removeprefix('optimizer = ')}: {end}" if several else None
            _curve(axes, path["epoch"].values, heights[row], row, end, name)
        axes.set(xlabel="epoch", ylabel=label, yscale=scale)
        _keep_in_sight(axes, heights, scale)
        _few_ticks(axes, scale)
    if several:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
    verdict = "" if several else f": {OUTCOMES[int(paths['outcome'].values[0])]}"
    return titled(figure, title + verdict)


def _curve(axes: Axes, epochs: np.ndarray, heights: np.ndarray, row: int, end: str, name: str | None) -> None:
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


def _strips(rows: dict[str, "xarray.Dataset"], along: str, title: str) -> Figure:
    """Final cost over one axis, marked by outcome, a row per name."""
    figure = Figure(figsize=(8, 1.2 + 2.8 * len(rows) if len(rows) < 3 else 1 + 2.1 * len(rows)))
    every = figure.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    scales = [_scale_of(table, along) for table in rows.values()]
    if len({label for label, _ in scales}) > 1:  # one scale below all of them
        scales = [(along, table[along].values) for table in rows.values()]
    for axes, (name, table), (_, where) in zip(every, rows.items(), scales, strict=True):
        _strip(axes, table, along, where)
        _few_ticks(axes, axes.get_yscale())
        axes.set(title=name, ylabel=table["height"].attrs["label"].replace(" above", "\nabove"))
    every[-1].set_xlabel(scales[-1][0])
    handles = {label: handle for axes in every for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [label for label in (*map(_in_legend, OUTCOMES), "median", "best") if label in handles]
    figure.legend(
        [handles[label] for label in order], order, loc="outside lower center", ncols=len(order), columnspacing=1.2
    )
    return titled(figure, title)


def _scale_of(table: "xarray.Dataset", along: str) -> tuple[str, np.ndarray]:
    """What an axis shows, and its values: for trials, the hyperparameter that they vary, if it is a single one."""
    if along == "trial":
        varied = [
            str(c)
            for c in table.coords
            if c != along and table[c].dims == ("trial",) and np.isfinite(table[c].values).any()
        ]
        if len(varied) == 1:
            return varied[0], table[varied[0]].values
    return along, table[along].values


def _strip(axes: Axes, table: "xarray.Dataset", along: str, scale: np.ndarray) -> None:
    codes, heights = (table[name].transpose(along, ...).values for name in ("outcome", "height"))
    where = np.broadcast_to(scale.reshape(-1, *(1,) * (codes.ndim - 1)), codes.shape).ravel()
    if is_log(scale):
        axes.set_xscale("log")
    if table["height"].attrs["log"]:
        axes.set_yscale("log")
    some = np.unique(np.linspace(0, codes.size - 1, min(codes.size, _MOST_POINTS)).astype(int))
    some = some[np.isfinite(where[some])]  # trials that an optimizer doesn't have lie nowhere
    for code, name in enumerate(OUTCOMES):
        here = some[codes.ravel()[some] == code]
        if here.size:
            style = {"color": COLOURS[name], "markersize": 4, "rasterized": True, "clip_on": False}
            axes.plot(where[here], heights.ravel()[here], MARKS[name], label=_in_legend(name), **style)
    if codes.size > len(scale):
        order = np.argsort(scale, kind="stable")
        middle = np.median(heights.reshape(len(scale), -1), axis=1)
        axes.plot(scale[order], middle[order], color="black", linewidth=0.8, label="median")
    try:
        winner = _scale_of(best(table), along)[1] if along != "trial" else scale[int(best(table)["trial"])]
    except ValueError:
        return  # nothing to mark: every lane diverged
    if along not in REPLICATES and len(scale) > 1:
        axes.axvline(float(winner), color="black", linewidth=0.8, linestyle=":", label="best")


def _in_legend(outcome: str) -> str:
    return "diverged (above)" if outcome == "diverged" else outcome


# --- over two axes ---


def _maps(rows: dict[str, "xarray.Dataset"], up: str, across: str, title: str) -> Figure:
    """Outcome, final cost and, where several minima are known, which was reached, over two axes."""
    whole = next(iter(rows.values()))
    several = len(whole["minimum"].attrs.get("known_minima", ())) > 1
    draw = [_outcome_map, _height_map] + ([_minimum_map] if several else [])
    figure = Figure(figsize=(0.5 + 4.6 * len(draw), 0.8 + 3.6 * len(rows)))
    every = figure.subplots(len(rows), len(draw), squeeze=False, sharex=True, sharey=True)
    for line, (name, table) in zip(every, rows.items(), strict=True):
        flat, cut = _cut(table, up, across)
        for axes, one in zip(line, draw, strict=True):
            heading = one(figure, axes, flat, up, across)
            axes.set(title=": ".join(filter(None, (name, heading))))
            axes.set_xscale("log" if is_log(flat[across].values) else "linear")
            axes.set_yscale("log" if is_log(flat[up].values) else "linear")
        line[0].set_ylabel(f"{up}\n({cut})" if cut else up)
    for axes in every[-1]:
        axes.set_xlabel(across)
    return titled(figure, title)


def _cut(table: "xarray.Dataset", up: str, across: str) -> tuple["xarray.Dataset", str]:
    """A table over two sorted dimensions, and where the others are cut: at the best setting, the first seed."""
    others = [d for d in table["outcome"].dims if d not in (up, across)]
    try:
        place = best(table)
    except ValueError:  # every lane diverged: one cut is as good as another
        place = table.isel({d: 0 for d in others})
    at = {d: 0 if d in REPLICATES else int(np.flatnonzero(table[d].values == place[d].values)[0]) for d in others}
    flat = table.isel(at).sortby([up, across])
    thin = {
        d: np.unique(np.linspace(0, flat.sizes[d] - 1, min(flat.sizes[d], _MOST_CELLS)).astype(int))
        for d in (up, across)
    }
    said = ", ".join(f"{d} = {table[d].values[i]:.4g}" for d, i in at.items() if table.sizes[d] > 1)
    return flat.isel(thin).transpose(up, across, ...), said


def _outcome_map(figure: Figure, axes: Axes, table: "xarray.Dataset", up: str, across: str) -> str:
    codes = table["outcome"].values
    _patchwork(axes, table, codes, up, across, [COLOURS[name] for name in OUTCOMES])
    _key(axes, [(name, COLOURS[name]) for code, name in enumerate(OUTCOMES) if (codes == code).any()])
    return "outcome"


def _height_map(figure: Figure, axes: Axes, table: "xarray.Dataset", up: str, across: str) -> str:
    heights, log, heading = table["height"].values, table["height"].attrs["log"], table["height"].attrs["label"]
    if not heights.max() > heights.min():  # all alike: how soon then?
        heights, log, heading = table["best_epoch"].values, False, "epoch of the lowest cost"
    low, high = float(heights.min()), float(heights.max())
    scale = {"norm": LogNorm(low, high)} if log and high > WIDE * low > 0 else {}
    figure.colorbar(_mesh(axes, table, heights, up, across, **scale), ax=axes)
    return heading


def _minimum_map(figure: Figure, axes: Axes, table: "xarray.Dataset", up: str, across: str) -> str:
    places, reached = np.asarray(table["minimum"].attrs["known_minima"]), table["minimum"].values
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 1, len(places)))
    _patchwork(axes, table, np.where(np.isfinite(reached), reached, len(places)), up, across, [*colours, NOWHERE])
    counts = [int((reached == index).sum()) for index in range(len(places))]
    common = sorted(sorted(range(len(places)), key=lambda index: -counts[index])[:_MOST_MINIMA])
    key = [(", ".join(f"{v:.3g}" for v in places[i]), colours[i]) for i in common if counts[i]]
    _key(axes, key + [("none", NOWHERE)] * bool(np.isnan(reached).any()))
    parts = [re.fullmatch(r"(.+)_(\d+)", name) for name in (across, up)]
    if (
        all(parts)
        and parts[0][1] == parts[1][1]
        and all(int(part[2]) < places.shape[1] for part in parts)
        and places.shape[1] == 2
    ):
        x, y = (places[:, int(part[2])] for part in parts)
        axes.plot(x, y, "k*", markersize=9, markeredgecolor="white")
    return "minimum reached"


def _patchwork(
    axes: Axes, table: "xarray.Dataset", codes: np.ndarray, up: str, across: str, colours: Sequence[Any]
) -> None:
    norm = BoundaryNorm(np.arange(len(colours) + 1) - 0.5, len(colours))
    _mesh(axes, table, codes, up, across, cmap=ListedColormap(colours), norm=norm)


def _key(axes: Axes, entries: list[tuple[str, Any]]) -> None:
    patches = [Patch(facecolor=colour, edgecolor="#777777", linewidth=0.5, label=name) for name, colour in entries]
    axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0.2, handlelength=1)


def _mesh(axes: Axes, table: "xarray.Dataset", values: Any, up: str, across: str, **style: Any) -> Any:
    x, y = borders(table[across].values), borders(table[up].values)
    drawn = axes.pcolormesh(x, y, values, rasterized=True, **style)
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))  # whatever else is drawn on the map
    return drawn
