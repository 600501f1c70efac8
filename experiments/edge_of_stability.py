"""The edge of stability: sharpness rises until it hovers where the learning rate is just stable.

A network of 100 tanh units fits a Chebyshev polynomial at 20 points, by full-batch descent. Its
sharpness (the largest Hessian eigenvalue) climbs to the threshold at which a quadratic would diverge,
2/η for gradient descent, (2 + 2β)/η for Polyak's momentum, (2 + 2β)/(η(1 + 2β)) for Nesterov's, and
stays there, while the cost goes on falling. The figure is the ratio of the two over the last half.

Cohen, Kaur, Li, Kolter & Talwalkar (2021), "Gradient descent on neural networks typically occurs at
the edge of stability", arXiv:2103.00065. The five rows and their figures were measured beforehand
in the same setup, from other random weights: the claim is that the ratio hovers at 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from experiments import report
from jaxgd.descent import opened
from jaxgd.stability import gradient_descent_limit, nesterov_limit, polyak_limit, sharpness

UNITS, POINTS, GAIN, BETA = 100, 20, 1.9, 0.9


class Row(NamedTuple):
    """One training, and the published ratio of sharpness to threshold."""

    degree: int  # of the Chebyshev polynomial
    learning_rate: float
    rule: str
    epochs: int
    mean: float
    low: float
    high: float


class Rule(NamedTuple):
    optimizer: Callable[[float], optax.GradientTransformation]
    threshold: Callable[[float], float]  # learning rate → the sharpness it can just bear


class Course(NamedTuple):
    """What was recorded of a training, [record]."""

    epoch: Any
    cost: Any
    sharpness: Any


ROWS = (
    Row(4, 0.2, "gradient descent", 40_000, 1.005, 0.996, 1.024),
    Row(5, 0.2, "gradient descent", 40_000, 1.015, 0.958, 1.056),
    Row(4, 0.4, "gradient descent", 40_000, 0.996, 0.993, 1.000),
    Row(4, 0.1, "Polyak 0.9", 20_000, 0.983, 0.948, 1.005),
    Row(4, 0.1, "Nesterov 0.9", 20_000, 0.995, 0.975, 1.015),
)
RULES = {  # a limit on the rate at a sharpness is a limit on the sharpness at a rate: both are c / the other
    "gradient descent": Rule(jaxgd.gradient_descent, gradient_descent_limit),
    "Polyak 0.9": Rule(lambda rate: jaxgd.momentum(rate, BETA), lambda rate: polyak_limit(rate, BETA)),
    "Nesterov 0.9": Rule(lambda rate: jaxgd.nesterov(rate, BETA), lambda rate: nesterov_limit(rate, BETA)),
}


def network(params: dict, x: jax.Array) -> jax.Array:
    hidden = jnp.tanh(x[:, None] * params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["output"]["kernel"]


def start(seed: int, units: int = UNITS) -> dict:
    """Xavier-normal weights, and no bias yet."""
    hidden, output = jax.random.split(jax.random.key(seed))
    xavier = jnp.sqrt(2 / (1 + units))
    return {
        "hidden": {"kernel": GAIN * xavier * jax.random.normal(hidden, (units,)), "bias": jnp.zeros(units)},
        "output": {"kernel": xavier * jax.random.normal(output, (units,))},
    }


def cost_of(degree: int) -> Callable[[dict], jax.Array]:
    x = jnp.linspace(-1, 1, POINTS)
    y = jnp.asarray(np.polynomial.Chebyshev.basis(degree)(np.linspace(-1, 1, POINTS)))
    return lambda params: jnp.mean((network(params, x) - y) ** 2) / 2


def course(row: Row, records: int, seed: int) -> Course:
    """Trains, and stops `records` times on the way to look at the sharpness."""
    one = opened(jaxgd.Descent(cost_of(row.degree), start(seed), RULES[row.rule].optimizer(row.learning_rate)))
    stride = row.epochs // records

    @jax.jit
    def run(params):
        def record(carry, _):
            carry = jax.lax.fori_loop(0, stride, lambda _, moved: one.step(*moved)[2:], carry)
            return carry, (one.cost(carry[0]), sharpness(one.cost, carry[0]))

        return jax.lax.scan(record, (params, one.init(params)), length=records)[1]

    costs, sharpnesses = map(np.asarray, run(one.params))
    return Course(stride * np.arange(1, records + 1), costs, sharpnesses)


def ratio(row: Row, training: Course) -> np.ndarray:
    """Sharpness over threshold, in the last half of the training."""
    late = training.sharpness[len(training.sharpness) // 2 :]
    return late / RULES[row.rule].threshold(row.learning_rate)


def main(argv: Sequence[str] | None = None) -> list[float]:
    parser = report.arguments(__doc__)
    parser.add_argument("--records", type=int, default=200, help="looks at the sharpness per training")
    parser.add_argument("--shorten", type=int, default=1, help="divide the epochs by this")
    parser.add_argument("--seed", type=int, default=0, help="of the start")
    options = parser.parse_args(argv)
    if options.shorten < 1 or not 2 <= options.records <= 20_000 // options.shorten:
        parser.error("needs --shorten of 1 or more, and --records from 2 to the epochs of the shortest training")
    jax.config.update("jax_enable_x64", True)
    rows = [row._replace(epochs=row.epochs // options.shorten) for row in ROWS]
    courses = [course(row, options.records, options.seed) for row in rows]
    ratios = [ratio(row, training) for row, training in zip(rows, courses, strict=True)]
    shown = [
        (
            f"T{row.degree}, η = {row.learning_rate}",
            f"{row.rule}, {row.epochs} epochs",
            f"{row.mean:.3f} ({row.low:.3f} to {row.high:.3f})",
            f"{late.mean():.3f} ({late.min():.3f} to {late.max():.3f})",
        )
        for row, late in zip(rows, ratios, strict=True)
    ]
    report.show(
        "sharpness / threshold over the last half: mean (range)", shown, "target", "method", "published", "measured"
    )
    report.saved(_picture(rows, courses), options.out, "edge_of_stability.png")
    return [float(late.mean()) for late in ratios]


def _picture(rows: list[Row], courses: list[Course]):
    import matplotlib
    from matplotlib.figure import Figure

    from jaxgd.show.style import LINES, RC

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(2.9 * len(rows), 5))
        upper, lower = figure.subplots(2, len(rows), sharex="col")
        for above, below, row, training in zip(upper, lower, rows, courses, strict=True):
            threshold = RULES[row.rule].threshold(row.learning_rate)
            above.plot(training.epoch, training.sharpness, color=LINES[0])
            above.axhline(threshold, color=LINES[1], linestyle="--", linewidth=1)
            above.text(training.epoch[-1], threshold, f"{threshold:.3g} ", ha="right", va="bottom", color=LINES[1])
            above.set_ylim(0, 1.3 * max(threshold, training.sharpness.max()))
            above.set_title(f"{row.rule}\nT{row.degree}, η = {row.learning_rate}", fontsize=10)
            below.semilogy(training.epoch, training.cost, color=LINES[2])
            below.set_xlabel("epoch")
        upper[0].set_ylabel("sharpness, and threshold")
        lower[0].set_ylabel("cost")
    return figure


if __name__ == "__main__":
    main()
