"""Workers: batches of lanes, carried out by whichever device is free, as many lanes at a time as its memory holds."""

import math
import os
import queue
import threading
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd import engine, table
from jaxgd import plan as plans
from jaxgd.outcome import ABSENT, goal, told
from jaxgd.plan import Box, Each, Plan
from jaxgd.program import Program

_COPIES = 4  # of what a lane holds, that a program may have in memory at once
_SHARE = 4  # of a device's memory, one part in so many is for a program


class _Devices(NamedTuple):
    free: queue.SimpleQueue  # whoever works takes one, and gives it back
    all: tuple
    workers: int


@lru_cache(maxsize=1)
def _devices() -> _Devices:
    """One worker per accelerator; on the CPU, XLA runs programs of several threads side by side."""
    devices = tuple(jax.local_devices())
    workers = max(plans.cores(), len(devices)) if devices[0].platform == "cpu" else len(devices)
    free: queue.SimpleQueue = queue.SimpleQueue()
    for index in range(workers):
        free.put(devices[index % len(devices)])
    return _Devices(free, devices, workers)


def ready(plan: Plan, boxes: Sequence[Box]) -> int:
    """Compiles here, in the caller's thread and so under its settings; how many may work side by side."""
    calls_back = False
    for static in sorted({_static_of(plan, box) for box in boxes}):
        for device in _devices().all:
            calls_back |= _program(plan, static, device, _size(plan, device)).calls_back
    return 1 if calls_back else _devices().workers


def batches(plan: Plan, boxes: Sequence[Box]) -> list[list[Box]]:
    """Boxes that one program carries out together: from all over, so that no batch holds all the lanes that last."""
    together, of_program = plan.together(len(_devices().all)), {}
    for box in boxes:
        of_program.setdefault(_static_of(plan, box), []).append(box)
    counts = {static: -(-len(many) // together) for static, many in of_program.items()}
    return [many[i :: counts[static]] for static, many in of_program.items() for i in range(counts[static])]


def carried_out(plan: Plan, boxes: Sequence[Box]) -> list[dict[str, np.ndarray]]:
    """Figures of the lanes of some boxes of one program, each in its box's shape, by whichever device is free."""
    shapes = [tuple(part.stop - part.start for part in box) for box in boxes]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    arguments = jax.tree.map(lambda *parts: np.concatenate(parts), *(_arguments(plan, box) for box in boxes))
    device = _devices().free.get()
    try:
        with jax.enable_x64(plan.x64):
            figures = _fitted(plan, _static_of(plan, boxes[0]), device, arguments, int(ends[-1]))
    finally:
        _devices().free.put(device)
    figures = told(figures, plan.minima)
    results = []
    for box, shape, end in zip(boxes, shapes, ends, strict=True):
        here = {n: a[end - math.prod(shape) : end].reshape(shape + a.shape[1:]) for n, a in figures.items()}
        results.append(here if plan.absent is None else _without(plan, box, here))
    return results


def _arguments(plan: Plan, box: Box) -> dict[str, Any]:
    """What varies, [lane, ...] by name, over the lanes of a box."""
    shape = tuple(part.stop - part.start for part in box)

    def spread(values, part, axis):
        here = values[part].reshape(*(1,) * axis, -1, *(1,) * (len(shape) - axis - 1), *values.shape[1:])
        return np.broadcast_to(here, (*shape, *values.shape[1:])).reshape(-1, *values.shape[1:])

    return {
        name: jax.tree.map(lambda a, part=part, axis=axis: spread(a, part, axis), values)
        for axis, (dimension, part) in enumerate(zip(plan.dimensions, box, strict=True))
        for name, values in dimension.axes.items()
        if not isinstance(values, Each)
    }


def _static_of(plan: Plan, box: Box) -> tuple[int, ...]:
    return tuple(part.start if d.static else 0 for d, part in zip(plan.dimensions, box, strict=True))


# --- as many lanes at a time as memory holds ---


class _Size(NamedTuple):
    """Of a program: lanes per block, and blocks."""

    block: int
    blocks: int

    @property
    def lanes(self) -> int:
        return self.block * self.blocks

    def half(self) -> "_Size":
        return _Size(self.block, self.blocks // 2) if self.blocks > 1 else _Size(self.block // 2, 1)


_sizes: dict[tuple[Any, ...], _Size] = {}  # of programs for which memory has run out on a device, and so smaller


def _size(plan: Plan, device: Any) -> _Size:
    """Room for a batch, or for as much of it as the device's memory should hold."""
    size = _Size(*plan.blocks(len(_devices().all)))
    while size.lanes > 1 and _COPIES * size.lanes * plan.lane_bytes > _memory(device):
        size = size.half()
    return min(size, _sizes.get(_room(plan, device), size), key=lambda size: size.lanes)


def _room(plan: Plan, device: Any) -> tuple[Any, ...]:
    """What decides how much memory lanes take."""
    return plan.trace().text, plan.lane_bytes, len(plan.records), device


def _memory(device: Any) -> float:
    """Bytes that one program may take up."""
    told = device.memory_stats() or {}
    if "bytes_limit" in told:
        return told["bytes_limit"] / _SHARE
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _SHARE / _devices().workers
    except (AttributeError, ValueError, OSError):  # not every system says
        return math.inf


def _fitted(plan: Plan, static: tuple[int, ...], device: Any, arguments: Any, lanes: int) -> dict[str, Any]:
    """Figures of lanes; where they don't fit into memory, of half as many at a time."""
    while True:
        size = _size(plan, device)
        try:
            return _in_parts(_program(plan, static, device, size), size, _limits(plan), arguments, lanes)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or size.lanes == 1:
                raise
        _sizes[_room(plan, device)] = min(size.half(), _size(plan, device), key=lambda size: size.lanes)
        warnings.warn(
            f"{device} ran out of memory with {size.lanes} lanes at a time; going on with {size.half().lanes}",
            RuntimeWarning,
            stacklevel=2,
        )


def _in_parts(program: Program, size: _Size, limits: engine.Limits, arguments: Any, lanes: int) -> dict[str, Any]:
    parts = list(_parts(program, size, limits, arguments, lanes))
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *a: np.concatenate(a), *parts)


def _parts(program: Program, size: _Size, limits: engine.Limits, arguments: Any, lanes: int) -> Iterator[Any]:
    """Figures of as many lanes as the program has room for, and of the next ones; the last part is padded."""
    for first in range(0, lanes, size.lanes):
        used = min(size.lanes, lanes - first)
        here = jax.tree.map(lambda a, first=first: _filled_up(a[first : first + size.lanes], size.lanes), arguments)
        figures = program.run(here, np.int32(used), limits)
        yield jax.tree.map(lambda a, used=used: a[:used], _on_host(figures))


def _filled_up(values: np.ndarray, lanes: int) -> np.ndarray:
    """For so many lanes, by the last value again and again."""
    missing = lanes - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) if missing else values


def _on_host(figures: Any) -> Any:
    """Figures as NumPy arrays; from an accelerator by way of pinned memory, into which it copies many times faster."""
    (device,) = jax.tree.leaves(figures)[0].devices()
    if device.platform != "cpu" and "pinned_host" in {memory.kind for memory in device.addressable_memories()}:
        figures = jax.device_put(figures, jax.sharding.SingleDeviceSharding(device, memory_kind="pinned_host"))
    return jax.tree.map(np.asarray, figures)


# --- programs ---

_compiling = threading.Lock()


def _program(plan: Plan, static: tuple[int, ...], device: Any, size: _Size) -> Program:
    trace, key = plan.trace(static), (device, size, len(plan.records))
    with _compiling, jax.enable_x64(plan.x64), plans.plain_words():
        if key not in trace.programs:
            arguments, limits = plans.arguments(plan), _limits(plan)
            trace.programs[key] = engine.program(
                trace, arguments, limits, block=size.block, blocks=size.blocks, device=device
            )
        return trace.programs[key]


def _limits(plan: Plan) -> engine.Limits:
    real = _real(plan)
    ceiling = min(plan.ceiling, float(np.finfo(real).max))
    records = np.asarray(plan.records, np.int32)
    by = goal(plan.minimum, plan.tolerance, real)
    return engine.Limits(np.int32(plan.epochs), real(plan.target), real(ceiling), records, by)


def _real(plan: Plan) -> type:
    return np.float64 if plan.x64 else np.float32


def _without(plan: Plan, box: Box, figures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The figures without those of absent lanes: their outcome is `ABSENT`, all else as if they had not run."""
    nothing = plan.absent[box[: plan.absent.ndim]]
    fills = {name: variable.fill for name, variable in table.variables(plan).items()} | {"outcome": ABSENT}
    return {
        name: np.where(
            nothing.reshape(nothing.shape + (1,) * (values.ndim - nothing.ndim)), fills.get(name, np.nan), values
        ).astype(values.dtype)
        for name, values in figures.items()
    }
