"""Runs: a config carried out into its folder, and found again."""

import contextlib
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgd import config as cfg
from jaxgd import lane, limits, manifest, paths, store, table
from jaxgd import plan as plans
from jaxgd.config import Config, ConfigError
from jaxgd.descent import History
from jaxgd.files import hashed, sole_writer
from jaxgd.nearest import nearest
from jaxgd.outcome import named
from jaxgd.ranges import visible
from jaxgd.surfaces import SURFACES
from jaxgd.sweep import carried_out
from jaxgd.sweep import replay as replayed

if TYPE_CHECKING:
    import xarray

RUNS = Path("runs")
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

    def check_unchanged(self, otherwise: str) -> None:
        """Refuses a run whose folder was made from other code or packages than would run it now.

        Args:
          otherwise: what would be wrong, in the words of the message.

        Raises:
          ConfigError: it has changed.
        """
        if store.read_manifest(self.folder)["fingerprint"] != hashed(self.fingerprint.encode()):
            raise ConfigError(
                f"{self.folder}: the code, its data or a package has changed since this run, so that {otherwise}; "
                "run the config again"
            )


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
      ConfigError: it can't be run any more; a module of the user's own is gone, say.
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
    boxes = folder.begin()
    lanes = plans.present(run.plan)
    done = lanes - sum(plans.present_in(run.plan, box) for box in boxes)
    progress(done, lanes)
    for box in _batches(run, folder, boxes, client):
        done += plans.present_in(run.plan, box)
        progress(done, lanes)
    paths.keep(folder, run.config.record.paths, domain=_domain(run), seed=run.config.seed)
    if run.config.record.params == "best" and not folder.has_best():
        best = best_params(run.plan, folder.table(), run.config.run.select)
        if best is not None:
            folder.keep_best(best)
    if not folder.has_limits():
        known = limits.known_limits(run.config, run.plan, folder.table())
        if known is not None:
            folder.keep_limits(known)
    folder.finish()


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
    """The config that a run folder was made from.

    Raises:
      ConfigError: it was made from none.
      StoreError: the folder is damaged.
    """
    file = store.config_file(folder)
    if file is None:
        raise ConfigError(f"{folder} has no config: it was made in Python, by jaxgd.sweep")
    return cfg.read(file)


def title_of(folder: Path) -> str:
    """What a run is called: as its config says, or as its folder."""
    file = store.config_file(folder)
    return (file and cfg.read(file).title) or folder.resolve().name


def replay(folder: str | Path, **setting: Any) -> History:
    """One lane of a run again, with all its records: the one nearest to the setting, as in `nearest.nearest`.

    Raises:
      ConfigError, StoreError: no such run or lane, or the code or a package has changed since.
    """
    run = reopened(Path(folder))
    run.check_unchanged("a replay would be of another cost")
    results = store.opened_table(run.folder)
    place = nearest(results, setting).place
    point = {name: d.at(name, place[d.name]) for d in run.plan.dimensions for name in d.axes}
    epochs = int(results["epochs"].isel(place))
    with jax.enable_x64(run.plan.x64):
        return replayed(run.plan.lane, point, epochs)


def best_params(plan: plans.Plan, results: "xarray.Dataset", select: str) -> "xarray.Dataset | None":
    """Params of the best setting, for every seed; None if no setting is best.

    Its lanes are run again by the program that judged them, and so are the same to the last bit.
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
