"""How time and resident memory grow with lanes, epochs and dimensions; each point in a fresh process."""

import math
import sys
import tempfile
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from experiments.throughput.worker import worker
from experiments.throughput.workloads import FULL_LENGTH, WORKLOADS, Workload, sized

LANES = tuple(1 << k for k in range(10, 23, 2))
EPOCHS = (250, 500, 1000, 2000, 4000, 8000)
DIMENSIONS = tuple(1 << k for k in range(0, 9, 2))
_MAIN, _WIDE = WORKLOADS["rosenbrock, gradient descent"], WORKLOADS["rastrigin 10-d, adam, no target"]


class Point(NamedTuple):
    """One sweep, in a process of its own."""

    along: str  # lanes, epochs or dimensions
    size: int
    workload: Workload
    seconds: tuple[float, ...]
    peak: int  # bytes resident at most, the result in memory
    peak_stored: int  # the same, the result going to a run folder
    table: int  # bytes of the result in memory

    @property
    def unit_time(self) -> float:
        """Nanoseconds per lane; where epochs or dimensions grow, per lane and epoch, or per number."""
        numbers = sum(leaf.size for leaf in self.workload.start) if self.along == "dimensions" else 1
        epochs = 1 if self.along == "lanes" else self.workload.epochs
        return 1e9 * median(self.seconds) / (self.workload.lanes * epochs * numbers)


def points(lanes: int, epochs: int, repeats: int) -> Iterator[Point]:
    """Every point up to so many lanes and epochs."""
    for along, size, workload in _work(lanes, epochs):
        with worker(sys.executable) as ask:
            seconds, peak, table = ask("growth:measured", workload, repeats, False)
        with worker(sys.executable) as ask:
            _, peak_stored, _ = ask("growth:measured", workload, 1, True)
        yield Point(along, size, workload, tuple(seconds), peak, peak_stored, table)


def measured(workload: Workload, repeats: int, stored: bool) -> tuple[list[float], int, int]:
    """In the worker: seconds of each sweep but the first, peak of resident memory, bytes of the result."""
    from experiments.throughput.timing import peak_bytes, timed
    from experiments.throughput.with_jax import lane_of
    from experiments.throughput.workloads import axes
    from jaxgd.plan import planned
    from jaxgd.sweep import in_memory

    lane, grid = lane_of(workload), axes(workload)  # to make the grid takes several times its memory

    def run() -> Any:
        plan = planned(lane, grid, epochs=workload.epochs, target=workload.target)
        return _into_a_folder(plan) if stored else in_memory(plan).nbytes

    calls = [timed(run) for _ in range(repeats + 1)]
    return [seconds for seconds, _ in calls[1:]], peak_bytes(), calls[0][1]


def _into_a_folder(plan: Any) -> int:
    """The results batch by batch into a run folder, and not read again."""
    from jaxgd import store
    from jaxgd.plan import fingerprint
    from jaxgd.sweep import carried_out

    with tempfile.TemporaryDirectory() as path:
        folder = store.opened(f"{path}/run", plan, fingerprint(plan))
        for box, figures in carried_out(plan, folder.unfinished()):
            folder.keep(box, figures)
    return 0


def _work(lanes: int, epochs: int) -> Iterator[tuple[str, int, Workload]]:
    """Lanes with a target, so that blocks retire; epochs at full length; dimensions of Rastrigin, by Adam."""
    for size in LANES:
        if size <= lanes:
            yield "lanes", size, sized(_MAIN._replace(lanes=size), size, epochs)
    for size in EPOCHS:
        if size <= 4 * epochs:
            yield "epochs", size, FULL_LENGTH._replace(lanes=min(1 << 16, lanes), epochs=size)
    for size in DIMENSIONS:
        start = (np.resize(_WIDE.start[0], size),)
        room = 1 << int(math.log2(max(1, (1 << 20) // size)))  # as many numbers in all, whatever their dimension
        yield "dimensions", size, sized(_WIDE._replace(start=start, lanes=room), min(room, lanes), epochs // 10)
