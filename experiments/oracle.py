"""What optimizers do on CUTEst problems, simulated in plain JAX, and in words: the oracle of `outcomes`."""

import functools
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

RATES = 24
LONGER = 10  # times the epochs of a lane
LATELY = 50  # updates
TRUTHS = {
    "converged": "at rest, to rounding, where the gradient vanishes, and no lower in float64",
    "settling": "not at rest yet, but what is left to go is below what the dtype resolves",
    "loosened": "at rest for now where the gradient vanishes, but comes loose later: Adam forgets its gradients",
    "stopped": "at rest, to rounding, elsewhere",
    "descending": "gets lower in what follows",
    "oscillating": "moves on, within bounds, and gets no lower",
    "above": "moves on, within bounds, and always above its start's cost",
    "diverged": "leaves the finite numbers without a new low, or grows tenfold without one",
}


# --- problems ---


@functools.cache
def _cutest() -> types.ModuleType:
    """The unconstrained problems alone: the import of all of `sif2jax` takes minutes."""
    if "sif2jax" not in sys.modules:
        spec = importlib.util.find_spec("sif2jax")
        if spec is None:
            raise ModuleNotFoundError("the problems are those of sif2jax: pip install 'jaxgd[test]'")
        for name in ("sif2jax", "sif2jax.cutest"):  # packages with nothing imported in them yet
            package = types.ModuleType(name)
            package.__path__ = [str(Path(spec.submodule_search_locations[0], *name.split(".")[1:]))]
            sys.modules[name] = package
    with jax.enable_x64(True):  # what the modules compute when they are imported
        return importlib.import_module("sif2jax.cutest._unconstrained_minimisation")


class Problem(NamedTuple):
    name: str
    cost: Callable[[Any], Any]
    start: np.ndarray  # [param], float64
    minimum: float | None  # published


def problem(name: str) -> Problem:
    """A CUTEst problem by its name."""
    with jax.enable_x64(True):
        found = getattr(_cutest(), name)()
        start, minimum = np.asarray(found.y0, float), found.expected_objective_value

    def cost(y):
        with warnings.catch_warnings():  # sif2jax asks for float64, and is fine with float32
            warnings.filterwarnings("ignore", "Explicitly requested dtype")
            return found.objective(y, found.args)

    return Problem(name, cost, start, None if minimum is None else float(minimum))


# --- optimizers: as jaxgd gets them, and in plain JAX ---


class Lanes(NamedTuple):
    """Numbers of lanes [problem, learning rate, param] of one optimizer, one step on."""

    x: Any
    m: Any  # momentum, first moment, or accumulated gradient
    v: Any  # second moment


def _gradient_descent(now, gradient, t, rate, start):
    return now._replace(x=now.x - rate * gradient)


def _momentum(now, gradient, t, rate, start):
    m = gradient + 0.9 * now.m
    return now._replace(x=now.x - rate * m, m=m)


def _adam(now, gradient, t, rate, start, decay=0.0):
    m, v = 0.9 * now.m + 0.1 * gradient, 0.999 * now.v + 0.001 * gradient**2
    direction = m / (1 - 0.9 ** (t + 1)) / (jnp.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
    return Lanes(now.x - rate * (direction + decay * now.x), m, v)


def _frozen(now, gradient, t, rate, start):
    return now._replace(x=(now.x - rate * gradient).at[..., 0].set(now.x[..., 0]))


def _projected(now, gradient, t, rate, start):
    return now._replace(x=jnp.clip(now.x - rate * gradient, start - BOX, start + BOX))


def _accumulated(now, gradient, t, rate, start):
    m = now.m + gradient / 4
    due = t % 4 == 3
    return now._replace(x=jnp.where(due, now.x - rate * m, now.x), m=jnp.where(due, 0, m))


def _ending(now, gradient, t, rate, start):
    return now._replace(x=now.x - rate * jnp.clip(1 - t / ENDS, 0, 1) * gradient)


BOX = 0.5  # half the width of the box around the start to which params are projected
ENDS = 200  # updates, after which the learning rate is zero


def _only_the_rest(rate, start):
    def update(updates, state, params=None):
        return updates.at[0].set(0.0), state

    return optax.chain(optax.sgd(rate), optax.GradientTransformation(lambda params: optax.EmptyState(), update))


def _into_the_box(rate, start):
    def update(updates, state, params):
        return jnp.clip(params + updates, start - BOX, start + BOX) - params, state

    return optax.chain(optax.sgd(rate), optax.GradientTransformation(lambda params: optax.EmptyState(), update))


def _to_zero(rate):
    # A linear schedule alone ends at 2e-8 of its rate: XLA fuses 1 - count·(1/200), and 1/200 is rounded to float32.
    return optax.join_schedules([optax.linear_schedule(rate, 0.0, ENDS), optax.constant_schedule(0.0)], [ENDS])


class Rule(NamedTuple):
    optimizer: Callable[[Any, Any], optax.GradientTransformation]  # of the learning rate and the start
    plain: Callable[..., Lanes]
    is_scaled: bool = True  # whether learning rates are in units of 1/sharpness at the start


USUAL = {
    "GD": Rule(lambda rate, start: optax.sgd(rate), _gradient_descent),
    "momentum": Rule(lambda rate, start: optax.sgd(rate, momentum=0.9), _momentum),
    "Adam": Rule(lambda rate, start: optax.adam(rate), _adam, is_scaled=False),
}
UNUSUAL = {
    "frozen param": Rule(_only_the_rest, _frozen),
    "projection": Rule(_into_the_box, _projected),
    "AdamW": Rule(
        lambda rate, start: optax.adamw(rate, weight_decay=0.1), functools.partial(_adam, decay=0.1), is_scaled=False
    ),
    "MultiSteps": Rule(
        lambda rate, start: optax.MultiSteps(optax.sgd(rate), 4).gradient_transformation(), _accumulated
    ),
    "schedule that ends": Rule(lambda rate, start: optax.sgd(_to_zero(rate)), _ending),
}


class Study(NamedTuple):
    """Problems of one dimension, each with each optimizer at each of its learning rates."""

    problems: tuple[Problem, ...]
    rules: Mapping[str, Rule]
    rates: np.ndarray  # [problem, rule, rate]


def study(names: Sequence[str], rules: Mapping[str, Rule], count: int = RATES) -> Study:
    problems = tuple(problem(name) for name in names)
    sharpness = np.array([_sharpness(it) for it in problems])
    scaled = np.geomspace(1e-3, 100, count) / sharpness[:, None]
    plain = np.broadcast_to(np.geomspace(1e-4, 10, count), scaled.shape)
    return Study(problems, rules, np.stack([scaled if rule.is_scaled else plain for rule in rules.values()], 1))


def _sharpness(it: Problem) -> float:
    """Largest absolute eigenvalue of the Hessian at the start, by central differences of the gradient."""
    with jax.enable_x64(True):
        step = 1e-5 * np.maximum(1, np.abs(it.start))
        points = it.start + np.concatenate([np.diag(step), -np.diag(step)])
        ahead, behind = np.split(np.asarray(jax.jit(jax.vmap(jax.grad(it.cost)))(points)), 2)
    hessian = (ahead - behind) / (2 * step[:, None])
    return float(np.max(np.abs(np.linalg.eigvalsh((hessian + hessian.T) / 2))))


# --- the oracle ---


class Seen(NamedTuple):
    """What is seen of lanes [problem, rule, rate] in as many updates as jaxgd makes of them."""

    first: Any  # cost before the first of these updates
    slope: Any  # gradient norm there
    size: Any  # norm of the params there
    low: Any
    high: Any
    broken: Any  # whether a number was not finite
    spread: Any  # largest distance from where the lane was before the first of these updates
    restless: Any  # largest change of a param lately, in roundings of it
    stride: Any  # highest norm of an update lately


def _simulation(of: Study, epochs: int, dtype: Any) -> Callable[[Lanes, Any], tuple[Lanes, Seen]]:
    """A jitted function that makes so many updates of every lane [problem, rule, rate, param]."""
    rates, starts = jnp.asarray(of.rates, dtype)[..., None], jnp.asarray([[it.start] for it in of.problems], dtype)
    eps = jnp.finfo(dtype).eps

    def costs(x):
        found = []
        for it, lanes in zip(of.problems, x, strict=True):
            cost, gradient = jax.vmap(jax.value_and_grad(it.cost))(lanes.reshape(-1, lanes.shape[-1]))
            found.append((cost.reshape(lanes.shape[:-1]), gradient.reshape(lanes.shape)))
        return tuple(jnp.stack(parts) for parts in zip(*found, strict=True))

    def moved(now, gradient, t):
        after = [
            rule.plain(Lanes(*(part[:, i] for part in now)), gradient[:, i], t, rates[:, i], starts)
            for i, rule in enumerate(of.rules.values())
        ]
        return Lanes(*(jnp.stack(parts, 1) for parts in zip(*after, strict=True)))

    @jax.jit
    def simulated(now, begun):
        origin = now.x
        none = jnp.full(now.x.shape[:-1], jnp.nan, dtype)
        seen = Seen(none, none, _norm(origin), none, none, jnp.zeros_like(none, bool), none, jnp.zeros_like(none), none)

        def one(carry, k):
            now, seen = carry
            cost, gradient = costs(now.x)
            fine = jnp.isfinite(cost) & jnp.isfinite(now.x).all(-1)
            after = moved(now, gradient, begun + k)
            lately, length = k >= epochs - LATELY, _norm(after.x - now.x)
            change = jnp.abs(after.x - now.x)
            change = jnp.max(jnp.where(change > 0, change / (4 * eps * jnp.abs(now.x)), 0), -1)
            known = jnp.where(fine, cost, jnp.nan)
            seen = Seen(
                first=jnp.where(k == 0, cost, seen.first),
                slope=jnp.where(k == 0, _norm(gradient), seen.slope),
                size=seen.size,
                low=jnp.fmin(seen.low, known),
                high=jnp.fmax(seen.high, known),
                broken=seen.broken | ~fine,
                spread=jnp.fmax(seen.spread, _norm(now.x - origin)),
                restless=jnp.where(lately, jnp.fmax(seen.restless, change), seen.restless),
                stride=jnp.where(lately, jnp.fmax(seen.stride, length), seen.stride),
            )
            return (after, seen), None

        return jax.lax.scan(one, (now, seen), jnp.arange(epochs))[0]

    return simulated


def _norm(x: Any) -> Any:
    """Euclidean, over the params; scaled, so that the squares of tiny numbers do not vanish."""
    largest = jnp.max(jnp.abs(x), -1, keepdims=True)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return jnp.sqrt(jnp.sum((x / scale) ** 2, -1)) * scale[..., 0]


class Truth(NamedTuple):
    """What the oracle has seen, all in float64; each field of `Seen` is [problem, rule, rate]."""

    begin: Seen  # the epochs that jaxgd makes, in the lane's dtype
    own: Seen  # the epochs after that, in the lane's dtype; `first`, `slope` and `size` at their beginning
    ahead: Seen  # the same from the same place, in float64


def simulate(of: Study, epochs: int, dtype: Any) -> Truth:
    """`LONGER` times as many epochs of every lane."""
    with jax.enable_x64(dtype == np.float64):
        now = jnp.asarray([it.start for it in of.problems], dtype)[:, None, None]
        now = jnp.broadcast_to(now, (*of.rates.shape, now.shape[-1]))
        simulation = _simulation(of, epochs, dtype)
        there, begin = simulation(Lanes(now, jnp.zeros_like(now), jnp.zeros_like(now)), 0)
        own = _continued(simulation, there, epochs)
    if dtype == np.float64:
        return Truth(_numbers(begin), own, own)
    with jax.enable_x64(True):
        there = jax.tree.map(lambda x: x.astype(np.float64), there)
        return Truth(_numbers(begin), own, _continued(_simulation(of, epochs, np.float64), there, epochs))


def _continued(simulation: Callable, now: Lanes, epochs: int) -> Seen:
    """What is seen in all that follows."""
    parts = []
    home = now.x
    for part in range(1, LONGER):
        away = _norm(now.x - home)
        now, seen = simulation(now, part * epochs)
        parts.append(_numbers(seen._replace(spread=seen.spread + away)))
    together = Seen(*(np.stack(values) for values in zip(*parts, strict=True)))
    with np.errstate(all="ignore"):
        return Seen(
            *(values[0] for values in together[:3]),
            np.fmin.reduce(together.low),
            np.fmax.reduce(together.high),
            together.broken.any(0),
            np.fmax.reduce(together.spread),
            together.restless.max(0),
            np.fmax.reduce(together.stride),
        )


def _numbers(seen: Seen) -> Seen:
    return Seen(*(np.asarray(part) if part.dtype == bool else np.asarray(part, float) for part in seen))


def judged(truth: Truth, eps: float) -> np.ndarray:
    """Names of `TRUTHS` [problem, rule, rate]."""
    begin, own, ahead = truth
    with np.errstate(all="ignore"):
        fall = begin.first - np.fmin(begin.low, ahead.low)
        resolved = 8 * eps * np.abs(own.first) + eps**0.75 * fall
        size = np.fmax(begin.size, own.size)
        rests = (LATELY * begin.restless <= 1) & (own.spread <= 8 * eps * size) & ~own.broken
        vanishes = own.slope <= np.sqrt(eps) * begin.slope
        lower = own.first - ahead.low > resolved
        creeps = (own.first - own.low > 8 * eps * np.abs(own.first)) & (own.spread > np.sqrt(eps) * size)
        level = ~lower & (np.fmax(own.high, ahead.high) - own.first <= resolved)
        settles = level & vanishes & (np.fmax(own.spread, ahead.spread) <= np.sqrt(eps) * size)
        rises = np.fmax(own.high, ahead.high) - own.first > resolved  # before it gets lower, if it does
        pauses = vanishes & (rises | ~(lower | creeps)) & (begin.stride <= np.sqrt(eps) * size)
        grows = np.fmax(own.high, ahead.high) > begin.first + 10 * (begin.high - begin.first)
        above = np.fmin(own.low, ahead.low) > begin.first
        lost = (own.broken | ahead.broken | (grows & above)) & ~(begin.low - np.fmin(own.low, ahead.low) > resolved)
    return np.select(
        [begin.broken, rests & vanishes & ~lower, rests, settles, pauses, lost, above, lower | creeps],
        ["diverged", "converged", "stopped", "settling", "loosened", "diverged", "above", "descending"],
        "oscillating",
    )


def bounded_and_lower(truth: Truth) -> np.ndarray:
    """Which lanes stay finite, and below the cost of their start, in all that the oracle has seen after jaxgd's."""
    begin, own, ahead = truth
    whole = ~(begin.broken | own.broken | ahead.broken)
    return whole & (np.fmax(own.high, ahead.high) < begin.first)
