"""Runs: a config carried out into its folder, and found again."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import config as cfg
from jaxgd import lane, store, table
from jaxgd import plan as plans
from jaxgd.config import Config, ConfigError
from jaxgd.descent import descend
from jaxgd.outcome import named
from jaxgd.sweep import carried_out

if TYPE_CHECKING:
    import xarray

RUNS = Path("runs")
_PATH_BYTES = 1 << 26  # of all stored paths together; beyond it, their records are thinned

Progress = Callable[[int, int], None]  # lanes finished, lanes in all


@dataclass(frozen=True)
class Prepared:
    """A config that has been checked down to its lane, and the folder it belongs in."""

    config: Config
    plan: plans.Plan
    fingerprint: str
    folder: Path


def prepared(path: Path, settings: Iterable[str] = (), runs: Path = RUNS) -> Prepared:
    """Reads and checks a config; writes nothing.

    Raises:
      ConfigError: it can't be carried out.
    """
    config = cfg.read(path, settings)
    plan = lane.planned(config, str(path), path.resolve().parent)
    content = config.model_copy(update={"title": ""})
    fingerprint = f"{cfg.as_toml(content)}\n{plans.fingerprint(plan)}"
    known_as = hashlib.sha256(fingerprint.encode()).hexdigest()[:8]
    return Prepared(config, plan, fingerprint, runs / f"{path.stem}-{known_as}")


def carry_out(run: Prepared, progress: Progress = lambda done, lanes: None) -> None:
    """Does what is unfinished of a run, and repeats nothing."""
    folder = store.opened(run.folder, run.plan, run.fingerprint)
    store.write_text(run.folder / "run.toml", cfg.as_toml(run.config))
    boxes = folder.unfinished()
    done = run.plan.lanes - sum(map(_lanes, boxes))
    progress(done, run.plan.lanes)
    for box, figures in carried_out(run.plan, boxes):
        folder.keep(box, figures)
        done += _lanes(box)
        progress(done, run.plan.lanes)
    chosen = table.representative(folder.table(), _number_of_paths(run))
    if chosen and not folder.has_paths():
        folder.keep_paths(paths(run.plan, folder.table(), chosen))
    folder.finish()


def resolved(name: str, runs: Path = RUNS) -> Path:
    """The run folder that a word stands for: a folder, a config, or the unique beginning of a run's name.

    Raises:
      ConfigError: it stands for none, or for several.
    """
    path = Path(name)
    if (path / "manifest.json").is_file():
        return path
    if path.suffix == ".toml":
        folder = prepared(path, runs=runs).folder
        if not folder.is_dir():
            raise ConfigError(f"{name} has not been run yet: jaxgd run {name}")
        return folder
    known = sorted(p.parent.name for p in runs.glob("*/manifest.json"))
    found = [one for one in known if one.startswith(name)]
    if len(found) != 1:
        several = f"could be {', '.join(found)}" if found else f"is no run{cfg.near(name, known)}"
        raise ConfigError(f"{name} {several}; give a run folder, its config, or the beginning of its name")
    return runs / found[0]


def config_of(folder: Path) -> Config:
    """The config that a run folder was made from."""
    return cfg.read(folder / "run.toml")


def paths(plan: plans.Plan, results: "xarray.Dataset", chosen: list[tuple[int, ...]]) -> "xarray.Dataset":
    """The chosen lanes again, with their records: cost, gradient norm and params over epochs.

    Dimensions (path, epoch); the coordinates say which lane each path is. NaN once the lane has ended.
    """
    import xarray

    records = [_records(plan, index) for index in chosen]
    epochs = np.unique(np.linspace(0, plan.epochs, _records_kept(plan, len(chosen))).round().astype(int))
    ended = np.array([int(results["epochs"].values[index]) for index in chosen])
    data = {}
    for name, leaf in records[0].items():
        values = np.stack([record[name][epochs] for record in records])
        past = (epochs[None, :] > ended[:, None]).reshape(len(chosen), len(epochs), *(1,) * (leaf.ndim - 1))
        inner = tuple(f"{name}.{axis}" for axis in range(leaf.ndim - 1))
        data[name] = (("path", "epoch", *inner), np.where(past, np.nan, values))
    coordinates: dict[str, Any] = {"epoch": epochs}
    for name, (dimensions, values) in table.coordinates(plan).items():
        if name != "epoch" and set(dimensions) <= set(results["outcome"].dims):
            where = [results["outcome"].dims.index(dimension) for dimension in dimensions]
            coordinates[name] = ("path", np.array([values[tuple(index[i] for i in where)] for index in chosen]))
    data["outcome"] = ("path", np.array([results["outcome"].values[index] for index in chosen]))
    return xarray.Dataset(data, coordinates)


def _records(plan: plans.Plan, index: tuple[int, ...]) -> dict[str, np.ndarray]:
    """One lane's history by name."""
    static = tuple(i if dimension.static else 0 for dimension, i in zip(plan.dimensions, index, strict=True))
    point = {
        name: jax.tree.map(jnp.asarray, dimension.at(name, i))
        for dimension, i in zip(plan.dimensions, index, strict=True)
        for name in dimension.axes
        if not dimension.is_each(name)
    }
    with jax.enable_x64(plan.x64):
        descent = plans.bound(plan, static)(**point)
        history = descend(descent.cost, descent.params, descent.optimizer, epochs=plan.epochs)
        named_params = named("params", history.params)
        return {k: np.asarray(v) for k, v in {"cost": history.cost, "gradient_norm": history.gradient_norm, **named_params}.items()}


def _records_kept(plan: plans.Plan, count: int) -> int:
    per_record = count * (plans.bytes_of(plan.outline["params"]) + 16)
    return max(2, min(plan.epochs + 1, _PATH_BYTES // per_record))


def _number_of_paths(run: Prepared) -> int:
    """A single descent and a race are their own paths; a sweep has as many as were asked for."""
    if all(dimension.static for dimension in run.plan.dimensions):
        return run.plan.lanes
    return run.config.record.paths


def _lanes(box: plans.Box) -> int:
    lanes = 1
    for part in box:
        lanes *= part.stop - part.start
    return lanes
