"""The catapult phase: rates beyond 2/λ₀ throw a wide linear network into a flatter minimum, up to 4/λ₀.

The network is f = uᵀv/√n with n hidden units, its cost ½f² (one input 1, one target 0), its start standard
normal. Its tangent kernel is λ = (|u|² + |v|²)/n, and gradient descent obeys
f' = (1 − ηλ + η²f²/n)f,  λ' = λ + (ηf²/n)(ηλ − 4).  In a wide network λ stays where it began as long as
ηλ₀ < 2 (the lazy phase). From 2 to 4 the cost first rises until f² is of the size of n, λ falls below 2/η, and
then the cost vanishes (the catapult phase). From 4 on λ grows, and the descent diverges. Both boundaries hold for
n → ∞; the width here is finite.

Lewkowycz, Bahri, Dyer, Sohl-Dickstein & Gur-Ari (2020), "The large learning rate phase of deep learning: the
catapult mechanism", arXiv:2003.02218.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxgd
from experiments import report
from jaxgd.outcome import CONVERGED

LAZY, CATAPULT = 2.0, 4.0  # the published boundaries of ηλ₀


class Phases(NamedTuple):
    """Lanes of a sweep over the rate, [rate]."""

    scaled: np.ndarray  # ηλ₀
    rises: np.ndarray  # whether the cost ever exceeds that at the start
    converged: np.ndarray
    kernel: np.ndarray  # λ at the end, over λ₀

    @property
    def rising(self) -> tuple[float, float]:
        """The interval of ηλ₀ in which the cost begins to rise."""
        first = int(np.argmax(self.rises))
        return float(self.scaled[first - 1]), float(self.scaled[first])

    @property
    def diverging(self) -> tuple[float, float]:
        """The interval of ηλ₀ in which convergence ends."""
        last = int(np.flatnonzero(self.converged)[-1])
        return float(self.scaled[last]), float(self.scaled[last + 1])

    @property
    def lazy(self) -> np.ndarray:
        return self.converged & ~self.rises

    @property
    def catapulted(self) -> np.ndarray:
        return self.converged & self.rises


def kernel(params: dict) -> jax.Array:
    return (jnp.sum(params["u"] ** 2) + jnp.sum(params["v"] ** 2)) / params["u"].size


def phases(units: int, rates: int, epochs: int, seed: int) -> Phases:
    """Gradient descent at rates up to 5/λ₀, evenly spaced."""
    start = dict(zip("uv", jax.random.normal(jax.random.key(seed), (2, units)), strict=True))
    scaled = 5 * np.arange(1, rates + 1) / rates

    def cost(params):
        return (params["u"] @ params["v"]) ** 2 / units / 2

    def lane(learning_rate):
        return jaxgd.Descent(cost, start, jaxgd.gradient_descent(learning_rate), metrics={"kernel": kernel})

    axes = {"learning_rate": scaled / float(kernel(start))}
    table = jaxgd.sweep(lane, axes, epochs=epochs, history=epochs + 1, minimum=0.0)
    costs = table["cost_history"].values
    return Phases(
        scaled,
        np.nanmax(costs, axis=1) > costs[:, 0],
        table["outcome"].values == CONVERGED,
        table["kernel"].values / float(kernel(start)),
    )


def main(argv: Sequence[str] | None = None) -> Phases:
    parser = report.arguments(__doc__)
    parser.add_argument("--units", type=int, default=4096, help="n, the hidden units")
    parser.add_argument("--rates", type=int, default=200, help="up to 5/λ₀")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the start")
    options = parser.parse_args(argv)
    if options.units < 2 or options.rates < 10 or options.epochs < 100:
        parser.error("needs --units of 2 or more, --rates of 10 or more, --epochs of 100 or more")
    jax.config.update("jax_enable_x64", True)
    found = phases(options.units, options.rates, options.epochs, options.seed)
    flat = (found.scaled * found.kernel)[found.catapulted]
    rows = [
        ("ηλ₀ from which the cost rises", f"{LAZY:g}", "{:g} … {:g}".format(*found.rising)),
        ("ηλ₀ from which it diverges", f"{CATAPULT:g}", "{:g} … {:g}".format(*found.diverging)),
        ("λ/λ₀ at the end of the lazy phase", "1", f"{found.kernel[found.lazy].min():.4f} or more"),
        ("ηλ at the end of the catapult phase", "below 2", f"{flat.max():.4f} or less"),
    ]
    report.show(f"f = uᵀv/√n with n = {options.units}: published for n → ∞", rows, "figure", "published", "measured")
    report.saved(_picture(found), options.out, "catapult.png")
    return found


def _picture(found: Phases):
    import matplotlib
    from matplotlib.figure import Figure

    from jaxgd.show.style import LINES, RC

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6, 4))
        axes = figure.subplots()
        for which, label, color in ((found.lazy, "lazy", LINES[0]), (found.catapulted, "catapult", LINES[1])):
            axes.plot(found.scaled[which], found.kernel[which], ".", color=color, label=label)
        axes.plot(found.scaled, np.minimum(1, 2 / found.scaled), "k--", linewidth=1, label="stable up to 2/η")
        for boundary in (LAZY, CATAPULT):
            axes.axvline(boundary, color="grey", linewidth=1)
        axes.set(xlabel="ηλ₀", ylabel="λ/λ₀ at the end", xlim=(0, found.scaled[-1]))
        axes.legend()
    return figure


if __name__ == "__main__":
    main()
