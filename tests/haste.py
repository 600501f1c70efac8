"""Programs that run slowly but compile in a fraction of the time, for tests that compile many; no other gets them."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxgd import program


@contextlib.contextmanager
def in_haste() -> Iterator[None]:
    kept, options = program._executables, program._OPTIONS
    before = jax.config.values["jax_disable_most_optimizations"]
    program._executables, program._OPTIONS = _compiled, {"cpu": options["cpu"] | _plain()}
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
        program._executables, program._OPTIONS = kept, options


_compiled: dict[Any, Any] = {}  # so far in haste


@functools.cache
def _plain() -> dict[str, Any]:
    """What keeps XLA from setting up MLIR anew for every kernel; {} where it knows no other way."""
    option = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(jnp.negative).lower(1.0).compile(compiler_options=option)
    except jax.errors.JaxRuntimeError:
        return {}
    return option
