"""Programs that run slowly but compile in half the time, for tests that compile many; no other test gets them."""

import contextlib
from collections.abc import Iterator

import jax

from jaxgd import program


@contextlib.contextmanager
def in_haste() -> Iterator[None]:
    kept, before = program._executables, jax.config.values["jax_disable_most_optimizations"]
    program._executables = {}
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
        program._executables = kept
