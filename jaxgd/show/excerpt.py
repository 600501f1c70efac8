"""What of a run goes into its page: its table, paths and cost surface, thinned for size, as JSON can say them."""

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgd.landscape import projected
from jaxgd.outcome import CONVERGED, NEVER, OUTCOMES
from jaxgd.show.relief import as_drawn
from jaxgd.show.scales import with_heights
from jaxgd.show.tables import is_axis, varies_start, vector
from jaxgd.table import COUNTS, REPLICATES, is_log

if TYPE_CHECKING:
    import xarray

Place = dict[Any, int]  # a lane: dimension → index

MOST_LANES = 60_000  # of a map; more than it has dots, and what a page can carry
_MOST_ALONG = 2_000  # of a single axis
_MOST_RECORDS, _FIRST_RECORDS, _MOST_ENDS = 240, 80, 120  # of a path: the first all, for that is where it moves
_MOST_NUMBERS = 400_000  # of all paths together
_MOST_PARAMS = 4  # of each path; a vector of a thousand says nothing
_SHOWN = ("start_cost", "final_cost", "best_cost", "best_epoch", "epochs", "gradient_norm")
_SHOWN_IF_ANY = ("target_epoch", "diverged_epoch", "minimum")


def excerpt(
    table: "xarray.Dataset",
    paths: "xarray.Dataset | None",
    surface: "xarray.Dataset | None",
    wanted: list[Place],
    lanes: int = MOST_LANES,
) -> dict[str, Any]:
    """The table, the paths and the cost surface of a run, small enough for a page.

    Args:
      table: the results.
      paths, surface: as they are stored, if they are.
      wanted: lanes that must not be thinned away; the first is shown first.
      lanes: about how many to keep.
    """
    kept = _kept(table, wanted, lanes)
    part = with_heights(table).isel(kept)
    figures = {name: _array(_figure(part, name)) for name in ("outcome", "height", *_SHOWN)}
    figures |= {name: _array(_figure(part, name)) for name in _SHOWN_IF_ANY if np.isfinite(part[name]).any()}
    first = _first(table, paths) if paths is not None and varies_start(table) else wanted[0] if wanted else {}
    return {
        "outcomes": OUTCOMES,
        "axes": [_axis(table, str(name), places) for name, places in kept.items()],
        "labels": _labels(part),
        "figures": figures,
        "height": {key: part["height"].attrs[key] for key in ("label", "log", "top", "least")},
        "limit": _limit(part),
        "known_minima": part["minimum"].attrs.get("known_minima"),
        "minimum": table.attrs.get("minimum"),
        "place": [int(np.argmin(abs(places - first.get(name, 0)))) for name, places in kept.items()],
        "paths": None if paths is None else _paths(table, paths, surface, wanted[:1]),
        "surface": None if surface is None else _encoded(as_drawn(surface, table.attrs.get("minimum"))),
    }


def _first(table: "xarray.Dataset", paths: "xarray.Dataset") -> Place:
    """Where starts vary, the path to show first: the one from highest up that arrived, for it rolls a long way."""
    cost = np.where(paths["outcome"].values == CONVERGED, paths["cost"].values[:, 0], -np.inf)
    return _places(table, paths)[int(np.argmax(cost))]


def _kept(table: "xarray.Dataset", wanted: list[Place], lanes: int) -> dict[str, np.ndarray]:
    """Which indices of each dimension stay, in the order of their values."""
    dims = [str(name) for name in table["outcome"].dims]
    sizes = {name: min(table.sizes[name], _MOST_ALONG) for name in dims}
    while np.prod(list(sizes.values()), dtype=float) > lanes:
        longest = max(sizes, key=lambda name: (is_axis(table, name), sizes[name]))
        sizes[longest] = max(1, int(0.95 * sizes[longest]))
        if all(size == 1 for size in sizes.values()):
            break
    kept = {}
    for name, size in sizes.items():
        even = np.linspace(0, table.sizes[name] - 1, size).round().astype(int)
        places = np.unique([*even, *(place[name] for place in wanted if name in place)])
        values = table[name].values
        if values.dtype.kind in "iuf":
            places = places[np.argsort(values[places], kind="stable")]
        kept[name] = places
    return kept


def _axis(table: "xarray.Dataset", name: str, places: np.ndarray) -> dict[str, Any]:
    values = table[name].values
    numeric = values.dtype.kind in "iuf"
    kind = "replicate" if name in REPLICATES else "scale" if numeric else "names"
    return {
        "name": name,
        "kind": kind,
        "values": _array(values[places].astype(float)) if numeric else [str(value) for value in values[places]],
        "index": places.tolist(),
        "size": table.sizes[name],
        "log": numeric and is_log(values),
    }


def _labels(table: "xarray.Dataset") -> dict[str, Any]:
    """What else labels the lanes, beside the axes themselves: values walked together, hyperparameters of trials."""
    grid, found = table["outcome"].dims, {}
    for name, label in table.coords.items():
        along = [str(d) for d in label.dims if d in grid]
        if name in grid or not along:
            continue
        if label.ndim > len(along):  # a vector on each
            rows = label.transpose(*along, ...).values.reshape(*(table.sizes[d] for d in along), -1)
            values: Any = [vector(row) for row in rows.reshape(-1, rows.shape[-1])]
        else:
            numeric = label.dtype.kind in "iuf"
            values = _array(label.values.astype(float)) if numeric else [str(v) for v in label.values.ravel()]
        found[str(name)] = {"dims": along, "values": values}
    return found


def _limit(table: "xarray.Dataset") -> dict[str, Any] | None:
    """Up to which learning rate theory calls the rule stable, over the axes on which that depends."""
    limit = table.get("known_limit")
    if limit is None or not np.isfinite(limit).any():
        return None
    dims = [str(d) for d in limit.dims]
    return {"along": limit.attrs["along"], "dims": dims, "values": _array(limit.values.astype(float))}


def _figure(table: "xarray.Dataset", name: str) -> np.ndarray:
    values = table[name].values
    if name in COUNTS:
        return np.where(np.isfinite(values), values, NEVER).astype(np.int32)
    return _single(values) if name == "height" else values


def _paths(
    table: "xarray.Dataset", paths: "xarray.Dataset", surface: "xarray.Dataset | None", wanted: list[Place]
) -> dict[str, Any]:
    """The paths, record by record; where they lie on the surface; and which lane each is."""
    records = _records(paths["cost"].values)
    numbers = {name: paths[name] for name in paths.data_vars if str(name).split(".")[0] == "params"}
    each = len(records) * (2 + min(_MOST_PARAMS, sum(int(np.prod(v.shape[2:])) for v in numbers.values())))
    places = _places(table, paths)
    some = set(np.linspace(0, len(places) - 1, max(1, min(len(places), _MOST_NUMBERS // each))).round().astype(int))
    best = paths["best"].values if "best" in paths else np.zeros(len(places), bool)
    some |= {row for row, place in enumerate(places) if best[row] or place in wanted}
    rows = np.array(sorted(some))
    part = paths.isel(path=rows, epoch=records)
    return {
        "lanes": [list(places[row].values()) for row in rows],
        "epochs": part["epoch"].values.tolist(),
        "outcome": part["outcome"].values.tolist(),
        "best": best[rows].tolist(),  # of its name
        "cost": _array(_single(part["cost"].values)),
        "params": _params(part),
        "position": [] if surface is None else _positions(surface, part),
        "labels": {str(n): _labels_of(c) for n, c in part.coords.items() if c.dims and c.dims[0] == "path"},
    }


def _labels_of(column: "xarray.DataArray") -> Any:
    """What tells one path from another: a number, a word, or a vector in short."""
    if column.ndim > 1:
        return [vector(row.ravel()) for row in column.values]
    return _array(column.values.astype(float)) if column.dtype.kind in "iuf" else [str(v) for v in column.values]


def _positions(surface: "xarray.Dataset", paths: "xarray.Dataset") -> list[Any]:
    """Where the paths lie on the surface, along each axis of it."""
    return [_array(_single(along)) for along in np.moveaxis(projected(surface, paths), -1, 0)]


def _places(table: "xarray.Dataset", paths: "xarray.Dataset") -> list[Place]:
    """Which lane each path is, found by its labels."""
    columns = {}
    for name in map(str, table["outcome"].dims):
        index = {value: place for place, value in reversed(list(enumerate(table[name].values.tolist())))}
        columns[name] = [index[value] for value in paths[name].values.tolist()]
    return [{name: column[row] for name, column in columns.items()} for row in range(paths.sizes["path"])]


def _records(costs: np.ndarray) -> np.ndarray:
    """Which records stay: the first, the last of each path, and the rest evenly."""
    count = costs.shape[1]
    if count <= _MOST_RECORDS:
        return np.arange(count)
    ends = np.unique(count - 1 - np.argmax(np.isfinite(costs[:, ::-1]), axis=1))
    ends = ends[np.linspace(0, len(ends) - 1, min(len(ends), _MOST_ENDS)).round().astype(int)]
    even = np.linspace(_FIRST_RECORDS, count - 1, _MOST_RECORDS - _FIRST_RECORDS).round().astype(int)
    return np.unique([*range(_FIRST_RECORDS), *ends, *even])


def _params(paths: "xarray.Dataset") -> list[dict[str, Any]]:
    """The first few params, number by number, named as axes are: x, or x_0 and x_1."""
    found = []
    for name in paths.data_vars:
        prefix, _, leaf = str(name).partition(".")
        if prefix != "params":
            continue
        values = paths[name].values
        flat = values.reshape(*values.shape[:2], -1)
        for i, place in enumerate(np.ndindex(values.shape[2:])):
            if len(found) == _MOST_PARAMS:
                return found
            called = "_".join([leaf or "x", *map(str, place)])
            found.append({"name": called, "values": _array(_single(flat[..., i]))})
    return found


def _encoded(value: Any) -> Any:
    """A tree of arrays, each as a page reads it."""
    if isinstance(value, dict):
        return {key: _encoded(inner) for key, inner in value.items()}
    return _array(_single(value)) if isinstance(value, np.ndarray) else value


def _single(values: np.ndarray) -> np.ndarray:
    """In single precision, enough for a picture; what is too large for it is infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _array(values: np.ndarray) -> dict[str, Any]:
    """An array as a page reads it: little-endian bytes."""
    values = np.ascontiguousarray(values)
    kind = {"int8": "i1", "int32": "i4", "float32": "f4", "float64": "f8"}.get(values.dtype.name)
    if kind is None:
        kind, values = "f8", values.astype(np.float64)
    little = values.astype(values.dtype.newbyteorder("<"))
    return {"dtype": kind, "data": base64.b64encode(little.tobytes()).decode()}
