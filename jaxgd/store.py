"""The run folder: labelled arrays, a manifest, and the ledger of what is finished.

    run.toml         the config as it was understood, every default filled in
    lane.py          in its place, of a sweep made in Python: its lane function as it was written
    manifest.json    layout, fingerprint, packages, devices, commit, times, hashes
    results.zarr     an xarray.Dataset, one chunk-aligned box of the grid per batch
    surface.zarr     the cost over a grid of its params, or over a slice through them
    paths.zarr       chosen lanes, record by record
    best.zarr        params of the best setting, where only those are kept
    limits.zarr      the known limits, where rates are swept of a rule that theory knows
    figures/
    report.html

A batch is written, flushed to disk, and only then marked in the ledger. A batch that is not marked,
or that is marked but lacks a chunk or has a damaged one, is done again. Every chunk carries a checksum;
what is written once (metadata, coordinates, paths, run.toml) has its hash in the manifest, and the
manifest its own.
"""

import itertools
import json
import os
import shutil
import warnings
from asyncio import gather, to_thread
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync
from zarr.storage import LocalStore

from jaxgd import earlier, manifest, table
from jaxgd.files import StoreError, flush, flush_folders, hashed, now, sweep_partial, write_bytes, write_text
from jaxgd.manifest import check_intact, is_intact, read_manifest
from jaxgd.plan import Box, Plan, present, present_in
from jaxgd.ranges import visible

if TYPE_CHECKING:
    import xarray

_RESULTS, _CONFIG, _LANE = "results.zarr", "run.toml", "lane.py"
_PATHS, _BEST, _LIMITS, _SURFACE = "paths.zarr", "best.zarr", "limits.zarr", "surface.zarr"
_DERIVED = (_PATHS, _BEST, _LIMITS, _SURFACE)
LEDGER = "done"
_TAKEN = (".", "..", "zarr.json", LEDGER)
_LONGEST = 200  # bytes of an array's name
_CHUNK = 1 << 18  # numbers along one dimension of what labels or is derived from lanes
_CODECS = (ZstdCodec(level=3), Crc32cCodec())  # a checksum on every chunk: Zstandard alone can return wrong numbers


@dataclass(frozen=True)
class Folder:
    """One run's folder, open for its one writer."""

    path: Path
    plan: Plan
    arrays: dict[str, zarr.Array]  # of figures
    ledger: zarr.Array
    done: np.ndarray  # what the ledger holds, batch by batch
    source: Path | None = None  # of a run that was there already: the repository whose commit the manifest notes

    def begin(self) -> list[Box]:
        """The boxes that have still to be carried out; that a run goes on with them is noted in its manifest.

        Warns if it was begun by other versions or on other devices, for they round otherwise.
        """
        boxes = self.unfinished()
        if boxes and (lacking := earlier.missing(set(self.arrays))):
            raise StoreError(
                f"{self.path} was begun by an earlier jaxgd, which did not store {', '.join(lacking)}: it can be read, "
                "but not gone on with; begin anew with --fresh, or in another folder"
            )
        if boxes and self.source is not None:
            lanes = present(self.plan)
            finished = lanes - sum(present_in(self.plan, box) for box in boxes)
            if others := manifest.note_session(self.path, self.source, finished):
                warnings.warn(
                    f"{self.path} goes on with other versions than it began with: {finished} of its {lanes} "
                    f"lanes are of {', '.join(others)}; they are kept, and the rest may be rounded otherwise, which "
                    "tells where an edge is near; --fresh, or another folder, makes all of them alike",
                    stacklevel=2,
                )
        return boxes

    def unfinished(self) -> list[Box]:
        """The boxes that have still to be carried out."""
        return [box for box in self.plan.boxes() if not (self.done[self._tile(box)] and self.is_whole(box))]

    def keep(self, box: Box, figures: dict[str, np.ndarray]) -> None:
        """Writes the figures of one box, and marks it once they are on the disk."""
        self.write(box, figures)
        self.mark(box)

    def write(self, box: Box, figures: dict[str, np.ndarray]) -> None:
        """Writes the figures of one box; each chunk is on the disk, or isn't there."""
        for chunk in self._chunks(box):
            chunk.unlink(missing_ok=True)  # it may be torn, and Zarr reads what it writes over in part
        sync(_side_by_side(array.async_array.setitem(box, figures[name]) for name, array in self.arrays.items()))

    def mark(self, box: Box) -> None:
        """Notes in the ledger that a box is on the disk; its directories need not be: what is lost is done again."""
        self.done[self._tile(box)] = 1
        self.ledger[...] = self.done

    def is_whole(self, box: Box) -> bool:
        """Whether every chunk of a box is there, and is what was written."""
        return all(map(_is_whole, self._chunks(box)))

    def table(self) -> "xarray.Dataset":
        return opened_table(self.path)

    def keep_config(self, text: str) -> None:
        """Writes run.toml."""
        self._keep_text(_CONFIG, text)

    def keep_lane(self, text: str) -> None:
        """Writes lane.py."""
        self._keep_text(_LANE, text)

    def _keep_text(self, name: str, text: str) -> None:
        path = self.path / name
        if not (path.is_file() and path.read_text("utf-8") == text and is_intact(self.path, name)):
            write_text(path, text)
            manifest.note_hashes(self.path, name)

    def paths_kept(self) -> int:
        """How many paths there are; 0 if none were asked for, or they are damaged."""
        return zarr.open_group(self.path / _PATHS, mode="r")["cost"].shape[0] if self._has(_PATHS) else 0

    def keep_paths(self, paths: "xarray.Dataset") -> None:
        """Writes the stored paths, whole or not at all."""
        self._keep(_PATHS, paths)

    def drop_paths(self) -> None:
        """Removes the stored paths."""
        shutil.rmtree(self.path / _PATHS, ignore_errors=True)
        manifest.note_hashes(self.path, _PATHS)

    def has_surface(self) -> bool:
        return self._has(_SURFACE)

    def keep_surface(self, surface: "xarray.Dataset") -> None:
        """Writes the surface of the cost, whole or not at all."""
        self._keep(_SURFACE, surface)

    def has_best(self) -> bool:
        return self._has(_BEST)

    def keep_best(self, best: "xarray.Dataset") -> None:
        """Writes the params of the best setting, whole or not at all."""
        self._keep(_BEST, best)

    def has_limits(self) -> bool:
        return self._has(_LIMITS)

    def keep_limits(self, limits: "xarray.Dataset") -> None:
        """Writes the known limits, whole or not at all."""
        self._keep(_LIMITS, limits)

    def _has(self, part: str) -> bool:
        return (self.path / part).is_dir() and is_intact(self.path, part)

    def _keep(self, part: str, dataset: "xarray.Dataset") -> None:
        beside = self.path / f"{part}.partial"
        attributes = {"coordinates": _words(dataset.coords)}
        shutil.rmtree(beside, ignore_errors=True)
        group = zarr.create_group(_Flushed(beside), zarr_format=3, attributes=attributes)
        for name, variable in dataset.variables.items():
            _write_array(group, str(name), variable.dims, variable.values, variable.attrs)
        _list_metadata(beside, dataset.variables)
        flush_folders(beside)
        shutil.rmtree(self.path / part, ignore_errors=True)
        beside.replace(self.path / part)
        manifest.note_hashes(self.path, part)

    def finish(self) -> None:
        """Notes in the manifest that the run is complete."""
        if read_manifest(self.path)["finished"] is None:
            manifest.amend(self.path, finished=now())

    def _tile(self, box: Box) -> tuple[int, ...]:
        return tuple(part.start // size for part, size in zip(box, self.plan.chunk, strict=True))

    def _chunks(self, box: Box) -> Iterable[Path]:
        return _chunks(self.path, self.arrays, self._tile(box))


def opened(path: str | os.PathLike, plan: Plan, fingerprint: str, source: Path = Path()) -> Folder:
    """The folder of a run, made if it isn't there.

    Args:
      path: where it is, or will be.
      plan: what is run.
      fingerprint: whatever changes the numbers, as text.
      source: a folder in the repository whose commit the manifest notes.

    Raises:
      StoreError: the folder holds something else, or another run, or another layout,
        or is damaged; it is left untouched.
    """
    path, known_as = Path(path).absolute(), hashed(fingerprint.encode())
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if (known := read_manifest(path))["fingerprint"] != known_as:
            raise StoreError(f"{path} holds another run: {_differs(known)}; name another folder")
        if plan.asks_python:
            raise StoreError(
                f"{path} has been begun, and the lane asks a Python function on the host (pure_callback, io_callback): "
                "whether that gives the same numbers as then can't be known; name another folder, or run with --fresh"
            )
        check_intact(path, _RESULTS)
        sweep_partial(path)
        for part in _DERIVED:
            if not is_intact(path, part):
                shutil.rmtree(path / part, ignore_errors=True)  # made anew from the results
        return replace(_open(path, plan), source=source)
    labels = table.coordinates(plan)
    _check_names([*labels, *table.variables(plan)], labels)
    beside = path.with_name(f".{path.name}.partial")  # whoever finds the folder finds it whole
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    _lay_out(beside / _RESULTS, plan)
    about = manifest.made(plan, known_as, source) | {"source": os.path.relpath(source.absolute(), path)}
    manifest.write_manifest(beside, about | {"hashes": manifest.hashes(beside, _RESULTS)})
    flush_folders(beside)
    if path.is_dir():
        path.rmdir()
    beside.replace(path)
    flush(path.parent)
    return _open(path, plan)


def _differs(known: dict[str, Any]) -> str:
    """What makes another run of it."""
    others = manifest.differences([known], manifest.session(Path()))
    versions = f", or the same ones read otherwise by {', '.join(others)}" if others else ""
    return f"its cost, axes or settings differ{versions}"


def set_aside(path: Path) -> Path | None:
    """Gives a run folder another name, so that its run begins anew; returns the name, None if there is no folder.

    Raises:
      StoreError: it is no run's folder; it is left as it is.
    """
    if not path.exists():
        return None
    if not (path / manifest.NAME).is_file():
        raise StoreError(f"{path} is not a run folder: it has no {manifest.NAME}; it is left as it is")
    names = (path.with_name(f"{path.name}-{number}") for number in itertools.count(1))
    other = next(name for name in names if not name.exists())
    path.rename(other)
    flush(path.parent)
    return other


def _open(path: Path, plan: Plan) -> Folder:
    with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk of nothing but fill counts
        group = zarr.open_group(_Flushed(path / _RESULTS), mode="r+")
        arrays, ledger = _figures(group), group[LEDGER]
    if wrong := [array.chunks for array in arrays.values() if array.chunks[: len(plan.chunk)] != plan.chunk]:
        raise StoreError(
            f"{path} is divided into batches of {_words(wrong[0])} lanes, and here they would be of "
            f"{_words(plan.chunk)}: it was begun on another kind of device; go on there, or begin anew with --fresh"
        )
    try:
        done = _done(path, ledger)
    except StoreError:  # all batches are done again
        done = np.zeros(ledger.shape, np.int8)
    return Folder(path, plan, arrays, ledger, done)


def seen(path: Path, plan: Plan, known_as: str) -> Folder | None:
    """The folder of a run as another process made it; None if there is none here, or another run's."""
    try:
        return _open(path, plan) if read_manifest(path)["fingerprint"] == known_as else None
    except StoreError:
        return None


def finished(path: Path) -> set[tuple[int, ...]]:
    """The batches of a run that are marked and whole, by their place in the grid of batches."""
    group = zarr.open_group(path / _RESULTS, mode="r")
    arrays, marked = _figures(group), map(tuple, np.argwhere(_done(path, group[LEDGER])).tolist())
    return {tile for tile in marked if all(map(_is_whole, _chunks(path, arrays, tile)))}


def opened_table(path: Path) -> "xarray.Dataset":
    """The results of a run as a Dataset in memory; lanes that have not run are NaN, their outcome pending.

    With the run's known limits beside them, if it has any: `known_limit`, `limit_formula` and
    `sharpness`, as `limits.known_limits` describes them.

    Raises:
      StoreError: the folder is no run's, or a file of it is damaged or missing.
    """
    check_intact(path, _RESULTS)
    group = zarr.open_group(path / _RESULTS, mode="r")
    arrays = _figures(group)
    for tile in map(tuple, np.argwhere(_done(path, group[LEDGER]))):
        for chunk in _chunks(path, arrays, tile):
            if not chunk.is_file():  # Zarr would read it as "not run", silently
                raise StoreError(f"{chunk} is missing; run again: its batch is done anew")
            if not _is_whole(chunk):
                raise StoreError(f"{chunk} is damaged; run again: its batch is done anew")
    results = _opened(path / _RESULTS).drop_vars(LEDGER)
    for name in results.data_vars:
        try:
            results.variables[name].load()
        except _UNREADABLE as error:
            where = path / _RESULTS / str(name)
            raise StoreError(f"{where} holds a torn chunk of a batch that is not finished; run again") from error
    results, limits = earlier.judged_anew(table.without_absent(results), path), _opened_part(path, _LIMITS)
    return results if limits is None else results.assign(limits.data_vars)


def opened_paths(path: Path) -> "xarray.Dataset | None":
    """The stored paths of a run: chosen lanes, record by record; None if none were asked for.

    Raises:
      StoreError: they are damaged.
    """
    return _opened_part(path, _PATHS)


def opened_surface(path: Path) -> "xarray.Dataset | None":
    """The surface of a run's cost, as `landscape.surface` gives it; None if the run is not finished.

    Raises:
      StoreError: it is damaged.
    """
    return _opened_part(path, _SURFACE)


def opened_best(path: Path) -> "xarray.Dataset | None":
    """The params of the best setting, where the run kept those alone; None otherwise.

    Raises:
      StoreError: they are damaged.
    """
    return _opened_part(path, _BEST)


def _opened_part(path: Path, part: str) -> "xarray.Dataset | None":
    if not (path / part).is_dir():
        return None
    check_intact(path, part)
    return _opened(path / part).load()


def config_file(path: Path) -> Path | None:
    """The run.toml of a run folder; None if it has none, for it was made in Python.

    Raises:
      StoreError: it is damaged, or was changed by hand.
    """
    return _text_file(path, _CONFIG)


def lane_file(path: Path) -> Path | None:
    """The lane.py of a run folder; None if it was made from a config, or the lane's source could not be read.

    Raises:
      StoreError: it is damaged, or was changed by hand.
    """
    return _text_file(path, _LANE)


def _text_file(path: Path, name: str) -> Path | None:
    if name not in read_manifest(path)["hashes"] and not (path / name).exists():
        return None
    check_intact(path, name)
    return path / name


def _lay_out(path: Path, plan: Plan) -> None:
    """Makes the arrays, empty, and whatever labels them."""
    labels, variables = table.coordinates(plan), table.variables(plan)
    attributes = table.attributes(plan) | {"coordinates": _words(labels)}
    group = zarr.create_group(_Flushed(path), zarr_format=3, attributes=attributes)
    for name, (dimensions, values) in labels.items():
        _write_array(group, name, dimensions, values)
    for name, variable in variables.items():
        inner = variable.shape[len(plan.shape) :]
        never = {"_FillValue": table.NEVER} if name in table.MAYBE_NEVER else {}
        group.create_array(
            name,
            shape=variable.shape,
            chunks=plan.chunk + tuple(max(1, size) for size in inner),
            dtype=variable.dtype,
            fill_value=variable.fill,
            dimension_names=variable.dimensions,
            attributes=variable.attributes | never,
            compressors=_CODECS,
        )
    tiles = tuple(-(-size // chunk) for size, chunk in zip(plan.shape, plan.chunk, strict=True))
    group.create_array(
        LEDGER,
        shape=tiles,
        chunks=tiles,
        dtype=np.int8,
        fill_value=0,
        dimension_names=tuple(f"{dimension.name}.batch" for dimension in plan.dimensions),
        attributes={"long_name": "1 for batches that are finished"},
        compressors=_CODECS,
    )
    _list_metadata(path, [*labels, *variables, LEDGER])


def _write_array(
    group: zarr.Group,
    name: str,
    dimensions: Iterable[Any],
    values: np.ndarray,
    attributes: dict[str, Any] | None = None,
) -> None:
    """One array, long ones in several chunks, which are copied one by one on their way to the disk.

    Text as Zarr specifies it, of any length (NumPy's fixed length has no specification).
    """
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=tuple(max(1, min(size, _CHUNK)) for size in values.shape),
        dtype=str if values.dtype.kind in "UTO" else values.dtype,
        dimension_names=tuple(map(str, dimensions)),
        attributes=attributes,
        compressors=_CODECS,
    )
    parts = [slice(first, first + _CHUNK) for first in range(0, len(values), _CHUNK)] if values.ndim else [()]
    for part in parts:
        array[part] = values[part]


def _list_metadata(path: Path, names: Iterable[Any]) -> None:
    """Copies the arrays' metadata into the group's, in this order, where xarray looks for it first."""
    listed = {str(name): json.loads((path / str(name) / "zarr.json").read_text("utf-8")) for name in names}
    content = json.loads((path / "zarr.json").read_text("utf-8"))
    content["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": listed}
    write_text(path / "zarr.json", manifest.as_json(content))


def _opened(path: Path) -> "xarray.Dataset":
    import xarray

    return xarray.open_zarr(path, chunks=None, consolidated=True)


def _check_names(names: Iterable[str], labels: Iterable[str]) -> None:
    """Refuses what can't be the name of an array, and so of a directory; or of a label, which are listed in a line."""
    listed = {*labels}
    for name in names:
        apart, signs = (set("/\\ "), "spaces, slashes") if name in listed else (set("/\\"), "slashes")
        if name in ("", *_TAKEN) or not name.isprintable() or set(name) & apart or len(name.encode()) > _LONGEST:
            said = visible(name) if len(name) <= 60 else f"{visible(name[:57])}..."
            raise StoreError(
                f"'{said}' can't be the name of an array in a run folder: it must be up to {_LONGEST} bytes long, hold "
                f"no {signs} or control characters, and be none of {', '.join(_TAKEN)}; call the axis or leaf otherwise"
            )


def _words(names: Iterable[Any]) -> str:
    return " ".join(map(str, names))


# --- what is finished, and what is whole ---

_UNREADABLE = (ValueError, RuntimeError, OSError)  # what Zarr and its codecs raise for a chunk that isn't one


def _figures(group: zarr.Group) -> dict[str, zarr.Array]:
    """The arrays over the grid by name: what is neither a label nor the ledger."""
    others = {LEDGER, *str(group.attrs["coordinates"]).split()}
    return {name: array for name, array in group.arrays() if name not in others}


def _done(path: Path, ledger: zarr.Array) -> np.ndarray:
    try:
        return np.asarray(ledger[...])
    except _UNREADABLE as error:
        file = _chunk(path, ledger, (0,) * ledger.ndim)
        raise StoreError(f"{file} is damaged; run again: all batches are done anew") from error


def _chunks(path: Path, arrays: Mapping[str, zarr.Array], tile: tuple[int, ...]) -> Iterable[Path]:
    """The files of one batch, one for each figure that has numbers."""
    return (_chunk(path, array, tile) for array in arrays.values() if array.size)


def _chunk(path: Path, array: zarr.Array, tile: tuple[int, ...]) -> Path:
    return path.joinpath(_RESULTS, array.basename, "c", *map(str, _block(array, tile)))


def _is_whole(chunk: Path) -> bool:
    """Whether a chunk is there, and is what its checksum says."""
    try:
        content = chunk.read_bytes()
    except OSError:
        return False
    return len(content) > 4 and content[-4:] == google_crc32c.value(content[:-4]).to_bytes(4, "little")


def _block(array: zarr.Array, tile: tuple[int, ...]) -> tuple[int, ...]:
    """Where a batch lies among the chunks of an array, whose inner dimensions have one each."""
    return tile + (0,) * (array.ndim - len(tile))


async def _side_by_side(writes: Iterable[Awaitable[None]]) -> None:
    """All of them, each to its end, before what one raises is raised."""
    for failure in await gather(*writes, return_exceptions=True):
        if failure is not None:
            raise failure


class _Flushed(LocalStore):
    """Zarr's own store of files, but that each is on the disk before it has its name."""

    async def set(self, key: str, value: Any) -> None:
        await to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Any) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, value.to_bytes())
