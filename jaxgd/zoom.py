"""A closer look at a run: its own config over finer axes, around the best setting or around the edge."""

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxgd import config as cfg
from jaxgd import manifest, ranges, store
from jaxgd import plan as plans
from jaxgd import run as runs
from jaxgd.config import Config
from jaxgd.outcome import DIVERGED, has_run
from jaxgd.ranges import DRAWS, Axis, ConfigError
from jaxgd.table import REPLICATES, best_place

if TYPE_CHECKING:
    import xarray

AROUND = ("best", "edge")
Middle = dict[str, float]  # values by the key that varies


def closer(
    folder: Path, around: str, factor: float, settings: Iterable[str] = (), frame: tuple[int, int] = (1, 1)
) -> runs.Prepared:
    """A run over finer axes around a place of another: every range `factor` times as narrow, with as many points.

        [a, b]  →  [c − w/2, c + w/2],   w = (b − a)/factor

    in the range's own measure, by ratio for `geomspace` and `loguniform`, so that axes which walk
    together still do; and moved inside the ends of the old one where it sticks out. Seeds, lists of
    values, whole numbers and names stay as they are. Several optimizers are looked at each around a
    place of its own; a grid that they share is given to each.

    The middle c is the best setting; or it lies on the edge, half way between two settings: of those
    that diverged (with any of their seeds) the one nearest to the best, lone ones apart, and of those
    that did not the one nearest to that. What stays as it is has the best one's values, and how near is
    measured in shares of the ranges. In a run that is such a look at the edge itself, it is the one
    nearest to its own middle.

    Args:
      folder: of a finished run.
      around: "best" or "edge".
      factor: above 1.
      settings: KEY=VALUE, laid over the finer config.
      frame: which one it is of how many in a series, for its manifest.

    Returns:
      The run, not yet carried out; its folder lies beside the other's.

    Raises:
      ConfigError: there is no such place, nothing can be finer, numbers don't go that far, or the code or a package
        has changed since.
      StoreError: the folder can't be read.
    """
    if around not in AROUND:
        raise ConfigError(f"--around {around}: can be {' or '.join(AROUND)}")
    if not 1 < factor < np.inf:
        raise ConfigError(f"--factor {factor:g}: must be above 1")
    folder = folder.resolve() if folder.name in ("", "..") else folder  # "." has no name to go by
    about = manifest.read_manifest(folder)
    if about["finished"] is None:
        raise ConfigError(f"{folder} is not finished: jaxgd run {folder / 'run.toml'} goes on with it")
    run, before = runs.reopened(folder), about.get("zoom", {})
    run.check_unchanged("a closer look would be at another cost than the one that this place was found on")
    known = before["middle"] if before.get("around") == around == "edge" else {}
    try:
        sweep, middle = _narrowed(run, around, factor, known)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None
    first = before.get("first") or {"name": runs.name_of(folder), "title": run.config.title}
    total = factor * before.get("total", 1.0)
    title = f"{first['title'] or first['name']} ({total:.3g} × finer, around the {around})"
    where = f"{folder}, {factor:.3g} × finer"
    finer = cfg.overlaid(run.config.model_dump(exclude_none=True) | {"title": title, "sweep": sweep}, settings, where)
    _check_apart(finer, where)
    zoom = {"from": folder.name, "around": around, "factor": factor, "frame": frame[0], "frames": frame[1]}
    zoom |= {"total": total, "middle": middle, "first": first}
    name = f"{first['name']}-{around}-{total:.3g}x".replace("+", "")
    return replace(runs.prepared_as(finer, where, name, run.source, folder.parent), notes={"zoom": zoom})


def _check_apart(config: Config, where: str) -> None:
    """Refuses values so close that they are the same number in the run's precision."""
    for axis in cfg.axes(config):
        if axis.word not in ("linspace", "geomspace") or span_of(axis) is None:
            continue
        steps = np.diff(ranges.numbers(axis, config.seed).astype(config.run.precision))
        if not (np.all(steps > 0) or np.all(steps < 0)):
            advice = "this is as close as numbers go"
            if config.run.precision == "float32":
                advice = "add --set run.precision=float64"
            first, last, count = axis.numbers
            raise ConfigError(
                f"{where}: {axis.key}: {config.run.precision} can't tell the {count} values from {first} to {last} "
                f"apart; {advice}"
            )


def lost_edge(run: runs.Prepared) -> str:
    """Says so, and what to do, where a look at the edge that has been carried out has none in it; else says nothing.

    The edge lies somewhere between two settings that are neighbours: a look that is narrower than they
    are apart may miss it.
    """
    zoom, table = run.notes["zoom"], store.opened_table(run.folder).load()
    if zoom["around"] != "edge":
        return ""
    finer = [axis for axis in cfg.axes(run.config) if axis.key in zoom["middle"]]
    ends = {}
    for owner in dict.fromkeys(axis.optimizer for axis in finer):
        part = table.sel(optimizer=owner) if owner else table
        along = {dimension for axis in finer if axis.optimizer == owner for dimension in part[axis.name].dims}
        diverged, ran = part["outcome"] == DIVERGED, has_run(part["outcome"])
        if not (diverged.any(along) & (ran & ~diverged).any(along)).any():
            ends.setdefault("every lane diverged" if diverged.any() else "no lane diverged", []).append(owner)
    if not ends:
        return ""
    said = [end + f" ({', '.join(filter(None, owners))})" * any(owners) for end, owners in ends.items()]
    return (
        f"there is none here any more: {', '.join(said)}. In {zoom['from']} it lies somewhere between two neighbouring "
        f"settings, and this look, {zoom['factor']:.4g} × finer, missed it. Take a smaller --factor; or more --frames, "
        "for each of them finds the edge again."
    )


# --- the finer axes ---


def _narrowed(run: runs.Prepared, around: str, factor: float, known: Middle) -> tuple[dict[str, Any], Middle]:
    """The [sweep] of the finer config, and the middle of each axis that became finer."""
    config, table = run.config, store.opened_table(run.folder).load()
    if not (every := cfg.axes(config)):
        raise ConfigError("nothing varies, so there is nothing to look at more closely: it has no [sweep]")
    finer = _with_a_range(run)
    if not finer:
        raise ConfigError(
            f"{' and '.join(axis.key for axis in every)} can't be finer: what can is a range of real numbers, as in "
            "{ geomspace = [1e-4, 1, 64] }"
        )
    owners = {axis.key: _owners(config, axis, finer) for axis in every}
    middle, reasons = {}, []
    for owner in dict.fromkeys(owner for axis in finer for owner in owners[axis.key]):
        axes = [_of(axis, owner) for axis in finer if owner in owners[axis.key]]
        part = table if owner is None else table.isel(optimizer=list(config.optimizers).index(owner))
        try:
            middle |= _middle(part, axes, around, config.run.select, known)
        except ConfigError as error:
            reasons.append(f"{owner}: {error}" if owner else str(error))
    if not middle:
        raise ConfigError(reasons[0])
    for reason in reasons:
        warnings.warn(f"{reason}; this one's grid stays as it is", stacklevel=3)
    sweep: dict[str, Any] = {}
    for one in every:
        for axis in (_of(one, owner) for owner in owners[one.key]):
            axis = narrower(axis, middle[axis.key], factor) if axis.key in middle else axis
            cfg.lay(sweep, axis.path, axis.entry)
    by_key = {axis.key: axis for axis in every}
    pairs = [
        [_of(by_key[key], owner).key for key in group] for group in cfg.paired(config) for owner in owners[group[0]]
    ]
    return sweep | ({"paired": pairs} if pairs else {}), middle


def _with_a_range(run: runs.Prepared) -> list[Axis]:
    """The axes that can be finer: ranges of real numbers; of those that walk together, all or none."""
    along = {name: values for dimension in run.plan.dimensions for name, values in dimension.axes.items()}
    able = {
        axis.key: axis for axis in cfg.axes(run.config) if span_of(axis) and (axis.optimizer or _real(along[axis.name]))
    }
    for group in cfg.paired(run.config):
        if not {*group} <= {*able}:
            able = {key: axis for key, axis in able.items() if key not in group}
    return list(able.values())


def _real(values: Any) -> bool:
    """Whether an axis holds real numbers, and not seeds, whole numbers or names."""
    if isinstance(values, plans.Each):
        return all(isinstance(value, float) for value in values.values)
    return isinstance(values, np.ndarray) and values.dtype.kind == "f"


def _owners(config: Config, axis: Axis, finer: list[Axis]) -> list[str | None]:
    """The optimizers each of which gets an axis as its own, around a place of its own; None: it stays one for all."""
    if axis.optimizer:
        return [axis.optimizer]
    partners = next((group for group in cfg.paired(config) if axis.key in group), [axis.key])
    if axis in finer and all(key.startswith("optimizers.") for key in partners):
        return list(config.optimizers)
    return [None]


def _of(axis: Axis, owner: str | None) -> Axis:
    return axis if owner in (None, axis.optimizer) else replace(axis, key=f"optimizers.{owner}.{axis.hyperparameter}")


def narrower(axis: Axis, middle: float, factor: float) -> Axis:
    if axis.word == "normal":
        return replace(axis, numbers=[middle, axis.numbers[1] / factor])
    span, width = span_of(axis), 1 / factor
    low = min(max(span.share(middle) - width / 2, 0.0), 1 - width)
    ends = [span.at(low), span.at(1.0 if low == 1 - width else low + width)]
    if axis.word in DRAWS:
        return replace(axis, numbers=ends)
    return replace(axis, word="geomspace" if span.by_ratio else "linspace", numbers=[*ends, axis.size])


class Span(NamedTuple):
    """The range of an axis, measured from 0 at its first end to 1 at its last."""

    first: float
    last: float
    by_ratio: bool

    def share(self, value: Any) -> Any:
        if self.by_ratio:
            return np.log(value / self.first) / np.log(self.last / self.first)
        return (value - self.first) / (self.last - self.first)

    def at(self, share: float) -> float:
        if share in (0, 1):
            return (self.first, self.last)[int(share)]  # to the last bit
        if self.by_ratio:
            return float(self.first * (self.last / self.first) ** share)
        return float(self.first + (self.last - self.first) * share)


def span_of(axis: Axis) -> Span | None:
    """The range of an axis; None if it has none: a list of values, a single one."""
    if axis.word == "values" or axis.size < 2:
        return None
    first, last = map(float, ranges.numbers(axis, 0)[[0, -1]] if axis.word == "arange" else axis.numbers[:2])
    if axis.word == "normal":
        first, last = first - 3 * last, first + 3 * last
    return Span(first, last, axis.word in ("geomspace", "loguniform")) if first != last else None


# --- the middle ---


def _middle(table: "xarray.Dataset", axes: list[Axis], around: str, select: str, known: Middle) -> Middle:
    """The best setting's values of some axes, or those of a place on the edge."""
    try:
        place = best_place(table, select)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    dimensions = {dimension for axis in axes for dimension in table[axis.name].dims}
    best = {axis.key: float(table[axis.name].isel(place, missing_dims="ignore")) for axis in axes}
    if around == "best":
        return best
    row = table.isel({name: index for name, index in place.items() if name not in dimensions})
    return _on_the_edge(row, axes, {key: known.get(key, value) for key, value in best.items()})


def _on_the_edge(table: "xarray.Dataset", axes: list[Axis], near: Middle) -> Middle:
    """Half way between the setting nearest to a place that diverged, and the one nearest to that which did not."""
    import xarray

    replicates = [name for name in REPLICATES if name in table["outcome"].dims]
    diverged, ran = (table["outcome"] == DIVERGED).any(replicates), has_run(table["outcome"]).all(replicates)
    spans = [span_of(axis) for axis in axes]
    shares = [span.share(table[axis.name].astype(float)) for span, axis in zip(spans, axes, strict=True)]
    diverged, ran, *shares = (values.values.ravel() for values in xarray.broadcast(diverged, ran, *shares))
    places, diverged = np.stack(shares, axis=1)[ran], diverged[ran]
    if not diverged.any():
        raise ConfigError("no setting diverged, so there is no edge; run it over wider ranges")

    def nearest(some: np.ndarray, to: np.ndarray) -> np.ndarray:
        return some[np.square(some - to).sum(axis=1).argmin()]

    to = np.array([span.share(near[axis.key]) for span, axis in zip(spans, axes, strict=True)])
    away = nearest(places[among_their_like(places, diverged)], to)
    middle = (away + nearest(places[~diverged], away)) / 2
    return {axis.key: span.at(share) for axis, span, share in zip(axes, spans, middle, strict=True)}


def among_their_like(places: np.ndarray, diverged: np.ndarray) -> np.ndarray:
    """The settings that diverged, but for those that lie alone among others that did not; all, if all do."""
    from scipy.spatial import KDTree

    beside = min(2 * places.shape[1], len(places) - 1)  # on a grid, one on each side along each axis
    _, neighbours = KDTree(places).query(places[diverged], k=range(2, beside + 2))  # the first is the setting itself
    together = diverged[neighbours].sum(axis=1) >= beside / 2
    return np.flatnonzero(diverged)[together if together.any() else slice(None)]
