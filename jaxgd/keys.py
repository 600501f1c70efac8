"""Keys: every random thing takes its own from a seed and its role alone, so that nothing else can change it."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxgd import checks


def key_of(seed: Any, role: str) -> Key[Array, ""]:
    """The key of one random thing: fold_in(key(seed), role).

    Two optimizers with the same seed so start from the same place and see the same data in the same
    order, and any lane can be carried out again by itself.

    Args:
      seed: a whole number, traced or not; or a key of jax.random, of either kind, in its place.
      role: what it is drawn for, as "data order".

    Raises:
      TypeError: a seed that is no whole number.
      ValueError: one of which jax.random would drop bits: past 32 bits, without x64.
    """
    return jax.random.fold_in(checked_key(seed), zlib.crc32(role.encode()) >> 1)


def checked_key(seed: Any) -> Key[Array, ""]:
    """The key of a seed; arguments and errors as in `key_of`."""
    dtype = getattr(seed, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return seed
    if dtype == jnp.uint32 and seed.ndim == 1:
        return jax.random.wrap_key_data(seed)
    whole = isinstance(seed, int) if dtype is None else jnp.issubdtype(dtype, jnp.integer)
    if isinstance(seed, bool) or not whole or getattr(seed, "ndim", 0):
        raise TypeError(f"a seed is a whole number or a key of jax.random, not {checks.shown(seed)}")
    checks.seed(seed)
    return jax.random.key(seed)
