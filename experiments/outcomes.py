"""Outcomes against an oracle: what jaxgd says of a lane, beside what a ten times longer simulation shows.

The costs are unconstrained CUTEst problems of `sif2jax`, each descended at 24 learning rates by gradient descent,
momentum and Adam, a few of them also with a frozen param, a projection, weight decay, accumulated gradients and a
schedule that ends. The oracle is plain JAX, without jaxgd and optax. It simulates each lane in its own dtype, and goes
on from there for nine times as many epochs, in that dtype and in float64. The float64 costs say whether the lane would
get lower, and the own dtype says whether it rests, for rounding is what makes a lane rest.

Gould, Orban & Toint (2015), "CUTEst: a constrained and unconstrained testing environment with safe threads for
mathematical optimization", doi:10.1007/s10589-014-9687-3.
"""

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

import jaxgd
from experiments import report
from jaxgd.outcome import OUTCOMES, verdict

# By dimension: a program computes all problems of a group, so that groups are small.
GROUPS = (
    "AKIVA BEALE BOXBODLS BROWNBS CLIFF CLUSTERLS CUBE DENSCHNA DENSCHNB DENSCHNC DENSCHNF EGGCRATE",
    "ELATVIDU EXP2 EXPFIT HAIRY HILBERTA HIMMELBCLS HIMMELBG HIMMELBH HUMPS JENSMP JUDGE LOGHAIRY",
    "MARATOSB MEXHAT PRICE3 PRICE4 ROSENBR S308 SISSER SNAIL WAYSEA1 WAYSEA2 ZANGWIL2",
    "BARD BOX3 DENSCHND DENSCHNE ENGVAL2 GAUSSIAN HATFLDD HATFLDE HELIX",
    "ALLINITU BROWNDEN KOWOSB",
)
HANDFUL = "BEALE DENSCHNA HIMMELBCLS ROSENBR ZANGWIL2"  # for the optimizers that do more than follow the gradient
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


# --- jaxgd ---


def swept(of: Study, epochs: int, dtype: Any) -> Any:
    """jaxgd's figures of the same lanes, in one sweep: a dataset [problem, rule, rate]."""
    with jax.enable_x64(dtype == np.float64):
        rates = jnp.asarray(of.rates, dtype)
        starts = jnp.asarray([it.start for it in of.problems], dtype)

        def lane(problem, rule, rate):
            start = starts[problem]

            def cost(x):
                return jax.lax.switch(problem, [it.cost for it in of.problems], x)

            made = [each.optimizer(rates[problem, rule, rate], start) for each in of.rules.values()]
            return jaxgd.Descent(cost, start, _one_of(rule, made))

        axes = dict(zip(("problem", "rule", "rate"), map(np.arange, of.rates.shape), strict=True))
        return jaxgd.sweep(lane, axes, epochs=epochs)


def _one_of(index: Any, optimizers: Sequence[optax.GradientTransformation]) -> optax.GradientTransformation:
    """One of several optimizers, each with a state of its own: one program does for all."""

    def init(params):
        return tuple(optimizer.init(params) for optimizer in optimizers)

    def update(updates, states, params=None):
        def of(i):
            moved, state = optimizers[i].update(updates, states[i], params)
            return moved, (*states[:i], state, *states[i + 1 :])

        return jax.lax.switch(index, [functools.partial(of, i) for i in range(len(optimizers))])

    return optax.GradientTransformation(init, update)


# --- both ---


class Lane(NamedTuple):
    problem: str
    rule: str
    rate: float
    outcome: str
    goal: str  # the outcome where the published minimum is known; the same where none is published
    truth: str
    lower: bool  # bounded, and below its start
    above: bool  # above the published minimum
    same: bool  # whether jaxgd and the oracle are at the same cost after as many epochs
    cost: float  # jaxgd's last
    oracle: float  # the oracle's after as many epochs


def compared(of: Study, table: Any, truth: Truth, eps: float) -> list[Lane]:
    """Each lane's outcome beside its truth."""
    codes, words, lower = np.asarray(verdict(table)), judged(truth, eps), bounded_and_lower(truth)
    goals = np.stack([_with_minimum(table.isel(problem=i), it.minimum) for i, it in enumerate(of.problems)])
    minima = np.array([np.nan if it.minimum is None else it.minimum for it in of.problems])
    above = _above(truth, minima[:, None, None], eps)
    same = _same(table.final_cost.values, truth, eps)
    rules = tuple(of.rules)
    return [
        Lane(
            of.problems[at[0]].name,
            rules[at[1]],
            float(of.rates[at]),
            OUTCOMES[codes[at]],
            OUTCOMES[goals[at]],
            str(words[at]),
            bool(lower[at]),
            bool(above[at]),
            bool(same[at]),
            float(table.final_cost.values[at]),
            float(truth.own.first[at]),
        )
        for at in np.ndindex(codes.shape)
    ]


def _same(cost: np.ndarray, truth: Truth, eps: float) -> np.ndarray:
    """Which lanes have taken the oracle's path, though rounding differs: costs within 0.1 %, or both at the bottom."""
    with np.errstate(all="ignore"):
        fall = truth.begin.first - np.fmin(truth.begin.low, truth.ahead.low)
        allowed = np.fmax(1e-3 * np.abs(truth.own.first), eps**0.75 * fall)
        return ~np.isfinite(truth.own.first) | truth.begin.broken | (np.abs(cost - truth.own.first) <= allowed)


def _with_minimum(table: Any, minimum: float | None) -> np.ndarray:
    with warnings.catch_warnings():  # some that sif2jax publishes are too high, and a warning says so
        warnings.filterwarnings("ignore", ".*minimum")
        return np.asarray(verdict(table, minimum=minimum))


def _above(truth: Truth, minimum: np.ndarray, eps: float) -> np.ndarray:
    """Which lanes are above a minimum by more than a share √eps of the way to it, and their dtype's rounding."""
    cost, start = truth.own.first, truth.begin.first
    with np.errstate(all="ignore"):
        resolved = 8 * eps * np.fmax(np.abs(cost), np.abs(minimum)) + np.sqrt(eps) * (start - minimum)
        return (cost - minimum > resolved) & (np.fmin(truth.begin.low, truth.ahead.low) > minimum - resolved)


SETTLED = {"converged", "settling"}
FORBIDDEN: dict[str, Callable[[Lane], bool]] = {
    "converged, though it moves on": lambda lane: (
        lane.outcome == "converged" and lane.truth not in (SETTLED | {"loosened"} if "Adam" in lane.rule else SETTLED)
    ),
    "converged, though above the known minimum": lambda lane: lane.goal == "converged" and lane.above,
    "diverged, though bounded and lower than the start": lambda lane: (
        lane.outcome == "diverged" and lane.lower and lane.truth not in ("diverged", "above")
    ),
    "descending, though at rest": lambda lane: lane.outcome == "descending" and lane.truth in ("converged", "stopped"),
}
_FORGETS = "at rest while Adam's second moment holds the steep start, and lower once it has forgotten"
_CHAOS = "Adam's spikes: jaxgd's lane and the oracle's are both near the bottom, and only one of them swings just then"
_FAR = "one param was thrown so far that its rounding hides how the others move"
_KINK = "at the minimum to rounding, where the angle in HELIX jumps in float32"
EXCEPTIONS: dict[tuple[str, str, str, str], str] = {  # dtype, problem, optimizer, learning rate to 3 digits: reason
    **{("float32", "CLIFF", "Adam", rate): _FORGETS for rate in "0.111 0.182 0.301 0.496 0.819".split()},
    **{("float32", "CLIFF", "Adam", rate): _FORGETS for rate in "1.35 2.23 3.67 6.06 10".split()},
    **{("float32", "MEXHAT", "Adam", rate): _FORGETS for rate in "0.00202 0.00332 0.0246".split()},
    ("float32", "HIMMELBG", "Adam", "2.23"): _FORGETS,
    ("float32", "MARATOSB", "Adam", "0.000741"): _FORGETS,
    ("float32", "ZANGWIL2", "Adam", "3.67"): _CHAOS,
    ("float32", "ZANGWIL2", "Adam", "6.06"): _CHAOS,
    ("float64", "BEALE", "Adam", "0.819"): _CHAOS,
    ("float32", "EXP2", "momentum", "6.13"): _FAR,
    ("float32", "HATFLDD", "momentum", "0.359"): _FAR,
    ("float32", "HELIX", "momentum", "0.000919"): _KINK,
    ("float32", "HELIX", "momentum", "0.00152"): _KINK,
}


def forbidden(lanes: Sequence[Lane]) -> dict[str, list[Lane]]:
    """The lanes in each forbidden cell, of those that are where the oracle's are.

    The others are chaotic: jaxgd and the oracle round differently in the same dtype, and that leads them elsewhere.
    """
    return {name: [lane for lane in lanes if lane.same and holds(lane)] for name, holds in FORBIDDEN.items()}


def key(dtype: str, lane: Lane) -> tuple[str, str, str, str]:
    return dtype, lane.problem, lane.rule, f"{lane.rate:.3g}"


def confusion(lanes: Sequence[Lane]) -> dict[str, dict[str, int]]:
    """How many lanes each pair of truth and outcome has."""
    counts = {truth: dict.fromkeys(OUTCOMES, 0) for truth in TRUTHS}
    for lane in lanes:
        counts[lane.truth][lane.outcome] += 1
    return counts


def main(argv: Sequence[str] | None = None) -> dict[str, list[Lane]]:
    parser = report.arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=2000, help="of each lane")
    parser.add_argument("--problems", nargs="+", default=" ".join(GROUPS).split(), metavar="NAME", help="which of them")
    parser.add_argument("--rates", type=int, default=RATES, help="learning rates per problem and optimizer")
    parser.add_argument("--keep", type=Path, help="folder to keep the oracle's numbers in")
    options = parser.parse_args(argv)
    if options.epochs < LATELY or options.rates < 2:
        parser.error(f"needs --epochs of {LATELY} or more, and --rates of 2 or more")
    if unknown := set(options.problems) - set(" ".join(GROUPS).split()):
        parser.error(f"--problems knows no {', '.join(sorted(unknown))}, but {' '.join(GROUPS)}")
    studies = _studies(options.problems, options.rates)
    found = {}
    for dtype in (np.float32, np.float64):
        name = np.dtype(dtype).name
        found[name] = []
        for number, of in enumerate(studies):
            truth = _kept(options.keep, f"{name}-{number}", of, options.epochs, dtype)
            found[name] += compared(of, swept(of, options.epochs, dtype), truth, float(np.finfo(dtype).eps))
        _shown(name, found[name], options.epochs)
    report.show("the oracle's words", TRUTHS.items(), "word", "what it sees")
    if any(unexplained(name, lanes) for name, lanes in found.items()):
        parser.exit(1, "some outcomes contradict the oracle, and no exception names them\n")
    return found


def _studies(names: Sequence[str], count: int) -> list[Study]:
    """The usual optimizers on all of these problems, the unusual ones on a handful."""
    wanted = [(group, USUAL) for group in GROUPS] + [(HANDFUL, UNUSUAL)]
    chosen = [([name for name in group.split() if name in names], rules) for group, rules in wanted]
    return [study(group, rules, count) for group, rules in chosen if group]


def _kept(folder: Path | None, name: str, of: Study, epochs: int, dtype: Any) -> Truth:
    """The oracle's numbers, from a folder that keeps them, or simulated."""
    if folder is None:
        return simulate(of, epochs, dtype)
    path = folder / f"{name}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        truth = simulate(of, epochs, dtype)
        np.savez(path, **{f"{part}.{field}": getattr(getattr(truth, part), field) for part, field in _NUMBERS})
    with np.load(path) as kept:
        return Truth(*(Seen(*(kept[f"{part}.{field}"] for field in Seen._fields)) for part in Truth._fields))


_NUMBERS = [(part, field) for part in Truth._fields for field in Seen._fields]


def unexplained(dtype: str, lanes: Sequence[Lane]) -> list[tuple[str, Lane]]:
    """The lanes in forbidden cells that no exception names."""
    return [
        (cell, lane) for cell, found in forbidden(lanes).items() for lane in found if key(dtype, lane) not in EXCEPTIONS
    ]


def _shown(dtype: str, lanes: Sequence[Lane], epochs: int) -> None:
    names = [name for name in OUTCOMES if name != "pending"]
    rows = [(truth, *(counts[name] for name in names)) for truth, counts in confusion(lanes).items()]
    title = f"{dtype}: {len(lanes)} lanes of {epochs} epochs; rows: the oracle's word, columns: jaxgd's"
    report.show(title, rows, "", *names)
    rows = [("where the oracle's are", sum(lane.same for lane in lanes))]
    rows.append(("elsewhere: rounding decides", len(lanes) - rows[0][1]))
    report.show("after as many epochs, jaxgd's lanes are", rows, "", "lanes")
    cells = forbidden(lanes)
    rows = [(cell, len(found), sum(key(dtype, lane) in EXCEPTIONS for lane in found)) for cell, found in cells.items()]
    report.show("cells that have to be empty", rows, "outcome", "lanes", "of which named exceptions")
    rows = [
        (cell, lane.problem, lane.rule, f"{lane.rate:.3g}", lane.truth, f"{lane.cost:.6g}", f"{lane.oracle:.6g}")
        for cell, lane in unexplained(dtype, lanes)
    ]
    if rows:
        headings = ("outcome", "problem", "optimizer", "learning rate", "oracle", "cost", "oracle's cost")
        report.show("not explained", rows, *headings)


if __name__ == "__main__":
    main()
