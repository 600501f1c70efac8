"""The cost as a landscape, with the balls that rolled over it: from above, from the side, in one dimension."""

from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jaxgd.landscape import projected
from jaxgd.outcome import DIVERGED, OUTCOMES
from jaxgd.show.relief import relief
from jaxgd.show.style import COLOURS, DASHES, LINES, MARKS, RC, legend_below, titled

if TYPE_CHECKING:
    import xarray

_HALO = [Stroke(linewidth=3, foreground="white"), Normal()]
_FAR = 20  # widths of the picture beyond which a path is cut: what ran away has no place on a page
_RUGGED, _GENTLE = 200, 4  # times its middle that a surface may rise before heights are logarithmic, by how it is seen
_FEW, _MANY = 4, 48
_RESTLESS = 8  # widths of the picture that a path may be long before it is drawn as a thin line


def surface(surface: "xarray.Dataset", paths: "xarray.Dataset | None" = None, title: str = "") -> Figure:
    """The cost over two params in 3-D, with a few balls and the ways they came; over one, as `contours` draws it."""
    if surface["cost"].ndim == 1:
        return contours(surface, paths, title)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.2, 5.4))
        axes = figure.add_subplot(projection="3d", computed_zorder=False)
        ground = Ground(surface)
        balls = balls_of(surface, paths, _FEW)
        draw_ground(axes, ground)
        for ball in balls:
            lift(axes, ground, ball)
        _legend(figure, axes)
        return titled(figure, title + ground.said)


def contours(surface: "xarray.Dataset", paths: "xarray.Dataset | None" = None, title: str = "") -> Figure:
    """The cost seen from above, with paths and the known minima; over one param, the cost as a curve."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.2, 4.8))
        axes, ground = figure.subplots(), Ground(surface, _GENTLE)
        draw_ground(axes, ground)
        balls = balls_of(surface, paths, _MANY if ground.is_plane and _starts_vary(surface, paths) else _FEW)
        many = len(balls) > _FEW and not named_by(paths)
        for ball in balls:
            lift(axes, ground, ball, thin=many)
        _legend(figure, axes, many)
        return titled(figure, title + ground.said)


# --- the ground ---


class Ground:
    """A surface as it is drawn."""

    def __init__(self, surface: "xarray.Dataset", flat: float = _RUGGED):
        costs, lowest = surface["cost"].values, surface["minimum_cost"].values
        lowest = lowest[np.isfinite(lowest)]
        self.surface, self.is_plane = surface, costs.ndim == 2
        self.relief = relief(costs, float(lowest.min()) if lowest.size else None, flat)
        self.x, self.y = (surface[name].values if name in surface.coords else None for name in "xy")
        self.label = ("cost above the lowest" if self.relief.base else "cost") if self.relief.log else "cost"
        at = surface["cost"].attrs.get("at")
        self.said = f" (drawn at {at})" if at else ""
        if not np.isfinite(costs).any():
            self.said += ": no finite cost here"

    def holds(self, positions: np.ndarray) -> np.ndarray:
        """Which of positions [..., axis] lie in the picture."""
        scales = [scale for scale in (self.x, self.y) if scale is not None]
        return np.all(
            [(column >= s[0]) & (column <= s[-1]) for column, s in zip(positions.T, scales, strict=True)], axis=0
        ).T


def draw_ground(axes: Axes, ground: Ground) -> None:
    """Surface, contours or curve, its minima, and what the axes are."""
    relief, (low, high) = ground.relief, ground.relief[-2:]
    minima, costs = ground.surface["minima"].values, ground.relief.of(ground.surface["minimum_cost"].values)
    star = {"marker": "*", "color": "black", "markeredgecolor": "white", "markersize": 13, "linestyle": "none"}
    axes.set_xlabel(_wrapped(ground.surface["x"].attrs["long_name"]))
    if not ground.is_plane:
        axes.plot(ground.x, relief.height, color="#777777", linewidth=1.5, zorder=1)
        axes.set(ylabel="cost", xlim=ground.x[[0, -1]], ylim=(low, high))
        axes.plot(minima[:, 0], costs, label="minimum" if len(minima) else None, zorder=5, **star)
        return
    axes.set_ylabel(_wrapped(ground.surface["y"].attrs["long_name"]))
    axes.set(xlim=ground.x[[0, -1]], ylim=ground.y[[0, -1]])
    as_cost = FuncFormatter(lambda height, _: _power(height) if relief.log else f"{height:g}")
    if axes.name == "3d":
        x, y = np.meshgrid(ground.x, ground.y)
        style = {"cmap": "viridis", "vmin": low, "vmax": high, "linewidth": 0, "antialiased": False, "alpha": 0.9}
        axes.plot_surface(x, y, relief.height, rcount=80, ccount=80, zorder=1, **style)
        axes.set(zlim=(low, high))
        digits = max(0, len(f"{high:g}") - 4) if not relief.log else 0
        axes.set_zlabel(ground.label, labelpad=8 + 8 * digits)
        axes.tick_params(axis="z", pad=4 + 3 * digits)  # they are centred where they stand
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.labelpad = 14 if "\n" in axis.get_label_text() else 6
        axes.zaxis.set_major_formatter(as_cost)
        axes.zaxis.set_major_locator(MaxNLocator(5, integer=relief.log))
        axes.view_init(elev=38, azim=_seen_from(relief.height))
        wrapped = "\n" in axes.get_xlabel() + axes.get_ylabel()
        axes.set_box_aspect((1, 1, 0.62), zoom=0.78 if wrapped else 0.92)  # labels hang out of the box
        axes.plot(minima[:, 0], minima[:, 1], costs, label="minimum" if len(minima) else None, zorder=5, **star)
        return
    levels = np.linspace(low, high, 15)
    filled = axes.contourf(ground.x, ground.y, relief.height, levels, cmap="viridis")
    axes.contour(ground.x, ground.y, relief.height, levels, colors="white", linewidths=0.4, linestyles="solid")
    ticks = MaxNLocator(6, integer=relief.log and high - low > 2).tick_values(low, high)
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    axes.figure.colorbar(filled, ax=axes, label=ground.label, ticks=ticks, format=as_cost, spacing="proportional")
    axes.plot(minima[:, 0], minima[:, 1], label="minimum" if len(minima) else None, zorder=5, **star)


def _seen_from(heights: np.ndarray) -> float:
    """The side from which the least stands in the way."""
    half = [size // 2 for size in heights.shape]
    corners = {
        45: heights[half[0] :, half[1] :],
        135: heights[half[0] :, : half[1]],
        -135: heights[: half[0], : half[1]],
        -45: heights[: half[0], half[1] :],
    }
    means = {angle: np.nanmean(part) if np.isfinite(part).any() else np.inf for angle, part in corners.items()}
    return min(means, key=means.get) - 12


def _power(height: float) -> str:
    return f"$10^{{{height:.0f}}}$" if abs(height - round(height)) < 1e-6 else f"{10**height:.2g}"


def _wrapped(label: str) -> str:
    return label.replace(" (", "\n(")


# --- the balls ---


class Ball(NamedTuple):
    """One path as it is drawn."""

    positions: np.ndarray  # [epoch, axis]
    costs: np.ndarray  # [epoch]
    outcome: str
    label: str
    colour: str
    dash: str


def balls_of(surface: "xarray.Dataset", paths: "xarray.Dataset | None", count: int) -> list[Ball]:
    """The best path of each name, as far as lines can be told apart; or up to `count`, the best and some of each
    outcome."""
    if paths is None:
        return []
    places = projected(surface, paths)
    names = named_by(paths)
    chosen = representative(paths, len(LINES) if names else count)
    balls = []
    for row, place in enumerate(chosen):
        end = OUTCOMES[int(paths["outcome"].values[place])]
        colour, dash = (LINES[row % len(LINES)], DASHES[row % len(DASHES)]) if names else (COLOURS[end], "-")
        label = f"{words(paths, place, chosen)}: {end}".removeprefix(": ")
        positions = _within_sight(surface, places[place], end)
        balls.append(Ball(positions, paths["cost"].values[place].astype(float), end, label, colour, dash))
    return balls


def _within_sight(surface: "xarray.Dataset", positions: np.ndarray, end: str) -> np.ndarray:
    """A path, cut where it is far away; one that ran away, as soon as it has left the picture."""
    scales = [surface[name].values for name in "xy" if name in surface.coords]
    middle, width = (np.array([of(scale[[0, -1]]) for scale in scales]) for of in (np.mean, np.ptp))
    with np.errstate(invalid="ignore"):
        away = ~(np.abs(positions - middle) <= width / 2).all(axis=1)
        far = ~(np.abs(positions - middle) <= _FAR * width).all(axis=1)
    first = int((away if end == "diverged" else far).argmax()) if (away if end == "diverged" else far).any() else None
    if first is None:
        return positions
    toward = np.clip(np.nan_to_num(positions[first] - middle), -_FAR * width, _FAR * width)
    kept = np.full_like(positions, np.nan)
    kept[:first] = positions[:first]
    kept[first] = middle + toward if np.isfinite(positions[first]).all() else np.nan
    return kept


def _starts_vary(surface: "xarray.Dataset", paths: "xarray.Dataset | None") -> bool:
    if paths is None or named_by(paths):
        return False
    starts = projected(surface, paths)[:, 0]
    return len(np.unique(starts[np.isfinite(starts).all(axis=1)], axis=0)) > 2


def representative(paths: "xarray.Dataset", count: int) -> list[int]:
    """The best path of each name; or the best, then by turns some of each outcome, spread, of those that ran away the
    slowest."""
    codes, order = paths["outcome"].values, ranked(paths)
    if name := named_by(paths):
        names = paths[name].values
        return sorted({str(names[place]): int(place) for place in order[::-1]}.values())[:count]
    if len(codes) <= count:
        return list(range(len(codes)))
    groups = [order[codes[order] == code] for code in dict.fromkeys([DIVERGED, *codes[order].tolist()])]
    share = -(-count // len(groups))
    queues = [group[: share if codes[group[0]] == DIVERGED else None] for group in groups if len(group)]
    spread = [queue[np.linspace(0, len(queue) - 1, share + 2).round().astype(int)[1:-1]] for queue in queues]
    turns = [int(queue[turn]) for turn in range(share) for queue in spread]
    return sorted(list(dict.fromkeys([int(order[0]), *turns]))[:count])


def ranked(paths: "xarray.Dataset") -> np.ndarray:
    """All paths, the best first: those of the best settings; else the lowest in the end, and of equals who was there
    first. What ran away comes last."""
    records = np.isfinite(paths["cost"].values).sum(axis=1)
    others = ~paths["best"].values if "best" in paths else np.zeros(len(records))
    return np.lexsort((records, last_costs(paths), others, paths["outcome"].values == DIVERGED))


def last_costs(paths: "xarray.Dataset") -> np.ndarray:
    """The last finite cost of each path; inf where there is none."""
    costs = paths["cost"].values.astype(float)
    finite = np.isfinite(costs)
    last = costs.shape[1] - 1 - finite[:, ::-1].argmax(axis=1)
    return np.where(finite.any(axis=1), costs[np.arange(len(costs)), last], np.inf)


def words(paths: "xarray.Dataset", place: int, among: list[int]) -> str:
    """What sets one path apart among some: learning_rate = 0.5."""
    said = []
    for name, coordinate in paths.coords.items():
        if coordinate.dims != ("path",):
            continue
        values, value = coordinate.values, coordinate.values[place]
        if len({str(values[other]) for other in among}) > 1 and not (values.dtype.kind == "f" and np.isnan(value)):
            said.append(f"{value}" if values.dtype.kind not in "iuf" else f"{name} = {value:.4g}")
    return ", ".join(said[:3])


def named_by(paths: "xarray.Dataset | None") -> str | None:
    """The coordinate that names paths (an optimizer, say), if they differ in it."""
    if paths is None:
        return None
    several = [n for n, c in paths.coords.items() if c.dims == ("path",) and c.dtype.kind not in "iuf"]
    return next((str(n) for n in several if len(set(map(str, paths[n].values))) > 1), None)


def lift(axes: Axes, ground: Ground, ball: Ball, upto: int | None = None, thin: bool = False) -> list[Any]:
    """Draws a ball where it is at a record, the last by default, and the way it came."""
    positions, costs = ball.positions[: None if upto is None else upto + 1], ball.costs
    there = np.isfinite(positions).all(axis=1)
    columns = [column[there] for column in positions.T]
    heights = ground.relief.of(costs[: len(positions)])[there]
    scales = [scale for scale in (ground.x, ground.y) if scale is not None]
    steps = np.diff(np.stack(columns), axis=1) / [[scale[-1] - scale[0]] for scale in scales]
    swings = np.linalg.norm(steps, axis=0).sum() > _RESTLESS
    line = {"color": "black" if thin else ball.colour, "linestyle": "-" if swings else ball.dash}
    line["linewidth"] = 0.8 if thin else 0.6 if swings else 2
    mark = {
        "marker": MARKS[ball.outcome],
        "color": ball.colour,
        "markeredgecolor": "black",
        "markersize": 5 if thin else 9,
    }
    if MARKS[ball.outcome] == "x":
        mark |= {"markeredgecolor": ball.colour, "markeredgewidth": 2}
    halo = {} if thin or swings else {"path_effects": _HALO}
    if axes.name == "3d":
        low, high = ground.relief[-2:]
        inside = (heights <= high) & ground.holds(positions[there])
        columns = [np.where(inside, column, np.nan) for column in columns] + [heights + 0.01 * (high - low)]
    elif not ground.is_plane:
        columns.append(heights)
    drawn = axes.plot(*columns, zorder=6, **line, **halo)
    end = np.flatnonzero(np.isfinite(np.stack(columns)).all(axis=0))[-1:]
    drawn += axes.plot(*(column[end] for column in columns), linestyle="none", zorder=7, **mark, label=ball.label)
    if not ground.is_plane and not thin:
        drawn += axes.plot(*columns, ".", color=ball.colour, markersize=4, zorder=6)
    return drawn


def _legend(figure: Figure, axes: Axes, by_outcome: bool = False) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if by_outcome:
        labels = [label.rsplit(": ", 1)[-1] for label in labels]
    entries = dict(zip(labels, handles, strict=True))
    entries = {label: entries[label] for label in entries if label}
    if entries:
        legend_below(figure, entries)
