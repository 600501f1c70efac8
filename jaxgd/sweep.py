"""Sweeps: batches to workers, and what comes back to one table."""

import itertools
import math
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import engine, table
from jaxgd import plan as plans
from jaxgd.descent import Descent, History, descend
from jaxgd.outcome import judged
from jaxgd.plan import Box, Each, Plan, planned
from jaxgd.program import Program

if TYPE_CHECKING:
    import xarray


def sweep(
    lane: Callable[..., Descent],
    axes: Mapping[str, Any],
    *,
    epochs: int,
    target: float | None = None,
    ceiling: float | None = None,
    history: int | None = None,
    paired: Sequence[Sequence[str]] = (),
    minimum: float | None = None,
    minima: Any = None,
    tolerance: float | None = None,
    run: str | os.PathLike | None = None,
    executor: Executor | None = None,
) -> "xarray.Dataset":
    """Carries out one descent for every point of a grid, and says what became of each.

    Args:
      lane: a pure function that returns a `Descent`; its arguments name the axes. A scalar axis
        arrives as a scalar, an axis of vectors or of pytrees as one of them.
      axes: name → values, [size, ...] (a pytree of such arrays too), or `each([...])` for values
        that can't be traced. Every axis is a dimension of the result, in this order.
      epochs: updates per lane, at most.
      target: a lane whose cost comes down to it has converged, and stops.
      ceiling: a lane whose cost passes it has diverged, and stops; by default the largest finite number.
      history: how many records of the cost to keep per lane, spread evenly from start to end.
      paired: names of axes that walk together and share a dimension, the first one's.
      minimum: lowest cost, if known; minima: the points where it and other minima lie, [minimum, params].
      tolerance: as in `outcome.verdict`.
      run: a folder that keeps the results, batch by batch; the same sweep run again goes on from there.
      executor: any `concurrent.futures.Executor`; by default one thread per CPU core, or per accelerator.

    Returns:
      An `xarray.Dataset` with a dimension per axis and a variable for every figure of
      `outcome.FIGURES`, for every leaf of the final params (`params`, `params.hidden.kernel`), and,
      if asked for, `cost_history` over `epoch`.

    Raises:
      ValueError, TypeError: an axis that the lane doesn't know or that has no values, a name that the
        result needs for itself, or what `Descent` and its cost refuse.

    >>> def lane(learning_rate):
    ...     return Descent(lambda x: x**2 + 5, 4.0, optax.sgd(learning_rate))
    >>> results = sweep(lane, {"learning_rate": [0.01, 0.5, 1, 2]}, epochs=100)
    >>> [OUTCOMES[code] for code in results.outcome.values]
    ['descending', 'converged', 'oscillating', 'diverged']
    """
    plan = planned(
        lane,
        axes,
        epochs=epochs,
        target=target,
        ceiling=ceiling,
        history=history,
        paired=paired,
        minimum=minimum,
        minima=minima,
        tolerance=tolerance,
    )
    if run is not None:
        from jaxgd import store  # loads zarr
        from jaxgd.files import sole_writer

        with sole_writer(Path(run)):
            folder = store.opened(run, plan, plans.fingerprint(plan))
            for box, figures in carried_out(plan, folder.unfinished(), executor):
                folder.keep(box, figures)
            return folder.table()
    return in_memory(plan, executor)


def in_memory(plan: Plan, executor: Executor | None = None) -> Any:
    """The whole result of a plan, as a Dataset."""
    results = table.empty(plan)
    for box, figures in carried_out(plan, plan.boxes(), executor):
        for name, values in results.items():
            values[box] = figures[name]
    return table.labelled(plan, results)


def carried_out(plan: Plan, boxes: Sequence[Box], executor: Executor | None = None) -> Iterator[tuple[Box, dict]]:
    """Box by box as they finish: (box, figures of the box as NumPy arrays in its shape)."""
    if executor is not None:
        yield from _as_finished(plan, boxes, executor, ahead=2 * (os.cpu_count() or 1))
        return
    workers = 1 if _warm(plan, boxes) else _devices().workers
    with ThreadPoolExecutor(workers, thread_name_prefix="jaxgd") as threads:
        yield from _as_finished(plan, boxes, threads, ahead=2 * workers)


def replay(lane: Callable[..., Descent], point: Mapping[str, Any], epochs: int) -> History:
    """One lane of a sweep again, with all its records; equal to the lane within the sweep to rounding.

    Args:
      lane: the lane function of the sweep.
      point: its arguments by name, or a one-lane selection of the result. Arguments that a table can
        only name or number, such as functions and trees, need to be given by name.
      epochs: how many updates; a target or a ceiling does not end it.

    Raises:
      ValueError: the selection holds several lanes, or an argument that it only numbers.

    >>> def lane(learning_rate):
    ...     return Descent(lambda x: x**2 + 5, 4.0, optax.sgd(learning_rate))
    >>> replay(lane, {"learning_rate": 0.25}, epochs=2).params.tolist()
    [4.0, 2.0, 1.0]
    >>> results = sweep(lane, {"learning_rate": [0.125, 0.25, 0.5]}, epochs=2)
    >>> replay(lane, results.sel(learning_rate=0.25), epochs=2).cost.tolist()
    [21.0, 9.0, 6.0]
    """
    if hasattr(point, "coords"):
        point = _point_of(lane, point)
    descent = lane(**{name: jnp.asarray(v) if isinstance(v, np.ndarray) else v for name, v in point.items()})
    return descend(descent.cost, descent.params, descent.optimizer, epochs=epochs)


def _point_of(lane: Callable[..., Descent], selection: "xarray.Dataset") -> dict[str, Any]:
    """The arguments of the one lane that a table has been narrowed down to."""
    if several := selection["outcome"].dims:
        raise ValueError(f"replay takes one lane, and the selection has several along {', '.join(several)}: select one")
    known = plans.parameters(lane)
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    point = {}
    for name, coordinate in selection.coords.items():
        if "." in name or name == "epoch" or not (name in known or anything):
            continue
        if any(other.startswith(f"{name}.") and other != f"{name}.value" for other in selection.coords):
            raise ValueError(f"the table only numbers the trees along {name!r}: give the lane's arguments by name")
        values = (selection[f"{name}.value"] if f"{name}.value" in selection.coords else coordinate).values
        point[name] = values.item() if values.dtype.kind in "bU" else values
    return point


class _Devices(NamedTuple):
    free: queue.SimpleQueue  # whoever works takes one, and gives it back
    all: tuple
    workers: int


@lru_cache(maxsize=1)
def _devices() -> _Devices:
    """One worker per accelerator; on the CPU, XLA runs programs of several threads side by side."""
    devices = tuple(jax.local_devices())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = cores if devices[0].platform == "cpu" and len(devices) < cores else len(devices)
    free: queue.SimpleQueue = queue.SimpleQueue()
    for index in range(workers):
        free.put(devices[index % len(devices)])
    return _Devices(free, devices, workers)


def _warm(plan: Plan, boxes: Sequence[Box]) -> bool:
    """Compiles here, in the caller's thread and so under its settings; True if a program calls back."""
    calls_back = False
    for static in sorted({_static_of(plan, box) for box in boxes}):
        for device in _devices().all:
            calls_back |= _program(plan, static, device).calls_back
    return calls_back


def _static_of(plan: Plan, box: Box) -> tuple[int, ...]:
    return tuple(part.start if d.static else 0 for d, part in zip(plan.dimensions, box, strict=True))


_known_programs: dict[tuple, Program] = {}
_tracing = threading.Lock()


def _program(plan: Plan, static: tuple[int, ...], device: Any) -> Program:
    key = (plan.key, static, device)
    with _tracing, jax.enable_x64(plan.x64), plans.plain_words():
        if key not in _known_programs:
            while len(_known_programs) >= 64:  # they hold the constants of their plans
                _known_programs.pop(next(iter(_known_programs)))
            _known_programs[key] = engine.program(
                plans.bound(plan, static),
                plans.arguments(plan),
                records=len(plan.records),
                targeted=plan.target > -math.inf,
                block=plan.block,
                blocks=plan.blocks,
                dtype=_real(plan),
                device=device,
            )
        return _known_programs[key]


def _limits(plan: Plan) -> engine.Limits:
    real = _real(plan)
    ceiling = np.minimum(plan.ceiling, np.finfo(real).max)
    return engine.Limits(np.int32(plan.epochs), real(plan.target), real(ceiling), np.asarray(plan.records, np.int32))


def _real(plan: Plan) -> type:
    return np.float64 if plan.x64 else np.float32


def _as_finished(plan: Plan, boxes: Sequence[Box], executor: Executor, ahead: int) -> Iterator[tuple[Box, dict]]:
    """Submits no more than the workers can soon do, so that memory holds a few batches, never all."""
    waiting = iter(boxes)
    running: dict[Future, Box] = {}
    try:
        while True:
            for box in itertools.islice(waiting, ahead - len(running)):
                running[executor.submit(_batch, plan, box)] = box
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()


def _batch(plan: Plan, box: Box) -> dict[str, np.ndarray]:
    """Carries out the lanes of one box, wherever this process has a free device."""
    shape = tuple(part.stop - part.start for part in box)
    lanes = math.prod(shape)
    indices = np.unravel_index(np.minimum(np.arange(plan.blocks * plan.block), lanes - 1), shape or (1,))
    arguments = {
        name: jax.tree.map(lambda a, here=part.start + index: a[here], values)
        for dimension, part, index in zip(plan.dimensions, box, indices, strict=bool(shape))
        for name, values in dimension.axes.items()
        if not isinstance(values, Each)
    }
    device = _devices().free.get()
    try:
        with jax.enable_x64(plan.x64):
            figures = _program(plan, _static_of(plan, box), device).run(arguments, np.int32(lanes), _limits(plan))
            figures = jax.tree.map(lambda a: np.asarray(a)[:lanes], figures)
    finally:
        _devices().free.put(device)
    figures = judged(figures, plan.minimum, plan.minima, plan.tolerance)
    figures = {name: values.reshape(shape + values.shape[1:]) for name, values in figures.items()}
    return figures if plan.absent is None else _without(plan, box, figures)


def _without(plan: Plan, box: Box, figures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The figures with the absent lanes left pending."""
    nothing = plan.absent[box[: plan.absent.ndim]]
    fills = {name: variable.fill for name, variable in table.variables(plan).items()}
    return {
        name: np.where(
            nothing.reshape(nothing.shape + (1,) * (values.ndim - nothing.ndim)), fills.get(name, np.nan), values
        ).astype(values.dtype)
        for name, values in figures.items()
    }
