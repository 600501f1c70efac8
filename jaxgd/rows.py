"""One lane, made a row of lanes.

`jax.vmap` moves the lanes to the front wherever numbers of a lane meet arrays of it. Then, at the next
turn of a loop, they lie one after the other in memory, a few numbers each, and no vector of the machine
is ever full. Here lanes stay along the last axis in every array, so that what is done to one element
is done to a row of lanes.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as core
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from jaxgd.jaxprs import (
    CALLS,
    ELEMENTWISE,
    REDUCTIONS,
    alone,
    differing,
    flat,
    is_in,
    is_of_numbers,
    lane_dependent,
    needed,
    results_of,
    value,
    work_out,
)


def over_last(
    function: Callable[..., Any],
    given: Sequence[bool],
    made: PyTree = True,
    *,
    on_cpu: bool = False,
    in_one_kernel: bool = False,
) -> Callable[..., Any]:
    """jax.vmap(function) along the last axis, where the lanes stay in all that happens within.

    Args:
      function: of one lane.
      given: for each argument whether it holds a lane's own arrays, or what all lanes share.
      made: the same of what it returns, or of parts of that, as a prefix of its tree.
      on_cpu: whether to do what XLA's compiler for CPUs does better.
      in_one_kernel: whether to make one kernel of what is done to a lane's numbers, if there is nothing else to do.
    """

    def many(*arguments):
        marks = [mark for mark, a in zip(given, arguments, strict=True) for _ in jax.tree.leaves(a)]
        leaves, tree = jax.tree.flatten(arguments)
        kinds = list(zip(map(jax.typeof, leaves), marks, strict=True))
        lanes = next(kind.shape[-1] for kind, mark in kinds if mark)
        shapes = [jax.ShapeDtypeStruct(a.shape[:-1] if mark else a.shape, a.dtype) for a, mark in kinds]
        closed, out = jax.make_jaxpr(function, return_shape=True)(*tree.unflatten(shapes))
        if in_one_kernel and is_of_numbers(closed.jaxpr, marks):
            closed = flat(closed)
            found = _in_one_kernel(closed.jaxpr, closed.consts, leaves, marks, lanes)
        else:
            found = _for_many(closed.jaxpr, closed.consts, leaves, marks, lanes, on_cpu)
        asked = jax.tree.leaves(jax.tree.broadcast(made, out))
        ends = zip(found, lane_dependent(closed.jaxpr, marks), asked, jax.tree.leaves(out), strict=True)
        results = [_widened(a, mark, one.shape, lanes) if own else a for a, mark, own, one in ends]
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return many


# --- equation by equation ---


def _for_many(
    jaxpr: core.Jaxpr, constants: Sequence[Any], inputs, marks: Sequence[bool], lanes: int, on_cpu: bool
) -> list[Any]:
    """The outputs of a jaxpr of one lane, for many: [..., lane] where they differ from lane to lane."""
    differs = differing(jaxpr, marks)

    def carried_out(equation, *values):
        own = [is_in(differs, v) for v in equation.invars]
        return _one_equation(equation, values, own, differs, lanes, on_cpu)

    return results_of(jaxpr, constants, inputs, carried_out)


def _one_equation(
    equation: Any, values: Sequence[Any], own: list[bool], differs: set[core.Var], lanes: int, on_cpu: bool
) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if not any(own):
        return alone(equation, *values)
    if name in CALLS:
        body = params["jaxpr"]
        return _for_many(body.jaxpr, body.consts, values, own, lanes, on_cpu)
    out = [v.aval.shape for v in equation.outvars]
    if name in ELEMENTWISE or name in _ROW_BY_ROW:
        shapes = out * len(own) if name in ELEMENTWISE else [v.aval.shape for v in equation.invars]
        return alone(equation, *(_widened(*each, lanes) for each in zip(values, own, shapes, strict=True)))
    if name == "broadcast_in_dim":
        return [lax.broadcast_in_dim(values[0], (*out[0], lanes), (*params["broadcast_dimensions"], len(out[0])))]
    if name == "transpose":
        return [lax.transpose(values[0], (*params["permutation"], len(out[0])))]
    if name in ("reshape", "squeeze"):
        return [values[0].reshape(*out[0], lanes)]
    if on_cpu and name in REDUCTIONS and values[0].size:
        return [_folded(REDUCTIONS[name], values[0], params["axes"])]
    if on_cpu and name == "dot_general" and all(own) and values[0].size and _is_narrow(equation):
        return [_summed(*values, params["dimension_numbers"]).astype(equation.outvars[0].aval.dtype)]
    if name == "dot_general" and not all(own) and not params["dimension_numbers"][1][0]:
        return [_by_shared(values, own, equation)]
    axes = [-1 if mark else None for mark in own]
    ends = [-1 if v in differs else None for v in equation.outvars]
    return jax.vmap(functools.partial(alone, equation), axes, ends)(*values)


def _by_shared(values: Sequence[Any], own: Sequence[bool], product: Any) -> Any:
    """A product of a matrix that all lanes share and of their own ones [..., lane], which lie side by side as one.

    The shared one comes first: if the others did, all of them would be transposed.
    """
    summed, kinds = product.params["dimension_numbers"][0], ("precision", "preferred_element_type")
    order = (0, 1) if own[1] else (1, 0)
    (first, second), axes = ([each[index] for index in order] for each in (values, summed))
    made = lax.dot_general(first, second, (axes, ((), ())), **{kind: product.params[kind] for kind in kinds})
    if own[1]:
        return made
    cut, last = first.ndim - len(axes[0]), made.ndim - 1
    return lax.transpose(made, (*range(cut, last), *range(cut), last))


def _is_narrow(product: Any) -> bool:
    """Whether a product has a short side: to move lanes to the front for it would cost more than it saves."""
    (summed, _), (along, _) = product.params["dimension_numbers"]
    a, b = (math.prod(v.aval.shape) for v in product.invars)
    shape = product.invars[0].aval.shape
    inner, each = (math.prod(shape[axis] for axis in axes) for axes in (summed, along))
    return min(inner, a // max(1, inner * each), b // max(1, inner * each)) < _WIDE


_WIDE = 32


def _summed(a: Any, b: Any, numbers: Any) -> Any:
    """A product of small matrices [..., lane] as a sum of products, each of a row of lanes."""
    (summed_a, summed_b), (along_a, along_b) = numbers
    free_a, free_b = (
        [axis for axis in range(one.ndim - 1) if axis not in (*summed, *along)]
        for one, summed, along in ((a, summed_a, along_a), (b, summed_b, along_b))
    )
    a = lax.transpose(a, (*along_a, *free_a, *summed_a, a.ndim - 1))
    b = lax.transpose(b, (*along_b, *free_b, *summed_b, b.ndim - 1))
    first, last = len(along_a), len(along_a) + len(free_a) + len(free_b)  # where b is wide, and what is summed begins
    a = jnp.expand_dims(a, tuple(range(first + len(free_a), last)))
    b = jnp.expand_dims(b, tuple(range(first, first + len(free_a))))
    return _folded(lax.add, a * b, range(last, last + len(summed_a)))


def _folded(operation: Callable[[Any, Any], Any], array: Any, axes: Sequence[int]) -> Any:
    """A reduction over some axes, row by row.

    Libraries that XLA's compiler for CPUs leaves reductions to take many times as long for short ones.
    """
    kept = [axis for axis in range(array.ndim) if axis not in axes]
    shape = (-1, *(array.shape[axis] for axis in kept))
    rows, odd = lax.transpose(array, (*axes, *kept)).reshape(shape), []
    while len(rows) > 1:
        half = len(rows) // 2
        odd += [lax.slice_in_dim(rows, 2 * half, len(rows))] if len(rows) % 2 else []
        rows = operation(lax.slice_in_dim(rows, 0, half), lax.slice_in_dim(rows, half, 2 * half))
        rows = lax.optimization_barrier(rows) if half > 1 and half.bit_length() % _HALVINGS == 0 else rows
    return lax.squeeze(functools.reduce(operation, [rows, *odd]), (0,))


_HALVINGS = 5  # in one kernel


def _widened(value: Any, is_own: bool, shape: tuple[int, ...], lanes: int) -> Any:
    """An array, or one number, of one lane or of all, in this shape for each lane."""
    if not is_own:
        return jnp.broadcast_to(jnp.expand_dims(value, -1), (*shape, lanes))
    dimensions = range(len(shape) + 1 - value.ndim, len(shape) + 1)
    return value if value.ndim > len(shape) else lax.broadcast_in_dim(value, (*shape, lanes), tuple(dimensions))


_ROW_BY_ROW = {"concatenate", "stack", "unstack", "optimization_barrier"}  # a further axis changes nothing for them


# --- in one kernel ---


def _in_one_kernel(jaxpr: core.Jaxpr, constants: Sequence[Any], inputs, marks: Sequence[bool], lanes: int) -> list[Any]:
    """The same, of numbers.

    XLA's compiler for CPUs makes a kernel for each array that comes out, and each of them computes all
    that it needs. The one operation for which it makes one kernel with many outputs is a reduction;
    over windows of one element each, that applies a function to every element, once, and to the
    numbers from which the reduction is said to begin: these are what all lanes share.
    """
    differs = differing(jaxpr, marks)
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))
    work_out([equation for equation in jaxpr.eqns if not _is_own(equation, differs)], known, alone)
    made = list(dict.fromkeys(v for v in jaxpr.outvars if is_in(differs, v) and v not in known))
    within = needed([each for each in jaxpr.eqns if _is_own(each, differs) or _is_of_a_number(each)], made)
    inside = {v for equation in within for v in equation.outvars}
    read = dict.fromkeys(v for equation in within for v in equation.invars if is_in(known, v) and v not in inside)
    places = _places([v for v in read if v in differs], [v for v in read if v not in differs], made)

    def of_one(shared, own):
        known = {place.own: number for place, number in zip(places, own, strict=True)}
        known |= {place.shared: number for place, number in zip(places, shared, strict=True)}
        work_out(within, known, alone)
        return tuple(
            lax.convert_element_type(known[place.out or place.own or place.shared], place.dtype) for place in places
        )

    if made:
        own = tuple(jnp.zeros(lanes, place.dtype) if place.own is None else known[place.own] for place in places)
        shared = tuple(jnp.asarray(0 if place.shared is None else known[place.shared], place.dtype) for place in places)
        results = lax.reduce_window(own, shared, of_one, (1,), (1,), "VALID")
        known.update({place.out: row for place, row in zip(places, results, strict=True) if place.out})
    return [value(known, v) for v in jaxpr.outvars]


class _Place(NamedTuple):
    """What goes through a kernel side by side, all of one dtype."""

    dtype: Any
    own: core.Var | None  # a lane's own number
    shared: core.Var | None  # one that all lanes share
    out: core.Var | None  # what is made of them; in a place for which there is nothing, what came in comes out


def _places(own: Sequence[core.Var], shared: Sequence[core.Var], made: Sequence[core.Var]) -> list[_Place]:
    """Each in a place, of as few as hold them all."""
    places = []
    for dtype in dict.fromkeys(v.aval.dtype for v in [*own, *shared, *made]):
        columns = ([v for v in column if v.aval.dtype == dtype] for column in (own, shared, made))
        places += [_Place(dtype, *row) for row in itertools.zip_longest(*columns)]
    return places


def _is_own(equation: Any, differs: set[core.Var]) -> bool:
    return any(is_in(differs, v) for v in equation.invars)


def _is_of_a_number(equation: Any) -> bool:
    return equation.primitive.name in ELEMENTWISE and equation.outvars[0].aval.shape == ()
