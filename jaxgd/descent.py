"""One descent: a gradient from `jax.grad`, a jitted step, a scan over epochs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

Cost = Callable[[PyTree], Float[Array, ""]]
Step = Callable[[PyTree, PyTree], tuple[Float[Array, ""], PyTree, PyTree, PyTree]]


@dataclass(frozen=True)
class Descent:
    """One descent, not yet carried out: a cost, where it starts, and how it steps.

    Args:
      cost: a function of the params that returns a real scalar and that JAX can differentiate.
      params: the start. A tree of numbers alone has its integers promoted to floats. In any other
        tree (a module that holds functions or flags among its leaves) the inexact arrays are the
        params, and the rest is set aside and given back to the cost.
      optimizer: any optax `GradientTransformation`.
    """

    cost: Callable[[Any], Float[Array, ""]]
    params: PyTree
    optimizer: optax.GradientTransformation


class History(NamedTuple):
    """A descent, epoch by epoch; record 0 is the start."""

    epoch: Int[Array, " record"]
    params: PyTree  # each leaf [record, ...]
    cost: Float[Array, " record"]
    gradient_norm: Float[Array, " record"]


def descend(
    cost: Callable[[Any], Float[Array, ""]],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int,
) -> History:
    """xₖ₊₁ = xₖ + update(∇cost(xₖ)),  k = 0 … epochs − 1.

    Pure, so it runs under `jit` and `vmap`, and differentiates: by the start, by the learning
    rate, by anything the cost closes over.

    Args:
      cost, params, optimizer: as in `Descent`.
      epochs: how many updates to make; the history has one record more, the start.

    Returns:
      A `History` of epochs + 1 records.

    Raises:
      TypeError: the cost is not a real scalar function that JAX can differentiate, or there are
        no params to move.
      ValueError: `epochs` is not a whole number ≥ 0.
    """
    check_whole("epochs", epochs, least=0)
    cost, params, optimizer = opened(Descent(cost, params, optimizer))
    step = step_of(cost, optimizer)

    @jax.jit
    def path(params):
        def epoch(carry, _):
            value, grads, *moved = step(*carry)
            return tuple(moved), (carry[0], value, norm(grads))

        (last, _), records = jax.lax.scan(epoch, (params, optimizer.init(params)), length=epochs)
        value, grads = jax.value_and_grad(cost)(last)
        return jax.tree.map(lambda many, one: jnp.append(many, one[None], axis=0), records, (last, value, norm(grads)))

    return History(jnp.arange(epochs + 1), *path(params))


def opened(descent: Descent) -> tuple[Cost, PyTree, optax.GradientTransformationExtraArgs]:
    """What a loop needs: a cost of the moving params alone, those params, and the optimizer.

    Raises:
      TypeError: as `descend`.
    """
    if not isinstance(descent.optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer is {_kind(descent.optimizer)}; it must be an optax GradientTransformation, "
            "such as optax.sgd(0.01) or jaxgd.gradient_descent(0.01)"
        )
    if not callable(descent.cost):
        raise TypeError(f"cost is {_kind(descent.cost)}; it must be a function of the params")
    cost, params = _moving(descent.cost, descent.params)
    _check_cost(cost, params)
    return cost, params, optax.with_extra_args_support(descent.optimizer)


def step_of(cost: Cost, optimizer: optax.GradientTransformationExtraArgs) -> Step:
    """(params, state) → (cost and grads at params, the next params, the next state)."""

    def value_fn(params, obj_fn=None):  # two names for one cost; a line search insists on handing on the other
        return cost(params)

    def step(params, state):
        value, grads = jax.value_and_grad(cost)(params)
        more = {"value": value, "grad": grads, "value_fn": value_fn, "obj_fn": cost}
        updates, state = optimizer.update(grads, state, params, **more)
        return value, grads, optax.apply_updates(params, updates), state

    return step


def norm(grads: PyTree) -> Float[Array, ""]:
    """√Σ g², scaled by its largest entry, so that it neither overflows nor has a NaN gradient at 0."""
    leaves = jax.tree.leaves(grads)
    largest = jnp.stack([jnp.max(jnp.abs(g), initial=0.0) for g in leaves]).max()
    scale = jnp.where(largest > 0, largest, 1)
    total = sum(jnp.sum(jnp.square(g / scale)) for g in leaves)
    return jnp.where(largest > 0, scale * jnp.sqrt(jnp.where(largest > 0, total, 1)), largest)


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise a ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} = {value!r}: must be a whole number, {least} or more")


def _moving(cost: Callable, params: PyTree) -> tuple[Cost, PyTree]:
    """Splits params into what moves and what is set aside, and the cost accordingly."""
    leaves, tree = jax.tree.flatten(params)
    if leaves and all(map(_is_number, leaves)):
        return cost, jax.tree.map(_as_float, params)
    moves = [isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    if not any(moves):
        raise TypeError("params hold no real numbers: there is nothing to move")

    def cost_of_moving(moving):
        moved = iter(jax.tree.leaves(moving))
        return cost(tree.unflatten(next(moved) if moves_on else leaf for leaf, moves_on in zip(leaves, moves)))

    return cost_of_moving, tree.unflatten(leaf if moves_on else None for leaf, moves_on in zip(leaves, moves))


def _is_number(leaf: Any) -> bool:
    if isinstance(leaf, bool):
        return False
    dtype = getattr(leaf, "dtype", None) or (type(leaf) if isinstance(leaf, (int, float)) else None)
    return dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in (jnp.integer, jnp.floating))


def _as_float(leaf: Any) -> Array:
    dtype = getattr(leaf, "dtype", None)
    real = dtype if dtype is not None and jnp.issubdtype(dtype, jnp.floating) else float
    return jax.lax.convert_element_type(leaf, jax.dtypes.canonicalize_dtype(real))


def _check_cost(cost: Cost, params: PyTree) -> None:
    try:
        value = jax.eval_shape(cost, params)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise TypeError(
            "cost cannot be traced by JAX: it turns its params into plain numbers or NumPy arrays, or "
            f"branches on them; write it with jax.numpy and jnp.where. JAX says: {_first_line(error)}"
        ) from error
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(f"cost returns {_kind(value)}; it must return one real number")
    if value.shape != ():
        raise TypeError(f"cost returns an array of shape {value.shape}; it must return one real number: take its sum or mean")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"cost returns {value.dtype}; it must return a real (floating-point) number")
    try:
        jax.eval_shape(jax.grad(cost), params)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise TypeError(f"cost cannot be differentiated by JAX: {_first_line(error)}") from error


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
