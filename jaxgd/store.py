"""The run folder: labelled arrays, a manifest, and the ledger of what is finished.

    run.toml         the config as it was understood, every default filled in
    manifest.json    layout, fingerprint, packages, devices, commit, times, hashes
    results.zarr     an xarray.Dataset, one chunk-aligned box of the grid per batch
    paths.zarr       chosen lanes, record by record
    best.zarr        params of the best setting, where only those are kept
    limits.zarr      the known limits, where rates are swept of a rule that theory knows
    figures/

A batch is written, flushed to disk, and only then marked in the ledger. A batch that is not marked,
or that is marked but lacks a chunk, is done again. Every chunk carries a checksum; what is written
once (metadata, coordinates, paths, run.toml) has its hash in the manifest, and the manifest its own.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from jaxgd import table
from jaxgd.plan import Box, Plan

if TYPE_CHECKING:
    import xarray

LAYOUT = 1
_MANIFEST, _RESULTS, _CONFIG = "manifest.json", "results.zarr", "run.toml"
_PATHS, _BEST, _LIMITS = "paths.zarr", "best.zarr", "limits.zarr"
_LEDGER = "done"
_CODECS = (ZstdCodec(level=3), Crc32cCodec())  # a checksum on every chunk: Zstandard alone can return wrong numbers
_PACKAGES = ("jaxgd", "jax", "jaxlib", "optax", "numpy", "xarray", "zarr")


class StoreError(ValueError):
    """A run folder that can't be used as asked; its text says which, why, and what to do."""


@dataclass(frozen=True)
class Folder:
    """One run's folder, open for its one writer."""

    path: Path
    plan: Plan
    group: zarr.Group

    def unfinished(self) -> list[Box]:
        """The boxes that have still to be carried out."""
        done = _ledger(self.path, self.group)
        return [box for box in self.plan.boxes() if not (done[self._tile(box)] and self._is_whole(box))]

    def keep(self, box: Box, figures: dict[str, np.ndarray]) -> None:
        """Writes the figures of one box, and marks it once they are on the disk."""
        for chunk in self._chunks(box):
            chunk.unlink(missing_ok=True)  # it may be torn, and Zarr reads what it writes over in part
        with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk of nothing but fill counts as written too
            for name in _figures(self.group):
                self.group[name][box] = figures[name]
        for chunk in self._chunks(box):  # not their directories: a chunk that is lost with its entry is done again
            _flush(chunk)
        self.group[_LEDGER][self._tile(box)] = 1
        _flush(_chunk(self.path, self.group[_LEDGER], (0,) * len(box)))

    def table(self) -> "xarray.Dataset":
        return opened_table(self.path)

    def keep_config(self, text: str) -> None:
        """Writes run.toml."""
        path = self.path / _CONFIG
        if not (path.is_file() and path.read_text("utf-8") == text and _is_intact(self.path, _CONFIG)):
            write_text(path, text)
            _note_hashes(self.path, _CONFIG)

    def has_paths(self) -> bool:
        return self._has(_PATHS)

    def keep_paths(self, paths: "xarray.Dataset") -> None:
        """Writes the stored paths, whole or not at all."""
        self._keep(_PATHS, paths)

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
        return (self.path / part).is_dir() and _is_intact(self.path, part)

    def _keep(self, part: str, dataset: "xarray.Dataset") -> None:
        beside = self.path / f"{part}.partial"
        attributes = {"coordinates": _words(dataset.coords)}
        group = zarr.create_group(beside, zarr_format=3, overwrite=True, attributes=attributes)
        for name, variable in dataset.variables.items():
            _write_array(group, str(name), variable.dims, variable.values, variable.attrs)
        _list_metadata(beside, dataset.variables)
        for file in _files(beside):
            _flush(file)
        shutil.rmtree(self.path / part, ignore_errors=True)
        beside.replace(self.path / part)
        _note_hashes(self.path, part)

    def finish(self) -> None:
        """Notes in the manifest that the run is complete."""
        if read_manifest(self.path)["finished"] is None:
            _amend(self.path, finished=_now())

    def _tile(self, box: Box) -> tuple[int, ...]:
        return tuple(part.start // size for part, size in zip(box, self.plan.chunk, strict=True))

    def _chunks(self, box: Box) -> Iterable[Path]:
        return _chunks(self.path, self.group, self._tile(box))

    def _is_whole(self, box: Box) -> bool:
        return all(chunk.is_file() for chunk in self._chunks(box))


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
    path, known_as = Path(path).absolute(), _hash(fingerprint.encode())
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if read_manifest(path)["fingerprint"] != known_as:
            raise StoreError(f"{path} holds another run: its cost, axes or settings differ; name another folder")
        _check_intact(path, _RESULTS)
        _sweep_partial(path)
        return Folder(path, plan, zarr.open_group(path / _RESULTS, mode="r+"))
    beside = path.with_name(f".{path.name}.partial")  # whoever finds the folder finds it whole
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    _lay_out(beside / _RESULTS, plan)
    _write_manifest(beside, _manifest(plan, known_as, source) | {"hashes": _hashes(beside, _RESULTS)})
    if path.is_dir():
        path.rmdir()
    beside.replace(path)
    _flush(path.parent)
    return Folder(path, plan, zarr.open_group(path / _RESULTS, mode="r+"))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
      StoreError: there is none, it is damaged, or it is of another layout.
    """
    file = path / _MANIFEST
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise StoreError(f"{path} is not a run folder: it has no readable {_MANIFEST}") from error
    except ValueError as error:
        raise _damaged(file) from error
    if not isinstance(manifest, dict):
        raise _damaged(file)
    if manifest.get("layout") != LAYOUT:
        raise StoreError(f"{path} has layout {manifest.get('layout')!r}; this jaxgd reads layout {LAYOUT}")
    checksum = manifest.pop("checksum", None)
    if checksum != _hash(_as_json(manifest).encode()):
        raise _damaged(file)
    return manifest


def opened_table(path: Path) -> "xarray.Dataset":
    """The results of a run as a Dataset in memory; lanes that have not run are NaN, their outcome pending.

    With the run's known limits beside them, if it has any: `known_limit`, `limit_formula` and
    `sharpness`, as `limits.known_limits` describes them.

    Raises:
      StoreError: the folder is no run's, or a file of it is damaged or missing.
    """
    _check_intact(path, _RESULTS)
    group = zarr.open_group(path / _RESULTS, mode="r")
    for tile in map(tuple, np.argwhere(_ledger(path, group))):
        for chunk in _chunks(path, group, tile):
            if not chunk.is_file():  # Zarr would read it as "not run", silently
                raise StoreError(f"{chunk} is missing; run again: its batch is done anew")
    results = _opened(path / _RESULTS).drop_vars(_LEDGER)
    for name in results.data_vars:
        try:
            results.variables[name].load()
        except _UNREADABLE as error:
            raise _damaged_chunk(path, group, str(name)) from error
    limits = _opened_part(path, _LIMITS)
    return results if limits is None else results.assign(limits.data_vars)


def opened_paths(path: Path) -> "xarray.Dataset | None":
    """The stored paths of a run: chosen lanes, record by record; None if none were asked for.

    Raises:
      StoreError: they are damaged.
    """
    return _opened_part(path, _PATHS)


def opened_best(path: Path) -> "xarray.Dataset | None":
    """The params of the best setting, where the run kept those alone; None otherwise.

    Raises:
      StoreError: they are damaged.
    """
    return _opened_part(path, _BEST)


def _opened_part(path: Path, part: str) -> "xarray.Dataset | None":
    if not (path / part).is_dir():
        return None
    _check_intact(path, part)
    return _opened(path / part).load()


def config_file(path: Path) -> Path:
    """The run.toml of a run folder.

    Raises:
      StoreError: it is damaged, or was changed by hand.
    """
    _check_intact(path, _CONFIG)
    return path / _CONFIG


def write_text(path: Path, text: str) -> None:
    """Writes a file in one step: a reader sees the old one or the new one."""
    beside = path.with_name(f"{path.name}.partial")
    beside.write_text(text, "utf-8")
    _flush(beside)
    beside.replace(path)
    _flush(path.parent)


def _lay_out(path: Path, plan: Plan) -> None:
    """Makes the arrays, empty, and whatever labels them."""
    labels, variables = table.coordinates(plan), table.variables(plan)
    group = zarr.create_group(path, zarr_format=3, attributes=table.attributes(plan) | {"coordinates": _words(labels)})
    for name, (dimensions, values) in labels.items():
        _write_array(group, name, dimensions, values)
    for name, variable in variables.items():
        inner = variable.shape[len(plan.shape) :]
        never = {"_FillValue": table.NEVER} if name in table.MAYBE_NEVER else {}
        group.create_array(
            name,
            shape=variable.shape,
            chunks=plan.chunk + inner,
            dtype=variable.dtype,
            fill_value=variable.fill,
            dimension_names=variable.dimensions,
            attributes=variable.attributes | never,
            compressors=_CODECS,
        )
    tiles = tuple(-(-size // chunk) for size, chunk in zip(plan.shape, plan.chunk, strict=True))
    group.create_array(
        _LEDGER,
        shape=tiles,
        chunks=tiles,
        dtype=np.int8,
        fill_value=0,
        dimension_names=tuple(f"{dimension.name}.batch" for dimension in plan.dimensions),
        attributes={"long_name": "1 for batches that are finished"},
        compressors=_CODECS,
    )
    _list_metadata(path, [*labels, *variables, _LEDGER])


def _write_array(
    group: zarr.Group,
    name: str,
    dimensions: Iterable[Any],
    values: np.ndarray,
    attributes: dict[str, Any] | None = None,
) -> None:
    """One array in one chunk; text as Zarr specifies it, of any length (NumPy's fixed length has no specification)."""
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=tuple(max(1, size) for size in values.shape),
        dtype=str if values.dtype.kind in "UTO" else values.dtype,
        dimension_names=tuple(map(str, dimensions)),
        attributes=attributes,
        compressors=_CODECS,
    )
    with zarr.config.set({"array.write_empty_chunks": True}):
        array[...] = values


def _list_metadata(path: Path, names: Iterable[Any]) -> None:
    """Copies the arrays' metadata into the group's, in this order, where xarray looks for it first."""
    listed = {str(name): json.loads((path / str(name) / "zarr.json").read_text("utf-8")) for name in names}
    content = json.loads((path / "zarr.json").read_text("utf-8"))
    content["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": listed}
    write_text(path / "zarr.json", _as_json(content))


def _opened(path: Path) -> "xarray.Dataset":
    import xarray

    return xarray.open_zarr(path, chunks=None, consolidated=True)


def _words(names: Iterable[Any]) -> str:
    return " ".join(map(str, names))


# --- what is finished, and what is whole ---

_UNREADABLE = (ValueError, RuntimeError, OSError)  # what Zarr and its codecs raise for a chunk that isn't one


def _figures(group: zarr.Group) -> list[str]:
    """The arrays over the grid: what is neither a label nor the ledger."""
    others = {_LEDGER, *str(group.attrs["coordinates"]).split()}
    return [name for name in group.array_keys() if name not in others]


def _ledger(path: Path, group: zarr.Group) -> np.ndarray:
    try:
        return np.asarray(group[_LEDGER][...])
    except _UNREADABLE as error:
        file = _chunk(path, group[_LEDGER], (0,) * group[_LEDGER].ndim)
        raise StoreError(f"{file} is damaged; remove it and run again: all batches are done anew") from error


def _chunks(path: Path, group: zarr.Group, tile: tuple[int, ...]) -> Iterable[Path]:
    """The files of one batch, one for each figure."""
    for name in _figures(group):
        yield _chunk(path, group[name], tile)


def _chunk(path: Path, array: zarr.Array, tile: tuple[int, ...]) -> Path:
    return path.joinpath(_RESULTS, array.basename, "c", *map(str, _block(array, tile)))


def _block(array: zarr.Array, tile: tuple[int, ...]) -> tuple[int, ...]:
    """Where a batch lies among the chunks of an array, whose inner dimensions have one each."""
    return tile + (0,) * (array.ndim - len(tile))


def _damaged_chunk(path: Path, group: zarr.Group, name: str) -> StoreError:
    """Says which chunk of an array can't be read."""
    array, done = group[name], _ledger(path, group)
    for tile in map(tuple, np.argwhere(done)):
        try:
            array.blocks[_block(array, tile)]
        except _UNREADABLE:
            return StoreError(
                f"{_chunk(path, array, tile)} is damaged; remove it and run again: its batch is done anew"
            )
    return _damaged(path / _RESULTS / name)


def _damaged(file: Path) -> StoreError:
    return StoreError(f"{file} is damaged: it is not what was written; move the run folder away and run again")


def _is_intact(path: Path, part: str) -> bool:
    """Whether a part of the folder, a file or all files under it, is what the manifest says was written."""
    return not _changed(path, part)


def _check_intact(path: Path, part: str) -> None:
    if changed := _changed(path, part):
        raise _damaged(path / changed[0])


def _changed(path: Path, part: str) -> list[str]:
    wanted = {name: known for name, known in read_manifest(path)["hashes"].items() if Path(name).parts[0] == part}
    return [name for name, known in wanted.items() if _hash_of(path / name) != known] or [part] * (not wanted)


def _hashes(path: Path, part: str) -> dict[str, str | None]:
    return {file.relative_to(path).as_posix(): _hash_of(file) for file in _files(path / part)}


def _note_hashes(path: Path, part: str) -> None:
    others = {name: known for name, known in read_manifest(path)["hashes"].items() if Path(name).parts[0] != part}
    _amend(path, hashes=others | _hashes(path, part))


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _hash_of(file: Path) -> str | None:
    return _hash(file.read_bytes()) if file.is_file() else None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sweep_partial(path: Path) -> None:
    """Removes what a killed writer left half written."""
    for stray in sorted(path.rglob("*.partial"), reverse=True):
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


def _flush(path: Path) -> None:
    """Waits until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the manifest ---


def _manifest(plan: Plan, fingerprint: str, source: Path) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "fingerprint": fingerprint,
        "lanes": plan.lanes,
        "precision": "float64" if plan.x64 else "float32",
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.local_devices()],
        "commit": _commit(source),
        "begun": _now(),
        "finished": None,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit(folder: Path) -> str | None:
    """The commit of the repository around a folder, with a + if its files differ from it; None outside of one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _amend(path: Path, **changes: Any) -> None:
    _write_manifest(path, read_manifest(path) | changes)


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    write_text(path / _MANIFEST, _as_json(manifest | {"checksum": _hash(_as_json(manifest).encode())}))


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
