"""Maps over two axes: what became of each lane, how soon, how low, and which minimum it reached."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from jaxgd.outcome import OUTCOMES
from jaxgd.show.scales import WIDE, borders, has, is_log, longest, rows
from jaxgd.show.style import COLOURS, NOWHERE, RC, titled
from jaxgd.table import REPLICATES, best

if TYPE_CHECKING:
    import xarray

_MOST_CELLS = 1_000  # of a map, each way: more than a page has dots
_MOST_MINIMA = 10
_ALIKE = 1e-3  # how near values lie, as a share of them, for their labels to be cut short
_MOST_TICKS = 4  # across: of values that differ in their last digits only, no more have room


def maps(table: "xarray.Dataset", title: str = "") -> Figure:
    """Over the two longest axes: outcome, epochs to the target, or to the lowest cost where there is none, and final
    cost; beside them, where several minima are known, which was reached.

    Raises:
      ValueError: fewer than two axes of numbers vary.
    """
    if len(along := longest(table, 2)) < 2:
        raise ValueError("a map needs two axes of numbers; " + has(table))
    with matplotlib.rc_context(RC):
        return drawn(rows(table), *along, title, _wanted(rows(table)))


def _wanted(tables: dict[str, "xarray.Dataset"]) -> list[Any]:
    """Outcome and epochs; and final cost, unless it is the same everywhere."""
    differs = any(float(table["height"].max()) > float(table["height"].min()) for table in tables.values())
    return [outcome_map, _epochs_map] + [height_map] * differs


def drawn(rows: dict[str, "xarray.Dataset"], up: str, across: str, title: str, draw: list[Any]) -> Figure:
    """Maps over two axes; and, where several minima are known, one of which was reached."""
    whole = next(iter(rows.values()))
    several = len(whole["minimum"].attrs.get("known_minima", ())) > 1
    draw = draw + [_minimum_map] * several
    square = len(rows) == 1 and len(draw) == 4  # two and two: in one line they would be small
    shape = (2, 2) if square else (len(rows), len(draw))
    figure = Figure(figsize=(0.5 + 4.6 * shape[1], 0.8 + 3.6 * shape[0]))
    every = figure.subplots(*shape, squeeze=False, sharex=True, sharey=True)
    for line, (name, table) in zip(every.reshape(len(rows), -1), rows.items(), strict=True):
        flat, cut = _cut(table, up, across)
        for axes, one in zip(line, draw, strict=True):
            heading = one(figure, axes, flat, up, across)
            axes.set(title=": ".join(filter(None, (name, heading))))
            if _draw_limit(axes, flat, up, across) and one is outcome_map:
                axes.set_title(f"{axes.get_title('left')}; dashed: known limit")
            axes.set_xscale("log" if is_log(flat[across].values) else "linear")
            if not is_log(flat[across].values):
                axes.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS))
            axes.set_yscale("log" if is_log(flat[up].values) else "linear")
        for axes in line[:: shape[1]]:
            axes.set_ylabel(f"{up}\n({cut})" if cut else up)
    values = whole[across].values
    offset = np.ptp(values) < _ALIKE * np.abs(values).max()  # what all have in common is written below their ends
    for axes in every[-1]:
        axes.set_xlabel(across, labelpad=14 if offset else None)
    return titled(figure, title)


def _draw_limit(axes: Axes, table: "xarray.Dataset", up: str, across: str) -> bool:
    """The known limit of the learning rate, if that is one of the two axes; whether there is any."""
    limit = table.get("known_limit")
    if limit is None or limit.attrs["along"] not in (up, across) or not set(limit.dims) <= {up, across}:
        return False
    along = limit.attrs["along"]
    other = up if along == across else across
    values = np.broadcast_to(limit.values, table.sizes[other]) if limit.ndim == 0 else limit.values
    line = (values, table[other].values) if along == across else (table[other].values, values)
    axes.plot(*line, color="black", linewidth=2.5)
    axes.plot(*line, color="white", linewidth=1.2, linestyle="--")
    return bool(np.isfinite(values).any())


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


def outcome_map(figure: Figure, axes: Axes, table: "xarray.Dataset", up: str, across: str) -> str:
    codes = table["outcome"].values
    _patchwork(axes, table, codes, up, across, [COLOURS[name] for name in OUTCOMES])
    _key(axes, [(name, COLOURS[name]) for code, name in enumerate(OUTCOMES) if (codes == code).any()])
    return "outcome"


def height_map(figure: Figure, axes: Axes, table: "xarray.Dataset", up: str, across: str) -> str:
    heights, log, heading = table["height"].values, table["height"].attrs["log"], table["height"].attrs["label"]
    if not heights.max() > heights.min():  # all alike: how soon then?
        heights, log, heading = table["best_epoch"].values, False, "epoch of the lowest cost"
    low, high = float(heights.min()), float(heights.max())
    scale = {"norm": LogNorm(low, high)} if log and high > WIDE * low > 0 else {}
    figure.colorbar(_mesh(axes, table, heights, up, across, **scale), ax=axes)
    return heading


def _epochs_map(figure: Figure, axes: Axes, table: "xarray.Dataset", up: str, across: str) -> str:
    met = np.isfinite(table["target_epoch"].values).any()
    epochs = table["target_epoch" if met else "best_epoch"].values.astype(float)
    seen = epochs[np.isfinite(epochs)]
    scale = {"norm": LogNorm(seen.min(), seen.max())} if seen.size and seen.max() > WIDE * seen.min() > 0 else {}
    axes.set_facecolor(NOWHERE)
    figure.colorbar(_mesh(axes, table, np.ma.masked_invalid(epochs), up, across, cmap="cividis", **scale), ax=axes)
    return "epochs to the target" if met else "epoch of the lowest cost"


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
