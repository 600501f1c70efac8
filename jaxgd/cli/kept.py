"""Programs that the command keeps on the disk."""

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

_WORTH_KEEPING = 0.1  # seconds of compiling from which a program is kept


def keep_programs() -> None:
    """Has JAX keep compiled programs in the user's cache folder, so that a second run of a config starts at once.

    One folder for each version of Python and of JAX and each kind of machine. Where it can't be written
    there is no cache. JAX_COMPILATION_CACHE_DIR names another, JAX_ENABLE_COMPILATION_CACHE=0 turns it off.
    """
    known = "-".join(map(metadata.version, ("jax", "jaxlib")))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxgd" / f"{known}-{_machine()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(_WORTH_KEEPING))


def _machine() -> str:
    """A short name for what a program is compiled for: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    told = "\n".join([platform.machine(), platform.processor(), platform.python_version(), *features])
    return hashlib.sha256(told.encode()).hexdigest()[:12]
