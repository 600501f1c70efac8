"""Batches: data, and the order in which an epoch passes over it."""

import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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

    Warns of each array with rows that hold NaN or infinity, by its name and its first such row.

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
    _warn_of_rows(data)
    if batch_size is None:
        return Batches(data, count, count, False, key)
    size = checks.index_of(batch_size)
    if size is None or not 1 <= size <= count:
        allowed = f"must be a whole number from 1 to {count}, the rows of the data"
        raise ValueError(f"batch_size = {checks.shown(batch_size)}: {allowed}")
    return Batches(data, count, size, remainder == "pad", key)


def _warn_of_rows(data: PyTree) -> None:
    """Warns of rows that hold NaN or infinity: they often come from a file, and the cost alone does not name them."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if isinstance(leaf, jax.core.Tracer) or _is_finite(leaf):
            continue
        values = np.asarray(leaf)
        bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        row, count = int(np.argmax(bad)), int(bad.sum())
        some = values[row].ravel()
        more = f" ({count} of its {len(values)} rows hold NaN or infinity)" if count > 1 else ""
        warnings.warn(
            f"data{jax.tree_util.keystr(path)}, row {row}: holds {float(some[~np.isfinite(some)][0])}{more}; "
            "where the cost reads such a row it is NaN or infinite, and the lane counts as diverged",
            stacklevel=2,
        )


def _is_finite(leaf: jax.Array) -> bool:
    """Whether an array holds neither NaN nor infinity; its extremes say so without another array of its size."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or not leaf.size:
        return True
    with jax.ensure_compile_time_eval():
        if all(device.platform == "cpu" for device in leaf.devices()):
            leaf = np.asarray(leaf)  # not copied, and NumPy has nothing to compile
        with np.errstate(invalid="ignore"):  # of NaN in dtypes that NumPy does not have itself
            return math.isfinite(leaf.min()) and math.isfinite(leaf.max())


def _on_device(leaf: Any) -> Any:
    """One array for all that use it, not a copy for each; so also where a lane is being traced."""
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    with jax.ensure_compile_time_eval():
        return jnp.asarray(leaf)
