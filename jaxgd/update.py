"""Pure update rules: params and grads in, params out; no state but what is passed along.

Each rule takes any pytree of params. `learning_rate` (and `momentum`) may be a number, an array
that broadcasts, or a pytree prefix of the params: one rate per layer. Python numbers stay Python
numbers, and arrays keep their dtype. All are safe under `jit`, `vmap` and `grad`.

Every rule is offered a second time as an `optax.GradientTransformation`, which is the same rule
taken from the origin: the step from zero *is* the update.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from jaxgd.checks import kind_of, shown

Rate = PyTree  # a number, an array, or a prefix of the params


def gradient_descent_update(x: PyTree, gradx: PyTree, learning_rate: Rate) -> PyTree:
    """x ← x − ηg.   Downhill, by the slope times the learning rate.

    Args:
      x: params, any pytree of real numbers or arrays.
      gradx: grads of the cost at x, of the same structure and shapes.
      learning_rate: η ≥ 0; a number, an array that broadcasts to x, or a prefix of x.

    Returns:
      x after the step, of the same structure, shapes and dtypes. Python numbers stay Python numbers, and whole
      ones become floats as Python has it: with x = 3, gradx = 1 and η = 0.1, x becomes 2.9.

    Raises:
      TypeError: a leaf is no real number (a bool, None, a complex number), or a leaf of x is an array of integers,
        which cannot hold a fraction of a step.
      ValueError: structures or shapes differ.

    >>> gradient_descent_update(3, 1, 0.5)
    2.5

    Source: Cauchy (1847), "Méthode générale pour la résolution des systèmes d'équations simultanées".
    """
    return _moved(_descended, _Named("x", x), _Named("gradx", gradx), _Named("learning_rate", learning_rate))


def gradient_ascent_update(x: PyTree, gradx: PyTree, learning_rate: Rate) -> PyTree:
    """x ← x + ηg.   Steepest ascent: the same step with the sign turned round.

    Arguments and errors as in `gradient_descent_update`.
    """
    return _moved(_ascended, _Named("x", x), _Named("gradx", gradx), _Named("learning_rate", learning_rate))


def momentum_update(
    x: PyTree, velocity: PyTree, gradx: PyTree, learning_rate: Rate, momentum: Rate
) -> tuple[PyTree, PyTree]:
    """v ← βv + g;  x ← x − ηv.   The ball keeps part of its speed.

    Args:
      x, gradx, learning_rate: as in `gradient_descent_update`.
      velocity: v, of the structure and shapes of x; zeros at the start.
      momentum: β in [0, 1); a number, an array, or a prefix of x.

    Returns:
      x and v after the step.

    Source: Polyak (1964), "Some methods of speeding up the convergence of iteration methods".
    """
    velocity = _accelerated(velocity, gradx, momentum)
    ahead = _Named("velocity", velocity)
    return _moved(_descended, _Named("x", x), ahead, _Named("learning_rate", learning_rate)), velocity


def nesterov_update(
    x: PyTree, velocity: PyTree, gradx: PyTree, learning_rate: Rate, momentum: Rate
) -> tuple[PyTree, PyTree]:
    """v ← βv + g;  x ← x − η(g + βv).   Momentum that looks one step ahead.

    Arguments and returns as in `momentum_update`.

    Source: Nesterov (1983), in the form of Sutskever et al. (2013), "On the importance of
    initialization and momentum in deep learning".
    """
    velocity = _accelerated(velocity, gradx, momentum)
    ahead = _Named("velocity", _accelerated(velocity, gradx, momentum))
    return _moved(_descended, _Named("x", x), ahead, _Named("learning_rate", learning_rate)), velocity


class VelocityState(NamedTuple):
    """What momentum remembers from one epoch to the next."""

    velocity: PyTree


def gradient_descent(learning_rate: Rate | optax.Schedule) -> optax.GradientTransformation:
    """`gradient_descent_update` as an optax transformation."""
    return _stateless(gradient_descent_update, learning_rate)


def gradient_ascent(learning_rate: Rate | optax.Schedule) -> optax.GradientTransformation:
    """`gradient_ascent_update` as an optax transformation."""
    return _stateless(gradient_ascent_update, learning_rate)


def momentum(learning_rate: Rate | optax.Schedule, momentum: Rate = 0.9) -> optax.GradientTransformation:
    """`momentum_update` as an optax transformation."""
    return _with_velocity(momentum_update, learning_rate, momentum)


def nesterov(learning_rate: Rate | optax.Schedule, momentum: Rate = 0.9) -> optax.GradientTransformation:
    """`nesterov_update` as an optax transformation."""
    return _with_velocity(nesterov_update, learning_rate, momentum)


RULES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "gradient_descent": gradient_descent,
    "gradient_ascent": gradient_ascent,
    "momentum": momentum,
    "nesterov": nesterov,
}


class _Named(NamedTuple):
    """A tree, and what messages call it."""

    name: str
    tree: PyTree

    def at(self, place: int) -> str:
        """What messages call one of its leaves."""
        return f"{self.name}{jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(self.tree)[place][0])}"


def _moved(move: Callable[[Any, Any, Any], Any], old: _Named, step: _Named, rate: _Named) -> PyTree:
    """move(old, step, rate), leaf by leaf. Kinds and shapes are known while tracing: a jitted step checks nothing."""
    leaves, tree = jax.tree.flatten(old.tree)
    steps, steps_tree = jax.tree.flatten(step.tree)
    if steps_tree != tree:
        raise ValueError(_difference(old, step))
    try:
        rates = jax.tree.leaves(jax.tree.broadcast(rate.tree, old.tree))
    except ValueError:
        raise ValueError(
            f"{rate.name} = {shown(rate.tree)}: must be a number, an array, or a tree of them that is a prefix of "
            f"{old.name}, one for each part of it"
        ) from None
    moved = []
    for place, (a, g, r) in enumerate(zip(leaves, steps, rates, strict=True)):
        for name, leaf in ((old.name, a), (step.name, g), (rate.name, r)):
            if not _is_real(leaf):
                raise TypeError(_no_number(old._replace(name=name).at(place), leaf))
        if np.shape(a) != np.shape(g):
            raise ValueError(
                f"{step._replace(tree=old.tree).at(place)} has shape {list(np.shape(g))} and {old.at(place)} has shape "
                f"{list(np.shape(a))}: they must be the same"
            )
        if hasattr(a, "dtype") and not jnp.issubdtype(a.dtype, jnp.floating):
            here = old.at(place)
            raise TypeError(
                f"{here} is an array of {a.dtype}, which cannot hold a fraction of a step: use {here}.astype(float)"
            )
        new = move(a, g, r)
        if np.shape(new) != np.shape(a):
            raise ValueError(
                f"{rate.name} has shape {list(np.shape(r))} where {old.at(place)} has shape {list(np.shape(a))}: "
                f"it must broadcast to that, and not turn it into {list(np.shape(new))}"
            )
        moved.append(new.astype(a.dtype) if hasattr(a, "dtype") else new)  # Python numbers stay as they come
    return tree.unflatten(moved)


def _difference(old: _Named, other: _Named) -> str:
    """In what the structures of two trees differ."""

    def paths(tree):
        return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]

    cure = "give trees of one structure"
    for has, lacks in ((old, other), (other, old)):
        there = paths(lacks.tree)
        if only := [path for path in paths(has.tree) if path not in there]:
            return f"{has.name} has a leaf {has.name}{only[0]}, and {lacks.name} has none there: {cure}"
    return f"{old.name} and {other.name} hold their leaves in containers of different types: {cure}"


def _is_real(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, (int, float)) and not isinstance(leaf, bool)
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def _no_number(where: str, leaf: Any) -> str:
    holds = f"holds {leaf.dtype}" if hasattr(leaf, "dtype") else f"is {kind_of(leaf)}"
    return f"{where} {holds}; it must be a real number, or an array of them"


def _descended(x: Any, step: Any, rate: Any) -> Any:
    return x - rate * step


def _ascended(x: Any, step: Any, rate: Any) -> Any:
    return x + rate * step


def _accelerated(velocity: PyTree, gradx: PyTree, momentum: Rate) -> PyTree:
    return _moved(_accumulated, _Named("velocity", velocity), _Named("gradx", gradx), _Named("momentum", momentum))


def _accumulated(velocity: Any, gradx: Any, momentum: Any) -> Any:
    return momentum * velocity + gradx


def _stateless(rule: Callable, learning_rate: Rate | optax.Schedule) -> optax.GradientTransformation:
    if callable(learning_rate):
        return optax.chain(_stateless(rule, 1.0), optax.scale_by_schedule(learning_rate))

    def update(grads, state, params=None):
        del params
        return rule(optax.tree.zeros_like(grads), grads, learning_rate), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _with_velocity(
    rule: Callable, learning_rate: Rate | optax.Schedule, momentum: Rate
) -> optax.GradientTransformation:
    if callable(learning_rate):  # every rule is linear in its rate, so the schedule may scale the whole update
        return optax.chain(_with_velocity(rule, 1.0, momentum), optax.scale_by_schedule(learning_rate))

    def init(params):
        return VelocityState(optax.tree.zeros_like(params))

    def update(grads, state, params=None):
        del params
        updates, velocity = rule(optax.tree.zeros_like(grads), state.velocity, grads, learning_rate, momentum)
        return updates, VelocityState(velocity)

    return optax.GradientTransformation(init, update)
