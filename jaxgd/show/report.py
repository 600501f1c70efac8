"""The report: one HTML file that shows a run, or several side by side, and needs nothing else, no network either."""

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from jaxgd import config as cfg
from jaxgd import store
from jaxgd.config import Config
from jaxgd.outcome import OUTCOMES
from jaxgd.show import words
from jaxgd.show.excerpt import MOST_LANES, excerpt
from jaxgd.show.style import COLOURS, DARK, LINES, MEANINGS
from jaxgd.show.tables import lost_seeds, tally, thousands, vector
from jaxgd.table import best, ranking, selected_by, typical

if TYPE_CHECKING:
    import xarray

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("data.js", "ball.js", "maps.js", "page.js")
_LONGEST_NAME = 120  # of a file; filesystems take 255 bytes
_MOST_ROWS = 20  # of the table of best settings
_FIGURES = ("final_cost", "best_cost", "best_epoch", "epochs", "target_epoch", "gradient_norm")


@dataclass(frozen=True)
class Result:
    """What a run folder holds, as far as it goes: an unfinished run has results and nothing else."""

    name: str
    config: Config | None  # none of a run that was made in Python
    manifest: dict[str, Any]
    table: "xarray.Dataset"
    paths: "xarray.Dataset | None"
    surface: "xarray.Dataset | None"
    lane: str | None = None  # the source of its lane function, if it was made in Python

    @property
    def title(self) -> str:
        return (self.config and self.config.title) or self.name


def opened(folder: Path) -> Result:
    """Reads a run folder.

    Raises:
      StoreError: it is none, or is damaged.
    """
    config, lane = store.config_file(folder), store.lane_file(folder)
    return Result(
        folder.resolve().name,
        config and cfg.read(config),
        store.read_manifest(folder),
        store.opened_table(folder).load(),
        store.opened_paths(folder),
        store.opened_surface(folder),
        lane and lane.read_text("utf-8"),
    )


def write(folders: Sequence[Path], path: Path | None = None) -> Path:
    """Writes the page of one run, or of several side by side; returns where it is.

    Args:
      folders: of the runs; one that is there twice is shown once.
      path: where to; by default report.html in the folder of a single run, or beside the folders of
        several, under their names.

    Raises:
      StoreError: a folder is no run's, or is damaged.
      OSError: the file can't be written.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    html = page([opened(folder) for folder in folders])
    path = path or _path(folders)
    store.write_text(path, html)
    return path


def prepare() -> None:
    """Does what every page needs, whatever it shows."""
    _template()
    _plotly()


def _path(folders: Sequence[Path]) -> Path:
    if len(folders) == 1:
        return folders[0] / "report.html"
    names = "+".join(folder.resolve().name for folder in folders)
    if len(names) > _LONGEST_NAME:
        known_as = hashlib.sha256(names.encode()).hexdigest()[:8]
        names = f"{folders[0].resolve().name}+{len(folders) - 1}-more-{known_as}"
    return folders[0].parent / f"{names}.html"


def _finite(data: Any) -> Any:
    """The same with null for what is no finite number, which JSON can't say."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, (float, np.floating)) and not np.isfinite(data) else data


def page(results: Sequence[Result]) -> str:
    """The page as HTML: words and tables as text, whatever is drawn as data beside the scripts that draw it."""
    runs = [_run(f"run{i}", result, MOST_LANES // len(results)) for i, result in enumerate(results)]
    data = {"runs": [run.pop("data") for run in runs], "lines": LINES}
    return _template().render(
        runs=runs,
        title=runs[0]["title"] if len(runs) == 1 else f"{len(runs)} runs side by side",
        meanings=MEANINGS,
        css=_text("page.css"),
        colours={"light": COLOURS, "dark": DARK},
        script="\n".join(map(_text, _SCRIPTS)),
        plotly=_plotly(),
        data=_packed(json.dumps(_finite(data), allow_nan=False, separators=(",", ":"), default=_plain)),
    )


@functools.cache
def _template() -> jinja2.Template:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE),
        autoescape=True,  # of all that comes from a config; what is ours is marked safe in the template
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"thousands": thousands, "figure": words.figure}
    return env.get_template("page.html")


def _text(name: str) -> str:
    return (_PAGE / name).read_text("utf-8")


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return _packed(get_plotlyjs())


def _packed(text: str) -> str:
    """Text so that a page can carry it: a third of its size, and no letter of it means anything to HTML."""
    return base64.b64encode(gzip.compress(text.encode(), 4, mtime=0)).decode()


def _plain(value: Any) -> Any:
    return value.tolist()  # NumPy's numbers


# --- one run ---


def _run(known_as: str, result: Result, lanes: int) -> dict[str, Any]:
    """What the template says of a run, and the data that its scripts draw."""
    table, select = result.table, selected_by(result.table)
    places = ranking(table, select, _MOST_ROWS)
    columns = _columns(table, places)
    data = excerpt(table, result.paths, result.surface, places, lanes)
    finished = result.manifest["finished"] is not None
    return {
        "id": known_as,
        "name": result.name,
        "title": result.title,
        "asked": words.asked(result.config) if result.config else words.asked_in_python(table, result.manifest),
        "came_out": words.came_out(table, select),
        "shares": words.shares(table),
        "lanes": int(tally(table).sum()),
        "axes": [axis | {"count": len(axis["index"])} for axis in data["axes"]],
        "maps": sum(axis["kind"] == "scale" and len(axis["index"]) > 1 for axis in data["axes"]),
        "paths": 0 if result.paths is None else result.paths.sizes["path"],
        "calls_back": finished and result.surface is None,  # every other finished run has one
        "records": len(data["paths"]["epochs"]) if data["paths"] else 0,
        "columns": columns,
        "rows": [_row(table, columns, place, data["axes"]) for place in places],
        "best": _best(table, select),
        "toml": result.config and cfg.as_toml(result.config),
        "lane": result.lane,
        "manifest": _manifest(result.manifest),
        "data": data | {"id": known_as, "title": result.title},
    }


def _columns(table: "xarray.Dataset", places: list[dict[Any, int]]) -> list[str]:
    """The headings of the table of best settings: what tells them apart, then their figures."""
    if not places:
        return []
    labels = [str(name) for name in table.isel(places[0]).coords if str(name) != "epoch" and _says(table, str(name))]
    figures = [name for name in _FIGURES if np.isfinite(table[name]).any()]
    if all((table.isel(place)["best_cost"] == table.isel(place)["final_cost"]).all() for place in places):
        figures.remove("best_cost")
    return [*labels, "outcome", *figures]


def _says(table: "xarray.Dataset", name: str) -> bool:
    grid = {*table["outcome"].dims}
    return bool(grid & {*table[name].dims}) and table[name].dims != ("seed",)


def _row(
    table: "xarray.Dataset", columns: list[str], place: dict[Any, int], axes: list[dict[str, Any]]
) -> dict[str, Any]:
    """One setting: a cell for each column, over seeds the median; and where it is in what the page holds."""
    lane = table.isel(place)
    cells = []
    for name in columns:
        values = lane[name].values
        if name == "outcome":
            codes = np.unique(values)
            text = OUTCOMES[int(codes[0])] if len(codes) == 1 else "mixed"
            cells.append({"text": text, "sort": text})
        elif name in lane.coords:
            number = values.item() if values.ndim == 0 else None
            plain = isinstance(number, (int, float)) and not isinstance(number, bool)
            text = words.figure(number) if plain else str(number) if values.ndim == 0 else vector(values)
            cells.append({"text": text, "sort": repr(float(number)) if plain and np.isfinite(number) else text})
        else:
            median = float(typical(lane, name) if name.endswith(("_cost", "accuracy")) else np.median(values))
            cells.append({"text": words.figure(median), "sort": repr(median)})
    where = [axis["index"].index(place.get(axis["name"], axis["index"][0])) for axis in axes]
    return {"cells": cells, "place": where}


def _best(table: "xarray.Dataset", select: str) -> dict[str, str]:
    try:
        lane = best(table, select)
    except ValueError:
        return {"setting": "none", "cost": "", "epoch": ""}
    lost = lost_seeds(lane)
    return {
        "setting": words.setting(lane) + f" ({lost})" * bool(lost),
        "cost": words.figure(typical(lane, "final_cost")),
        "epoch": words.figure(lane["best_epoch"].median()),
    }


def _manifest(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """The manifest's entries in words; its hashes are counted, not listed."""
    said = []
    for name, value in manifest.items():
        if name == "hashes":
            value = f"{len(value)} files, each with its SHA-256 in manifest.json"
        elif name == "resumed":
            value = "; ".join(f"{one['begun']}, {one['lanes']} lanes being finished" for one in value) or None
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {inner}" for key, inner in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        said.append((name, "–" if value is None else str(value)))
    return said
