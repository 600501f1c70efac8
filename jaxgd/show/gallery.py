"""The figures of a run and its film: which of them fit it, and their files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxgd import store
from jaxgd.files import StoreError
from jaxgd.run import title_of
from jaxgd.show import animation, atlas, plots, terrain
from jaxgd.show.scales import longest
from jaxgd.show.style import LINES
from jaxgd.show.tables import is_axis

if TYPE_CHECKING:
    import xarray

_FOLDER = "figures"


def fitting(
    table: "xarray.Dataset",
    paths: "xarray.Dataset | None" = None,
    surface: "xarray.Dataset | None" = None,
    title: str = "",
) -> dict[str, Callable[[], Figure]]:
    """The figures that say something of a run, by name, each as a function that draws it; the overview first."""
    dims = [str(d) for d in table["outcome"].dims]
    along = [d for d in dims if is_axis(table, d)]
    several = any(table[d].dtype.kind not in "iuf" and table.sizes[d] > 1 for d in dims)
    found: dict[str, Callable[[], Figure]] = {"overview": lambda: plots.overview(table, paths, title)}
    if surface is not None and surface["cost"].ndim == 2:
        found["surface"] = lambda: terrain.surface(surface, paths, title)
        found["contours"] = lambda: terrain.contours(surface, paths, title)
    elif surface is not None:
        found["valley"] = lambda: terrain.contours(surface, paths, title)
    if paths is not None and along:
        found["curves"] = lambda: plots.curves(table, paths, title)
    if len(along) > 1 and "learning_rate" in along:
        found["rates"] = lambda: plots.final_cost(table, "learning_rate", title)
    if len(along) > 1 and "trial" not in dims:
        found["maps"] = lambda: atlas.maps(table, title)
    if several and along:
        found["optimizers"] = lambda: plots.optimizers(table, paths, title)
    return found


def of_run(folder: Path, title: str, kind: str = "png") -> list[Path]:
    """Draws what a run folder holds into its figures/; returns the files, the overview first.

    Args:
      folder, title: of the run.
      kind: png, svg or pdf.

    Raises:
      StoreError: the folder is no run's, or is damaged.
    """
    table, paths, surface = store.opened_table(folder), store.opened_paths(folder), store.opened_surface(folder)
    return written(folder / _FOLDER, fitting(table.load(), paths, surface, title), kind)


def has_figures(folder: Path) -> bool:
    return any((folder / _FOLDER).glob("overview.*"))


def written(folder: Path, figures: dict[str, Callable[[], Figure]], kind: str = "png") -> list[Path]:
    """Draws figures into a folder, as files of one kind, and returns these."""
    folder.mkdir(exist_ok=True)
    files = []
    for name, draw in figures.items():
        files.append(folder / f"{name}.{kind}")
        draw().savefig(files[-1])
    return files


def filmed(folders: Sequence[Path], path: Path | None = None) -> Path:
    """Writes the film of a run, its balls rolling; of several, their overviews in turn, marked where the next of them
    looks more closely, if it does. Returns where it is.

    Args:
      folders: of the runs.
      path: where to; by default among the figures of the last one.

    Raises:
      StoreError: a folder is no run's, or is damaged, or one alone keeps no paths.
      OSError: the file can't be written.
    """
    titles = [title_of(folder) for folder in folders]
    if len(folders) == 1:
        surface, paths = store.opened_surface(folders[0]), store.opened_paths(folders[0])
        if surface is None or paths is None:
            raise StoreError(
                f"{folders[0]}: keeps no paths to film: record.paths is 0, the run is not finished, or its cost calls "
                "back into Python"
            )
        film = animation.animated(surface, paths, titles[0])
    else:
        tables = [store.opened_table(folder).load() for folder in folders]
        film = animation.slides(list(map(_slide, folders, tables, titles, [*folders[1:], None], [*tables[1:], None])))
    path = path or folders[-1] / _FOLDER / ("film.gif" if len(folders) == 1 else "series.gif")
    path.parent.mkdir(exist_ok=True)
    film.save(path)
    return path


def _slide(
    folder: Path, table: "xarray.Dataset", title: str, after: Path | None, following: "xarray.Dataset | None"
) -> Figure:
    """The overview of a run; marked where the one after it looks, if that is a closer look at it."""
    figure = plots.overview(table, store.opened_paths(folder), title)
    if after is None or store.read_manifest(after).get("zoom", {}).get("from") != folder.resolve().name:
        return figure
    along = [d for d in longest(table, 2) if is_axis(table, d)]
    if not 0 < len(along) < 3 or "trial" in along:
        return figure
    ends = [(float(following[d].min()), float(following[d].max())) for d in along]
    for axes in (axes for axes in figure.axes if axes.get_label() != "<colorbar>"):
        if len(along) == 1:
            axes.axvspan(*ends[0], color=LINES[0], alpha=0.2, linewidth=0)
        else:
            (low, high), (left, right) = ends
            for colour, style in (("white", "-"), ("black", ":")):
                axes.add_patch(
                    Rectangle(
                        (left, low), right - left, high - low, fill=False, color=colour, linestyle=style, linewidth=2
                    )
                )
    return figure
