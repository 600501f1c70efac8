"""A context in which JAX traces every function again.

JAX keeps the traces of jitted functions, and of the bodies of scans, loops and branches, by the function: what such a
function reads (a global, an attribute) is then read no more. A jaxpr does not show whose functions took part: bodies
are inlined, and a callable object has no file. So all are traced again, JAX's own too.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import jax

_context = jax.make_user_context(None)
_numbers = itertools.count(1)
_MOST_TRACES = 4096  # of some 40 kB


@contextlib.contextmanager
def new_context() -> Iterator[None]:
    """A context in which JAX remembers no trace; within another one, that one."""
    if _context.value is not None:
        yield
        return
    try:
        with _context(next(_numbers)):
            yield
    finally:
        _limit_traces()


def _limit_traces() -> None:
    """Keeps the traces of earlier contexts, which nothing finds again, from filling the memory.

    JAX's cache of traces has no bound, and no public way to drop a part of it. Programs that it has compiled stay.
    """
    traces = _cache_of_traces()
    if traces is not None and traces.cache_info().currsize > _MOST_TRACES:
        traces.cache_clear()


def _cache_of_traces() -> Any:
    """JAX's own; None in a version that has it elsewhere, where memory grows by a lane's traces with each call."""
    try:
        from jax._src.interpreters import partial_eval
    except ImportError:
        return None
    found = getattr(partial_eval, "trace_to_jaxpr", None)
    return found if hasattr(found, "cache_clear") and hasattr(found, "cache_info") else None
