"""Batches: data, and the order in which an epoch passes over it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from jaxgd import checks
from jaxgd.keys import checked_key, key_of

REMAINDERS = ("drop", "pad")


class Batches(NamedTuple):
    """Data in batches of one size."""

    data: PyTree  # each leaf [row, ...]
    rows: int
    size: int  # of a batch
    pad: bool  # whether the rows that fill no batch make one more, filled up with some of the others
    key: Any

    @property
    def several(self) -> bool:
        """Whether an update sees less than the whole data."""
        return self.size < self.rows

    def order(self, epoch: Int[Array, ""]) -> Int[Array, "batch row"]:
        """Which rows are in which batch in an epoch."""
        order = jax.random.permutation(jax.random.fold_in(key_of(self.key, "data order"), epoch), self.rows)
        count = -(-self.rows // self.size) if self.pad else self.rows // self.size
        return jnp.resize(order, (count, self.size))

    def batch(self, rows: Int[Array, " row"]) -> PyTree:
        return jax.tree.map(lambda a: jnp.take(a, rows, axis=0, mode="clip"), self.data)


def batches(data: PyTree, batch_size: int | None, key: Any, remainder: str) -> Batches:
    """Data divided into batches; arguments as in `jaxgd.Descent`.

    Raises:
      ValueError: data without rows, or whose arrays differ in how many they have; more rows to a batch
        than there are; another word for the remainder; numbers that JAX can't hold as they are.
    """
    if remainder not in REMAINDERS:
        raise ValueError(f"remainder = {remainder!r}: must be one of {', '.join(REMAINDERS)}")
    checks.held_leaves("data", data)
    checked_key(key)
    data = jax.tree.map(_on_device, data)
    shapes = {path: jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(data)}
    rows = {shape[:1] for shape in shapes.values()}
    if len(rows) != 1 or rows <= {(), (0,)}:
        here = ", ".join(f"data{jax.tree_util.keystr(path)} has shape {list(shape)}" for path, shape in shapes.items())
        raise ValueError(f"{here or 'data holds no arrays'}: needs arrays [row, ...] of as many rows, one or more")
    ((count,),) = rows
    if batch_size is None:
        return Batches(data, count, count, False, key)
    size = checks.index_of(batch_size)
    if size is None or not 1 <= size <= count:
        allowed = f"must be a whole number from 1 to {count}, the rows of the data"
        raise ValueError(f"batch_size = {checks.shown(batch_size)}: {allowed}")
    return Batches(data, count, size, remainder == "pad", key)


def _on_device(leaf: Any) -> Any:
    """One array for all that use it, not a copy for each; so also where a lane is being traced."""
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    with jax.ensure_compile_time_eval():
        return jnp.asarray(leaf)
