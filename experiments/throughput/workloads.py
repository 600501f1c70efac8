"""The work: costs, update rules and grids, as data that every peer's process can read. Needs NumPy alone.

A cost is written once, for one lane, whose params are a tuple of arrays; it is handed the array
library that it is to use: jax.numpy, torch or numpy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# The fused steps of torch.compile. It takes ever longer to compile more of them: of the parabola without a target
# 10 took 22 s, 12 took 67 s, and 20 did not end in 20 minutes. Every workload's epochs are a multiple of it.
EPOCHS_AT_ONCE = 10
MOMENTUM = 0.9  # where it is not an axis
ROUNDINGS = 8  # of one update, at most: a handful of operations on numbers of the params' size
EPS = float(np.finfo(np.float32).eps)


def parabola(xp: Any) -> Callable:
    """x² + 5"""
    return lambda params: params[0] ** 2 + 5


def rosenbrock(xp: Any) -> Callable:
    """(1 − x)² + 100 (y − x²)²"""

    def cost(params):
        x, y = params
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    return cost


def rastrigin(xp: Any) -> Callable:
    """10 d + Σ (x² − 10 cos 2πx), over d dimensions"""
    return lambda params: (params[0] ** 2 + 10 - 10 * xp.cos(2 * np.pi * params[0])).sum()


def network(xp: Any) -> Callable:
    """The mean squared error of 8 tanh units on 32 points that all lanes share."""
    inputs, targets = (xp.asarray(array) for array in DATA)

    def cost(params):
        w1, b1, w2, b2 = params
        return ((xp.tanh(inputs @ w1 + b1) @ w2 + b2 - targets) ** 2).mean()

    return cost


COSTS = {"parabola": parabola, "rosenbrock": rosenbrock, "rastrigin": rastrigin, "network": network}

# The rules, for libraries without optax: (array library, grads, state, epoch, hyperparameters) → updates, state.
# Hyperparameters broadcast from the right: scalars of one lane, or [lane] beside params [..., lane].


def gradient_descent(xp, grads, state, epoch, learning_rate):
    return tuple(-learning_rate * g for g in grads), state


def momentum(xp, grads, velocity, epoch, learning_rate, momentum=MOMENTUM):
    velocity = tuple(momentum * v + g for v, g in zip(velocity, grads, strict=True))
    return tuple(-learning_rate * v for v in velocity), velocity


def adam(xp, grads, state, epoch, learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    mean = tuple(b1 * m + (1 - b1) * g for m, g in zip(state[0], grads, strict=True))
    square = tuple(b2 * s + (1 - b2) * g**2 for s, g in zip(state[1], grads, strict=True))
    fair1, fair2 = 1 - b1 ** (epoch + 1), 1 - b2 ** (epoch + 1)
    updates = (-learning_rate * (m / fair1) / (xp.sqrt(s / fair2) + eps) for m, s in zip(mean, square, strict=True))
    return tuple(updates), (mean, square)


RULES = {"gradient_descent": gradient_descent, "momentum": momentum, "adam": adam}


def first_state(rule: str, zeros: Callable[[], tuple]) -> tuple:
    """The state of a rule before its first epoch; `zeros` makes zeros in the shape of the params.

    No two parts share an array: torch.compile makes a program of its own for arguments that do.
    """
    return {"gradient_descent": tuple, "momentum": zeros, "adam": lambda: (zeros(), zeros())}[rule]()


class Workload(NamedTuple):
    """One descent per learning rate (and momentum), all from one start."""

    cost: str
    rule: str
    start: tuple[np.ndarray, ...]
    rates: tuple[float, float]  # lowest and highest
    lanes: int
    epochs: int
    target: float | None
    momenta: int = 1  # how many beside each rate


def _start(*leaves: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(leaf, np.float32) for leaf in leaves)


_random = np.random.default_rng(0)
_inputs = _random.standard_normal((32, 4))
DATA = (_inputs.astype(np.float32), np.sin(_inputs.sum(1)).astype(np.float32))
_NETWORK = _start(_random.standard_normal((4, 8)) / 2, np.zeros(8), _random.standard_normal(8) / 3, 0)
_VALLEY = _start(-1.2, 1.0)
_DECADES = (1e-5, 10)

_WITH_TARGET = {
    "parabola, gradient descent": Workload("parabola", "gradient_descent", _start(9000), _DECADES, 1 << 18, 500, 5.001),
    "rosenbrock, gradient descent": Workload("rosenbrock", "gradient_descent", _VALLEY, _DECADES, 1 << 18, 2000, 1e-6),
    "rosenbrock, momentum": Workload("rosenbrock", "momentum", _VALLEY, _DECADES, 1 << 18, 2000, 1e-6),
    "rosenbrock, adam": Workload("rosenbrock", "adam", _VALLEY, _DECADES, 1 << 18, 2000, 1e-6),
    "rosenbrock, rate × momentum": Workload("rosenbrock", "momentum", _VALLEY, _DECADES, 1 << 18, 2000, 1e-6, 64),
    "rastrigin 10-d, adam": Workload(
        "rastrigin", "adam", _start(np.linspace(-0.4, 0.4, 10)), (1e-4, 1), 1 << 16, 1000, 1e-3
    ),
    "network, adam": Workload("network", "adam", _NETWORK, (1e-4, 1), 1 << 14, 500, 1e-2),
}

# Below the last rate every lane of the valley runs its full length: there is nothing to retire.
FULL_LENGTH = Workload("rosenbrock", "gradient_descent", _VALLEY, (1e-5, 1e-3), 1 << 18, 2000, None)

WORKLOADS = {
    **_WITH_TARGET,
    **{f"{name}, no target": workload._replace(target=None) for name, workload in _WITH_TARGET.items()},
    "rosenbrock, gradient descent, full length": FULL_LENGTH,
}


def sized(workload: Workload, lanes: int, epochs: int) -> Workload:
    """The workload with at most so many lanes and epochs."""
    rates = max(1, min(workload.lanes, lanes) // workload.momenta)
    epochs = max(1, min(workload.epochs, epochs) // EPOCHS_AT_ONCE) * EPOCHS_AT_ONCE
    return workload._replace(lanes=rates * workload.momenta, epochs=epochs)


def nudged(workload: Workload) -> Workload:
    """The work with the last bits of its start and of its rates changed: what moves by this, nobody can compute."""
    start = tuple(np.nextafter(leaf, np.float32(np.inf)) for leaf in workload.start)
    return workload._replace(start=start, rates=tuple(rate * (1 + ROUNDINGS * EPS) for rate in workload.rates))


def axes(workload: Workload) -> dict[str, np.ndarray]:
    """The axes of the grid by name."""
    rates = np.geomspace(*workload.rates, workload.lanes // workload.momenta).astype(np.float32)
    momenta = np.linspace(0, 0.99, workload.momenta, dtype=np.float32)
    return {"learning_rate": rates} | ({"momentum": momenta} if workload.momenta > 1 else {})


def lanes_of(workload: Workload, most: int) -> dict[str, np.ndarray]:
    """The hyperparameters of at most so many lanes, [lane] by name, in the order of the raveled grid."""
    grid = np.meshgrid(*axes(workload).values(), indexing="ij")
    here = sampled(workload.lanes, most)
    return {name: values.ravel()[here] for name, values in zip(axes(workload), grid, strict=True)}


def sampled(lanes: int, most: int) -> slice:
    """At most so many lanes, evenly spread."""
    stride = -(-lanes // most)
    return slice(stride // 2, None, stride)


def flat(params: tuple) -> np.ndarray:
    """Params [lane, ...] as one array, [lane, number]."""
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in params], axis=1)
