"""A step of small arrays, carried out number by number: of numbers alone a compiler makes one kernel."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as core
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgd.jaxprs import CALLS, ELEMENTWISE, REDUCTIONS, alone, multiplications, needed

_NUMBERS, _OPERATIONS = 24, 500  # that a step may take: to compile more of them takes longer than most sweeps do


def fits(jaxpr: core.Jaxpr, outputs: int) -> bool:
    """Whether the first outputs of a jaxpr can be computed number by number, and there are few of them."""
    inputs, equations = [*jaxpr.constvars, *jaxpr.invars], needed(jaxpr.eqns, jaxpr.outvars[:outputs])
    are_few = all(map(_is_of_numbers, inputs)) and sum(v.aval.size for v in inputs) <= _NUMBERS
    return are_few and _operations(equations) <= _OPERATIONS


def of_numbers(jaxpr: core.Jaxpr, outputs: int) -> core.Jaxpr:
    """The first outputs alone, with a number for each element of them and of the constants and what else goes in."""
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    equations = needed(jaxpr.eqns, jaxpr.outvars[:outputs])

    def by_number(*numbers):
        rest = iter(numbers)
        known = {v: _array(v.aval.shape, rest) for v in inputs}
        _work_out(equations, known)
        return list(itertools.chain.from_iterable(_value(known, v).flat for v in jaxpr.outvars[:outputs]))

    shapes = [jax.ShapeDtypeStruct((), v.aval.dtype) for v in inputs for _ in range(v.aval.size)]
    constants = sum(v.aval.size for v in jaxpr.constvars)
    return _divided(jax.make_jaxpr(by_number)(*shapes).jaxpr, constants)


def taken_out(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same with a number for each element of what comes out."""
    inputs, constants = [*closed.jaxpr.constvars, *closed.jaxpr.invars], len(closed.consts)

    def by_number(*values):
        arrays = map(jnp.asarray, jax.core.eval_jaxpr(closed.jaxpr, values[:constants], *values[constants:]))
        return [array[index] for array in arrays for index in np.ndindex(array.shape)]

    found = jax.make_jaxpr(by_number)(*(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in inputs)).jaxpr
    return core.ClosedJaxpr(_divided(found, constants), closed.consts)


def _divided(jaxpr: core.Jaxpr, constants: int) -> core.Jaxpr:
    """The same with the first of what goes in as constants."""
    return jaxpr.replace(constvars=jaxpr.invars[:constants], invars=jaxpr.invars[constants:])


def put_together(numbers: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Arrays of these shapes, [lane, ...] if the numbers are rows of lanes."""
    rest = iter(numbers)
    parts = ((shape, list(itertools.islice(rest, math.prod(shape)))) for shape in shapes)
    return [jnp.stack(few, -1).reshape(*few[0].shape, *shape) if shape else few[0] for shape, few in parts]


# --- what can be ---


def _is_of_numbers(v: core.Var | core.Literal) -> bool:
    return v.aval.size > 0 and not jax.dtypes.issubdtype(v.aval.dtype, jax.dtypes.extended)


def _operations(equations: Sequence[Any]) -> float:
    """How many operations on numbers they take; without end if it can't be done."""
    return sum(map(_operations_of, equations))


def _operations_of(equation: Any) -> float:
    name, size = equation.primitive.name, sum(v.aval.size for v in equation.outvars)
    if not all(map(_is_of_numbers, (*equation.invars, *equation.outvars))):
        return math.inf
    if name in CALLS:
        return _operations(equation.params["jaxpr"].eqns)
    if name in ELEMENTWISE:
        return size
    if name in REDUCTIONS:
        return equation.invars[0].aval.size
    if name == "dot_general":
        return 2 * multiplications(equation)
    return 0 if name in _MOVED else math.inf


# --- arrays of numbers: NumPy's, of objects ---


def _array(shape: tuple[int, ...], numbers: Iterator[Any]) -> np.ndarray:
    """The next numbers, in this shape."""
    size = math.prod(shape)
    return np.fromiter(itertools.islice(numbers, size), object, size).reshape(shape)


def _value(known: dict[core.Var, np.ndarray], v: core.Var | core.Literal) -> np.ndarray:
    return _constant(v.val, v.aval) if isinstance(v, core.Literal) else known[v]


def _constant(values: Any, aval: Any) -> np.ndarray:
    return _array(aval.shape, iter(np.asarray(values, aval.dtype).ravel()))


def _work_out(equations: Sequence[Any], known: dict[core.Var, np.ndarray]) -> None:
    """Adds the results of equations to what is known."""
    for equation in equations:
        results = _carried_out(equation, *(_value(known, v) for v in equation.invars))
        known.update(zip(equation.outvars, results, strict=True))


def _carried_out(equation: Any, *arrays: np.ndarray) -> list[np.ndarray]:
    name, params = equation.primitive.name, equation.params
    if name in CALLS:
        body, constants = params["jaxpr"].jaxpr, params["jaxpr"].consts
        known = dict(zip(body.invars, arrays, strict=True))
        known |= {v: _constant(a, v.aval) for v, a in zip(body.constvars, constants, strict=True)}
        _work_out(body.eqns, known)
        return [_value(known, v) for v in body.outvars]
    shape = equation.outvars[0].aval.shape
    if name in ELEMENTWISE:
        each = zip(*(np.broadcast_to(a, shape).flat for a in arrays), strict=True)
        return [_array(shape, (alone(equation, *numbers)[0] for numbers in each))]
    if name in REDUCTIONS:
        return [_folded(REDUCTIONS[name], arrays[0], params["axes"])]
    if name == "dot_general":
        return [_product(*arrays, equation)]
    moved = _MOVED[name](params, *arrays)
    return moved if isinstance(moved, list) else [moved]


def _folded(operation: Callable[[Any, Any], Any], array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    kept = [axis for axis in range(array.ndim) if axis not in axes]
    shape = tuple(array.shape[axis] for axis in kept)
    rows = array.transpose(*kept, *axes).reshape(math.prod(shape), -1)
    return _array(shape, (functools.reduce(operation, row) for row in rows))


def _product(a: np.ndarray, b: np.ndarray, equation: Any) -> np.ndarray:
    """Sums of products, one for each number that comes out."""
    (summed_a, summed_b), (along_a, along_b) = equation.params["dimension_numbers"]
    a, b = _sorted(a, along_a, summed_a), _sorted(b, along_b, summed_b)
    out = equation.outvars[0].aval

    def number(row_a, row_b):
        pairs = ((lax.convert_element_type(x, out.dtype) for x in pair) for pair in zip(row_a, row_b, strict=True))
        return functools.reduce(lax.add, (lax.mul(*pair) for pair in pairs))

    rows = ((row_a, row_b) for all_a, all_b in zip(a, b, strict=True) for row_a in all_a for row_b in all_b)
    return _array(out.shape, itertools.starmap(number, rows))


def _sorted(array: np.ndarray, along: Sequence[int], summed: Sequence[int]) -> np.ndarray:
    """As [what goes along, what is free, what is summed]."""
    free = [axis for axis in range(array.ndim) if axis not in (*along, *summed)]
    sizes = (math.prod(array.shape[axis] for axis in axes) for axes in (along, free, summed))
    return array.transpose(*along, *free, *summed).reshape(*sizes)


def _padded(params: dict[str, Any], array: np.ndarray, fill: np.ndarray) -> np.ndarray:
    for axis, (low, high, gap) in enumerate(params["padding_config"]):
        length = array.shape[axis] + (array.shape[axis] - 1) * gap
        shape = (*array.shape[:axis], max(0, low) + length + max(0, high), *array.shape[axis + 1 :])
        wide = np.broadcast_to(fill, shape).copy()
        at = (slice(None),) * axis
        wide[(*at, slice(max(0, low), max(0, low) + length, gap + 1))] = array
        array = wide[(*at, slice(max(0, -low), wide.shape[axis] - max(0, -high)))]
    return array


def _spread(params: dict[str, Any], array: np.ndarray) -> np.ndarray:
    shape, axes = params["shape"], params["broadcast_dimensions"]
    return np.broadcast_to(
        array.reshape([array.shape[axes.index(i)] if i in axes else 1 for i in range(len(shape))]), shape
    )


def _counted(params: dict[str, Any]) -> np.ndarray:
    shape, axis = params["shape"], params["dimension"]
    count = np.arange(shape[axis], dtype=params["dtype"])
    counts = np.broadcast_to(np.expand_dims(count, [i for i in range(len(shape)) if i != axis]), shape)
    return _array(shape, counts.flat)


def _sliced(params: dict[str, Any], array: np.ndarray) -> np.ndarray:
    strides = params["strides"] or (1,) * array.ndim
    return array[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


def _unstacked(params: dict[str, Any], array: np.ndarray) -> list[np.ndarray]:
    rows = np.moveaxis(array, params["axis"], 0)
    return [rows[index, ...] for index in range(len(rows))]  # of one number too, an array


_MOVED: dict[str, Callable[..., Any]] = {  # (an equation's params, *arrays) → what it makes of them, without arithmetic
    "slice": _sliced,
    "pad": _padded,
    "broadcast_in_dim": _spread,
    "iota": _counted,
    "reshape": lambda params, a: a.reshape(params["new_sizes"]),
    "squeeze": lambda params, a: np.squeeze(a, params["dimensions"]),
    "transpose": lambda params, a: a.transpose(params["permutation"]),
    "rev": lambda params, a: np.flip(a, params["dimensions"]),
    "concatenate": lambda params, *arrays: np.concatenate(arrays, params["dimension"]),
    "stack": lambda params, *arrays: np.stack(arrays, params["axis"]),
    "unstack": _unstacked,
    "split": lambda params, a: np.split(a, np.cumsum(params["sizes"])[:-1], params["axis"]),
}
