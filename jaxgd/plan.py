"""Plans: axes to lanes, lanes to batches; a sweep that has been checked and not yet carried out."""

import difflib
import inspect
import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jaxgd import checks, engine
from jaxgd.checks import MOST_EPOCHS, MOST_RECORDS
from jaxgd.descent import Descent
from jaxgd.identity import digest, without_addresses
from jaxgd.outcome import FIGURES
from jaxgd.trace import Trace, check_untraced, trace_lane

_BATCH_BYTES = 1 << 27  # of params, state, figures and histories that a batch may hold
_LANE_EPOCHS = 100_000_000  # that a batch may take, of a small cost some hundredths of a second of a core
_MANY, _FEW = 32, 8  # boxes, so that free workers find a next one while slow lanes go on; of a short sweep
_GRAIN = 1 << 11  # lanes of a box at least: of a few thousand each core is to have some
_MOMENT = 1 << 31  # operations of a core, some hundredths of a second, beside which handing over a batch is nothing
_NEAR = 1 << 25  # bytes of params, state, figures and histories that do not yet fall out of a CPU's caches
_ON_ACCELERATORS = (
    64  # times as many bytes and lane-epochs to a batch: a step costs them a launch, however few its lanes
)

Box = tuple[slice, ...]  # one slice per dimension of the grid


class Each(NamedTuple):
    """Values that can't be traced (a name, a flag, a shape): one program for each of them."""

    values: tuple


def each(values: Sequence[Any]) -> Each:
    """An axis whose values are Python objects: one compiled program per value, results side by side."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f'each({checks.shown(values)}): takes a list of values, such as each(["sgd", "adam"])')
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

    def is_each(self, name: str) -> bool:
        return isinstance(self.axes[name], Each)

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
    select: str = "final_cost"  # what the best setting is chosen by
    x64: bool = field(default_factory=lambda: jax.config.jax_enable_x64)
    traces: Mapping[tuple[int, ...], Trace] = field(default_factory=dict, compare=False)  # by indices as of `statics`
    expected: str = ""  # of a plan that goes to another process: what its lane computes here

    def __getstate__(self) -> dict[str, Any]:
        """Without traces, which belong to one process."""
        return {name: value for name, value in vars(self).items() if name != "traces"}

    def __setstate__(self, known: dict[str, Any]) -> None:
        vars(self).update(known, traces={})

    @property
    def asks_python(self) -> bool:
        """Whether numbers come from a Python function on the host, of which a fingerprint has the name alone."""
        return any(trace.asks_python for trace in self.traces.values())

    def trace(self, index: tuple[int, ...] | None = None) -> Trace:
        """The lanes that share one program, by any of their indices; by default the first."""
        static = tuple(i if d.static else 0 for d, i in zip(self.dimensions, index or (), strict=False))
        return self.traces[static or (0,) * len(self.dimensions)]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(dimension.size for dimension in self.dimensions)

    @property
    def lanes(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def outline(self) -> dict[str, PyTree]:
        """Shapes and dtypes of one lane's params, state and metrics."""
        return self.trace().outline

    @cached_property
    def block(self) -> int:
        """Lanes per block, at most."""
        arrays = len(jax.tree.leaves((self.outline["params"], self.outline["state"]))) + 1  # and the lowest cost
        return engine.block_size_of(self._moving_bytes, arrays, self._work, jax.default_backend())

    @cached_property
    def grain(self) -> int:
        """Lanes that a box holds at least, if they fit a core's cache."""
        return min(_GRAIN, engine.block_size(self._moving_bytes))

    @cached_property
    def chunk(self) -> tuple[int, ...]:
        """A box's extent along each dimension; whole along the last ones, where neighbours lie.

        The sweep alone decides it, not where it runs: so a run goes on anywhere in the boxes it began with.
        """
        short = min(4 * self.grain, self.lanes // _FEW)
        room = max(self.grain, short, min(self._most, -(-self.lanes // _MANY)))
        room = 1 << room.bit_length() - 1  # so that blocks fill a program
        chunk = []
        for dimension in reversed(self.dimensions):
            chunk.append(1 if dimension.static else max(1, min(dimension.size, room)))
            room //= chunk[-1]
        return tuple(reversed(chunk))

    def together(self, devices: int) -> int:
        """Boxes per batch: as many as keep a core or an accelerator busy, and leave none of them without."""
        pairs = zip(self.dimensions, self.chunk, strict=True)
        of_a_program = math.prod(-(-dimension.size // size) for dimension, size in pairs if not dimension.static)
        lanes = math.prod(self.chunk)
        if jax.default_backend() == "cpu":
            busy, near = int(_MOMENT / (lanes * self.epochs * self._work)), _NEAR // (lanes * self.lane_bytes)
            return 1 << max(1, min(busy, near, of_a_program // cores())).bit_length() - 1
        return max(1, min(_ON_ACCELERATORS * self._most // lanes, -(-of_a_program // devices)))

    def blocks(self, devices: int) -> tuple[int, int]:
        """Lanes per block, and blocks per batch: all programs of the sweep have room for its largest one."""
        room = 1 << (self.together(devices) * math.prod(self.chunk) - 1).bit_length()
        block = min(self.block, max(engine.FEWEST, room))
        return engine.apart(block, jax.default_backend()), max(1, room // block)

    @cached_property
    def lane_bytes(self) -> int:
        """Of params, state, figures and history."""
        return bytes_of(self.outline) + 8 * (len(FIGURES) + len(self.records))

    @property
    def _moving_bytes(self) -> int:
        return bytes_of(self.outline) + bytes_of(self.outline["params"])

    @property
    def _work(self) -> float:
        """Operations of one step of a lane."""
        return self.trace().work

    @property
    def _most(self) -> int:
        """Lanes that a batch may have on a core, however many there are."""
        return min(_BATCH_BYTES // self.lane_bytes, _LANE_EPOCHS // self.epochs)

    def boxes(self) -> list[Box]:
        """The grid, divided into batches."""
        steps = [[slice(i, min(i + c, n)) for i in range(0, n, c)] for n, c in zip(self.shape, self.chunk, strict=True)]
        return list(itertools.product(*steps))


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
    select: str | None = None,
) -> Plan:
    """A sweep's `Plan`; arguments and errors as in `sweep`.

    Args:
      labels: further coordinates, (dimensions, values) by name.
      absent: booleans over the first dimensions, True where there is nothing to run.
      keep_params: whether the result holds the final params.
      select: the figure or metric by which the best setting is chosen, by default as `table.best` says.
    """
    check_untraced(axes, target, ceiling, minimum, minima, tolerance)
    epochs = checks.whole("epochs", epochs, least=1, most=MOST_EPOCHS)
    records = ()
    if history is not None:
        history = checks.whole("history", history, least=2, most=MOST_RECORDS)
        records = tuple(np.unique(np.linspace(0, epochs, min(history, epochs + 1)).round().astype(int)).tolist())
    target, ceiling, minimum, tolerance = checks.limits(target, ceiling, minimum, tolerance)
    minima = checks.minima(minima)
    _check_names(checks.lane(lane), checks.axes_by_name(axes))
    plan = Plan(
        lane,
        _dimensions(axes, checks.paired(paired)),
        epochs,
        -math.inf if target is None else target,
        math.inf if ceiling is None else ceiling,
        records,
        minimum,
        minima,
        tolerance,
        labels or {},
        absent,
        keep_params,
        select or selected(target),
    )
    plan = replace(plan, traces={static: _trace(plan, static) for static in statics(plan)})
    _check_limits(plan)
    _check_metrics(plan)
    _check_shapes(plan)
    return plan


def _check_limits(plan: Plan) -> None:
    """Refuses limits that the dtype of the cost can't hold, and minima of another number of params.

    A ceiling past the largest number means that number, and a positive limit that becomes zero means zero:
    no cost of the dtype lies between.
    """
    leaves = jax.tree.leaves(plan.outline["params"])
    real = np.result_type(np.float32, *(leaf.dtype for leaf in leaves))
    for name in ("target", "minimum", "tolerance"):
        if (limit := getattr(plan, name)) is not None:
            checks.within_dtype(name, limit, real, vanishes=name != "target" or limit > 0)
    if plan.ceiling < 0:
        checks.within_dtype("ceiling", plan.ceiling, real)
    numbers = sum(math.prod(leaf.shape) for leaf in leaves)
    if plan.minima is not None and plan.minima.shape[1] != numbers:
        raise ValueError(
            f"minima has shape {list(plan.minima.shape)}, [minimum, params], but the params are {numbers} "
            f"{'number' if numbers == 1 else 'numbers'}: give each minimum {numbers} of them"
        )


def selected(target: float | None) -> str:
    """The figure by which the best setting is chosen where nothing else is said: with a target, how soon it is met."""
    return "final_cost" if target is None else "target_epoch"


def over(plan: Plan, axes: Mapping[str, Any]) -> Plan:
    """The same lane over other values of its one axis; they are of the same shapes and dtypes."""
    return replace(plan, dimensions=_dimensions(axes, ()))


def fingerprint(plan: Plan) -> str:
    """Whatever changes the numbers of a sweep, as text: its programs, their constants, its axes."""
    parts = [repr((plan.shape, plan.epochs, plan.target, plan.ceiling, plan.records, plan.x64))]
    parts += [repr((plan.minimum, plan.tolerance)), repr(np.asarray(plan.minima).tolist())]
    for dimension in plan.dimensions:
        for name, values in dimension.axes.items():
            kept = without_addresses(repr(values.values)) if isinstance(values, Each) else jax.tree.map(digest, values)
            parts.append(f"{name}: {kept}")
    return "\n".join([*parts, *(plan.traces[static].identity for static in statics(plan))])


def parameters(lane: Callable) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(lane).parameters)


def _check_names(lane: Callable, axes: Mapping[str, Any]) -> None:
    known = parameters(lane)
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name in axes:
        if name not in known and not anything:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"axis {name!r}: the lane has no such argument; it takes {', '.join(known) or 'none'}{hint}"
            )
        if name in TAKEN:
            raise ValueError(
                f"axis {name!r}: the result has a variable of this name; call the lane's argument otherwise"
            )
    plain = (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) if (p := inspect.Parameter) else ()
    missing = [n for n, p in known.items() if p.default is p.empty and p.kind in plain and n not in axes]
    if missing:
        raise ValueError(f"the lane needs {', '.join(missing)}: give each an axis, or a default")


TAKEN = {*FIGURES, "params", "epoch", "cost_history"}  # by variables that every result may have


def _check_metrics(plan: Plan) -> None:
    """Refuses metrics whose names already stand for something in the result."""
    axes = [name for dimension in plan.dimensions for name in dimension.axes]
    for name in plan.outline["metrics"]:
        if name in (*TAKEN, *axes, *plan.labels, "cost"):
            raise ValueError(f"metric {name!r}: the result has an axis or a variable of this name; call it otherwise")


def _check_shapes(plan: Plan) -> None:
    """Refuses lanes whose params or metrics differ in shape, for which one table has no room."""
    first, *others = statics(plan)
    if not others:
        return
    for static, what in itertools.product(others, ("params", "metrics")):
        if plan.trace(static).outline[what] != plan.outline[what]:
            values = [f"{name} = {value!r}" for name, value in _fixed(plan, static).items()]
            raise ValueError(
                f"at {', '.join(values)} the {what} differ in shape or dtype from the first lane's: sweep them apart"
            )


def _dimensions(axes: Mapping[str, Any], paired: Sequence[tuple[str, ...]]) -> tuple[Dimension, ...]:
    partners: dict[str, tuple[str, ...]] = {}
    for group in paired:
        if unknown := [name for name in group if name not in axes]:
            raise ValueError(f"paired axis {unknown[0]!r} is not among the axes: {', '.join(axes)}")
        if taken := [name for place, name in enumerate(group) if name in (*partners, *group[:place])]:
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
        for value in values.values:
            checks.there(f"axis {name!r}: one of its values", value)
        return values
    if any(isinstance(leaf, Each) for leaf in jax.tree.leaves(values, is_leaf=lambda v: isinstance(v, (list, tuple)))):
        raise TypeError(f"axis {name!r}: jaxgd.each within a tree can't vary; give each([...]) as the whole axis")
    return checks.axis(name, values)


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


def arguments(plan: Plan) -> dict[str, PyTree]:
    """Shapes and dtypes of the traced arguments of one lane."""

    def one(array):
        return jax.ShapeDtypeStruct(array.shape[1:], jax.dtypes.canonicalize_dtype(array.dtype))

    return {name: jax.tree.map(one, values) for name, values in _traced(plan).items()}


def _traced(plan: Plan) -> dict[str, PyTree]:
    return {n: v for d in plan.dimensions for n, v in d.axes.items() if not isinstance(v, Each)}


def statics(plan: Plan) -> list[tuple[int, ...]]:
    """Indices along the dimensions that need a program each (0 along the others)."""
    return list(itertools.product(*(range(d.size) if d.static else (0,) for d in plan.dimensions)))


def _trace(plan: Plan, index: tuple[int, ...]) -> Trace:
    """The lanes at `index` along the static dimensions.

    Raises:
      TypeError, ValueError: what `Descent`, its cost or its optimizer refuse.
    """
    with jax.enable_x64(plan.x64), plain_words(_fixed(plan, index)):
        return trace_lane(_bound(plan, index), arguments(plan))


def _fixed(plan: Plan, index: tuple[int, ...]) -> dict[str, Any]:
    """The untraceable arguments of the lanes at `index`."""
    here = zip(plan.dimensions, index, strict=True)
    return {name: d.at(name, i) for d, i in here for name in d.axes if d.is_each(name)}


def _bound(plan: Plan, index: tuple[int, ...]) -> Callable[..., Descent]:
    """The lane with its untraceable arguments filled in."""
    fixed = _fixed(plan, index)

    def lane(**traced):
        descent = plan.lane(**fixed, **traced)
        if not isinstance(descent, Descent):
            raise TypeError(f"the lane returned {type(descent).__name__}; it must return a jaxgd.Descent")
        return descent

    return lane


def alone(plan: Plan, box: Box) -> tuple[Plan, Box]:
    """One batch as a plan of its own, to be carried out elsewhere: nothing but its part of the axes goes with it.

    It is the same program in the same blocks, and so the same numbers.
    """

    def part(values: Any, along: slice) -> Any:
        return Each(values.values[along]) if isinstance(values, Each) else jax.tree.map(lambda a: a[along], values)

    dimensions = tuple(
        Dimension({name: part(values, along) for name, values in dimension.axes.items()}, along.stop - along.start)
        for dimension, along in zip(plan.dimensions, box, strict=True)
    )
    absent = None if plan.absent is None else plan.absent[box[: plan.absent.ndim]]
    trace = plan.trace(tuple(along.start for along in box))
    here = {"traces": {(0,) * len(box): trace}, "expected": trace.identity}
    small = replace(plan, dimensions=dimensions, labels={}, absent=absent, **here)
    vars(small).update(block=plan.block, chunk=plan.chunk)  # not reckoned again from its own size
    return small, tuple(slice(0, along.stop - along.start) for along in box)


def received(plan: Plan) -> Plan:
    """A plan made by `alone`, with the trace of its lane; in another process the trace is made again.

    Raises:
      RuntimeError: the lane computes something else here than where the plan was made.
    """
    if plan.traces:
        return plan
    trace = _received.pop(plan.expected, None)
    if trace is None:
        trace = _trace(plan, (0,) * len(plan.dimensions))
        if trace.identity != plan.expected:
            raise RuntimeError(
                "in this worker the lane computes something else than where the sweep was started: a module, a global "
                "or a setting of JAX that it reads differs here; start the workers again, and give the lane what it "
                "needs as arguments or by what it closes over"
            )
        while len(_received) >= _MOST_RECEIVED:
            _received.pop(next(iter(_received)), None)
    _received[plan.expected] = trace
    vars(plan).update(traces={(0,) * len(plan.dimensions): trace})
    return plan


_received: dict[str, Trace] = {}  # by what they compute, constants included; those used last at the end
_MOST_RECEIVED = 8


def by_program(plan: Plan, lanes: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """Places of lanes in their list, by the program that carries them out."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, index in enumerate(lanes):
        static = tuple(i if dimension.static else 0 for dimension, i in zip(plan.dimensions, index, strict=True))
        groups.setdefault(static, []).append(place)
    return groups


def points(plan: Plan, lanes: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """The traced arguments of some lanes, [lane, ...]."""
    return {
        name: jax.tree.map(lambda values, along=along: values[[lane[along] for lane in lanes]], dimension.axes[name])
        for along, dimension in enumerate(plan.dimensions)
        for name in dimension.axes
        if not dimension.is_each(name)
    }


def cores() -> int:
    """Of the CPU, as many as this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bytes_of(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def lanes_of(box: Box) -> int:
    return math.prod(part.stop - part.start for part in box)


def present_in(plan: Plan, box: Box) -> int:
    """Lanes of a box that there are."""
    if plan.absent is None:
        return lanes_of(box)
    absent = plan.absent[box[: plan.absent.ndim]]
    return lanes_of(box) // absent.size * int((~absent).sum())


def present(plan: Plan) -> int:
    """Lanes that there are in all: those of the grid, but for trials that an optimizer lacks."""
    return present_in(plan, tuple(slice(0, size) for size in plan.shape))


class NeedsValue(TypeError):
    """A value that varies within a program was needed before it could be traced."""


class plain_words:
    """Turns JAX's complaints about a traced value in a Python branch, and about a Python number that is too large,
    into ones that say what to do.

    Args:
      fixed: the untraceable arguments of the lane that is traced.
    """

    def __init__(self, fixed: Mapping[str, Any] | None = None) -> None:
        self.fixed = fixed or {}

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if isinstance(error, (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)):
            raise NeedsValue(
                "the lane (or its optimizer) needs the value of an axis before it can be traced: it branches on it "
                "in Python, or uses it as a shape or a name. Give that axis as jaxgd.each([...]), which makes one "
                f"program per value. JAX says: {str(error).strip().splitlines()[0]}"
            ) from error
        if isinstance(error, OverflowError) and (said := checks.too_large(error, self.fixed)):
            raise ValueError(said) from error
