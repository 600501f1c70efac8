"""Films: balls that roll over the cost, epoch by epoch, as looping GIFs.

What stands still is drawn once; of each frame only what moves, so that a film takes a second or two.
Many epochs pass between two frames where nothing moves far, and few or none where much does.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageColor, ImageOps

from jaxgd.landscape import projected
from jaxgd.outcome import CONVERGED, DIVERGED, OUTCOMES
from jaxgd.show.relief import relief
from jaxgd.show.style import COLOURS, LINES, RC
from jaxgd.show.tables import setting
from jaxgd.show.terrain import named_by, ranked, representative

if TYPE_CHECKING:
    import xarray

_FRAMES = 80
_FRAME_TIME, _SLIDE_TIME, _LAST_TIME = 60, 700, 1500  # milliseconds
_STILL = 0.35  # share of the frames that goes by epochs alone, however far the balls move
_MOST_COLOURS = 128
_MOST_BALLS, _MOST_RACERS = 200, 7
_MOST_RAISED = 3  # balls that are seen on the surface itself, not from above
_DPI = 100
_WIDE, _HIGH, _HEAD, _FOOT, _LINE = 4.2, 2.7, 0.42, 0.57, 0.2  # inches: of a panel, what is above and below, of words
_LETTERS = 44  # of a panel's title in one line
_RESTLESS = 8  # widths of the picture that a way may be long before it is drawn as a thin line

Height = Callable[[np.ndarray], np.ndarray]  # of places [..., axis] on a surface, as it is drawn


class Film(NamedTuple):
    """Frames to be shown one after the other, again and again; a notebook shows it as it is."""

    frames: list[Image.Image]
    durations: list[int]  # of each frame, in milliseconds

    def save(self, path: Path | str | io.BytesIO) -> None:
        """Writes it as a GIF that loops for ever."""
        first, *others = self.frames
        first.save(path, "GIF", save_all=True, append_images=others, duration=self.durations, loop=0, disposal=1)

    def _repr_png_(self) -> bytes:  # a GIF in an image tag: browsers go by the content
        content = io.BytesIO()
        self.save(content)
        return content.getvalue()


class Panel(NamedTuple):
    """One picture of the cost, and the balls that roll over it."""

    title: str
    balls: list[int]  # which of the paths
    names: list[str]  # of the balls, if they are to be told apart


def animated(surface: "xarray.Dataset", paths: "xarray.Dataset", title: str) -> Film:
    """The film that fits a run.

    Its optimizers racing, if it has several; balls from all its starts at once, if these vary; else the
    ball at a setting that converges beside one at which it diverges, as far as there are such.

    Args:
      surface: of the cost, as `landscape.surface` gives it.
      paths: `cost`, `outcome` and `params…` of descents, record by record.
      title: above all of it.

    Raises:
      ValueError: none of the paths has a record.
    """
    return film(surface, paths, panels(surface, paths), title)


def panels(surface: "xarray.Dataset", paths: "xarray.Dataset") -> list[Panel]:
    """Which balls to show side by side, and which in one picture."""
    at = projected(surface, paths)
    seen = [int(row) for row in np.flatnonzero(np.isfinite(at).all(axis=2).any(axis=1))]
    if not seen:
        raise ValueError("there is no ball to show: no path has a finite record")
    if named_by(paths.isel(path=seen)):
        return [_race(paths, seen)]
    starts = np.unique(at[seen, 0].round(12), axis=0)
    if len(starts) > 2:
        return [Panel(_said_of_many(paths, seen[:_MOST_BALLS]), seen[:_MOST_BALLS], [])]
    return [Panel(_said(paths, row), [row], []) for row in _contrasting(paths, seen)]


def _race(paths: "xarray.Dataset", seen: list[int]) -> Panel:
    """The best path of each name, an optimizer's, say."""
    best = [seen[place] for place in representative(paths.isel(path=seen), _MOST_RACERS)]
    said = [setting(paths.isel(path=row).drop_vars("epoch")).removeprefix("optimizer = ") for row in best]
    return Panel("", best, said)


def _contrasting(paths: "xarray.Dataset", seen: list[int]) -> list[int]:
    """A path that arrives and one that runs away: of those that do, the one in the middle, and the slowest; where none
    arrives, the best."""
    outcomes, length = paths["outcome"].values, np.isfinite(paths["cost"].values).sum(axis=1)
    arrived = sorted((row for row in seen if outcomes[row] == CONVERGED), key=lambda row: length[row])
    away = sorted((row for row in seen if outcomes[row] == DIVERGED), key=lambda row: length[row])
    best = [int(row) for row in ranked(paths) if row in seen and outcomes[row] != DIVERGED]
    return (arrived[len(arrived) // 2 :] or best)[:1] + away[-1:]


def _said(paths: "xarray.Dataset", row: int) -> str:
    said = setting(paths.isel(path=row).drop_vars("epoch"))
    end = OUTCOMES[int(paths["outcome"].values[row])]
    return end if said == "the only one" else f"{said}: {end}"


def _said_of_many(paths: "xarray.Dataset", rows: list[int]) -> str:
    counts = np.bincount(paths["outcome"].values[rows].astype(int), minlength=len(OUTCOMES))
    return f"{len(rows)} balls: " + ", ".join(f"{n} {name}" for n, name in zip(counts, OUTCOMES, strict=True) if n)


def _colours(paths: "xarray.Dataset", panel: Panel) -> list[str]:
    """Of its balls: one each if they are told apart, else by what becomes of them."""
    if panel.names:
        return [LINES[i % len(LINES)] for i in range(len(panel.balls))]
    return [COLOURS[OUTCOMES[int(paths["outcome"].values[row])]] for row in panel.balls]


def slides(figures: Sequence[Figure]) -> Film:
    """Figures one after the other: a series of runs, each zoomed into the one before."""
    images = []
    for figure in figures:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    size = tuple(max(image.size[side] for image in images) for side in (0, 1))
    frames = [ImageOps.pad(image, size, color="white", centering=(0, 0)) for image in images]
    return Film(
        _in_few_colours(frames, {*COLOURS.values(), *LINES, "#ffffff"}),
        [_SLIDE_TIME] * (len(frames) - 1) + [_LAST_TIME],
    )


# --- frames ---


def film(surface: "xarray.Dataset", paths: "xarray.Dataset", shown: Sequence[Panel], title: str = "") -> Film:
    """Panels side by side, on one clock.

    Args:
      surface, paths, title: as in `animated`.
      shown: as `panels` chooses them, or of your own choice.
    """
    at = projected(surface, paths)
    extent = np.array([surface[name].values[[0, -1]] for name in "xy"[: at.shape[2]]])
    rows = sorted({row for panel in shown for row in panel.balls})
    clock = _clock(at[rows], extent)
    with matplotlib.rc_context(RC | {"figure.constrained_layout.use": False, "figure.dpi": _DPI}):
        wide, words = _WIDE * max(len(shown), 1.5), _LINE * max(-(-len(p.names) // _columns(p)) or 2 for p in shown)
        tall = _HEAD + words + _HIGH + _FOOT
        figure = Figure(figsize=(wide, tall))
        canvas = FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.02, y=1 - 0.08 / tall, va="top", ha="left", fontsize=12, wrap=True)
        counter = figure.text(0.98, 1 - 0.1 / tall, "", ha="right", va="top", fontsize=11, animated=True)
        movers = [
            _stage(figure, (1, len(shown), place), surface, paths, at[panel.balls], panel)
            for place, panel in enumerate(shown, 1)
        ]
        edges = {"top": 1 - (_HEAD + words) / tall, "bottom": _FOOT / tall, "right": 0.97}
        figure.subplots_adjust(left=0.09 if len(shown) > 1 else 0.11, wspace=0.16, **edges)
        canvas.draw()
        still = canvas.copy_from_bbox(figure.bbox)
        frames = []
        for now in clock:
            canvas.restore_region(still)
            counter.set_text(f"epoch {int(paths['epoch'].values[int(now)])}")
            figure.draw_artist(counter)
            for move in movers:
                move(now)
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    colours = {colour for panel in shown for colour in _colours(paths, panel)}
    return Film(_in_few_colours(frames, colours), [_FRAME_TIME] * (len(frames) - 1) + [_LAST_TIME])


def _clock(at: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """The record, with fractions, that each frame shows: by how far the balls move, and by epochs."""
    count = at.shape[1]
    if count == 1:
        return np.zeros(1)
    width = extent[:, 1] - extent[:, 0]
    steps = np.abs(np.diff(at, axis=1)) / width
    way = np.clip(np.nan_to_num(steps, nan=0.0, posinf=0.0), 0, 1).max(axis=(0, 2))
    ratio = np.diff(np.log1p(np.arange(count)))
    share = _STILL * ratio / ratio.sum() + ((1 - _STILL) * way / way.sum() if way.sum() > 0 else 0)
    passed = np.concatenate([[0], np.cumsum(share)])
    frames = min(_FRAMES, max(2, 12 * (count - 1)))
    return np.interp(np.linspace(0, passed[-1], frames), passed, np.arange(count))


def _in_few_colours(frames: list[Image.Image], colours: set[str]) -> list[Image.Image]:
    """All frames in one palette, so that what stands still stays the same: that of the last, and the balls' own."""
    own = [value for colour in sorted(colours) for value in ImageColor.getrgb(colour)]
    common = frames[-1].quantize(_MOST_COLOURS, method=Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(own + common)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


# --- a panel ---

Move = Callable[[float], None]  # draws what moves, at a record with a fraction


def _stage(
    figure: Figure,
    grid: tuple[int, int, int],
    surface: "xarray.Dataset",
    paths: "xarray.Dataset",
    ways: np.ndarray,
    panel: Panel,
) -> Move:
    """Draws what stands still of a panel; returns what draws the balls on their ways [ball, record, axis].

    On a slice a ball has its own cost for its height, as its other params may lie elsewhere.
    """
    flat, colours = surface["cost"].ndim == 1, _colours(paths, panel)
    raised = not flat and not panel.names and len(ways) <= _MOST_RAISED
    axes = figure.add_subplot(*grid, projection="3d" if raised else None)
    lines = panel.title.rsplit(": ", 1) if len(panel.title) > _LETTERS else [panel.title]
    axes.set_title("\n".join(lines), fontsize=10, wrap=True, pad=14 if flat and len(lines) == 1 else 6)
    axes.set_xlabel(_called(surface["x"]))
    draw = _curve if flat else _relief if raised else _contours
    height = draw(axes, surface, first=grid[2] == 1)
    if panel.names:
        handles = [axes.plot([], [], "o", color=colour)[0] for colour in colours]
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "ncols": _columns(panel)}
        axes.legend(handles, panel.names, fontsize=8, handletextpad=0.2, columnspacing=1.2, **place)
    if raised and _is_slice(surface):
        ground = relief(surface["cost"].values, None)
        own = ground.of(paths["cost"].values[panel.balls])
        own = np.where(own <= ground.high, own, np.nan)  # out of sight
        ways, height = np.concatenate([ways, own[..., None]], axis=-1), None
    return _rolling(axes, ways, colours, height)


def _is_slice(surface: "xarray.Dataset") -> bool:
    return surface["cost"].attrs["kind"] != "params"


def _columns(panel: Panel) -> int:
    """How many names of its balls stand side by side above a panel."""
    return max(1, min(len(panel.names), 72 // (6 + max(map(len, panel.names), default=0))))


def _called(scale: "xarray.DataArray") -> str:
    """What an axis is, in as few words as a small picture has room for."""
    return scale.attrs["long_name"].split(" (")[0]


def _curve(axes: Axes, surface: "xarray.Dataset", first: bool) -> Height:
    x, (heights, *_, low, high) = surface["x"].values, relief(surface["cost"].values, None)
    axes.plot(x, heights, color="#444444", linewidth=1.5)
    axes.set(xlim=x[[0, -1]], ylim=(low, high))
    axes.fill_between(x, low, heights, color="#eeeeee", linewidth=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if first:
        axes.set_ylabel("cost")
    return lambda places: np.interp(places[..., 0], x, heights, left=np.nan, right=np.nan)


def _contours(axes: Axes, surface: "xarray.Dataset", first: bool) -> None:
    """The cost from above: light and dark, lines of equal cost, minima as stars."""
    x, y, heights = surface["x"].values, surface["y"].values, relief(surface["cost"].values, None).height
    axes.contourf(x, y, heights, 24, cmap="Greys_r", alpha=0.55)
    axes.contour(x, y, heights, 12, colors="#ffffff", linewidths=0.5, alpha=0.8)
    axes.plot(*surface["minima"].values.T, "*", color="#ffffff", markeredgecolor="#000000", markersize=11)
    axes.set(xlim=x[[0, -1]], ylim=y[[0, -1]])
    if first:
        axes.set_ylabel(_called(surface["y"]))


def _relief(axes: Axes, surface: "xarray.Dataset", first: bool) -> Height:
    """The cost in three dimensions, seen from above the side of the lowest y."""
    from scipy.interpolate import RegularGridInterpolator

    del first
    x, y, (heights, *_, low, high) = surface["x"].values, surface["y"].values, relief(surface["cost"].values, None)
    axes.plot_surface(*np.meshgrid(x, y), heights, cmap="Greys_r", rcount=60, ccount=60, linewidth=0, alpha=0.9)
    axes.set(ylabel=_called(surface["y"]), xlim=x[[0, -1]], ylim=y[[0, -1]], zticklabels=[])
    axes.view_init(elev=42, azim=-70)
    axes.set(zlim=(low, high))
    axes.set_box_aspect(None, zoom=0.98 if _is_slice(surface) else 1.2)  # the names of directions are long
    axes.yaxis.labelpad = 9 if _is_slice(surface) else 4
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    said = "height: the cost; a ball may lie off the slice" if _is_slice(surface) else "height: the cost"
    axes.text2D(0.02, 0.95, said, transform=axes.transAxes, fontsize=8, color="#666666")
    over = RegularGridInterpolator((y, x), heights + 0.02 * (high - low), bounds_error=False)
    return lambda places: over(places[..., ::-1])


def _rolling(axes: Axes, ways: np.ndarray, colours: list[str], height: Height | None) -> Move:
    """Draws balls with the ways behind them; a ball that has ended stays, one that is out of sight is gone."""
    last = [np.flatnonzero(np.isfinite(way[:, :2]).all(axis=1))[-1] for way in ways]
    many, curve = len(ways) > 12, ways.shape[2] == 1
    empty = [[]] * (3 if axes.name == "3d" else 2)
    dots = {"linestyle": "", "marker": "." * (not many), "markersize": 3}
    extent = np.array([axes.get_xlim(), axes.get_ylim()])
    lines = [dots if curve else {"linewidth": 0.7 if many or _swings(way[:, :2], extent) else 1.4} for way in ways]
    ball = {"marker": "o", "linestyle": "", "markeredgecolor": "white", "markeredgewidth": 0.8}
    trails = [
        axes.plot(*empty, color=colour, alpha=0.7, animated=True, **line)[0]
        for colour, line in zip(colours, lines, strict=True)
    ]
    balls = [
        axes.plot(*empty, color=colour, markersize=6 if many else 11, animated=True, **ball)[0] for colour in colours
    ]

    def put(artist: Any, places: np.ndarray) -> None:
        places = places if height is None else np.concatenate([places, height(places)[..., None]], axis=-1)
        (artist.set_data_3d if len(empty) == 3 else artist.set_data)(*places.T)
        axes.draw_artist(artist)

    def move(now: float) -> None:
        here = []
        for way, end in zip(ways, last, strict=True):
            before, part = min(int(now), end), min(now, end) % 1
            here.append((1 - part) * way[before] + part * way[min(before + 1, end)])
        for way, trail, place in zip(ways, trails, here, strict=True):
            put(trail, np.concatenate([way[: int(now) + 1], place[None]]))
        for one, place in zip(balls, here, strict=True):
            put(one, place[None])

    return move


def _swings(way: np.ndarray, extent: np.ndarray) -> bool:
    """Whether a way [record, axis] goes to and fro so much that a broad line of it would be an area."""
    steps = np.diff(way, axis=0) / (extent[:, 1] - extent[:, 0])
    return bool(np.nansum(np.linalg.norm(np.clip(steps, -1, 1), axis=1)) > _RESTLESS)
