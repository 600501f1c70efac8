"""The run folder: labelled arrays, a manifest, and the ledger of what is finished.

    run.toml         the config as it was understood, every default filled in
    manifest.json    layout, fingerprint, packages, devices, times
    results.zarr     an xarray.Dataset, one chunk-aligned box of the grid per batch
    paths.zarr       chosen lanes, record by record
    figures/

A batch is written, flushed to disk, and only then marked in the ledger. A batch that is not marked,
or that is marked but lacks a chunk, is done again.
"""

import hashlib
import json
import os
import platform
import shutil
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
from jaxgd.outcome import FIGURES
from jaxgd.plan import Box, Plan

if TYPE_CHECKING:
    import xarray

LAYOUT = 1
_LEDGER = "done"
_PATHS = "paths.zarr"
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
        done = np.atleast_1d(self.group[_LEDGER][...])
        return [box for box in self.plan.boxes() if not (done[self._tile(box) or (0,)] and self._is_whole(box))]

    def keep(self, box: Box, figures: dict[str, np.ndarray]) -> None:
        """Writes the figures of one box, and marks it once they are on the disk."""
        with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk of nothing but fill counts as written too
            for name, values in figures.items():
                if name in self.group:
                    self.group[name][box] = values
        for chunk in self._chunks(box):
            _flush(chunk)
        self.group[_LEDGER][self._tile(box)] = 1
        _flush(_chunk_path(self.path / "results.zarr" / _LEDGER, (0,) * len(box)))

    def table(self) -> "xarray.Dataset":
        return opened_table(self.path)

    def has_paths(self) -> bool:
        return (self.path / _PATHS).is_dir()

    def keep_paths(self, paths: "xarray.Dataset") -> None:
        """Writes the stored paths, whole or not at all."""
        beside = self.path / f"{_PATHS}.partial"
        shutil.rmtree(beside, ignore_errors=True)
        paths.to_zarr(
            beside, mode="w", consolidated=False, zarr_format=3, encoding={v: {"compressors": _CODECS} for v in paths}
        )
        beside.replace(self.path / _PATHS)

    def finish(self) -> None:
        """Notes in the manifest that the run is complete."""
        manifest = read_manifest(self.path)
        if manifest["finished"] is None:
            _write_json(self.path / "manifest.json", manifest | {"finished": _now()})

    def _tile(self, box: Box) -> tuple[int, ...]:
        return tuple(part.start // size for part, size in zip(box, self.plan.chunk))

    def _chunks(self, box: Box) -> Iterable[Path]:
        for name, variable in table.variables(self.plan).items():
            inner = len(variable.shape) - len(box)
            yield _chunk_path(self.path / "results.zarr" / name, self._tile(box) + (0,) * inner)

    def _is_whole(self, box: Box) -> bool:
        return all(chunk.is_file() for chunk in self._chunks(box))


def opened(path: str | os.PathLike, plan: Plan, fingerprint: str) -> Folder:
    """The folder of a run, made if it isn't there.

    Raises:
      StoreError: the folder holds something else, or another run, or another layout; it is left untouched.
    """
    path, known_as = Path(path), hashlib.sha256(fingerprint.encode()).hexdigest()
    if path.exists() and any(path.iterdir()):
        manifest = read_manifest(path)
        if manifest["fingerprint"] != known_as:
            raise StoreError(f"{path} holds another run: its cost, axes or settings differ; name another folder")
        return Folder(path, plan, zarr.open_group(path / "results.zarr", mode="r+"))
    path.mkdir(parents=True, exist_ok=True)
    group = _laid_out(path / "results.zarr", plan)
    _write_json(path / "manifest.json", _manifest(plan, known_as))
    return Folder(path, plan, group)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
      StoreError: there is none, it can't be read, or it is of another layout.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is not a run folder: it has no readable manifest.json") from error
    if not isinstance(manifest, dict) or manifest.get("layout") != LAYOUT:
        raise StoreError(f"{path} has layout {manifest.get('layout') if isinstance(manifest, dict) else None!r}; this jaxgd reads layout {LAYOUT}")
    return manifest


def opened_table(path: Path) -> "xarray.Dataset":
    """The results of a run as a Dataset; lanes that have not run are NaN, their outcome pending."""
    import xarray

    read_manifest(path)
    results = xarray.open_zarr(path / "results.zarr", chunks=None, consolidated=False)
    first = [name for name in FIGURES if name in results]
    return results[first + sorted(set(results.data_vars) - {*first, _LEDGER})]


def opened_paths(path: Path) -> "xarray.Dataset | None":
    """The stored paths of a run: chosen lanes, record by record; None if none were asked for."""
    import xarray

    return None if not (path / _PATHS).is_dir() else xarray.open_zarr(path / _PATHS, chunks=None, consolidated=False)


def write_text(path: Path, text: str) -> None:
    """Writes a file in one step: a reader sees the old one or the new one."""
    beside = path.with_name(f"{path.name}.partial")
    beside.write_text(text, "utf-8")
    _flush(beside)
    beside.replace(path)


def _laid_out(path: Path, plan: Plan) -> zarr.Group:
    labels = table.coordinates(plan)
    attributes = table.attributes(plan) | {"coordinates": " ".join(labels)}
    group = zarr.create_group(path, zarr_format=3, attributes=attributes)
    for name, (dimensions, values) in labels.items():
        values = values.astype(str) if values.dtype.kind == "U" else values
        array = group.create_array(
            name, shape=values.shape, dtype=str if values.dtype.kind == "U" else values.dtype, dimension_names=dimensions
        )
        array[...] = values
    for name, variable in table.variables(plan).items():
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
    tiles = tuple(-(-size // chunk) for size, chunk in zip(plan.shape, plan.chunk))
    names = tuple(f"{dimension.name}.batch" for dimension in plan.dimensions)
    group.create_array(_LEDGER, shape=tiles, chunks=tiles, dtype=np.int8, fill_value=0, dimension_names=names, compressors=_CODECS)
    return group


def _chunk_path(array: Path, tile: tuple[int, ...]) -> Path:
    return array.joinpath("c", *map(str, tile))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(plan: Plan, fingerprint: str) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "fingerprint": fingerprint,
        "lanes": plan.lanes,
        "precision": "float64" if plan.x64 else "float32",
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.local_devices()],
        "begun": _now(),
        "finished": None,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")
