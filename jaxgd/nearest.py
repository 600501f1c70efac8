"""Which stored lane is meant: coordinates in a user's words to the nearest point of a grid."""

import tomllib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxgd.outcome import ABSENT
from jaxgd.ranges import ConfigError, is_number, near, shown
from jaxgd.table import REPLICATES, is_log

if TYPE_CHECKING:
    import xarray

_SPARED = ("epoch",)  # coordinates that say nothing of a lane


class Lane(NamedTuple):
    """One lane of a table, and in which words what was asked for differs from it."""

    place: dict[str, int]  # index along each dimension
    remarks: list[str]  # for each coordinate that was not there, the nearest that is


def nearest(table: "xarray.Dataset", asked: Mapping[str, Any]) -> Lane:
    """The lane nearest to some coordinates, each a value or the text of one.

    Every dimension with more than one point needs a coordinate; replicates (seeds) default to the
    first. Numbers, and vectors, go to the nearest there is; names and flags need to be there. Several
    coordinates along one dimension, such as the hyperparameters of an optimizer's own trials, go to
    the point that is nearest in all, each by its own scale.

    Raises:
      ConfigError: a coordinate that is missing, unknown, or no value for its axis; its text says what is allowed.
    """
    asked = {name: _read(value) for name, value in asked.items()}
    place: dict[str, int] = {}
    remarks: list[str] = []
    wanting: list[str] = []
    known: set[str] = set()
    for dimension in table["outcome"].dims:  # optimizers come before their trials
        if dimension == "trial" and table["outcome"].sizes.get("optimizer", 1) > 1 and "optimizer" not in asked:
            labels = [name for name in map(str, table.coords) if "trial" in table[name].dims]
            known |= {*labels}
            vary = [name for name in labels if name != "trial"] or labels
            wanting.append(f"what varies its trials ({', '.join(vary)})")
            continue  # each optimizer has trials of its own, so it must be known first
        part = _there(table.isel(place), str(dimension))
        labels = _labels(part, str(dimension))
        mine = {name: asked[name] for name in labels if name in asked}
        known |= {*labels}
        open_ = _open(labels, str(dimension)) if dimension == "trial" and "trial" not in mine else {}
        if not mine or {*open_} - {*mine}:
            if part.sizes[dimension] > 1 and dimension not in REPLICATES:
                wanting += [
                    f"{name}={_what(values)}"
                    for name, values in _open(labels, str(dimension)).items()
                    if name not in mine
                ]
            place[str(dimension)] = 0
        else:
            place[str(dimension)] = _nearest_of(mine, labels)
            remarks += _differences(mine, labels, place[str(dimension)])
    if unknown := [name for name in asked if name not in known]:
        there = near(unknown[0], known) or "; it is a single lane"
        whose = asked["optimizer"] if unknown[0] in table.coords and "optimizer" in asked else "the run"
        raise ConfigError(f"{unknown[0]}: {whose} has no such axis{there}")
    if wanting:
        raise ConfigError(f"which lane? Give {'; and '.join(wanting)}")
    return Lane(place, remarks)


def _there(table: "xarray.Dataset", dimension: str) -> "xarray.Dataset":
    """The points of a dimension that there are: an optimizer may have fewer trials than another."""
    outcome = table["outcome"]
    return table.isel({dimension: (outcome != ABSENT).any([d for d in outcome.dims if d != dimension])})


def _labels(table: "xarray.Dataset", dimension: str) -> dict[str, np.ndarray]:
    """What labels the points of a dimension, by name: [point], or [point, element] for vectors.

    Of trials, the hyperparameters that vary; the number of the trial comes last, for it says least.
    """
    found = {}
    others = {*table["outcome"].dims} - {dimension}
    for name in map(str, table.coords):
        dims = table[name].dims
        if dims[:1] != (dimension,) or others & {*dims} or name in _SPARED or name.endswith(".value"):
            continue
        vectors = f"{name}.value"
        values = table[vectors if vectors in table.coords else name].values
        if values.dtype.kind == "f" and np.isnan(values).all():
            continue
        found[name] = values.reshape(len(values), -1) if values.ndim > 1 else values
    return dict(sorted(found.items(), key=lambda item: item[0] == "trial")) or {
        dimension: np.arange(table.sizes[dimension])
    }


def _nearest_of(mine: dict[str, Any], labels: dict[str, np.ndarray]) -> int:
    distance = sum(_distances(name, value, labels[name]) for name, value in mine.items())
    if not np.isfinite(distance).any():
        raise ConfigError(f"no lane has {' and '.join(f'{name} = {shown(value)}' for name, value in mine.items())}")
    return int(np.nanargmin(distance))


def _distances(name: str, value: Any, values: np.ndarray) -> np.ndarray:
    """How far each point lies from a value, squared, in units of the axis' own span; by ratio where it is spread so."""
    if values.dtype.kind not in "iuf":
        there = np.array([str(one).lower() == str(value).lower() for one in values])
        if not there.any():
            raise ConfigError(f"{name} = {shown(value)}: there is no such{near(str(value), map(str, values))}")
        return np.where(there, 0.0, np.inf)
    numbers = value if isinstance(value, list) else [value]
    if not all(map(is_number, numbers)) or (values.ndim == 1 and isinstance(value, list)):
        raise ConfigError(f"{name} = {shown(value)}: must be a {'list of numbers' if values.ndim > 1 else 'number'}")
    if values.ndim > 1 and len(numbers) != values.shape[1]:
        raise ConfigError(f"{name} = {shown(value)}: must be a list of {values.shape[1]} numbers")
    wanted, by_ratio = np.asarray(numbers, float), values.ndim == 1 and is_log(values) and numbers[0] > 0
    values = values.reshape(len(values), -1).astype(float)
    if by_ratio:
        values, wanted = np.log(values), np.log(wanted)
    span = np.nanmax(values) - np.nanmin(values)
    return np.square((values - wanted) / (span or 1.0)).sum(axis=1)


def _differences(mine: dict[str, Any], labels: dict[str, np.ndarray], index: int) -> list[str]:
    said = []
    for name, value in mine.items():
        values = labels[name]
        if values.dtype.kind not in "iuf" or np.allclose(values[index], value, rtol=1e-9, atol=0):
            continue
        there = values[index].tolist()
        outside = values.ndim == 1 and not np.nanmin(values) <= value <= np.nanmax(values)
        ends = f", which ends at {np.nanmin(values):.6g} and {np.nanmax(values):.6g}" if outside else ""
        said.append(f"{name} = {_short(there)} is the nearest of {_count(values)} to {_short(value)}{ends}")
    return said


def _count(values: np.ndarray) -> int:
    """How many different points there are: of trials, several may share a value."""
    return len(np.unique(values[np.isfinite(values)] if values.ndim == 1 else values, axis=0))


def _open(labels: dict[str, np.ndarray], dimension: str) -> dict[str, np.ndarray]:
    """What could be said of a dimension: the labels that vary along it, its number only if there is nothing else."""
    varying = {name: values for name, values in labels.items() if not _is_same(values)}
    named = {name: values for name, values in varying.items() if name != "trial"}
    return named or varying or {dimension: labels[dimension]}


def _is_same(values: np.ndarray) -> bool:
    return bool((values == values[:1]).all())


def _what(values: np.ndarray) -> str:
    if values.dtype.kind not in "iuf":
        return "|".join(dict.fromkeys(map(str, values)))
    if values.ndim > 1:
        return f"[…] ({len(values)} vectors of {values.shape[1]})"
    values = np.unique(values[np.isfinite(values)])
    return f"… ({len(values)} values from {values[0]:.6g} to {values[-1]:.6g})"


def _read(value: Any) -> Any:
    """A value as TOML would read it; a bare word is a string."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if not isinstance(value, str):
        return value
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value.strip()


def _short(value: Any) -> str:
    return "[" + ", ".join(f"{v:.6g}" for v in value) + "]" if isinstance(value, list) else f"{value:.6g}"
