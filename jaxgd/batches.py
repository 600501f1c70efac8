"""Batches: data, and the order in which an epoch passes over it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from jaxgd.keys import key_of

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
        than there are; another word for the remainder.
    """
    if remainder not in REMAINDERS:
        raise ValueError(f"remainder = {remainder!r}: must be one of {', '.join(REMAINDERS)}")
    data = jax.tree.map(_on_device, data)
    shapes = {path: jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(data)}
    rows = {shape[:1] for shape in shapes.values()}
    if len(rows) != 1 or rows <= {(), (0,)}:
        here = ", ".join(f"data{jax.tree_util.keystr(path)} has shape {list(shape)}" for path, shape in shapes.items())
        raise ValueError(f"{here or 'data holds no arrays'}: needs arrays [row, ...] of as many rows, one or more")
    ((count,),) = rows
    if batch_size is None:
        return Batches(data, count, count, False, key)
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or not 1 <= batch_size <= count:
        raise ValueError(f"batch_size = {batch_size!r}: must be a whole number from 1 to {count}, the rows of the data")
    return Batches(data, count, int(batch_size), remainder == "pad", key)


def _on_device(leaf: Any) -> Any:
    """One array for all that use it, not a copy for each; so also where a lane is being traced."""
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    with jax.ensure_compile_time_eval():
        return jnp.asarray(leaf)
