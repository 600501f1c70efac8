"""The noisy quadratic model: descent with noise does not come to rest, and hovers at a known risk.

The cost is ½ Σ hθ² with h = 1, 1/2, …, 1/64. Each gradient carries Gaussian noise whose covariance is the Hessian:
variance h along the axis of h. Along it E θ² ↦ (1 − αh)² E θ² + α²h in every step, which settles at
E θ² = α/(2 − αh). So the steady risk, the expected cost in the long run, is ½ Σ αh/(2 − αh). The descents start at the
minimum, whose cost of 0 they leave for good: they are stationary, and have not diverged.

Zhang, Li, Nado, Martens, Sachdeva, Dahl, Shallue & Grosse (2019), "Which algorithmic choices matter at which batch
sizes? Insights from a noisy quadratic model", arXiv:1907.04164.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from experiments import report
from jaxgd.outcome import DIVERGED

RATES = (0.1, 0.5, 1.0, 1.5)
CURVATURES = 1 / np.arange(1.0, 65.0)
_RECORDS = 200


class Found(NamedTuple):
    """Risks, [rate]."""

    steady: np.ndarray  # by the formula
    measured: np.ndarray  # mean over seeds and the last half of the epochs
    error: np.ndarray  # standard error of that mean, from the spread between seeds
    diverged: np.ndarray  # lanes with that outcome
    history: np.ndarray  # mean cost over seeds, [rate, record]


def steady_risk(rate: float) -> float:
    """½ Σ αh/(2 − αh)."""
    scaled = rate * CURVATURES
    return float(np.sum(scaled / (2 - scaled)) / 2)


def noise(seed: jax.Array) -> optax.GradientTransformation:
    """Adds to each gradient of θ Gaussian noise of variance h."""

    def update(updates, key, params=None):
        del params
        key, now = jax.random.split(key)
        return updates + jnp.sqrt(CURVATURES) * jax.random.normal(now, updates.shape, updates.dtype), key

    return optax.GradientTransformation(lambda _: jax.random.key(seed), update)


def lane(learning_rate, seed) -> jaxgd.Descent:
    def cost(theta):
        return jnp.sum(CURVATURES * theta**2) / 2

    optimizer = optax.chain(noise(seed), optax.sgd(learning_rate))
    return jaxgd.Descent(cost, jnp.zeros(CURVATURES.size), optimizer)


def measure(epochs: int, seeds: int) -> Found:
    axes = {"learning_rate": np.array(RATES), "seed": np.arange(seeds)}
    table = jaxgd.sweep(lane, axes, epochs=epochs, history=_RECORDS)
    costs = table["cost_history"].values
    late = costs[..., costs.shape[-1] // 2 :].mean(axis=-1)
    return Found(
        np.array([steady_risk(rate) for rate in RATES]),
        late.mean(axis=1),
        late.std(axis=1, ddof=1) / np.sqrt(seeds),
        (table["outcome"].values == DIVERGED).sum(axis=1),
        costs.mean(axis=1),
    )


def main(argv: Sequence[str] | None = None) -> Found:
    parser = report.arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=32)
    options = parser.parse_args(argv)
    if options.epochs < 2 * _RECORDS or options.seeds < 2:
        parser.error(f"needs --epochs of {2 * _RECORDS} or more, --seeds of 2 or more")
    jax.config.update("jax_enable_x64", True)
    found = measure(options.epochs, options.seeds)
    rows = [
        (f"{rate:g}", f"{steady:.4f}", f"{risk:.4f} ± {error:.4f}", f"{diverged} of {options.seeds}")
        for rate, steady, risk, error, diverged in zip(RATES, *found[:4], strict=True)
    ]
    report.show(
        "steady risk, from the published formula and over the last half of the epochs",
        rows,
        "learning rate α",
        "published",
        "measured",
        "called diverged (0 expected)",
    )
    report.saved(_picture(found, options.epochs), options.out, "noisy_quadratic.png")
    return found


def _picture(found: Found, epochs: int):
    import matplotlib
    from matplotlib.figure import Figure

    from jaxgd.show.style import LINES, RC

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6, 4))
        axes = figure.subplots()
        epoch = np.linspace(0, epochs, found.history.shape[1])
        for rate, steady, costs, color in zip(RATES, found.steady, found.history, LINES, strict=False):
            axes.semilogy(epoch[1:], costs[1:], color=color, label=f"α = {rate:g}")
            axes.axhline(steady, color=color, linestyle="--", linewidth=1)
        axes.set(xlabel="epoch", ylabel="mean cost, and the steady risk")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=len(RATES), fontsize=8)
    return figure


if __name__ == "__main__":
    main()
