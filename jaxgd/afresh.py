"""What JAX remembers of a user's functions, and how to have it trace them again.

JAX keeps the traces of jitted functions, and of the bodies of scans, loops and branches, by the function: a global that
such a function reads is then read no more. Within a context that was never used before it traces all of them again,
its own too, which takes a tenth of a second; so that is done only where a user's function is among them.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.extend.core as core
import optax

_LIBRARIES = tuple(str(Path(module.__file__).parent) for module in (jax, optax)) + (str(Path(__file__).parent),)
_calls = itertools.count()
_making = threading.Lock()
_contexts: list[Any] = []  # one, once it is needed: a new one has all jitted functions of the process traced again


def trace_afresh(make: Callable[[], tuple[Any, Sequence[core.Jaxpr]]]) -> Any:
    """What `make` returns first, made again if JAX may have taken a part of it from what it remembers.

    Args:
      make: () → (result, the jaxprs that it rests on).
    """
    result, found = make()
    if not any(map(holds_users_code, found)):
        return result
    with new_context():
        return make()[0]


def new_context() -> AbstractContextManager:
    """A context within which JAX remembers nothing."""
    with _making:
        if not _contexts:
            _contexts.append(jax.make_user_context(None))
    return _contexts[0](next(_calls))


def holds_users_code(jaxpr: core.Jaxpr) -> bool:
    """Whether a function within, of which JAX remembers the trace, is none of JAX's, Optax's or ours."""
    return any(not file.startswith(_LIBRARIES) for file in _files(jaxpr))


def _files(jaxpr: core.Jaxpr) -> Iterator[str]:
    """Where the functions within were written, as far as that is known."""
    for equation in jaxpr.eqns:
        for inner in core.jaxprs_in_params(equation.params):
            if file := getattr(inner.debug_info, "func_filename", None):
                yield file
            yield from _files(inner)
