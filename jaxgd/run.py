"""Runs: a config carried out into its folder, and found again."""

import contextlib
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxgd import config as cfg
from jaxgd import landscape, lane, limits, manifest, store, table
from jaxgd import plan as plans
from jaxgd.config import Config, ConfigError
from jaxgd.descent import Descent, History, norm, opened
from jaxgd.files import hashed, sole_writer
from jaxgd.nearest import nearest
from jaxgd.outcome import choose, named
from jaxgd.ranges import visible
from jaxgd.surfaces import SURFACES
from jaxgd.sweep import carried_out
from jaxgd.sweep import replay as replayed

if TYPE_CHECKING:
    import xarray

RUNS = Path("runs")
_PATH_BYTES = 1 << 23  # of all stored paths together; beyond it, their records are thinned
_MOST_RECORDS = 2001  # of a path: a curve has no more dots
_FEWEST_RECORDS = 201  # if there is no room for as many with all their params, these are not kept

_LONGEST_NAME = 100  # bytes of a folder's name, before the hash
Progress = Callable[[int, int], None]  # lanes finished, lanes in all


@dataclass(frozen=True)
class Prepared:
    """A config that has been checked down to its lane, and the folder it belongs in."""

    config: Config
    plan: plans.Plan
    fingerprint: str
    folder: Path
    source: Path  # the folder where the functions that the config names are looked for
    notes: dict[str, Any] = field(default_factory=dict)  # what else its manifest is to say

    @property
    def is_unchanged(self) -> bool:
        """Whether its folder was made from the same code and packages as would carry it out now."""
        return store.read_manifest(self.folder)["fingerprint"] == hashed(self.fingerprint.encode())


def prepared(path: Path, settings: Iterable[str] = (), runs: Path = RUNS) -> Prepared:
    """Reads and checks a config; writes nothing.

    Raises:
      ConfigError: it can't be carried out.
    """
    return prepared_as(cfg.read(path, settings), str(path), _called(path), source_of(path.resolve().parent), runs)


def prepared_as(config: Config, where: str, name: str, source: Path, runs: Path = RUNS) -> Prepared:
    """As `prepared`, a config that is no file; `where` opens every message, and its run is called by `name`."""
    plan = lane.planned(config, where, source)
    fingerprint = _fingerprint(config, plan)
    known_as = hashlib.sha256(fingerprint.encode()).hexdigest()[:8]
    name = visible(name).encode()[:_LONGEST_NAME].decode(errors="ignore")
    return Prepared(config, plan, fingerprint, runs / f"{name}-{known_as}", source)


def reopened(folder: Path) -> Prepared:
    """A run as its folder tells it: the config that it was made from, and its plan.

    Raises:
      ConfigError: it can't be carried out any more; a module of the user's own is gone, say.
      StoreError: the folder is damaged.
    """
    config, source = config_of(folder), source_of(folder)
    plan = lane.planned(config, str(folder), source)
    return Prepared(config, plan, _fingerprint(config, plan), folder, source)


def _fingerprint(config: Config, plan: plans.Plan) -> str:
    """Whatever changes the numbers of a run, as text."""
    return f"{cfg.as_toml(config.model_copy(update={'title': ''}))}\n{plans.fingerprint(plan)}"


def source_of(folder: Path) -> Path:
    """Where the functions that a config names are looked for: in its folder; for a run's own, where the run's was."""
    if not (folder / "manifest.json").is_file():
        return folder
    source = folder / store.read_manifest(folder).get("source", "")
    return source.resolve() if source.is_dir() else Path.cwd()


def _called(path: Path) -> str:
    """What the runs of a config are called: as its file; or, if it is a run's own, as that run is."""
    folder = path.resolve().parent
    return name_of(folder) if (folder / "manifest.json").is_file() else path.stem


def name_of(folder: Path) -> str:
    """What a run is called, its hash apart."""
    known = _RUN_NAME.fullmatch(folder.name)
    return known[1] if known else folder.name


_RUN_NAME = re.compile(r"(.+)-[0-9a-f]{8}(?:-\d+)?")  # of a config's run, and of one that was set aside


def carry_out(run: Prepared, progress: Progress = lambda done, lanes: None, cluster: str | None = None) -> None:
    """Does what is unfinished of a run, and repeats nothing.

    Args:
      run: what to do, and where it is kept.
      progress: told of the lanes that are finished, and of all.
      cluster: the address, or the file, of a Dask scheduler whose workers carry out the lanes.

    Raises:
      ConfigError: the cluster can't be used.
      StoreError: another process is at it, or the folder can't be used.
    """
    with contextlib.ExitStack() as held:
        client = None
        if cluster is not None:
            from jaxgd.cluster import connected  # loads distributed

            client = held.enter_context(connected(cluster))
        held.enter_context(sole_writer(run.folder))
        _carry_out(run, progress, client)


def _batches(run: Prepared, folder: store.Folder, boxes: list[plans.Box], client: Any) -> Iterator[plans.Box]:
    """Box by box, once it is kept."""
    if client is None:
        for box, figures in carried_out(run.plan, boxes):
            folder.keep(box, figures)
            yield box
        return
    from jaxgd import cluster

    for box, figures in cluster.carried_out(client, folder, boxes):
        folder.keep(box, figures) if figures is not None else folder.mark(box)
        yield box


def set_aside(run: Prepared) -> Path | None:
    """Gives the folder of a run another name, so that it begins anew; returns the name, None if there is no folder."""
    with sole_writer(run.folder):
        return store.set_aside(run.folder)


def _carry_out(run: Prepared, progress: Progress, client: Any) -> None:
    folder = store.opened(run.folder, run.plan, run.fingerprint, run.source)
    folder.keep_config(cfg.as_toml(run.config))
    if run.notes:
        manifest.amend(run.folder, **run.notes)
    boxes = folder.unfinished()
    done = run.plan.lanes - sum(map(_lanes, boxes))
    progress(done, run.plan.lanes)
    for box in _batches(run, folder, boxes, client):
        done += _lanes(box)
        progress(done, run.plan.lanes)
    _keep_what_is_drawn(run, folder)
    if run.config.record.params == "best" and not folder.has_best():
        best = best_params(run.plan, folder.table(), run.config.run.select)
        if best is not None:
            folder.keep_best(best)
    if not folder.has_limits():
        known = limits.known_limits(run.config, run.plan, folder.table())
        if known is not None:
            folder.keep_limits(known)
    folder.finish()


def _keep_what_is_drawn(run: Prepared, folder: store.Folder) -> None:
    """The surface of the cost, and paths on it; the surface first, for where there are too many params to keep, all
    that is kept of paths is where they lie on it."""
    wanted = _number_of_paths(run)
    if folder.has_surface() and (folder.has_paths() or not wanted):
        return
    results, plan = folder.table(), run.plan
    chosen = table.representative(results, wanted)
    whole = _records_kept(plan, len(chosen)) >= min(plan.epochs + 1, _FEWEST_RECORDS)
    room = len(chosen) if whole else max(1, _PATH_BYTES // (4 * plans.bytes_of(plan.outline["params"])))
    some = paths(plan, results, table.representative(results, room)) if chosen else None
    domain = _domain(run)
    surface = landscape.of_run(plan, results, some, select=run.config.run.select, domain=domain, seed=run.config.seed)
    folder.keep_surface(surface if whole else surface.drop_vars(("origin", "direction")))
    if chosen:
        folder.keep_paths(some if whole else paths(plan, results, chosen, surface))


def _domain(run: Prepared) -> np.ndarray | None:
    """The customary box of a named surface."""
    if run.config.cost is None or run.config.cost.surface is None:
        return None
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.plan.outline["params"]))
    return SURFACES[run.config.cost.surface].box(count)


def resolved(name: str, runs: Path = RUNS) -> Path:
    """The run folder that a word stands for: a folder, a config, a run's name, or the unique beginning of one.

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
    called_so = [one for one in found if name_of(Path(one)) == name]  # others but begin so: closer looks at it, say
    found = [name] if name in found else called_so or found
    if len(found) != 1:
        several = f"could be {', '.join(found)}" if found else f"is no run{cfg.near(name, known)}"
        raise ConfigError(f"{name} {several}; give a run folder, its config, or the beginning of its name")
    return runs / found[0]


def config_of(folder: Path) -> Config:
    """The config that a run folder was made from."""
    return cfg.read(store.config_file(folder))


def replay(folder: str | Path, **setting: Any) -> History:
    """One lane of a run again, with all its records: the one nearest to the setting, as in `nearest.nearest`.

    Raises:
      ConfigError, StoreError: no such run or lane.
    """
    run = reopened(Path(folder))
    results = store.opened_table(run.folder)
    place = nearest(results, setting).place
    point = {name: d.at(name, place[d.name]) for d in run.plan.dimensions for name in d.axes}
    epochs = int(results["epochs"].isel(place))
    with jax.enable_x64(run.plan.x64):
        return replayed(run.plan.lane, point, epochs)


def paths(
    plan: plans.Plan,
    results: "xarray.Dataset",
    chosen: list[tuple[int, ...]],
    surface: "xarray.Dataset | None" = None,
) -> "xarray.Dataset":
    """The chosen lanes again, with their records: cost, gradient norm and params over epochs.

    Dimensions (path, epoch); the coordinates say which lane each path is. NaN once the lane has ended.
    Given a surface, where they lie on it, `position` (path, epoch, axis), in place of the params.
    """
    import xarray

    plane = None if surface is None else landscape.plane_of(surface)
    epochs = _epochs_kept(plan.epochs, _records_kept(plan, len(chosen), plane))
    ended = np.array([int(results["epochs"].values[index]) for index in chosen], np.int32)
    records: list[dict[str, np.ndarray]] = [{}] * len(chosen)
    for static, places in plans.by_program(plan, chosen).items():
        together = _replayed(plan, static, [chosen[place] for place in places], ended[places], epochs, plane)
        for row, place in enumerate(places):
            records[place] = {name: values[row] for name, values in together.items()}
    past = epochs[None, :] > ended[:, None]
    data: dict[str, Any] = {}
    for name, leaf in records[0].items():
        values = np.stack([record[name] for record in records])
        values[past] = np.nan
        inner = ["axis"] if name == "position" else [f"{name}.{axis}" for axis in range(leaf.ndim - 1)]
        data[name] = (("path", "epoch", *inner), values)
    coordinates: dict[str, Any] = {"epoch": epochs}
    for name, (dimensions, values) in table.coordinates(plan).items():
        if set(dimensions) <= set(results["outcome"].dims):
            where = [results["outcome"].dims.index(dimension) for dimension in dimensions]
            coordinates[name] = ("path", np.array([values[tuple(index[i] for i in where)] for index in chosen]))
    data["outcome"] = ("path", np.array([results["outcome"].values[index] for index in chosen]))
    return xarray.Dataset(data, coordinates)


def best_params(plan: plans.Plan, results: "xarray.Dataset", select: str) -> "xarray.Dataset | None":
    """Params of the best setting, for every seed; None if no setting is best.

    Its lanes are carried out again by the program that judged them, and so are the same to the last bit.
    """
    import xarray

    grid = results["outcome"].dims
    places = xarray.Dataset({f"{name}.place": (name, np.arange(results.sizes[name])) for name in grid})
    try:
        winner = table.best(results.merge(places), select)
    except ValueError:
        return None
    rows = [np.atleast_1d(winner[f"{name}.place"].values).tolist() for name in grid]
    boxes = [tuple(slice(i, i + 1) for i in index) for index in itertools.product(*rows)]
    lanes = sorted(carried_out(plan, boxes), key=lambda done: [part.start for part in done[0]])
    shape, data = winner["outcome"].shape, {}
    for name in named("params", plan.outline["params"]):
        values = np.stack([figures[name].reshape(figures[name].shape[len(grid) :]) for _, figures in lanes])
        inner = tuple(f"{name}.{axis}" for axis in range(values.ndim - 1))
        data[name] = (winner["outcome"].dims + inner, values.reshape(shape + values.shape[1:]))
    return xarray.Dataset(data, winner.coords)


def _replayed(
    plan: plans.Plan,
    static: tuple[int, ...],
    lanes: list[tuple[int, ...]],
    ended: np.ndarray,
    epochs: np.ndarray,
    plane: landscape.Plane | None,
) -> dict[str, np.ndarray]:
    """Records [lane, record] by name of the lanes of one program, a block of them side by side."""
    size = min(len(lanes), plan.block)
    records = []
    with jax.enable_x64(plan.x64), plans.plain_words():
        recorded = partial(_recorded, plans.bound(plan, static), epochs)
        program = jax.jit(jax.vmap(recorded, (0, 0, None)))
        for first in range(0, len(lanes), size):
            block = np.minimum(np.arange(first, first + size), len(lanes) - 1)  # padded: one program does for all
            history = program(ended[block], plans.points(plan, [lanes[i] for i in block]), plane and plane[:2])
            records.append(jax.tree.map(lambda a, first=first: np.asarray(a)[: len(lanes) - first], history))
    history = jax.tree.map(lambda *blocks: np.concatenate(blocks), *records)
    return {
        "cost": history.cost,
        "gradient_norm": history.gradient_norm,
        **history.metrics,
        **named("position" if plane else "params", history.params),
    }


def _recorded(
    lane: Callable[..., Descent], epochs: np.ndarray, ended: Any, point: dict[str, Any], onto: Any
) -> History:
    """One lane as it is at `epochs`; what lies between them is not kept. Once it has ended, it stands at its start.

    Of its params are kept where they lie in the plane with origin and directions `onto`, if one is given.
    """
    one = opened(lane(**point))
    start = (one.params, one.init(one.params))

    def moved(now, carry):
        return choose(now < ended, one.step(*carry)[2:], start)  # a finite place: a NaN makes line searches run long

    def record(carry, span):
        now, following = span
        value, grads, *after = one.step(*carry)
        where = carry[0] if onto is None else jnp.asarray(onto[1]) @ (ravel_pytree(carry[0])[0] - onto[0])
        seen = History(now, where, value, norm(grads), one.metrics(carry[0]))
        return jax.lax.fori_loop(now + 1, following, moved, choose(now < ended, tuple(after), start)), seen

    spans = (jnp.asarray(epochs), jnp.asarray(np.append(epochs[1:], epochs[-1])))
    return jax.lax.scan(record, start, spans)[1]


def _records_kept(plan: plans.Plan, count: int, plane: landscape.Plane | None = None) -> int:
    """How many records of each of so many paths there is room for."""
    numbers = plans.bytes_of(plan.outline["params"]) if plane is None else 8 * len(plane.directions)
    return max(2, min(plan.epochs + 1, _MOST_RECORDS, _PATH_BYTES // (count * (numbers + 16) or 1)))


def _epochs_kept(epochs: int, count: int) -> np.ndarray:
    """All, or about `count` of them: half spread evenly, half by ratios, for most happens early."""
    if count > epochs:
        return np.arange(epochs + 1, dtype=np.int32)
    by_ratio = np.geomspace(1, epochs + 1, count - count // 2) - 1
    return np.unique(np.concatenate([np.linspace(0, epochs, max(2, count // 2)), by_ratio]).round().astype(np.int32))


def _number_of_paths(run: Prepared) -> int:
    """A single descent and a race are their own paths; of a sweep's lanes an eighth, but 8 to 48, unless it says."""
    if all(dimension.static or dimension.size == 1 for dimension in run.plan.dimensions):
        return run.plan.lanes
    if run.config.record.paths is None:
        return min(max(run.plan.lanes // 8, 8), 48)
    return run.config.record.paths


def _lanes(box: plans.Box) -> int:
    return math.prod(part.stop - part.start for part in box)
