"""Polyak's step size: η = (f(x) − f*)/|∇f(x)|² needs no learning rate where the lowest cost f* is known.

Every step brings the params nearer to the minimum of a convex cost: d'² ≤ d² − (f − f*)²/|∇f|² for the distance d.

- On smooth and strongly convex costs of condition number κ the worst case is a convergence of order (1 − 1/κ)^K. On a
  quadratic d'² = d² − 3(f − f*)²/|∇f|² exactly, and by Kantorovich's inequality no step leaves more than
  1 − 3κ/(1 + κ)² of d². Measured is the largest d'²/d² of all steps, over many starts.
- With slopes of G at most, the lowest cost after T steps is within G d₀/√T of f*. Measured is that gap on |x| + 2|y|.
- Gradient descent at 1.05 times its critical rate 2/L diverges on all these quadratics; Polyak's step converges.

Polyak (1987), "Introduction to optimization"; Hazan & Kakade (2019), "Revisiting the Polyak step size",
arXiv:1905.00313; Jiang, He et al. (2025), "New results on the Polyak stepsize: tight convergence analysis and
universal function classes", arXiv:2512.06231, which shows that the order (1 − 1/κ)^K is tight.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from experiments import report
from jaxgd.outcome import CONVERGED, DIVERGED

CONDITIONS = (3.0, 10.0, 100.0)
LOWEST = 5.0  # f* of every cost here
SLOPES = np.array([1.0, 2.0])  # of |x| + 2|y|


class Quadratics(NamedTuple):
    """Descents on ½(x² + κy²) + 5 from starts on a circle, for each of `CONDITIONS`."""

    contraction: np.ndarray  # the largest d'²/d² of each step; 0 once all have settled, [κ, step]
    converged: np.ndarray  # share of the starts from which Polyak's step does, [κ]
    diverged: np.ndarray  # share from which gradient descent at 1.05 · 2/κ does, [κ]


class Found(NamedTuple):
    quadratics: Quadratics
    gap: float  # of |x| + 2|y| after the steps
    bound: float  # on it


def polyak() -> optax.GradientTransformation:
    return optax.polyak_sgd(max_learning_rate=jnp.inf, f_min=LOWEST)


def bound(kappa: float) -> float:
    """1 − 3κ/(1 + κ)², of d'²/d²."""
    return 1 - 3 * kappa / (1 + kappa) ** 2


def polyak_lane(kappa, x) -> jaxgd.Descent:
    return jaxgd.Descent(lambda x: (x[0] ** 2 + kappa * x[1] ** 2) / 2 + LOWEST, x, polyak())


def fixed_lane(kappa, x) -> jaxgd.Descent:
    return replace(polyak_lane(kappa, x), optimizer=optax.sgd(1.05 * 2 / kappa))


def quadratics(starts: int, epochs: int) -> Quadratics:
    angles = np.linspace(0, np.pi / 2, starts + 2)[1:-1]
    axes = {"kappa": np.array(CONDITIONS), "x": np.stack([np.cos(angles), np.sin(angles)], axis=1)}

    def path(kappa, x):
        one = polyak_lane(kappa, x)
        return jaxgd.descend(one.cost, one.params, one.optimizer, epochs=epochs).params

    paths = jax.jit(jax.vmap(jax.vmap(path, (None, 0)), (0, None)))(*axes.values())
    squares = np.sum(np.asarray(paths) ** 2, axis=-1)
    before, after = squares[..., :-1], squares[..., 1:]
    settled = after < 1e-8  # there the cost is f* to rounding, and so is the step
    ratios = np.where(settled, 0, after / np.where(settled, 1, before))

    def share(lane, steps, outcome):
        table = jaxgd.sweep(lane, axes, epochs=steps, minimum=LOWEST)
        return (table["outcome"].values == outcome).mean(axis=1)

    converged = share(polyak_lane, 40 * int(max(CONDITIONS)), CONVERGED)
    return Quadratics(ratios.max(axis=1), converged, share(fixed_lane, 1000, DIVERGED))


def gap(epochs: int) -> tuple[float, float]:
    """The lowest cost above f* on |x| + 2|y| after so many steps, and G d₀/√T."""
    start = np.array([1.0, np.pi])
    slopes = jnp.asarray(SLOPES)
    history = jaxgd.descend(lambda x: jnp.sum(slopes * jnp.abs(x)) + LOWEST, start, polyak(), epochs=epochs)
    most = np.linalg.norm(SLOPES) * np.linalg.norm(start) / np.sqrt(epochs)
    return float(history.cost[:epochs].min() - LOWEST), float(most)


def main(argv: Sequence[str] | None = None) -> Found:
    parser = report.arguments(__doc__)
    parser.add_argument("--starts", type=int, default=100, help="on a quarter of a circle")
    parser.add_argument("--epochs", type=int, default=50, help="of the paths")
    options = parser.parse_args(argv)
    if options.starts < 1 or options.epochs < 2:
        parser.error("needs --starts of 1 or more, --epochs of 2 or more")
    jax.config.update("jax_enable_x64", True)
    found = Found(quadratics(options.starts, options.epochs), *gap(options.epochs))
    rows = []
    for kappa, ratios, converged, diverged in zip(CONDITIONS, *found.quadratics, strict=True):
        cost, most = f"quadratic, κ = {kappa:g}", f"{bound(kappa):.4f} or less"
        rows.append((cost, "largest d'²/d² of a step", most, f"{ratios.max():.4f}"))
        rows.append((cost, "share that converges", "1", f"{converged:g}"))
        rows.append((cost, "share that diverges at η = 1.05 · 2/L", "1", f"{diverged:g}"))
    most = f"{found.bound:.4f} or less"
    rows.append(("|x| + 2|y|", f"gap after {options.epochs} steps", most, f"{found.gap:.2e}"))
    report.show("Polyak's step size", rows, "cost", "figure", "published", "measured")
    report.saved(_picture(found), options.out, "polyak_step.png")
    return found


def _picture(found: Found):
    import matplotlib
    from matplotlib.figure import Figure

    from jaxgd.show.style import LINES, RC

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6, 4))
        axes = figure.subplots()
        for kappa, ratios, color in zip(CONDITIONS, found.quadratics.contraction, LINES, strict=False):
            axes.plot(np.arange(1, len(ratios) + 1), ratios, color=color, label=f"κ = {kappa:g}")
            axes.axhline(bound(kappa), color=color, linestyle="--", linewidth=1)
        axes.set(xlabel="step", ylabel="largest d'²/d², and its bound")
        axes.legend()
    return figure


if __name__ == "__main__":
    main()
