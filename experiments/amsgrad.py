"""Adam's counterexample: on a convex cost Adam goes to the worst point of an interval, and AMSGrad to the best.

An online problem on [−1, 1]: in step t the cost is f_t(x) = Cx in the first step of every period and −cx in all
others, with C large enough that the mean slope is positive, so that −1 is best. Adam's average of squared gradients
forgets the rare large gradient, and many small steps the other way outweigh it. AMSGrad divides by the largest
average so far. The figures are the place where each ends, and its average regret, the mean of f_t(x_t) − f_t(−1).

Reddi, Kale & Kumar (2018), "On the convergence of Adam and beyond", arXiv:1904.09237. Theorem 1: period 3, c = 1,
β₁ = 0, β₂ = 1/(1 + C²), rate α/√t with α < √(1 − β₂), start at 1: Adam is back at 1 after every period, so that its
average regret is at least (2C − 4)/3. Section 5: period 101, C = 1010, c = 10, β₁ = 0.9, β₂ = 0.99: Adam
goes to 1, and AMSGrad to −1 with an average regret that goes to 0. The rates α are of this study.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from experiments import report

METHODS = ("Adam", "AMSGrad")


class Problem(NamedTuple):
    """One online problem, and the settings of both methods for it."""

    name: str
    period: int
    rare: float  # the slope in the first step of every period
    usual: float  # that in all others
    b1: float
    b2: float
    rate: float  # α of α/√t
    start: float
    regret: dict[str, str]  # published, per step

    @property
    def mean(self) -> float:
        return (self.rare + (self.period - 1) * self.usual) / self.period

    @property
    def worst(self) -> float:
        """The average regret of who stays at 1."""
        return 2 * self.mean


class Course(NamedTuple):
    """What a method does to a problem."""

    places: np.ndarray  # at the start of every period, and at the end, [period + 1]
    regret: float  # per step


C = 4.0
PROBLEMS = (
    Problem(
        f"theorem 1, C = {C:g}",
        *(3, C, -1.0),
        *(0.0, 1 / (1 + C**2), 0.5, 1.0),
        {"Adam": f"{(2 * C - 4) / 3:.4f} or more", "AMSGrad": "→ 0"},
    ),
    Problem("section 5", 101, 1010.0, -10.0, 0.9, 0.99, 1.0, 0.0, {"Adam": "not → 0", "AMSGrad": "→ 0"}),
)
PUBLISHED = {"Adam": 1.0, "AMSGrad": -1.0}  # the place where each ends


def scale(method: str, b1: float, b2: float) -> optax.GradientTransformation:
    """m/√v, or m/√(max v) over all steps so far: as in the paper, without bias correction and without ε."""

    def update(grads, state, params=None):
        del params
        m, v, largest = state
        m, v = b1 * m + (1 - b1) * grads, b2 * v + (1 - b2) * grads**2
        largest = jnp.maximum(largest, v) if method == "AMSGrad" else v
        return m / jnp.sqrt(largest), (m, v, largest)

    return optax.GradientTransformation(lambda params: (jnp.zeros_like(params),) * 3, update)


def optimizer(problem: Problem, method: str) -> optax.GradientTransformation:
    """The method on the gradient of f_t, in place of that of the mean cost, with params that stay in [−1, 1]."""

    def in_turn(grads, step, params=None):
        del params
        slope = jnp.where(step % problem.period == 0, problem.rare, problem.usual)
        return grads * slope / problem.mean, step + 1

    return optax.chain(
        optax.GradientTransformation(lambda _: jnp.int32(0), in_turn),
        scale(method, problem.b1, problem.b2),
        optax.scale_by_learning_rate(lambda step: problem.rate / jnp.sqrt(step + 1.0)),
        optax.stateless(lambda updates, params: jnp.clip(params + updates, -1.0, 1.0) - params),
    )


def course(problem: Problem, method: str, periods: int) -> Course:
    steps = periods * problem.period
    history = jaxgd.descend(lambda x: problem.mean * x, problem.start, optimizer(problem, method), epochs=steps)
    places = np.asarray(history.params)
    slopes = np.where(np.arange(steps) % problem.period == 0, problem.rare, problem.usual)
    return Course(places[:: problem.period], float(np.mean(slopes * (places[:-1] + 1))))


def main(argv: Sequence[str] | None = None) -> dict[tuple[str, str], Course]:
    parser = report.arguments(__doc__)
    parser.add_argument("--periods", type=int, default=6000)
    options = parser.parse_args(argv)
    if options.periods < 1:
        parser.error("needs --periods of 1 or more")
    jax.config.update("jax_enable_x64", True)
    found = {(one.name, method): course(one, method, options.periods) for one in PROBLEMS for method in METHODS}
    rows = []
    for problem in PROBLEMS:
        for method in METHODS:
            one = found[problem.name, method]
            rows.append((problem.name, method, "place", f"{PUBLISHED[method]:g}", f"{one.places[-1]:.4f}"))
            regret = f"{one.regret:.4f} (at 1: {problem.worst:.4g})"
            rows.append((problem.name, method, "average regret", problem.regret[method], regret))
    title = f"after {options.periods} periods"
    report.show(title, rows, "problem", "method", "figure", "published", "measured")
    report.saved(_picture(found), options.out, "amsgrad.png")
    return found


def _picture(found: dict[tuple[str, str], Course]):
    import matplotlib
    from matplotlib.figure import Figure

    from jaxgd.show.style import LINES, RC

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9, 3.5))
        for axes, problem in zip(figure.subplots(1, len(PROBLEMS), sharey=True), PROBLEMS, strict=True):
            for method, color in zip(METHODS, LINES, strict=False):
                axes.plot(found[problem.name, method].places, color=color, label=method)
            axes.set(title=problem.name, xlabel="period", xscale="symlog")
        figure.axes[0].set_ylabel("place (−1 is best)")
        figure.axes[0].legend()
    return figure


if __name__ == "__main__":
    main()
