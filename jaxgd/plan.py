"""Plans: axes to lanes, lanes to batches; a sweep that has been checked and not yet carried out."""

import difflib
import inspect
import itertools
import math
import os
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jaxgd import engine, program
from jaxgd.descent import Descent, opened, whole
from jaxgd.outcome import FIGURES

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

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(dimension.size for dimension in self.dimensions)

    @property
    def lanes(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def outline(self) -> dict[str, PyTree]:
        """Shapes and dtypes of one lane's params, state and metrics."""
        return outline(self, (0,) * len(self.dimensions))

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

        def found():
            with jax.enable_x64(self.x64), plain_words():
                return program.work_of(bound(self, (0,) * len(self.dimensions)), arguments(self))

        return _remembered(self, "work", found)

    @property
    def _most(self) -> int:
        """Lanes that a batch may have on a core, however many there are."""
        return min(_BATCH_BYTES // self.lane_bytes, _LANE_EPOCHS // self.epochs)

    @cached_property
    def key(self) -> str:
        """Names the sweep's programs wherever the plan goes."""
        kind = (*self.blocks(devices=1), len(self.records))
        return _remembered(self, ("key", *kind), lambda: uuid.uuid4().hex)

    def boxes(self) -> list[Box]:
        """The grid, divided into batches."""
        steps = [[slice(i, min(i + c, n)) for i in range(0, n, c)] for n, c in zip(self.shape, self.chunk, strict=True)]
        return list(itertools.product(*steps))


_memory: weakref.WeakKeyDictionary[Callable, dict[Any, Any]] = weakref.WeakKeyDictionary()


def _remembered(plan: Plan, what: Any, find: Callable[[], Any]) -> Any:
    """What `find` found out about a plan's lane over such axes: it is traced once, as `jax.jit` traces a function."""
    leaves, tree = jax.tree.flatten(arguments(plan))
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    axes = [values for dimension in plan.dimensions for values in dimension.axes.values()]
    static = tuple((type(v), v) for values in axes if isinstance(values, Each) for v in values.values)
    try:
        known, key = _memory.setdefault(plan.lane, {}), (what, static, tree, shapes, plan.x64)
        hash(key)
    except TypeError:  # values that can't be hashed are not remembered
        return find()
    if key not in known:
        known[key] = find()
    return known[key]


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
    epochs = whole("epochs", epochs, least=1)
    records = ()
    if history is not None:
        history = whole("history", history, least=2)
        records = tuple(np.unique(np.linspace(0, epochs, min(history, epochs + 1)).round().astype(int)).tolist())
    _check_names(lane, axes)
    plan = Plan(
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
        select or selected(target),
    )
    _check_metrics(plan)
    _check_shapes(plan)
    return plan


def selected(target: float | None) -> str:
    """The figure by which the best setting is chosen where nothing else is said: with a target, how soon it is met."""
    return "final_cost" if target is None else "target_epoch"


def fingerprint(plan: Plan) -> str:
    """Whatever changes the numbers of a sweep, as text: its programs, their constants, its axes."""
    parts = [repr((plan.shape, plan.epochs, plan.target, plan.ceiling, plan.records, plan.x64))]
    parts += [repr((plan.minimum, plan.tolerance)), repr(np.asarray(plan.minima).tolist())]
    for dimension in plan.dimensions:
        for name, values in dimension.axes.items():
            kept = values.values if isinstance(values, Each) else jax.tree.map(program.digest, values)
            parts.append(f"{name}: {kept}")
    with jax.enable_x64(plan.x64):
        for static in statics(plan):
            parts.append(program.text_of(bound(plan, static), arguments(plan)))
    return "\n".join(parts)


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
        if outline(plan, static)[what] != plan.outline[what]:
            here = zip(plan.dimensions, static, strict=True)
            values = [f"{n} = {d.at(n, i)!r}" for d, i in here for n in d.axes if d.is_each(n)]
            raise ValueError(
                f"at {', '.join(values)} the {what} differ in shape or dtype from the first lane's: sweep them apart"
            )


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


def bound(plan: Plan, index: tuple[int, ...]) -> Callable[..., Descent]:
    """The lane with its untraceable arguments filled in."""
    fixed = {
        name: values.values[i]
        for dimension, i in zip(plan.dimensions, index, strict=True)
        for name, values in dimension.axes.items()
        if isinstance(values, Each)
    }

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
    small = replace(plan, dimensions=dimensions, labels={}, absent=absent)
    program = [along.start for dimension, along in zip(plan.dimensions, box, strict=True) if dimension.static]
    known = {name: getattr(plan, name) for name in ("outline", "block", "chunk")}
    vars(small).update(known, key=f"{plan.key} {program}")  # not reckoned again from its own size
    return small, tuple(slice(0, along.stop - along.start) for along in box)


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


def outline(plan: Plan, index: tuple[int, ...]) -> dict[str, PyTree]:
    """Shapes and dtypes of the params, state and metrics of the lanes at `index` along the static dimensions.

    Raises:
      TypeError, ValueError: what `Descent`, its cost or its optimizer refuse.
    """

    def first_state(arguments):
        one = opened(bound(plan, index)(**arguments))
        return {"params": one.params, "state": one.init(one.params), "metrics": one.metrics(one.params)}

    def found():
        with jax.enable_x64(plan.x64), plain_words():
            return jax.eval_shape(first_state, arguments(plan))

    return _remembered(plan, ("outline", index), found)


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
    """Turns JAX's complaint about a traced value in a Python branch into one that says what to do."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if isinstance(error, (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)):
            raise NeedsValue(
                "the lane (or its optimizer) needs the value of an axis before it can be traced: it branches on it "
                "in Python, or uses it as a shape or a name. Give that axis as jaxgd.each([...]), which makes one "
                f"program per value. JAX says: {str(error).strip().splitlines()[0]}"
            ) from error
