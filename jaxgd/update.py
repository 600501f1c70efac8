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
import optax
from jaxtyping import PyTree

Rate = PyTree  # a number, an array, or a prefix of the params


def gradient_descent_update(x: PyTree, gradx: PyTree, learning_rate: Rate) -> PyTree:
    """x ← x − ηg.   Downhill, by the slope times the learning rate.

    Args:
      x: params, any pytree of real numbers or arrays.
      gradx: grads of the cost at x, of the same structure and shapes.
      learning_rate: η ≥ 0; a number, an array, or a prefix of x.

    Raises:
      TypeError: a leaf of x is an array of integers, which cannot hold a fraction of a step.
      ValueError: the structures do not fit together.

    Source: Cauchy (1847), "Méthode générale pour la résolution des systèmes d'équations simultanées".
    """
    return jax.tree.map(_descended, x, gradx, _spread(learning_rate, x))


def gradient_ascent_update(x: PyTree, gradx: PyTree, learning_rate: Rate) -> PyTree:
    """x ← x + ηg.   Steepest ascent: the same step with the sign turned round.

    Arguments and errors as in `gradient_descent_update`.
    """
    return jax.tree.map(_ascended, x, gradx, _spread(learning_rate, x))


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
    return gradient_descent_update(x, velocity, learning_rate), velocity


def nesterov_update(
    x: PyTree, velocity: PyTree, gradx: PyTree, learning_rate: Rate, momentum: Rate
) -> tuple[PyTree, PyTree]:
    """v ← βv + g;  x ← x − η(g + βv).   Momentum that looks one step ahead.

    Arguments and returns as in `momentum_update`.

    Source: Nesterov (1983), in the form of Sutskever et al. (2013), "On the importance of
    initialization and momentum in deep learning".
    """
    velocity = _accelerated(velocity, gradx, momentum)
    return gradient_descent_update(x, _accelerated(velocity, gradx, momentum), learning_rate), velocity


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


def _spread(prefix: Rate, x: PyTree) -> PyTree:
    """One rate per leaf of x."""
    return jax.tree.broadcast(prefix, x)


def _descended(x: Any, step: Any, rate: Any) -> Any:
    return _as_before(x, x - rate * step)


def _ascended(x: Any, step: Any, rate: Any) -> Any:
    return _as_before(x, x + rate * step)


def _accelerated(velocity: PyTree, gradx: PyTree, momentum: Rate) -> PyTree:
    return jax.tree.map(lambda v, g, beta: _as_before(v, beta * v + g), velocity, gradx, _spread(momentum, velocity))


def _as_before(old: Any, new: Any) -> Any:
    """`new` in the dtype of `old`; Python numbers have none, and stay as they come."""
    if not hasattr(old, "dtype"):
        return new
    if not jnp.issubdtype(old.dtype, jnp.inexact):
        raise TypeError(f"x is an array of {old.dtype}, which cannot hold a fraction of a step: use x.astype(float)")
    return new.astype(old.dtype)


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
