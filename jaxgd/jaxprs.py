"""What a jaxpr says of its variables and of its work; and a function of one lane, made one of many.

`jax.vmap` moves the lanes to the front wherever numbers of a lane meet arrays of it. Then, at the next
turn of a loop, they lie one after the other in memory, a few numbers each, and no vector of the machine
is ever full. Here lanes stay along the last axis in every array, so that what is done to one element
is done to a row of lanes.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as core
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

# --- what a jaxpr says of its variables ---


def lane_dependent(jaxpr: core.Jaxpr, given: Sequence[bool]) -> list[bool]:
    """Which outputs depend on inputs that differ from lane to lane."""
    differs = _differing(jaxpr, given)
    return [_is_in(differs, v) for v in jaxpr.outvars]


def _differing(jaxpr: core.Jaxpr, given: Sequence[bool]) -> set[core.Var]:
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    differs = {v for v, differs in zip(inputs[len(inputs) - len(given) :], given, strict=True) if differs}
    for equation, marks in _touched(jaxpr, differs):
        inner = _entered(equation, marks)
        out = lane_dependent(*inner) if inner else [True] * len(equation.outvars)
        differs |= {v for v, mark in zip(equation.outvars, out, strict=True) if mark}
    return differs


def _is_in(differs: set[core.Var], v: core.Var | core.Literal) -> bool:
    return isinstance(v, core.Var) and v in differs


def multiplies(jaxpr: core.Jaxpr, given: Sequence[bool]) -> bool:
    """Whether large arrays that both differ from lane to lane are multiplied as matrices."""
    for equation, marks in _touched(jaxpr, _differing(jaxpr, given)):
        inner, within = _entered(equation, marks), map(_primitives, core.jaxprs_in_params(equation.params))
        if equation.primitive.name in _PRODUCTS and all(marks) and _multiplications(equation) > _FEW:
            return True
        if multiplies(*inner) if inner else any(names & _PRODUCTS for names in within):
            return True
    return False


_PRODUCTS = {"dot_general", "conv_general_dilated"}
_FEW = 1000  # multiplications of a product: so many take no longer one by one than to set up a matrix product


def _multiplications(equation: Any) -> float:
    """Of a matrix product; without end of a convolution."""
    if equation.primitive.name != "dot_general":
        return math.inf
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def _touched(jaxpr: core.Jaxpr, differs: set[core.Var]) -> Iterator[tuple[Any, list[bool]]]:
    """The equations with an input that differs, and which of their inputs do; `differs` may grow meanwhile."""
    for equation in jaxpr.eqns:
        marks = [_is_in(differs, v) for v in equation.invars]
        if any(marks):
            yield equation, marks


def _entered(equation: Any, marks: list[bool]) -> tuple[core.Jaxpr, list[bool]] | None:
    """The body that an equation carries out, once or in a scan, and which of the body's inputs ever differ."""
    if equation.primitive.name not in (*_CALLS, "scan"):
        return None
    body = equation.params["jaxpr"]
    body = getattr(body, "jaxpr", body)
    first, count = (0, 0) if equation.primitive.name in _CALLS else _carried(equation, body)
    while True:  # what a pass makes differ is carried into the next
        carried = marks[first : first + count]
        after = [a or b for a, b in zip(carried, lane_dependent(body, marks), strict=False)]
        if after == carried:
            return body, marks
        marks = [*marks[:first], *after, *marks[first + count :]]


def _carried(scan: Any, body: core.Jaxpr) -> tuple[int, int]:
    """The first of the inputs that a scan carries from pass to pass, and how many they are."""

    def whole(outside, inside):  # the others have an axis more outside, along which the scan passes
        return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in zip(outside, inside, strict=True))

    count = whole(scan.outvars, body.outvars)
    return whole(scan.invars, body.invars) - count, count


_CALLS = ("jit", "pjit")


def _primitives(jaxpr: core.Jaxpr) -> set[str]:
    """The names of all primitives in a jaxpr and in the jaxprs within it."""
    names = {equation.primitive.name for equation in jaxpr.eqns}
    return names.union(*map(_primitives, core.subjaxprs(jaxpr)))


def calls_back(jaxpr: core.Jaxpr) -> bool:
    """Whether a program calls Python while it runs, to print, say."""
    return any("callback" in name or name == "debug_print" for name in _primitives(jaxpr))


# --- what it costs ---


def work(jaxpr: core.Jaxpr) -> float:
    """How many operations it takes, about, in units of an addition in float32."""
    total = 0.0
    for equation in jaxpr.eqns:
        inner = sum(map(work, core.jaxprs_in_params(equation.params)))
        if inner:
            total += inner * equation.params.get("length", 1)
            continue
        each = _WORK.get(equation.primitive.name, 1)
        if equation.primitive.name == "dot_general":
            total += 2 * _multiplications(equation) * equation.outvars[0].aval.dtype.itemsize / 4
            continue
        total += sum(each * math.prod(v.aval.shape) * v.aval.dtype.itemsize / 4 for v in equation.outvars)
    return total


_WORK = {  # as measured on CPUs; all others are 1
    **dict.fromkeys(("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "lgamma", "digamma"), 200),
    **dict.fromkeys(("exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "erf", "pow", "cbrt"), 20),
    **dict.fromkeys(("sqrt", "rsqrt", "div", "rem"), 10),
}


# --- how it is carried out ---


def fenced(jaxpr: core.Jaxpr, outputs: slice) -> Callable[..., list[Any]]:
    """A jaxpr as a function (constants, *inputs) → outputs, some of which are computed once for all that use them.

    Otherwise XLA's compiler for CPUs computes what several arrays are made of anew for each of these.
    """
    once = set(v for v in jaxpr.outvars[outputs] if isinstance(v, core.Var))

    def carried_out(equation, *values):
        pairs = zip(equation.outvars, _alone(equation, *values), strict=True)
        return [lax.optimization_barrier(a) if v in once else a for v, a in pairs]

    return lambda constants, *inputs: _evaluated(jaxpr, constants, inputs, carried_out)


# --- one lane, made many ---


def over_last(function: Callable[..., Any], given: Sequence[bool], made: PyTree) -> Callable[..., Any]:
    """jax.vmap(function) along the last axis, where the lanes stay in all that happens within.

    Args:
      function: of one lane.
      given: for each argument whether it holds a lane's own arrays, or what all lanes share.
      made: the same of what it returns, or of parts of that, as a prefix of its tree.
    """

    def many(*arguments):
        marks = [mark for mark, a in zip(given, arguments, strict=True) for _ in jax.tree.leaves(a)]
        leaves, tree = jax.tree.flatten(arguments)
        kinds = list(zip(map(jax.typeof, leaves), marks, strict=True))
        lanes = next(kind.shape[-1] for kind, mark in kinds if mark)
        shapes = [jax.ShapeDtypeStruct(a.shape[:-1] if mark else a.shape, a.dtype) for a, mark in kinds]
        closed, out = jax.make_jaxpr(function, return_shape=True)(*tree.unflatten(shapes))
        found = _for_many(closed.jaxpr, closed.consts, leaves, marks, lanes)
        asked = jax.tree.leaves(jax.tree.broadcast(made, out))
        ends = zip(found, lane_dependent(closed.jaxpr, marks), asked, jax.tree.leaves(out), strict=True)
        results = [_widened(a, mark, one.shape, lanes) if own else a for a, mark, own, one in ends]
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return many


def _for_many(jaxpr: core.Jaxpr, constants: Sequence[Any], inputs, marks: Sequence[bool], lanes: int) -> list[Any]:
    """The outputs of a jaxpr of one lane, for many: [..., lane] where they differ from lane to lane."""
    differs = _differing(jaxpr, marks)

    def carried_out(equation, *values):
        own = [_is_in(differs, v) for v in equation.invars]
        return _one_equation(equation, values, own, differs, lanes)

    return _evaluated(jaxpr, constants, inputs, carried_out)


def _evaluated(jaxpr: core.Jaxpr, constants, inputs, carried_out: Callable[..., list[Any]]) -> list[Any]:
    """The outputs of a jaxpr, each of whose equations is carried out by a function (equation, *values) → results."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))

    def value(v):
        return v.val if isinstance(v, core.Literal) else known[v]

    for equation in jaxpr.eqns:
        results = carried_out(equation, *map(value, equation.invars))
        known.update(zip(equation.outvars, results, strict=True))
    return list(map(value, jaxpr.outvars))


def _one_equation(equation: Any, values: Sequence[Any], own: list[bool], differs: set[core.Var], lanes: int):
    name, params = equation.primitive.name, equation.params
    if not any(own):
        return _alone(equation, *values)
    if name in _CALLS:
        body = params["jaxpr"]
        return _for_many(body.jaxpr, body.consts, values, own, lanes)
    out = [v.aval.shape for v in equation.outvars]
    if name in _ELEMENTWISE or name in _ROW_BY_ROW:
        shapes = out * len(own) if name in _ELEMENTWISE else [v.aval.shape for v in equation.invars]
        return _alone(equation, *(_widened(*each, lanes) for each in zip(values, own, shapes, strict=True)))
    if name == "broadcast_in_dim":
        return [lax.broadcast_in_dim(values[0], (*out[0], lanes), (*params["broadcast_dimensions"], len(out[0])))]
    if name == "transpose":
        return [lax.transpose(values[0], (*params["permutation"], len(out[0])))]
    if name in ("reshape", "squeeze"):
        return [values[0].reshape(*out[0], lanes)]
    if name == "dot_general" and all(own):
        return [_summed(*values, params["dimension_numbers"]).astype(equation.outvars[0].aval.dtype)]
    axes = [-1 if mark else None for mark in own]
    ends = [-1 if v in differs else None for v in equation.outvars]
    return jax.vmap(functools.partial(_alone, equation), axes, ends)(*values)


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
    return jnp.sum(a * b, tuple(range(last, last + len(summed_a))))


def _alone(equation: Any, *values: Any) -> list[Any]:
    """What one equation makes of the values of its inputs."""
    primitive = equation.primitive
    with equation.ctx.manager:
        results = primitive.bind(*values, **primitive.get_bind_params(equation.params))
    return results if primitive.multiple_results else [results]


def _widened(value: Any, is_own: bool, shape: tuple[int, ...], lanes: int) -> Any:
    """An array, or one number, of one lane or of all, in this shape for each lane."""
    if not is_own:
        return jnp.broadcast_to(jnp.expand_dims(value, -1), (*shape, lanes))
    dimensions = range(len(shape) + 1 - value.ndim, len(shape) + 1)
    return value if value.ndim > len(shape) else lax.broadcast_in_dim(value, (*shape, lanes), tuple(dimensions))


_ROW_BY_ROW = {"concatenate", "stack", "optimization_barrier"}  # a further axis changes nothing for them
_ELEMENTWISE = {
    *("add", "add_any", "sub", "mul", "div", "rem", "pow", "integer_pow", "square", "sqrt", "rsqrt", "cbrt", "neg"),
    *("abs", "sign", "max", "min", "clamp", "floor", "ceil", "round", "nextafter", "reduce_precision"),
    *("exp", "exp2", "expm1", "log", "log1p", "logistic", "erf", "erfc", "erf_inv", "lgamma", "digamma"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    *("eq", "ne", "lt", "le", "gt", "ge", "is_finite", "select_n", "and", "or", "xor", "not"),
    *("shift_left", "shift_right_arithmetic", "shift_right_logical", "convert_element_type", "copy", "copy_p"),
}
