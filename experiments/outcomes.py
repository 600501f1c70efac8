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
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from experiments import report
from experiments.oracle import (
    LATELY,
    RATES,
    TRUTHS,
    UNUSUAL,
    USUAL,
    Seen,
    Study,
    Truth,
    bounded_and_lower,
    judged,
    simulate,
    study,
)
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
    **{("float32", "CLIFF", "Adam", rate): _FORGETS for rate in ["0.111", "0.182", "0.301", "0.496", "0.819"]},
    **{("float32", "CLIFF", "Adam", rate): _FORGETS for rate in ["1.35", "2.23", "3.67", "6.06", "10"]},
    **{("float32", "MEXHAT", "Adam", rate): _FORGETS for rate in ["0.00202", "0.00332", "0.0246"]},
    ("float32", "HIMMELBG", "Adam", "2.23"): _FORGETS,
    ("float32", "MARATOSB", "Adam", "0.000741"): _FORGETS,
    ("float32", "HIMMELBH", "Adam", "0.819"): _CHAOS,
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
