"""Figures of a run, drawn from its stored results."""

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure

from jaxgd.outcome import OUTCOMES
from jaxgd.show.style import COLOURS, DASHES, LINES, MARKS, RC
from jaxgd.show.tables import setting
from jaxgd.table import REPLICATES, best

if TYPE_CHECKING:
    import xarray

_MOST_POINTS = 20_000  # drawn along one axis; beyond it they only hide each other
_WIDE = 1000  # span of a scale's values from which it is logarithmic


def overview(table: "xarray.Dataset", paths: "xarray.Dataset", title: str) -> Figure:
    """One figure that shows the run: cost over epochs where nothing numeric varies; final cost over
    one axis; or maps of outcome and final cost over two."""
    along = [str(d) for d in table["outcome"].dims if _is_numeric(table, str(d))]
    with matplotlib.rc_context(RC):
        if not along:
            return _curves(paths, title)
        rows = _rows(table)
        if len(along) == 1 or "trial" in along:
            return _strips(rows, along[0], title)
        return _maps(rows, *_two(table, along), title)


def _is_numeric(table: "xarray.Dataset", dimension: str) -> bool:
    return dimension not in REPLICATES and table[dimension].dtype.kind in "iuf" and table.sizes[dimension] > 1


def _two(table: "xarray.Dataset", along: list[str]) -> tuple[str, str]:
    """The axis across and the axis up: the last two, for which the other axes are cut at their best."""
    return along[-2], along[-1]


def _rows(table: "xarray.Dataset") -> dict[str, "xarray.Dataset"]:
    """One table per name along the first dimension of names (an optimizer, say), or the whole as one."""
    named = [d for d in table["outcome"].dims if table[d].dtype.kind not in "iuf"]
    if not named:
        return {"": table}
    return {str(name): table.isel({named[0]: i}) for i, name in enumerate(table[named[0]].values)}


def _curves(paths: "xarray.Dataset", title: str) -> Figure:
    """Cost over epochs, linear and logarithmic where the cost allows."""
    costs = paths["cost"].values
    positive = bool(np.nanmin(np.where(np.isfinite(costs), costs, np.nan)) > 0) if np.isfinite(costs).any() else False
    spread = positive and np.nanmax(costs) > 10 * np.nanmin(costs)
    figure = Figure(figsize=(9, 3.6) if spread else (6, 3.6))
    scales = ("linear", "log") if spread else ("linear",)
    for axes, scale in zip(np.atleast_1d(figure.subplots(1, len(scales))), scales, strict=True):
        for i in range(min(paths.sizes["path"], 12)):
            path = paths.isel(path=i)
            label = f"{setting(path.drop_vars('epoch'))}" if paths.sizes["path"] > 1 else None
            style = {"color": LINES[i % len(LINES)], "linestyle": DASHES[i // len(LINES) % len(DASHES)]}
            axes.plot(path["epoch"], path["cost"], label=f"{label}: {OUTCOMES[int(path['outcome'])]}" if label else None, **style)
        axes.set(xlabel="epoch", ylabel=f"cost{' (log scale)' if scale == 'log' else ''}", yscale=scale)
    if paths.sizes["path"] > 1:
        figure.axes[-1].legend()
    verdict = f": {OUTCOMES[int(paths['outcome'].values[0])]}" if paths.sizes["path"] == 1 else ""
    figure.suptitle(title + verdict, x=0.01, ha="left")
    return figure


def _strips(rows: dict[str, "xarray.Dataset"], along: str, title: str) -> Figure:
    """Final cost over one axis, coloured by outcome, a row per name."""
    figure = Figure(figsize=(7, 1.2 + 2.8 * len(rows)))
    every = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, table) in zip(every, rows.items(), strict=True):
        _strip(axes, table, along)
        axes.set(title=name, ylabel="final cost")
    every[-1].set_xlabel(along)
    handles = {label: handle for axes in every for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _strip(axes: Axes, table: "xarray.Dataset", along: str) -> None:
    where = np.broadcast_to(table[along].values.reshape(-1, *(1,) * (table["outcome"].ndim - 1)), _first(table, along).shape)
    codes, costs = _first(table, along).values.ravel(), _first(table, along, "final_cost").values.ravel()
    where, top = where.ravel(), _top(table)
    some = np.unique(np.linspace(0, len(codes) - 1, min(len(codes), _MOST_POINTS)).astype(int))
    where, codes, costs = where[some], codes[some], costs[some]
    shown = np.where(np.isfinite(costs) & (costs < top), costs, top)  # what ran away is drawn along the top
    if _is_log(table[along].values):
        axes.set_xscale("log")
    if np.all(shown > 0) and top > 10 * shown.min():
        axes.set_yscale("log")
    for code, name in enumerate(OUTCOMES):
        here = codes == code
        if here.any():
            axes.plot(where[here], shown[here], MARKS[name], color=COLOURS[name], label=name, markersize=4, rasterized=True)
    try:
        winner = best(table)
        axes.axvline(float(winner[along]), color="black", linewidth=0.8, linestyle=":", label="best")
    except ValueError:
        pass  # nothing to mark: every lane diverged


def _maps(rows: dict[str, "xarray.Dataset"], up: str, across: str, title: str) -> Figure:
    """Outcome, final cost and, where several minima are known, which was reached, over two axes."""
    whole = next(iter(rows.values()))
    several = len(whole["minimum"].attrs.get("known_minima", ())) > 1
    draw = [_outcome_map, _cost_map] + ([_minimum_map] if several else [])
    figure = Figure(figsize=(1 + 4.4 * len(draw), 0.8 + 3.6 * len(rows)))
    every = figure.subplots(len(rows), len(draw), squeeze=False, sharex=True, sharey=True)
    for line, (name, table) in zip(every, rows.items(), strict=True):
        flat = _cut(table, up, across)
        for axes, one in zip(line, draw, strict=True):
            one(figure, axes, flat, up, across)
            axes.set(xlabel=across, ylabel=up, title=f"{name} {axes.get_title('left')}".strip())
            axes.set_xscale("log" if _is_log(flat[across].values) else "linear")
            axes.set_yscale("log" if _is_log(flat[up].values) else "linear")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _cut(table: "xarray.Dataset", up: str, across: str) -> "xarray.Dataset":
    """A table over two dimensions: of further ones, the slice through the best setting (the first seed)."""
    others = [d for d in table["outcome"].dims if d not in (up, across)]
    if others:
        try:
            place = best(table)
            table = table.sel({d: place[d] for d in others if d not in REPLICATES})
        except ValueError:
            table = table.isel({d: 0 for d in others if d not in REPLICATES})
        table = table.isel({d: 0 for d in others if d in REPLICATES})
    return table.transpose(up, across, ...)


def _outcome_map(figure: Figure, axes: Axes, table: "xarray.Dataset", up: str, across: str) -> None:
    colours = ListedColormap([COLOURS[name] for name in OUTCOMES])
    norm = BoundaryNorm(np.arange(len(OUTCOMES) + 1) - 0.5, len(OUTCOMES))
    drawn = _mesh(axes, table, table["outcome"].values, up, across, cmap=colours, norm=norm)
    present = sorted(set(table["outcome"].values.ravel().tolist()))
    bar = figure.colorbar(drawn, ax=axes, ticks=range(len(OUTCOMES)))
    bar.set_ticklabels([name if code in present else "" for code, name in enumerate(OUTCOMES)])
    bar.ax.tick_params(length=0)
    axes.set_title("outcome")


def _cost_map(figure: Figure, axes: Axes, table: "xarray.Dataset", up: str, across: str) -> None:
    top = _top(table)
    costs = np.minimum(np.where(np.isfinite(table["final_cost"].values), table["final_cost"].values, top), top)
    costs = costs - min(0.0, float(table.attrs.get("minimum", 0.0)))  # above the minimum, where that is below 0
    above = table.attrs.get("minimum", 0.0) < 0
    floor = max(float(np.min(costs)), 1e-12 * max(1.0, float(np.max(costs))))
    log = np.min(costs) >= 0 and np.max(costs) > _WIDE * floor
    scale = {"norm": LogNorm(floor, float(np.max(costs)))} if log else {}
    drawn = _mesh(axes, table, np.maximum(costs, floor) if log else costs, up, across, **scale)
    figure.colorbar(drawn, ax=axes)
    axes.set_title("final cost above the minimum" if above else "final cost")


def _minimum_map(figure: Figure, axes: Axes, table: "xarray.Dataset", up: str, across: str) -> None:
    places = table["minimum"].attrs["known_minima"]
    colours = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 1, len(places))))
    norm = BoundaryNorm(np.arange(len(places) + 1) - 0.5, len(places))
    drawn = _mesh(axes, table, np.ma.masked_invalid(table["minimum"].values), up, across, cmap=colours, norm=norm)
    bar = figure.colorbar(drawn, ax=axes, ticks=range(len(places)))
    bar.set_ticklabels(["(" + ", ".join(f"{v:.3g}" for v in place) + ")" for place in places])
    axes.set_title("minimum reached")
    if [str(d) for d in (across, up)] == ["x_1", "x_0"] and len(places[0]) == 2:
        axes.plot(*zip(*[(y, x) for x, y in places], strict=True), "k*", markersize=8)


def _mesh(axes: Axes, table: "xarray.Dataset", values: Any, up: str, across: str, **style: Any) -> Any:
    return axes.pcolormesh(table[across].values, table[up].values, values, shading="nearest", rasterized=True, **style)


def _first(table: "xarray.Dataset", along: str, name: str = "outcome") -> "xarray.DataArray":
    return table[name].transpose(along, ...)


def _top(table: "xarray.Dataset") -> float:
    """The highest cost worth drawing: a little above where lanes start, or end without running away."""
    finite = [table[name].values[np.isfinite(table[name].values)] for name in ("start_cost", "best_cost")]
    highest = max((float(values.max()) for values in finite if values.size), default=1.0)
    return highest * 10 if highest > 0 else highest + 1.0


def _is_log(values: np.ndarray) -> bool:
    """Whether values are spaced by ratios rather than by differences."""
    if len(values) < 3 or np.min(values) <= 0:
        return False
    return bool(np.max(values) > 20 * np.min(values) and np.allclose(np.diff(np.log(values.astype(float)), 2), 0, atol=1e-3))
