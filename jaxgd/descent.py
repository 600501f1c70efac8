"""One descent: a gradient from `jax.grad`, a jitted step, a scan over epochs."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Num, PyTree

from jaxgd import checks
from jaxgd.afresh import new_context
from jaxgd.batches import Batches, batches
from jaxgd.checks import kind_of as _kind

Cost = Callable[[PyTree], Float[Array, ""]]
Step = Callable[[PyTree, PyTree], tuple[Float[Array, ""], PyTree, PyTree, PyTree]]
Metrics = Mapping[str, Callable[[Any], Num[Array, "..."]]]


@dataclass(frozen=True)
class Descent:
    """One descent, not yet carried out: a cost, where it starts, and how it steps.

    With data the cost is a function of (params, batch). An epoch is one pass over the batches, with an
    update for each, in an order drawn anew for each epoch; the cost of an epoch is that of the whole
    data, before its first update.

    Args:
      cost: a function of the params that returns a real scalar and that JAX can differentiate.
      params: the start. A tree of numbers alone has its integers promoted to floats. In any other
        tree (a module that holds functions or flags among its leaves) the floating-point arrays are
        the params, and the rest is set aside and given back to the cost.
      optimizer: any optax `GradientTransformation`.
      data: a tree of arrays [row, ...], as (inputs, targets); a batch is the same tree of fewer rows.
      batch_size: rows per batch; None: all of them, in one batch, in the order they came in.
      key: what the order is drawn from, a seed or a key of `jax.random`; the same for all lanes of a
        sweep unless the lane makes it vary.
      remainder: what becomes of the rows that fill no batch. "drop": they wait for another epoch, as
        the order is drawn anew; "pad": the last batch is filled up with the first rows of that order.
      metrics: functions of the params by name, as an accuracy on other data; a sweep evaluates them where
        the lane ended, and `descend` in every epoch.
    """

    cost: Callable[..., Float[Array, ""]]
    params: PyTree
    optimizer: optax.GradientTransformation
    _: KW_ONLY
    data: PyTree = None
    batch_size: int | None = None
    key: Any = 0
    remainder: str = "drop"
    metrics: Metrics = field(default_factory=dict)


class History(NamedTuple):
    """A descent, epoch by epoch; record 0 is the start."""

    epoch: Int[Array, " record"]
    params: PyTree  # each leaf [record, ...]
    cost: Float[Array, " record"]  # of the whole data, if there is any
    gradient_norm: Float[Array, " record"]
    metrics: dict[str, Num[Array, "record ..."]]


def descend(
    cost: Callable[..., Float[Array, ""]],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int,
    data: PyTree = None,
    batch_size: int | None = None,
    key: Any = 0,
    remainder: str = "drop",
    metrics: Metrics | None = None,
) -> History:
    """xₖ₊₁ = xₖ + update(∇cost(xₖ)),  k = 0 … epochs − 1;  with batches, one such update for each.

    Pure, so it runs under `jit` and `vmap`, and differentiates: by the start, by the learning
    rate, by anything the cost closes over.

    Args:
      cost, params, optimizer, data, batch_size, key, remainder, metrics: as in `Descent`.
      epochs: how many to make, up to 10⁹; the history has one record more, the start.

    Returns:
      A `History` of epochs + 1 records.

    Raises:
      TypeError: the cost is not a real scalar function that JAX can differentiate, or it keeps
        something from one call to the next; or there are no params to move.
      ValueError: `epochs` is not a whole number from 0 to 10⁹; or the data makes no batches; or a number of
        params, data or key would change on its way in, as float64 numbers past float32 do without x64.

    >>> history = descend(lambda x: x**2 + 5, 3, optax.sgd(0.25), epochs=2)
    >>> history.params.tolist(), history.cost.tolist()
    ([3.0, 1.5, 0.75], [14.0, 7.25, 5.5625])

    >>> def last_cost(learning_rate):
    ...     return descend(lambda x: x**2 + 5, 3.0, optax.sgd(learning_rate), epochs=2).cost[-1]
    >>> print(jax.grad(last_cost)(0.25))
    -9.0

    >>> def squares(slope, batch):
    ...     return jnp.mean((slope * batch["x"] - batch["y"]) ** 2)
    >>> data = {"x": jnp.arange(1.0, 5.0), "y": 3 * jnp.arange(1.0, 5.0)}
    >>> print(descend(squares, 0.0, optax.sgd(0.0625), epochs=2, data=data, batch_size=1).params.round(2))
    [0.   2.84 2.99]
    """
    epochs = checks.whole("epochs", epochs, least=0, most=checks.MOST_EPOCHS)
    one = opened(
        Descent(
            cost,
            params,
            optimizer,
            data=data,
            batch_size=batch_size,
            key=key,
            remainder=remainder,
            metrics=metrics or {},
        )
    )

    def path(params):
        def record(params, value, grads):
            return params, value, norm(grads), one.metrics(params)

        def epoch(carry, _):
            value, grads, *moved = one.step(*carry)
            return tuple(moved), record(carry[0], value, grads)

        (last, _), records = jax.lax.scan(epoch, (params, one.init(params)), length=epochs)
        end = record(last, *one.evaluate(last))
        return jax.tree.map(lambda many, one: jnp.append(many, one[None], axis=0), records, end)

    with new_context():
        program, shapes = jax.make_jaxpr(path, return_shape=True)(one.params)
    records = jax.jit(lambda leaves: jax.core.eval_jaxpr(program.jaxpr, program.consts, *leaves))(
        jax.tree.leaves(one.params)
    )
    return History(jnp.arange(epochs + 1), *jax.tree.unflatten(jax.tree.structure(shapes), records))


class Opened(NamedTuple):
    """A descent as a loop needs it: pure functions of the moving params."""

    cost: Cost  # of the whole data, if there is any
    params: PyTree
    init: Callable[[PyTree], PyTree]  # params → state
    step: Step  # (params, state) → (cost and grads at params, the next params, the next state): one epoch
    metrics: Callable[[PyTree], dict[str, Num[Array, "..."]]]
    has_data: bool = False
    has_batches: bool = False  # several: grads are those of the whole data, which no update has followed
    evaluate: Callable[[PyTree], tuple[Any, PyTree]] | None = None  # params → (cost, grads); the first part of a step
    advance: Callable[..., tuple[PyTree, PyTree]] | None = None  # (params, state, cost, grads) → next params and state


def opened(descent: Descent) -> Opened:
    """A descent, checked, as pure functions of what moves.

    Raises:
      TypeError, ValueError: as `descend`.
    """
    if not isinstance(descent.optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer is {_kind(descent.optimizer)}; it must be an optax GradientTransformation, "
            "such as optax.sgd(0.01) or jaxgd.gradient_descent(0.01)"
        )
    if wrong := [part for part in descent.optimizer if not callable(part)]:
        raise TypeError(f"optimizer holds {_kind(wrong[0])} in place of its function init or update")
    if not callable(descent.cost):
        raise TypeError(f"cost is {_kind(descent.cost)}; it must be a function of the params")
    restored, params = _moving(descent.params)
    data = None if descent.data is None else batches(descent.data, descent.batch_size, descent.key, descent.remainder)
    if data is None and descent.batch_size is not None:
        raise ValueError(f"batch_size = {descent.batch_size!r}, but there is no data to make batches of: give data=")
    _check_call(descent.cost, data)

    at_least = jnp.result_type(jnp.float32, *jax.tree.leaves(params))  # what the cost is watched in
    everything = () if data is None else (data.data,)
    with new_context():
        traced = _traced_cost(lambda moving: descent.cost(restored(moving), *everything), params)

    def watched(value):
        return value.astype(jnp.promote_types(value.dtype, at_least))

    def cost(moving):
        return watched(traced(moving))

    def cost_on(batch):
        return lambda moving: watched(jnp.asarray(descent.cost(restored(moving), batch)))

    optimizer = optax.with_extra_args_support(descent.optimizer)
    update, init = update_of(cost, optimizer), optimizer.init
    has_batches = data is not None and data.several
    if has_batches:
        update, init = _over_batches(cost_on, data, optimizer), lambda params: (optimizer.init(params), jnp.int32(0))
    evaluate = functools.partial(_value_and_grad, cost)

    def step(params, state):
        value, grads = evaluate(params)
        return value, grads, *update(params, state, value, grads)

    metrics = _metrics_of(descent.metrics, restored)
    return Opened(cost, params, init, step, metrics, data is not None, has_batches, evaluate, update)


def _over_batches(cost_on: Callable[..., Cost], data: Batches, optimizer: optax.GradientTransformationExtraArgs):
    """`advance` of `Opened`, where an epoch is a pass over several batches."""

    def update(params, state, value, grads):
        del value, grads  # of the whole data

        def one(moving, rows):
            cost = cost_on(data.batch(rows))
            return update_of(cost, optimizer)(*moving, *_value_and_grad(cost, moving[0])), None

        inner, epoch = state
        (params, inner), _ = jax.lax.scan(one, (params, inner), data.order(epoch))
        return params, (inner, epoch + 1)

    return update


def _value_and_grad(cost: Cost, params: PyTree) -> tuple[Any, PyTree]:
    try:
        return jax.value_and_grad(cost)(params)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise TypeError(f"cost cannot be differentiated by JAX: {_first_line(error)}") from error


def update_of(cost: Cost, optimizer: optax.GradientTransformationExtraArgs):
    """(params, state, cost, grads) → (the next params, the next state); both as they were in structure and shape."""

    def update(params, state, value, grads):
        updated = optimizer.update(grads, state, params, **_told(cost, value, grads))
        if not isinstance(updated, tuple) or len(updated) != 2:
            raise TypeError("the optimizer's update must return two things: the updates and its next state")
        updates, after = updated
        moved = optax.apply_updates(params, updates)
        _check_update({"params": params, "state": state}, {"params": moved, "state": after})
        return moved, after

    return update


def _told(cost: Cost, value: Any, grads: PyTree) -> dict[str, Any]:
    """What an optimizer may want to know beside the gradients, by the names that optax has for it."""

    def value_fn(params, obj_fn=None):  # two names for one cost; a line search hands on the one it doesn't know
        return cost(params)

    return {"value": value, "grad": grads, "value_fn": value_fn, "obj_fn": cost}


def norm(grads: PyTree) -> Float[Array, ""]:
    """√Σ g². Where squares would overflow or vanish, g is scaled first; the gradient at 0 is 0, not NaN."""
    leaves = jax.tree.leaves(grads)
    if [jnp.size(g) for g in leaves] == [1]:
        return jnp.sum(jnp.abs(leaves[0]))
    dtype = jnp.result_type(*leaves)
    far = 2.0 ** (2 * jnp.finfo(dtype).maxexp // 3)  # a power of two, for then no bit is lost

    def squares(scale):
        return sum(jnp.sum(jnp.square(g.astype(dtype) * scale)) for g in leaves)

    plain = squares(1)
    large, small = plain > far, plain < 1 / far
    scale = jnp.where(large, 1 / far, jnp.where(small, far, 1))
    back = jnp.where(large, far, jnp.where(small, 1 / far, 1))
    total = squares(scale)
    return back * jnp.where(total == 0, 0, jnp.sqrt(jnp.where(total == 0, 1, total)))


def _moving(params: PyTree) -> tuple[Callable[[PyTree], PyTree], PyTree]:
    """Splits params into what moves and what is set aside: (what moves → params as they came, what moves)."""
    leaves, tree = jax.tree.flatten(params)
    if any(isinstance(leaf, complex) or _is_array_of(jnp.complexfloating, leaf) for leaf in leaves):
        raise TypeError("params hold complex numbers; give their real and imaginary parts as two real arrays")
    if leaves and all(map(_is_number, leaves)):
        moving = jax.tree_util.tree_map_with_path(_as_float, params)
        _check_elements(moving)
        return lambda moving: moving, moving
    moves = [_is_array_of(jnp.floating, leaf) for leaf in leaves]
    if not any(moves):
        mixed = " (beside other leaves, only floating-point arrays are)" if any(map(_is_number, leaves)) else ""
        raise TypeError(f"params hold nothing to move: no real numbers{mixed}")

    moving = tree.unflatten(leaf if moves_on else None for leaf, moves_on in zip(leaves, moves, strict=True))
    checks.held_leaves("params", moving)
    _check_elements(moving)
    marked = list(zip(leaves, moves, strict=True))

    def restored(moving):
        moved = iter(jax.tree.leaves(moving))
        return tree.unflatten(next(moved) if moves_on else leaf for leaf, moves_on in marked)

    return restored, moving


def _check_elements(moving: PyTree) -> None:
    if not any(map(jnp.size, jax.tree.leaves(moving))):
        leaves = jax.tree_util.tree_leaves_with_path(moving)
        here = ", ".join(f"params{jax.tree_util.keystr(path)} has shape {list(leaf.shape)}" for path, leaf in leaves)
        raise TypeError(f"params hold nothing to move: {here}; at least one array must have elements")


def _is_array_of(kind: Any, leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, kind)


def _is_number(leaf: Any) -> bool:
    if isinstance(leaf, bool):
        return False
    dtype = getattr(leaf, "dtype", None) or (type(leaf) if isinstance(leaf, (int, float)) else None)
    return dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in (jnp.integer, jnp.floating))


def _as_float(path: Any, leaf: Any) -> Array:
    leaf = checks.held_as_real(f"params{jax.tree_util.keystr(path)}", leaf)
    dtype = getattr(leaf, "dtype", None)
    real = dtype if dtype is not None and jnp.issubdtype(dtype, jnp.floating) else float
    return jax.lax.convert_element_type(leaf, jax.dtypes.canonicalize_dtype(real))


def _metrics_of(metrics: Metrics, restored: Callable[[PyTree], PyTree]) -> Callable[[PyTree], dict[str, Array]]:
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics is {_kind(metrics)}; it must be a dict of functions of the params by name")
    for name, metric in metrics.items():
        if not isinstance(name, str) or not callable(metric):
            raise TypeError(f"metrics[{name!r}] is {_kind(metric)}; it must be a function of the params, under a name")

    def measured(moving):
        values = {name: jnp.asarray(metric(restored(moving))) for name, metric in metrics.items()}
        return {name: value.astype(jnp.result_type(value.dtype, float)) for name, value in values.items()}

    return measured


def _check_call(cost: Callable, data: Batches | None) -> None:
    """Whether the cost takes what it is called with."""
    try:
        signature = inspect.signature(cost)
    except (TypeError, ValueError):  # a function whose signature Python can't tell: its call will show
        return
    try:
        signature.bind(*([None] if data is None else [None, None]))
    except TypeError as error:
        called = "without data, as cost(params)" if data is None else "with data, as cost(params, batch)"
        raise TypeError(f"cost is called {called}; it takes {signature}: {error}") from None


def _traced_cost(cost: Cost, params: PyTree) -> Cost:
    """The cost, checked, as a function that calls the user's no more."""
    kind = None

    def noted(params):
        nonlocal kind
        value = cost(params)
        kind = _kind(value)
        return value

    try:
        program, value = jax.make_jaxpr(noted, return_shape=True)(params)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise TypeError(
            "cost cannot be traced by JAX: it turns its params into plain numbers or NumPy arrays, or "
            f"branches on them; write it with jax.numpy and jnp.where. JAX says: {_first_line(error)}"
        ) from error
    except TypeError as error:
        if kind is None:  # of its own making
            raise
        raise TypeError(f"cost returns {kind}; it must return one real number") from error
    before = program.consts
    program = jax.make_jaxpr(lambda moving: cost(moving))(params)
    if _keeps_state(before, program.consts):
        raise TypeError(_KEEPS_STATE)
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(f"cost returns {kind}; it must return one real number")
    if value.shape != ():
        raise TypeError(
            f"cost returns an array of shape {value.shape}; it must return one real number: take its sum or mean"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"cost returns {value.dtype}; it must return a real (floating-point) number")
    return lambda moving: jnp.asarray(jax.core.eval_jaxpr(program.jaxpr, program.consts, *jax.tree.leaves(moving))[0])


def _keeps_state(before: list[Any], after: list[Any]) -> bool:
    """Whether a cost reads a mutable array, or finds, when traced again, what its first trace left behind."""
    known = {id(constant) for constant in before}
    left_behind = [
        constant for constant in after if isinstance(constant, jax.core.Tracer) and id(constant) not in known
    ]
    return bool(left_behind) or any(isinstance(constant, jax.Ref) for constant in before)


_KEEPS_STATE = (
    "cost keeps something from one call to the next (a counter, a running mean, a cache), but a descent needs a pure "
    "function: it is traced once, and then run for every epoch and lane without Python. Compute what it keeps from "
    "the params, or hold it fixed (a model's evaluation mode)"
)


def _check_update(before: PyTree, after: PyTree) -> None:
    """Refuses an update that changes the structure, a shape or a dtype of what the next one takes."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise TypeError("the optimizer's update returns a state of another structure than its init")
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        old, new = jax.typeof(old), jax.typeof(new)
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise TypeError(
                f"the optimizer turns {name} from {old.dtype}{list(old.shape)} into {new.dtype}{list(new.shape)}; "
                "its hyperparameters must fit the params in shape and dtype"
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
