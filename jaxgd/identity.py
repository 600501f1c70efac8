"""What a jaxpr computes, as text: two jaxprs with the same text, and with the same constants, give the same numbers.

JAX prints a jaxpr for people: it leaves out the context of an equation (how random bits are made), shortens arrays
among the parameters, and shows functions by their address. This text does neither, and is the same in every process.
"""

import enum
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.extend.core as core
import numpy as np

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_RULES = ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees")  # of derivatives, which evaluation does not read
_CONTEXT = ("compute_type", "threefry_partitionable", "xla_metadata")  # of an equation, as far as it changes numbers


class Text(NamedTuple):
    """A jaxpr as text."""

    text: str
    is_opaque: bool  # whether it holds a Python function, of which the text has only the name
    asks_python: bool  # whether numbers come from such a function while it runs


def text_of(jaxpr: core.Jaxpr) -> Text:
    """The text of a jaxpr. Arrays that inner jaxprs hold are in it by their digests, its own constants are not."""
    writer = _Writer()
    return Text(writer.jaxpr(jaxpr), writer.is_opaque, writer.asks_python)


def digest(array: Any) -> str:
    """A short name for an array's dtype, shape and bytes."""
    if jax.dtypes.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
        return f"{array.dtype}{digest(jax.random.key_data(array))}"
    array = np.ascontiguousarray(array)
    content = array.reshape(-1).view(np.uint8)
    return f"{array.dtype}{array.shape}{hashlib.sha256(content).hexdigest()[:32]}"


def without_addresses(text: str) -> str:
    """What `repr` says of objects, without where in memory they lie."""
    return _ADDRESS.sub("", text)


class _Writer:
    """Writes jaxprs, variables numbered in the order in which they come."""

    def __init__(self) -> None:
        self.is_opaque = self.asks_python = False
        self.known: dict[int, str] = {}  # inner jaxprs by id, which this call keeps alive

    def jaxpr(self, jaxpr: core.Jaxpr) -> str:
        numbers: dict[core.Var, int] = {}
        return "\n".join(self._lines(jaxpr, numbers, itertools.count()))

    def _lines(self, jaxpr: core.Jaxpr, numbers: dict[core.Var, int], count: Iterator[int]) -> Iterator[str]:
        def bound(v: core.Var) -> str:
            numbers[v] = next(count)
            return f"{numbers[v]}:{v.aval.str_short()}{'~' if getattr(v.aval, 'weak_type', False) else ''}"

        def used(v: core.Var | core.Literal) -> str:
            return f"{self.value(v.val)}:{v.aval.str_short()}" if isinstance(v, core.Literal) else str(numbers[v])

        yield f"{' '.join(map(bound, jaxpr.constvars))}; {' '.join(map(bound, jaxpr.invars))}"
        for equation in jaxpr.eqns:
            calls = "callback" in equation.primitive.name
            self.is_opaque |= calls
            self.asks_python |= calls and bool(equation.outvars)
            context = [getattr(equation.ctx, name, None) for name in _CONTEXT]
            params = {k: v for k, v in equation.params.items() if k not in _RULES}
            ins, outs = " ".join(map(used, equation.invars)), " ".join(map(bound, equation.outvars))
            yield f"{outs} = {equation.primitive.name}{self.value(params)}{self.value(context)} {ins}"
        yield " ".join(map(used, jaxpr.outvars))

    def value(self, value: Any) -> str:
        """A parameter of an equation."""
        if isinstance(value, (core.ClosedJaxpr, core.Jaxpr)):
            if id(value) not in self.known:
                body, consts = getattr(value, "jaxpr", value), getattr(value, "consts", ())
                self.known[id(value)] = f"{{{self.jaxpr(body)} {' '.join(map(digest, consts))}}}"
            return self.known[id(value)]
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.dtype, enum.Enum)):
            return f"{type(value).__name__}:{value!r}"
        if isinstance(value, (np.ndarray, np.generic, jax.Array)):
            return digest(value)
        if isinstance(value, Mapping):
            return f"{{{','.join(f'{k}={self.value(v)}' for k, v in value.items())}}}"
        if isinstance(value, (list, tuple)):
            return f"{type(value).__name__}({','.join(map(self.value, value))})"
        if isinstance(value, (set, frozenset)):
            return f"{type(value).__name__}({','.join(sorted(map(self.value, value)))})"
        text = repr(value)
        self.is_opaque |= _ADDRESS.search(text) is not None and not _is_of_library(value)
        return f"{type(value).__name__}:{without_addresses(text)}"


def _is_of_library(function: Any) -> bool:
    """Whether this is a function of JAX's own modules, which its name tells from all others."""
    module, name = getattr(function, "__module__", None) or "", getattr(function, "__qualname__", "<")
    return module.startswith("jax.") and "<" not in name
