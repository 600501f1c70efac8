"""The adaptive edge of stability: the preconditioned sharpness hovers where the learning rate is just stable.

A small tanh network fits a Chebyshev polynomial at 20 points, by full-batch Adam, AdamW and RMSProp. What
rises to a threshold is not the sharpness but that of the Hessian preconditioned by the optimizer's own
state, P^(-1/2) H P^(-1/2) with P = √ν̂ + ε: (2 + 2β₁)/((1 − β₁)η) for Adam, which is 38/η at β₁ = 0.9, and 2/η
for RMSProp. The figure is the ratio of the learning rate to its limit at that sharpness over the last half of
the training. For Adam and RMSProp it is the ratio of the sharpness to its threshold.

Cohen, Ghorbani, Krishnan, Agarwal, Medapati, Badura, Suo, Cardoze, Nado, Dahl & Gilmer (2022), "Adaptive
gradient methods at the edge of stability", arXiv:2207.14484: the sharpness "typically equilibrates" at the
threshold, so the published ratio is 1. Their networks are larger; this one is that of `edge_of_stability`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxgd
from experiments import report
from experiments.edge_of_stability import cost_of, start
from jaxgd.descent import opened
from jaxgd.stability import FORMULAS, known_limit, known_rule, preconditioner, sharpness

DEGREE, PUBLISHED = 5, 1.0


class Row(NamedTuple):
    """One training."""

    optimizer: str
    learning_rate: float
    hyperparameters: dict[str, float]


class Course(NamedTuple):
    """What was recorded of a training, [record]."""

    epoch: Any
    cost: Any
    sharpness: Any
    preconditioned: Any


ROWS = (
    Row("adam", 0.003, {}),
    Row("adam", 0.01, {}),
    Row("adam", 0.003, {"b1": 0.5}),
    Row("adamw", 0.003, {"weight_decay": 0.01}),
    Row("rmsprop", 0.001, {"decay": 0.99}),
)


def course(row: Row, epochs: int, records: int, units: int, seed: int) -> Course:
    """Trains, and stops `records` times on the way to look at both kinds of sharpness."""
    optimizer = getattr(optax, row.optimizer)(row.learning_rate, **row.hyperparameters)
    one = opened(jaxgd.Descent(cost_of(DEGREE), start(seed, units), optimizer))
    stride = epochs // records

    @jax.jit
    def run(params):
        def record(carry, _):
            carry = params, state = jax.lax.fori_loop(0, stride, lambda _, moved: one.step(*moved)[2:], carry)
            divisor = preconditioner(row.optimizer, state, row.hyperparameters)
            seen = one.cost(params), sharpness(one.cost, params), sharpness(one.cost, params, preconditioner=divisor)
            return carry, seen

        return jax.lax.scan(record, (params, one.init(params)), length=records)[1]

    return Course(stride * np.arange(1, records + 1), *map(np.asarray, run(one.params)))


def ratio(row: Row, training: Course) -> np.ndarray:
    """Learning rate over its limit, in the last half of the training."""
    late = training.preconditioned[len(training.preconditioned) // 2 :]
    return row.learning_rate / known_limit(row.optimizer, late, row.hyperparameters)


def main(argv: Sequence[str] | None = None) -> list[float]:
    parser = report.arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=8000)
    parser.add_argument("--records", type=int, default=200, help="looks at the sharpness per training")
    parser.add_argument("--units", type=int, default=20, help="of the hidden layer")
    parser.add_argument("--seed", type=int, default=0, help="of the start")
    options = parser.parse_args(argv)
    if options.units < 1 or not 2 <= options.records <= options.epochs:
        parser.error("needs --units of 1 or more, and --records from 2 to the --epochs")
    jax.config.update("jax_enable_x64", True)
    courses = [course(row, options.epochs, options.records, options.units, options.seed) for row in ROWS]
    ratios = [ratio(row, training) for row, training in zip(ROWS, courses, strict=True)]
    shown = [
        (
            _name(row),
            FORMULAS[known_rule(row.optimizer, row.hyperparameters)],
            f"{PUBLISHED:g}",
            f"{late.mean():.3f} ({late.min():.3f} to {late.max():.3f})",
        )
        for row, late in zip(ROWS, ratios, strict=True)
    ]
    report.show(
        f"learning rate / its limit over the last half of {options.epochs} epochs: mean (range)",
        shown,
        "method",
        "limit at preconditioned sharpness λ",
        "published",
        "measured",
    )
    report.saved(_picture(courses), options.out, "adaptive_edge.png")
    return [float(late.mean()) for late in ratios]


def _name(row: Row) -> str:
    settings = {"learning_rate": row.learning_rate} | row.hyperparameters
    return f"{row.optimizer}, " + ", ".join(f"{name} = {value:g}" for name, value in settings.items())


def _picture(courses: list[Course]):
    import matplotlib
    from matplotlib.figure import Figure

    from jaxgd.show.style import LINES, RC

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(2.9 * len(ROWS), 5))
        upper, lower = figure.subplots(2, len(ROWS), sharex="col")
        for above, below, row, training in zip(upper, lower, ROWS, courses, strict=True):
            limits = known_limit(row.optimizer, training.preconditioned, row.hyperparameters)
            above.plot(training.epoch, row.learning_rate / limits, color=LINES[0])
            above.axhline(PUBLISHED, color=LINES[1], linestyle="--", linewidth=1)
            above.set_ylim(0, 1.6)
            above.set_title(_name(row).replace(", ", "\n"), fontsize=9)
            below.semilogy(training.epoch, training.cost, color=LINES[2], label="cost")
            below.semilogy(training.epoch, training.sharpness, color=LINES[3], label="sharpness of the Hessian alone")
            below.set_xlabel("epoch")
        upper[0].set_ylabel("learning rate / its limit")
        lower[0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
