"""Hypergradients: learning rates, one per layer, found by gradient descent on the final cost.

`descend` is pure, so that the final cost is a differentiable function of the learning rates: its
gradient says how each rate should change. Here a second descent follows it, over log10 of the rates
of a small network; what it descends is the logarithm of the final cost of the first. It is set beside
the best single rate of a sweep, and starts at half of that, some way off the edge of stability.

Maclaurin, Duvenaud & Adams (2015), "Gradient-based hyperparameter optimization through reversible
learning", arXiv:1502.03492.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from experiments import report
from experiments.edge_of_stability import cost_of, start
from jaxgd.learning_rate import find_learning_rate

DEGREE = 3  # of the polynomial to be learned


class Found(NamedTuple):
    single: float  # the best rate for all layers, from a sweep
    single_cost: float
    rates: dict[str, float]  # one per layer, from hypergradients
    cost: float
    history: np.ndarray  # of the final cost, over the steps of the second descent


def find(epochs: int, steps: int, seed: int = 0) -> Found:
    """The best single rate, and from half of it the rates per layer."""
    cost, params = cost_of(DEGREE), start(seed)
    swept = find_learning_rate(cost, params, jaxgd.gradient_descent, epochs=epochs, low=1e-3, high=10.0)

    def log_final_cost(exponents):
        rates = jax.tree.map(lambda exponent: 10.0**exponent, exponents)  # a prefix of the params
        return jnp.log(jaxgd.descend(cost, params, jaxgd.gradient_descent(rates), epochs=epochs).cost[-1])

    exponents = dict.fromkeys(params, np.log10(swept.best / 2))
    history = jaxgd.descend(log_final_cost, exponents, optax.adam(0.03), epochs=steps)
    lowest = int(np.nanargmin(history.cost))  # beyond the edge of stability the hypergradient may mislead
    return Found(
        swept.best,
        float(swept.table["final_cost"].sel(learning_rate=swept.best)),
        {layer: float(10 ** values[lowest]) for layer, values in history.params.items()},
        float(np.exp(history.cost[lowest])),
        np.exp(np.asarray(history.cost)),
    )


def main(argv: Sequence[str] | None = None) -> Found:
    parser = report.arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=200, help="of each training")
    parser.add_argument("--steps", type=int, default=200, help="of the descent over the rates")
    options = parser.parse_args(argv)
    if options.epochs < 1 or options.steps < 1:
        parser.error("needs --epochs and --steps of 1 or more")
    jax.config.update("jax_enable_x64", True)
    found = find(options.epochs, options.steps)
    per_layer = ", ".join(f"{layer} {rate:.4g}" for layer, rate in found.rates.items())
    rows = [
        ("one for all, by a sweep", f"{found.single:.4g}", f"{found.single_cost:.4g}"),
        ("one per layer, by hypergradients", per_layer, f"{found.cost:.4g}"),
    ]
    report.show(f"final cost after {options.epochs} epochs", rows, "learning rate", "value", "final cost")
    report.saved(_picture(found), options.out, "hypergradients.png")
    return found


def _picture(found: Found):
    import matplotlib
    from matplotlib.figure import Figure

    from jaxgd.show.style import LINES, RC

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6, 4))
        axes = figure.subplots()
        axes.semilogy(found.history, color=LINES[0], label="one rate per layer, by hypergradients")
        axes.axhline(found.single_cost, color=LINES[1], linestyle="--", label="best single rate of a sweep")
        axes.set(xlabel="step of the descent over learning rates", ylabel="final cost of the training")
        axes.legend()
    return figure


if __name__ == "__main__":
    main()
