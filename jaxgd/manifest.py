"""The manifest of a run folder: what was run, by what, when; and the hash of all that is written once."""

import itertools
import json
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxgd.files import StoreError, hash_of, hashed, now, within, write_text
from jaxgd.plan import Plan, present

LAYOUT = 1
NAME = "manifest.json"
NUMERIC = ("jax", "jaxlib", "optax", "numpy", "jaxgd")  # the packages that make the numbers
_PACKAGES = (*NUMERIC, "xarray", "zarr")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
      StoreError: there is none, it is damaged, or it is of another layout.
    """
    file = path / NAME
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise StoreError(f"{path} is not a run folder: it has no readable {NAME}") from error
    except (ValueError, RecursionError) as error:
        raise damaged(file) from error
    if not isinstance(manifest, dict):
        raise damaged(file)
    if manifest.get("layout") != LAYOUT:
        raise StoreError(f"{path} has layout {manifest.get('layout')!r}; this jaxgd reads layout {LAYOUT}")
    checksum = manifest.pop("checksum", None)
    if checksum != hashed(as_json(manifest).encode()):
        raise damaged(file)
    return manifest


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    write_text(path / NAME, as_json(manifest | {"checksum": hashed(as_json(manifest).encode())}))


def amend(path: Path, **changes: Any) -> None:
    write_manifest(path, read_manifest(path) | changes)


def made(plan: Plan, fingerprint: str, source: Path) -> dict[str, Any]:
    """The manifest of a run that begins now."""
    return {
        "layout": LAYOUT,
        "fingerprint": fingerprint,
        "lanes": present(plan),
        "precision": "float64" if plan.x64 else "float32",
        **session(source),
        "resumed": [],
        "finished": None,
    }


def session(source: Path) -> dict[str, Any]:
    """By what, and when, a run is begun or gone on with: no word of whose machine it is."""
    return {
        "packages": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.local_devices()],
        "commit": commit(source),
        "begun": now(),
    }


def note_session(path: Path, source: Path, lanes: int) -> list[str]:
    """Notes that a run is gone on with, so many of its lanes being finished.

    Returns:
      What makes the numbers and is another than when finished lanes were made, as "jax 0.10.2 (now 0.12.0)".
    """
    known, here = read_manifest(path), session(source) | {"lanes": lanes}
    sessions = [known | {"lanes": 0}, *known.get("resumed", []), here]
    amend(path, resumed=sessions[1:])
    return differences([one for one, after in itertools.pairwise(sessions) if one["lanes"] != after["lanes"]], here)


def differences(earlier: Iterable[dict[str, Any]], here: dict[str, Any]) -> list[str]:
    """What of the packages and devices that make the numbers is another here than in earlier sessions, in words."""
    before, now = list(map(_makers, earlier)), _makers(here)
    others = {name: dict.fromkeys(str(one[name]) for one in before if one[name] != now[name]) for name in now}
    return [f"{name} {' and '.join(then)} (now {now[name]})" for name, then in others.items() if then]


def _makers(session: dict[str, Any]) -> dict[str, Any]:
    packages = {name: session["packages"].get(name) for name in NUMERIC}
    return packages | {"device": ", ".join(dict.fromkeys(session["devices"]))}


def as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit(folder: Path) -> str | None:
    """The commit of the repository around a folder, with a + if its files differ from it; None outside of one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


# --- what is whole ---


def is_intact(path: Path, part: str) -> bool:
    """Whether a part of the folder, a file or all files under it, is what the manifest says was written."""
    return not _changed(path, part)


def check_intact(path: Path, part: str) -> None:
    """Raises a StoreError if a part of the folder isn't what was written."""
    if changed := _changed(path, part):
        raise damaged(path / changed[0])


def hashes(path: Path, part: str) -> dict[str, str | None]:
    return {file.relative_to(path).as_posix(): hash_of(file) for file in within(path / part)}


def note_hashes(path: Path, part: str) -> None:
    """Makes what is now written of a part what is expected of it."""
    others = {name: known for name, known in read_manifest(path)["hashes"].items() if Path(name).parts[0] != part}
    amend(path, hashes=others | hashes(path, part))


def damaged(file: Path) -> StoreError:
    return StoreError(
        f"{file} is damaged: it is not what was written; run with --fresh, which keeps the folder under another name"
    )


def _changed(path: Path, part: str) -> list[str]:
    wanted = {name: known for name, known in read_manifest(path)["hashes"].items() if Path(name).parts[0] == part}
    return [name for name, known in wanted.items() if hash_of(path / name) != known] or [part] * (not wanted)
