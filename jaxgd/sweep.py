"""Sweeps: axes to lanes, lanes to batches, batches to workers, and what comes back to one table."""

import difflib
import inspect
import itertools
import math
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxgd import engine
from jaxgd.descent import Descent, History, check_whole, descend, opened
from jaxgd.outcome import FIGURES, judged

_BATCH_BYTES = 1 << 26  # of params and histories that a batch may hold
_MOST_BLOCKS = 64  # per batch
_LANE_EPOCHS = 100_000_000  # of a small cost, about a second of one core: what a batch should take
_FEWEST_BATCHES = 32  # so that free workers find a next one while slow lanes go on

Box = tuple[slice, ...]  # one slice per dimension of the grid


class Each(NamedTuple):
    """Values that can't be traced (a name, a flag, a shape): one program for each of them."""

    values: tuple


def each(values: Sequence[Any]) -> Each:
    """An axis whose values are Python objects: one compiled program per value, results side by side."""
    return Each(tuple(values))


@dataclass(frozen=True)
class Dimension:
    """One dimension of the result: one axis, or several that walk together."""

    axes: dict[str, Any]  # name → Each, or a pytree of arrays [size, ...]
    size: int

    @property
    def name(self) -> str:
        return next(iter(self.axes))

    @property
    def static(self) -> bool:
        return any(isinstance(values, Each) for values in self.axes.values())

    def at(self, name: str, index: int) -> Any:
        values = self.axes[name]
        return values.values[index] if isinstance(values, Each) else jax.tree.map(lambda a: a[index], values)


@dataclass(frozen=True)
class Plan:
    """A sweep, checked and divided into batches, not yet carried out."""

    lane: Callable[..., Descent]
    dimensions: tuple[Dimension, ...]
    epochs: int
    target: float
    ceiling: float
    records: tuple[int, ...] = ()
    minimum: float | None = None
    minima: Any = None
    tolerance: float | None = None
    labels: Mapping[str, tuple[tuple[str, ...], np.ndarray]] = field(default_factory=dict)  # further coordinates
    absent: Any = None  # True over the first dimensions where there is nothing to run
    keep_params: bool = True
    x64: bool = field(default_factory=lambda: jax.config.jax_enable_x64)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(dimension.size for dimension in self.dimensions)

    @property
    def lanes(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def outline(self) -> dict[str, PyTree]:
        """Shapes and dtypes of one lane's params and state."""
        return outline(self, (0,) * len(self.dimensions))

    @cached_property
    def block(self) -> int:
        return engine.block_size(_bytes(self.outline) + _bytes(self.outline["params"]))

    @cached_property
    def blocks(self) -> int:
        lane_bytes = _bytes(self.outline["params"]) + 8 * (len(FIGURES) + len(self.records))
        return 1 << (max(1, min(_MOST_BLOCKS, _BATCH_BYTES // (lane_bytes * self.block))).bit_length() - 1)

    @cached_property
    def chunk(self) -> tuple[int, ...]:
        """The batch's extent along each dimension; whole along the last ones, where neighbours lie."""
        most = min(self.blocks * self.block, _LANE_EPOCHS // self.epochs, -(-self.lanes // _FEWEST_BATCHES))
        room = max(self.block, most // self.block * self.block)
        chunk = []
        for dimension in reversed(self.dimensions):
            chunk.append(1 if dimension.static else max(1, min(dimension.size, room)))
            room //= chunk[-1]
        return tuple(reversed(chunk))

    def boxes(self) -> list[Box]:
        """The grid, divided into batches."""
        steps = [[slice(i, min(i + c, n)) for i in range(0, n, c)] for n, c in zip(self.shape, self.chunk)]
        return list(itertools.product(*steps))


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
) -> Any:
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
    """
    from jaxgd import store, table  # they load xarray and zarr

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
        folder = store.opened(run, plan, fingerprint(plan))
        for box, figures in carried_out(plan, folder.unfinished(), executor):
            folder.keep(box, figures)
        return folder.table()
    results = table.empty(plan)
    for box, figures in carried_out(plan, plan.boxes(), executor):
        for name, values in figures.items():
            results[name][box] = values
    return table.labelled(plan, results)


def planned(
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
    labels: Mapping[str, tuple[tuple[str, ...], np.ndarray]] | None = None,
    absent: Any = None,
    keep_params: bool = True,
) -> Plan:
    """A sweep's `Plan`; arguments and errors as in `sweep`.

    Args:
      labels: further coordinates, (dimensions, values) by name.
      absent: booleans over the first dimensions, True where there is nothing to run.
      keep_params: whether the result holds the final params.
    """
    check_whole("epochs", epochs, least=1)
    records = ()
    if history is not None:
        check_whole("history", history, least=2)
        records = tuple(np.unique(np.linspace(0, epochs, min(history, epochs + 1)).round().astype(int)).tolist())
    _check_names(lane, axes)
    return Plan(
        lane,
        _dimensions(axes, paired),
        epochs,
        -math.inf if target is None else float(target),
        math.inf if ceiling is None else float(ceiling),
        records,
        minimum,
        minima,
        tolerance,
        labels or {},
        absent,
        keep_params,
    )


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
      point: its arguments by name; a one-lane selection of the result's Dataset will do.
      epochs: how many updates; a target or a ceiling does not end it.
    """
    if hasattr(point, "coords"):
        point = {name: point.coords[name].values for name in point.coords if name in _parameters(lane)}
    descent = lane(**{name: jnp.asarray(v) if isinstance(v, np.ndarray) else v for name, v in point.items()})
    return descend(descent.cost, descent.params, descent.optimizer, epochs=epochs)


def fingerprint(plan: Plan) -> str:
    """Whatever changes the numbers of a sweep, as text: its programs, their constants, its axes."""
    parts = [repr((plan.shape, plan.epochs, plan.target, plan.ceiling, plan.records, plan.x64))]
    parts += [repr((plan.minimum, plan.tolerance)), repr(np.asarray(plan.minima).tolist())]
    for dimension in plan.dimensions:
        for name, values in dimension.axes.items():
            kept = values.values if isinstance(values, Each) else jax.tree.map(engine.digest, values)
            parts.append(f"{name}: {kept}")
    with jax.enable_x64(plan.x64):
        for static in statics(plan):
            parts.append(engine.text_of(_bound(plan, static), _arguments(plan)))
    return "\n".join(parts)


# --- from axes to lanes ---


def _parameters(lane: Callable) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(lane).parameters)


def _check_names(lane: Callable, axes: Mapping[str, Any]) -> None:
    known = _parameters(lane)
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name in axes:
        if name not in known and not anything:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"axis {name!r}: the lane has no such argument; it takes {', '.join(known) or 'none'}{hint}")
        if name in FIGURES or name in ("params", "epoch", "cost_history"):
            raise ValueError(f"axis {name!r}: the result has a variable of this name; call the lane's argument otherwise")
    plain = (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) if (p := inspect.Parameter) else ()
    missing = [n for n, p in known.items() if p.default is p.empty and p.kind in plain and n not in axes]
    if missing:
        raise ValueError(f"the lane needs {', '.join(missing)}: give each an axis, or a default")


def _dimensions(axes: Mapping[str, Any], paired: Sequence[Sequence[str]]) -> tuple[Dimension, ...]:
    partners: dict[str, tuple[str, ...]] = {}
    for group in paired:
        if unknown := [name for name in group if name not in axes]:
            raise ValueError(f"paired axis {unknown[0]!r} is not among the axes: {', '.join(axes)}")
        if taken := [name for name in group if name in partners]:
            raise ValueError(f"axis {taken[0]!r} is paired twice")
        partners |= dict.fromkeys(group, tuple(group))
    dimensions, done = [], set()
    for name in axes:
        if name in done:
            continue
        together = partners.get(name, (name,))
        done |= set(together)
        values = {member: _axis(member, axes[member]) for member in together}
        sizes = {member: _size(member, v) for member, v in values.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"paired axes differ in length: {', '.join(f'{n} has {s}' for n, s in sizes.items())}")
        dimensions.append(Dimension(values, sizes[name]))
    return tuple(dimensions)


def _axis(name: str, values: Any) -> Any:
    if isinstance(values, Each):
        return values
    arrays = jax.tree.map(np.asarray, values, is_leaf=lambda v: isinstance(v, (list, tuple)))
    for array in jax.tree.leaves(arrays):
        if array.dtype.kind not in "iufV":  # V: bfloat16 and its kin
            raise TypeError(
                f"axis {name!r} holds {array.dtype}, which can't be traced; wrap its values in jaxgd.each([...]) "
                "to have one program for each"
            )
    return arrays


def _size(name: str, values: Any) -> int:
    if isinstance(values, Each):
        sizes = {len(values.values)}
    else:
        sizes = {len(a) if a.ndim else -1 for a in jax.tree.leaves(values)}
    if len(sizes) != 1 or -1 in sizes:
        raise ValueError(f"axis {name!r}: needs a list of values, all leaves of the same length")
    if 0 in sizes:
        raise ValueError(f"axis {name!r} is empty: it needs at least one value")
    return sizes.pop()


def _arguments(plan: Plan) -> dict[str, PyTree]:
    """Shapes and dtypes of the traced arguments of one lane."""

    def one(array):
        return jax.ShapeDtypeStruct(array.shape[1:], jax.dtypes.canonicalize_dtype(array.dtype))

    return {name: jax.tree.map(one, values) for name, values in _traced(plan).items()}


def _traced(plan: Plan) -> dict[str, PyTree]:
    return {n: v for d in plan.dimensions for n, v in d.axes.items() if not isinstance(v, Each)}


def statics(plan: Plan) -> list[tuple[int, ...]]:
    """Indices along the dimensions that need a program each (0 along the others)."""
    return list(itertools.product(*(range(d.size) if d.static else (0,) for d in plan.dimensions)))


def _bound(plan: Plan, index: tuple[int, ...]) -> Callable[..., Descent]:
    """The lane with its untraceable arguments filled in."""
    fixed = {
        name: values.values[i]
        for dimension, i in zip(plan.dimensions, index)
        for name, values in dimension.axes.items()
        if isinstance(values, Each)
    }

    def lane(**traced):
        descent = plan.lane(**fixed, **traced)
        if not isinstance(descent, Descent):
            raise TypeError(f"the lane returned {type(descent).__name__}; it must return a jaxgd.Descent")
        return descent

    return lane


def outline(plan: Plan, index: tuple[int, ...]) -> dict[str, PyTree]:
    """Shapes and dtypes of the params and state of the lanes at `index` along the static dimensions.

    Raises:
      TypeError, ValueError: what `Descent`, its cost or its optimizer refuse.
    """

    def first_state(arguments):
        _, params, optimizer = opened(_bound(plan, index)(**arguments))
        return {"params": params, "state": optimizer.init(params)}

    with jax.enable_x64(plan.x64), _plain_words():
        return jax.eval_shape(first_state, _arguments(plan))


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class _plain_words:
    """Turns JAX's complaint about a traced value in a Python branch into one that says what to do."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if isinstance(error, (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)):
            raise TypeError(
                "the lane (or its optimizer) needs the value of an axis before it can be traced: it branches on it "
                "in Python, or uses it as a shape or a name. Give that axis as jaxgd.each([...]), which makes one "
                f"program per value. JAX says: {str(error).strip().splitlines()[0]}"
            ) from error


# --- from batches to workers ---


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
    return tuple(part.start if d.static else 0 for d, part in zip(plan.dimensions, box))


_known_programs: dict[tuple, engine.Program] = {}
_tracing = threading.Lock()


def _program(plan: Plan, static: tuple[int, ...], device: Any) -> engine.Program:
    key = (plan.key, static, device)
    with _tracing, jax.enable_x64(plan.x64), _plain_words():
        if key not in _known_programs:
            while len(_known_programs) >= 64:  # they hold the constants of their plans
                _known_programs.pop(next(iter(_known_programs)))
            _known_programs[key] = engine.compiled(
                _bound(plan, static), _arguments(plan), _limits(plan), plan.block, plan.blocks, device
            )
        return _known_programs[key]


def _limits(plan: Plan) -> engine.Limits:
    real = np.float64 if plan.x64 else np.float32
    ceiling = np.minimum(plan.ceiling, np.finfo(real).max)
    return engine.Limits(np.int32(plan.epochs), real(plan.target), real(ceiling), np.asarray(plan.records, np.int32))


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
    used = -(-lanes // plan.block)
    indices = np.unravel_index(np.minimum(np.arange(plan.blocks * plan.block), lanes - 1), shape or (1,))
    arguments = {
        name: jax.tree.map(lambda a, here=part.start + index: a[here], values)
        for dimension, part, index in zip(plan.dimensions, box, indices)
        for name, values in dimension.axes.items()
        if not isinstance(values, Each)
    }
    device = _devices().free.get()
    try:
        with jax.enable_x64(plan.x64):
            figures = _program(plan, _static_of(plan, box), device).run(arguments, used, _limits(plan))
            figures = jax.tree.map(lambda a: np.asarray(a)[:lanes], figures)
    finally:
        _devices().free.put(device)
    figures = judged(figures, plan.minimum, plan.minima, plan.tolerance)
    figures = {name: values.reshape(*shape, *values.shape[1:]) for name, values in figures.items()}
    return figures if plan.absent is None else _without(plan, box, figures)


def _without(plan: Plan, box: Box, figures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The figures with the absent lanes left pending."""
    nothing = plan.absent[box[: plan.absent.ndim]]
    fills = {name: variable.fill for name, variable in table.variables(plan).items()}
    return {
        name: np.where(nothing.reshape(nothing.shape + (1,) * (values.ndim - nothing.ndim)), fills.get(name, np.nan), values).astype(values.dtype)
        for name, values in figures.items()
    }
