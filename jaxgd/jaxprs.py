"""What a jaxpr says of its variables and of its work, and how it is carried out, equation by equation."""

import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as core
from jax import lax

# --- what a jaxpr says of its variables ---


def lane_dependent(jaxpr: core.Jaxpr, given: Sequence[bool]) -> list[bool]:
    """Which outputs depend on inputs that differ from lane to lane."""
    differs = differing(jaxpr, given)
    return [is_in(differs, v) for v in jaxpr.outvars]


def differing(jaxpr: core.Jaxpr, given: Sequence[bool]) -> set[core.Var]:
    """All variables that depend on inputs that differ from lane to lane."""
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    differs = {v for v, differs in zip(inputs[len(inputs) - len(given) :], given, strict=True) if differs}
    for equation, marks in touched(jaxpr, differs):
        inner = entered(equation, marks)
        out = lane_dependent(*inner) if inner else [True] * len(equation.outvars)
        differs |= {v for v, mark in zip(equation.outvars, out, strict=True) if mark}
    return differs


def is_in(some: Container[core.Var], v: core.Var | core.Literal) -> bool:
    return isinstance(v, core.Var) and v in some


def multiplies(jaxpr: core.Jaxpr, given: Sequence[bool]) -> bool:
    """Whether large arrays that both differ from lane to lane are multiplied as matrices."""
    for equation, marks in touched(jaxpr, differing(jaxpr, given)):
        inner, within = entered(equation, marks), map(_primitives, core.jaxprs_in_params(equation.params))
        if equation.primitive.name in _PRODUCTS and all(marks) and multiplications(equation) > _FEW:
            return True
        if multiplies(*inner) if inner else any(names & _PRODUCTS for names in within):
            return True
    return False


_PRODUCTS = {"dot_general", "conv_general_dilated"}
_FEW = 1000  # multiplications of a product: so many take no longer one by one than to set up a matrix product


def multiplications(equation: Any) -> float:
    """Of a matrix product; without end of a convolution."""
    if equation.primitive.name != "dot_general":
        return math.inf
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def touched(jaxpr: core.Jaxpr, differs: set[core.Var]) -> Iterator[tuple[Any, list[bool]]]:
    """The equations with an input that differs, and which of their inputs do; `differs` may grow meanwhile."""
    for equation in jaxpr.eqns:
        marks = [is_in(differs, v) for v in equation.invars]
        if any(marks):
            yield equation, marks


def entered(equation: Any, marks: list[bool]) -> tuple[core.Jaxpr, list[bool]] | None:
    """The body that an equation carries out, once or in a scan, and which of the body's inputs ever differ."""
    if equation.primitive.name not in (*CALLS, "scan"):
        return None
    body = equation.params["jaxpr"]
    body = getattr(body, "jaxpr", body)
    first, count = (0, 0) if equation.primitive.name in CALLS else _carried(equation, body)
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


CALLS = ("jit", "pjit")


def does_nothing(equation: Any) -> bool:
    """Whether it sums over no axis, or does its like; of a product or a maximum that is the same."""
    return equation.primitive.name in REDUCTIONS and not equation.params["axes"]


REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {  # and what each does to two numbers
    "reduce_sum": lax.add,
    "reduce_prod": lax.mul,
    "reduce_max": lax.max,
    "reduce_min": lax.min,
    "reduce_and": lax.bitwise_and,
    "reduce_or": lax.bitwise_or,
}


def is_of_numbers(jaxpr: core.Jaxpr, marks: Sequence[bool]) -> bool:
    """Whether what differs from lane to lane are single numbers, and nothing is done to them but arithmetic."""

    def is_arithmetic(equation, own):
        inner = entered(equation, own) if equation.primitive.name in CALLS else None
        return is_of_numbers(*inner) if inner else equation.primitive.name in ELEMENTWISE or does_nothing(equation)

    differs = differing(jaxpr, marks)
    all_numbers = all(v.aval.shape == () for v in differs)
    return all_numbers and all(is_arithmetic(*each) for each in touched(jaxpr, differs))


ELEMENTWISE = {
    *("add", "add_any", "sub", "mul", "div", "rem", "pow", "integer_pow", "square", "sqrt", "rsqrt", "cbrt", "neg"),
    *("abs", "sign", "max", "min", "clamp", "floor", "ceil", "round", "nextafter", "reduce_precision"),
    *("exp", "exp2", "expm1", "log", "log1p", "logistic", "erf", "erfc", "erf_inv", "lgamma", "digamma"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    *("eq", "ne", "lt", "le", "gt", "ge", "is_finite", "select_n", "and", "or", "xor", "not"),
    *("shift_left", "shift_right_arithmetic", "shift_right_logical", "convert_element_type", "copy", "copy_p"),
}


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
            total += 2 * multiplications(equation) * equation.outvars[0].aval.dtype.itemsize / 4
            continue
        total += sum(each * math.prod(v.aval.shape) * v.aval.dtype.itemsize / 4 for v in equation.outvars)
    return total


def depth(jaxpr: core.Jaxpr, inputs: Iterable[core.Var], outputs: Iterable[core.Var | core.Literal]) -> float:
    """The longest chain of operations, each of which waits for the one before, from some inputs to some outputs."""
    before: dict[Any, float] = dict.fromkeys(inputs, 0.0)
    for equation in jaxpr.eqns:
        known = [before[v] for v in equation.invars if is_in(before, v)]
        if known:
            inner = [depth(body, body.invars, body.outvars) for body in core.jaxprs_in_params(equation.params)]
            before |= dict.fromkeys(equation.outvars, max(known) + (max(inner) if inner else _chain(equation)))
    return max((before[v] for v in outputs if is_in(before, v)), default=0.0)


def _chain(equation: Any) -> float:
    if equation.primitive.name == "integer_pow":  # by squaring
        return max(1, (abs(equation.params["y"]) - 1).bit_length())
    return _WORK.get(equation.primitive.name, 1)


_WORK = {  # as measured on CPUs; all others are 1
    **dict.fromkeys(("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "lgamma", "digamma"), 200),
    **dict.fromkeys(("exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "erf", "pow", "cbrt"), 20),
    **dict.fromkeys(("sqrt", "rsqrt", "div", "rem"), 10),
}
_DEAR = 20  # so much, that to keep a number in memory costs less


# --- how it is carried out ---


def fenced(jaxpr: core.Jaxpr, outputs: slice) -> Callable[..., list[Any]]:
    """A jaxpr as a function (constants, *inputs) → outputs, some of which are computed once for all that use them.

    Otherwise XLA's compiler for CPUs computes what several arrays are made of anew for each of these; so
    what is dear is computed once too.
    """
    once = {v for v in jaxpr.outvars[outputs] if isinstance(v, core.Var)} | set(_dear(jaxpr))

    def carried_out(equation, *values):
        pairs = zip(equation.outvars, alone(equation, *values), strict=True)
        return [lax.optimization_barrier(a) if v in once else a for v, a in pairs]

    return lambda constants, *inputs: results_of(jaxpr, constants, inputs, carried_out)


def _dear(jaxpr: core.Jaxpr) -> Iterator[core.Var]:
    """What costs more to compute for each use of it than to keep."""
    uses: dict[core.Var, list[str]] = {}
    for equation in jaxpr.eqns:
        for v in filter(lambda v: isinstance(v, core.Var), equation.invars):
            uses.setdefault(v, []).append(equation.primitive.name)
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        for v in equation.outvars:
            used = uses.get(v, [])
            is_reused = len(used) > 1 or used == ["broadcast_in_dim"]
            if name in REDUCTIONS or name == "dot_general" or (is_reused and _WORK.get(name, 1) >= _DEAR):
                yield v


def flat(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same with all calls of jitted functions written out."""

    def inlined(equation, *values):
        if does_nothing(equation):
            return list(values)
        if equation.primitive.name not in CALLS:
            return alone(equation, *values)
        body = equation.params["jaxpr"]
        return results_of(body.jaxpr, body.consts, values, inlined)

    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
    return jax.make_jaxpr(lambda *inputs: results_of(closed.jaxpr, closed.consts, inputs, inlined))(*shapes)


def results_of(jaxpr: core.Jaxpr, constants, inputs, carried_out: Callable[..., list[Any]]) -> list[Any]:
    """The outputs of a jaxpr, each of whose equations is carried out by a function (equation, *values) → results."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))
    work_out(jaxpr.eqns, known, carried_out)
    return [value(known, v) for v in jaxpr.outvars]


def work_out(equations: Iterable[Any], known: dict[Any, Any], carried_out: Callable[..., list[Any]]) -> None:
    """Adds the results of equations to what is known."""
    for equation in equations:
        results = carried_out(equation, *(value(known, v) for v in equation.invars))
        known.update(zip(equation.outvars, results, strict=True))


def needed(equations: Sequence[Any], made: Iterable[core.Var | core.Literal]) -> list[Any]:
    """Those of the equations that these variables come of."""
    kept, read = [], {v for v in made if isinstance(v, core.Var)}
    for equation in reversed(equations):
        if read.intersection(equation.outvars):
            kept.append(equation)
            read.update(v for v in equation.invars if isinstance(v, core.Var))
    return kept[::-1]


def value(known: dict[Any, Any], v: core.Var | core.Literal) -> Any:
    return v.val if isinstance(v, core.Literal) else known[v]


def alone(equation: Any, *values: Any) -> list[Any]:
    """What one equation makes of the values of its inputs."""
    primitive = equation.primitive
    with equation.ctx.manager:
        results = primitive.bind(*values, **primitive.get_bind_params(equation.params))
    return results if primitive.multiple_results else [results]
