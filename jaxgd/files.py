"""Files that last: written in one step, known by their hashes, and one writer to a folder."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path


class StoreError(ValueError):
    """A run folder that can't be used as asked; its text says which, why, and what to do."""


# --- written in one step ---


def write_text(path: Path, text: str) -> None:
    """Writes a file in one step: a reader sees the old one or the new one, after a loss of power too."""
    write_bytes(path, text.encode())
    flush(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """As `write_text`, but that the file may be lost with its entry in the directory."""
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")  # of this writer alone
    try:
        beside.write_bytes(content)
        flush(beside)
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def flush(path: Path) -> None:
    """Waits until a file, or the entries of a directory, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows keeps its directories itself
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folders(path: Path) -> None:
    """Waits until the entries of a directory and of all within it are on the disk."""
    for folder in (path, *(inner for inner in path.rglob("*") if inner.is_dir())):
        flush(folder)


def sweep_partial(path: Path) -> None:
    """Removes what a killed writer left half written."""
    for stray in sorted(path.rglob("*.partial"), reverse=True):
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


# --- known by their hashes ---


def within(path: Path) -> list[Path]:
    """A file, or all files under a directory."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def hash_of(file: Path) -> str | None:
    if not file.is_file():
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def hashed(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- one writer ---


@contextlib.contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keeps other processes from writing to a folder, which need not be there yet.

    The lock is the system's own, and goes with its process, however that ends.

    Raises:
      StoreError: another process holds it; the text says which, where, and since when.
    """
    import filelock

    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, note = (path.with_name(f".{path.name}.{what}") for what in ("lock", "writer"))
    try:
        held = filelock.FileLock(lock).acquire(timeout=0)
    except filelock.Timeout:
        raise StoreError(
            f"{path} is being written by {_writer(note)}; wait until it is done, or stop it: "
            "what it has finished is kept"
        ) from None
    with held:
        try:
            me = {"process": os.getpid(), "host": socket.gethostname(), "since": now()}
            write_text(note, json.dumps(me))
            yield
        finally:
            note.unlink(missing_ok=True)


def _writer(note: Path) -> str:
    try:
        known = json.loads(note.read_text("utf-8"))
        return f"process {known['process']} on {known['host']}, since {known['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
