"""A lane, traced: one call of the user's function, as jaxprs that hold their own copies of all that it read.

Whatever the lane computes is read from here: its programs, its fingerprint, its records, its surface. A trace is
made again for every call of `sweep`, and nothing keeps it longer; so a changed global, attribute or array counts at
the next call, and never within one.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.extend.core as core
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxgd import jaxprs
from jaxgd.afresh import new_context
from jaxgd.descent import Descent, Opened, opened
from jaxgd.identity import Text, digest, text_of


class Shapes(NamedTuple):
    """Shapes and dtypes of the leaves that a step takes."""

    constants: list[Any]
    params: list[Any]
    state: list[Any]


class Trace:
    """A lane as pure functions of leaves.

    begin: leaves of the arguments → constants, params, state.
    cost: (constants, params) → the cost of the whole data, not yet differentiated.
    step: (constants, params, state) → cost and grads there, the next params, the next state.
    metrics: (constants, params) → metrics.
    evaluate: (constants, params) → cost and grads; advance: (constants, params, state, cost, grads) → the next params,
      the next state. A step in two parts, of lanes that call Python alone; None otherwise.
    """

    def __init__(self, begin: core.ClosedJaxpr, parts: dict[str, core.Jaxpr], shapes: Shapes, known: dict):
        self.begin, self.shapes = begin, shapes
        self.cost, self.step, self.metrics = parts["cost"], parts["step"], parts["metrics"]
        self.evaluate, self.advance = parts.get("evaluate"), parts.get("advance")
        self.has_data: bool = known["has_data"]
        self.has_batches: bool = known["has_batches"]
        self.arguments, self.params, self.state = known["arguments"], known["params"], known["state"]  # structures
        self.measures = known["metrics"]  # shapes and dtypes by name
        self.programs: dict[Any, Any] = {}  # compiled of it, which go when it goes

    @property
    def outline(self) -> dict[str, PyTree]:
        """Shapes and dtypes of params, state and metrics."""
        params, state = self.params.unflatten(self.shapes.params), self.state.unflatten(self.shapes.state)
        return {"params": params, "state": state, "metrics": self.measures}

    @cached_property
    def work(self) -> float:
        """How many operations one step takes, about and at least 1, in units of an addition in float32."""
        return max(1.0, jaxprs.work(self.step))

    @property
    def calls_back(self) -> bool:
        """Whether the lane calls Python while it runs."""
        return self.evaluate is not None

    @cached_property
    def text(self) -> str | None:
        """What all of this computes, but for the values of the constants; None where a Python function decides that."""
        return None if any(text.is_opaque for text in self._texts) else self._joined

    @cached_property
    def identity(self) -> str:
        """What it computes, and the values of its constants: equal for lanes that give the same numbers.

        Unless the lane asks Python: of a function that runs on the host the identity has the name alone.
        """
        return "\n".join([self._joined, *map(digest, self.begin.consts)])

    @property
    def asks_python(self) -> bool:
        """Whether numbers of the lane come from a Python function that runs on the host."""
        return any(text.asks_python for text in self._texts)

    @cached_property
    def _texts(self) -> list[Text]:
        return [text_of(jaxpr) for jaxpr in (self.begin.jaxpr, self.step, self.metrics)]

    @property
    def _joined(self) -> str:
        kinds = (sorted(self.measures), self.has_data, self.has_batches)
        return "\n".join([*(text.text for text in self._texts), repr(kinds)])

    def opened(self, arguments: dict[str, Any], closed_over: list[Any] | None = None) -> Opened:
        """The lane at some arguments, as `descent.opened` gives it, without a call of the user's functions.

        Args:
          arguments: of one lane, by name.
          closed_over: what stands for the lane's own constants, within a program that takes them as arguments.
        """
        closed_over = self.begin.consts if closed_over is None else closed_over
        leaves = jax.core.eval_jaxpr(self.begin.jaxpr, closed_over, *jax.tree.leaves(arguments))
        constants, params, state = cut(leaves, tuple(map(len, self.shapes)))

        def evaluate(jaxpr, *trees):
            return jax.core.eval_jaxpr(jaxpr, constants, *jax.tree.leaves(trees))

        def step(params, state):
            cost, *rest = evaluate(self.step, params, state)
            grads, moved, after = cut(rest, (len(self.shapes.params),) * 2 + (len(self.shapes.state),))
            return cost, self.params.unflatten(grads), self.params.unflatten(moved), self.state.unflatten(after)

        def whole(params):
            cost, *grads = evaluate(self.evaluate, params)
            return cost, self.params.unflatten(grads)

        def advance(*carried):
            moved, after = cut(evaluate(self.advance, *carried), (len(self.shapes.params), len(self.shapes.state)))
            return self.params.unflatten(moved), self.state.unflatten(after)

        return Opened(
            cost=lambda params: evaluate(self.cost, params)[0],
            params=self.params.unflatten(params),
            init=lambda _: self.state.unflatten(state),
            step=step,
            metrics=lambda params: dict(zip(sorted(self.measures), evaluate(self.metrics, params), strict=True)),
            has_data=self.has_data,
            has_batches=self.has_batches,
            evaluate=whole if self.calls_back else None,
            advance=advance if self.calls_back else None,
        )


def cut(leaves: Sequence[Any], sizes: tuple[int, ...]) -> list[list[Any]]:
    """Leaves in groups of these sizes."""
    rest = iter(leaves)
    return [list(itertools.islice(rest, size)) for size in sizes]


def trace_lane(lane: Callable[..., Descent], arguments: PyTree) -> Trace:
    """One descent as a pure function of keyword arguments, traced.

    Args:
      lane: the function.
      arguments: shapes and dtypes of what varies.

    Raises:
      UnderTransformation: what the lane closes over is traced by jit, vmap or grad.
      TypeError, ValueError: what `Descent`, its cost or its optimizer refuse.
    """
    with new_context():
        closed, parts, shapes, known = _trace(lane, arguments)
    copied = _Copies()
    parts = {name: copied.jaxpr(part) for name, part in parts.items()}
    return Trace(copied.closed(closed), parts, shapes, known)


def _trace(
    lane: Callable[..., Descent], arguments: PyTree, in_parts: bool = False
) -> tuple[core.ClosedJaxpr, dict[str, core.Jaxpr], Shapes, dict[str, Any]]:
    """What `Trace` takes, with the user's own arrays."""
    known: dict[str, Any] = {"arguments": jax.tree.structure(arguments)}  # what tracing finds out besides arrays
    parts: dict[str, core.Jaxpr] = {}

    def begin(arguments):
        one = opened(lane(**arguments))
        params, state = one.params, one.init(one.params)
        functions = {"cost": (one.cost, params), "step": (one.step, params, state), "metrics": (one.metrics, params)}
        closed = {name: jax.make_jaxpr(f, return_shape=True)(*given) for name, (f, *given) in functions.items()}
        if in_parts or any(jaxprs.calls_back(one.jaxpr) for one, _ in closed.values()):
            closed["evaluate"] = jax.make_jaxpr(one.evaluate, return_shape=True)(params)
            cost, grads = closed["evaluate"][1]
            closed["advance"] = jax.make_jaxpr(one.advance, return_shape=True)(params, state, cost, grads)
        known.update(params=jax.tree.structure(params), state=jax.tree.structure(state))
        known.update(metrics=closed["metrics"][1], has_data=one.has_data, has_batches=one.has_batches)
        constants = _share_constants({name: one for name, (one, _) in closed.items()}, parts)
        return constants, jax.tree.leaves(params), jax.tree.leaves(state)

    closed, shapes = jax.make_jaxpr(begin, return_shape=True)(arguments)
    if any(isinstance(constant, jax.core.Tracer) for constant in closed.consts):
        raise UnderTransformation(UNDER_TRANSFORMATION)
    if jaxprs.calls_back(closed.jaxpr) and "evaluate" not in parts:  # where the start is made
        return _trace(lane, arguments, in_parts=True)
    return closed, parts, Shapes(*shapes), known


def _share_constants(closed: dict[str, core.ClosedJaxpr], parts: dict[str, core.Jaxpr]) -> list[Any]:
    """The constants of several jaxprs, each once; the jaxprs, which now all take all of them, go into `parts`."""
    shared: dict[int, tuple[Any, core.Var]] = {}
    for one in closed.values():
        for constant, v in zip(one.consts, one.jaxpr.constvars, strict=True):
            shared.setdefault(id(constant), (constant, v))
    for name, one in closed.items():
        own = {id(constant): v for constant, v in zip(one.consts, one.jaxpr.constvars, strict=True)}
        parts[name] = one.jaxpr.replace(constvars=[own.get(key, v) for key, (_, v) in shared.items()])
    return [constant for constant, _ in shared.values()]


class UnderTransformation(TypeError):
    """A sweep was asked for where JAX is tracing."""


UNDER_TRANSFORMATION = (
    "a sweep compiles and runs programs of its own, so it can't run inside jit, vmap, grad or the lane of another "
    "sweep; there use jaxgd.descend, as in jax.jit(jax.vmap(lambda rate: jaxgd.descend(cost, start, "
    "optax.sgd(rate), epochs=100).cost[-1]))"
)


def check_untraced(*given: Any) -> None:
    """Raises an UnderTransformation if an argument is traced, or all that is computed, as inside jit and a lane."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in (*jax.tree.leaves(given), jnp.add(1, 1))):
        raise UnderTransformation(UNDER_TRANSFORMATION)


# --- what a trace reads, copied ---


class _Copies:
    """Jaxprs with copies in place of the NumPy arrays that they hold, which JAX keeps by reference."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Any]] = {}  # by id; the array beside its copy, so that no id is used again

    def array(self, array: Any) -> Any:
        if not isinstance(array, np.ndarray):
            return array
        if id(array) not in self.known:
            self.known[id(array)] = array, jnp.array(np.asarray(array), array.dtype)
        return self.known[id(array)][1]

    def closed(self, closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
        return core.ClosedJaxpr(self.jaxpr(closed.jaxpr), list(map(self.array, closed.consts)))

    def jaxpr(self, jaxpr: core.Jaxpr) -> core.Jaxpr:
        equations = [self._equation(equation) for equation in jaxpr.eqns]
        outputs = [self._variable(v) for v in jaxpr.outvars]
        if all(a is b for a, b in zip((*equations, *outputs), (*jaxpr.eqns, *jaxpr.outvars), strict=True)):
            return jaxpr
        return jaxpr.replace(eqns=equations, outvars=outputs)

    def _variable(self, v: core.Var | core.Literal) -> core.Var | core.Literal:
        if isinstance(v, core.Literal) and isinstance(v.val, np.ndarray):  # a number, of an array without axes
            return core.Literal(np.array(v.val, v.val.dtype)[()], v.aval)
        return v

    def _equation(self, equation: Any) -> Any:
        inputs = [self._variable(v) for v in equation.invars]
        params = {name: self._param(value) for name, value in equation.params.items()}
        before = (*equation.invars, *equation.params.values())
        same = all(a is b for a, b in zip((*inputs, *params.values()), before, strict=True))
        return equation if same else equation.replace(invars=inputs, params=params)

    def _param(self, value: Any) -> Any:
        if isinstance(value, (core.ClosedJaxpr, core.Jaxpr)):
            body, constants = getattr(value, "jaxpr", value), list(getattr(value, "consts", ()))
            copies = [self.jaxpr(body), *map(self.array, constants)]
            if all(a is b for a, b in zip(copies, (body, *constants), strict=True)):
                return value
            return core.ClosedJaxpr(copies[0], copies[1:]) if hasattr(value, "consts") else copies[0]
        if isinstance(value, tuple) and any(isinstance(one, (core.ClosedJaxpr, core.Jaxpr)) for one in value):
            copies = [self._param(one) for one in value]
            if all(a is b for a, b in zip(copies, value, strict=True)):
                return value
            return type(value)(*copies) if hasattr(value, "_fields") else tuple(copies)
        return value
