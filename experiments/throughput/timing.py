"""What a worker measures of itself: seconds, compiled programs, resident memory, versions."""

import os
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.throughput.worker import named
from experiments.throughput.workloads import Workload

_ready: dict[str, Callable] = {}
_compiled: list[float] = []  # seconds of every program that XLA compiled here


def first(prepare: str, workload: Workload, most: int) -> dict[str, Any]:
    """The first call, compilation included: its seconds, how many programs it compiled, its figures."""
    _listen()
    run, read = named(prepare)(workload, most)
    before = _programs()
    seconds, raw = timed(run)
    programs = _programs() - before
    _ready[prepare] = run
    return {"seconds": seconds, "programs": programs, "figures": read(raw)}


def again(prepare: str) -> dict[str, Any]:
    """One more call of what was prepared last: its seconds, and how many programs it compiled."""
    before = _programs()
    seconds, _ = timed(_ready[prepare])
    return {"seconds": seconds, "programs": _programs() - before}


def figures(prepare: str, workload: Workload, most: int) -> dict[str, Any]:
    """What the work comes to, untimed."""
    run, read = named(prepare)(workload, most)
    return read(run())


def timed(run: Callable) -> tuple[float, Any]:
    began = time.perf_counter()
    raw = run()
    return time.perf_counter() - began, raw


def compiled() -> tuple[int, float]:
    """How many programs XLA has compiled in this process since the first call of this, and their seconds."""
    _listen()
    return len(_compiled), sum(_compiled)


def process() -> int:
    """The number of this process."""
    return os.getpid()


def has(package: str) -> str | None:
    """The version of a package in this interpreter, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def devices() -> str:
    import jax

    return ", ".join(sorted({f"{device.platform} {device.device_kind}" for device in jax.devices()}))


def is_accelerated(package: str) -> bool:
    """Whether a package has something else than CPUs to run on here."""
    if package == "torch":
        import torch

        return torch.cuda.is_available()
    import jax

    return jax.default_backend() != "cpu"


def peak_bytes() -> int:
    """The most memory that was ever resident. (`ru_maxrss` would count what the parent held when it forked.)"""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _programs() -> int:
    """How many programs XLA and torch.compile have compiled in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # not imported before something is to be compiled
    return len(_compiled) + (dynamo.counters["stats"]["unique_graphs"] if dynamo else 0)


@cache
def _listen() -> None:
    """Counts compilations from here on, where there is a JAX to count."""
    if has("jax") is None:
        return
    import jax

    def listener(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            _compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listener)
