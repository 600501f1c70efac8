"""Learning rate × momentum on a quadratic: how fast each pair contracts, measured and in closed form.

The cost is ½(μ x² + L y²). In the long run each epoch multiplies the distance to the minimum by the
largest root of a quadratic equation (`polyak_contraction`, `nesterov_contraction`): real roots where
the ball creeps or bounces, complex ones where it swings. Contraction 1 is the edge of stability.

Polyak (1964), "Some methods of speeding up the convergence of iteration methods"; the picture after
Goh (2017), "Why momentum really works", Distill, doi:10.23915/distill.00006.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxgd
from experiments import report
from jaxgd import stability


class Rule(NamedTuple):
    update: Callable[[Any, Any], Any]  # learning rate, momentum → optimizer
    contraction: Callable[[Any, Any, Any], Any]
    limit: Callable[[Any, Any], Any]
    best: Callable[[float, float], stability.Best]


RULES = {
    "Polyak": Rule(jaxgd.momentum, stability.polyak_contraction, stability.polyak_limit, stability.polyak_best),
    "Nesterov": Rule(jaxgd.nesterov, stability.nesterov_contraction, stability.nesterov_limit, stability.nesterov_best),
}
_COUNTED = (1e-280, 1e280)  # costs between underflow and overflow


def measured(rule: Rule, kappa: float, rates: np.ndarray, momenta: np.ndarray, epochs: int) -> np.ndarray:
    """Contraction per epoch, [learning rate, momentum]: the slope of log cost over the last half that can be told."""

    def lane(learning_rate, momentum):
        return jaxgd.Descent(
            lambda x: (x[0] ** 2 + kappa * x[1] ** 2) / 2, jnp.ones(2), rule.update(learning_rate, momentum)
        )

    axes = {"learning_rate": rates, "momentum": momenta}
    table = jaxgd.sweep(lane, axes, epochs=epochs, history=epochs + 1)
    return np.apply_along_axis(_contraction, -1, table["cost_history"].values)


def closed_form(rule: Rule, kappa: float, rates: np.ndarray, momenta: np.ndarray) -> np.ndarray:
    """The slower of the two eigenvalues 1 and κ, [learning rate, momentum]."""
    eta, beta = np.meshgrid(rates, momenta, indexing="ij")
    return np.maximum(rule.contraction(1.0, eta, beta), rule.contraction(kappa, eta, beta))


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = report.arguments(__doc__)
    parser.add_argument("--kappa", type=float, default=100.0, help="condition number")
    parser.add_argument("--size", type=int, default=96, help="rates, and momenta")
    parser.add_argument("--epochs", type=int, default=600)
    options = parser.parse_args(argv)
    if options.kappa < 1 or options.size < 2 or options.epochs < 20:
        parser.error("needs --kappa of 1 or more, --size of 2 or more, --epochs of 20 or more")
    jax.config.update("jax_enable_x64", True)
    rates = np.linspace(0, 4.2 / options.kappa, options.size + 1)[1:]
    momenta = np.linspace(0, 1, options.size, endpoint=False)
    maps, rows, errors = {}, [], {}
    for name, rule in RULES.items():
        maps[name] = (
            measured(rule, options.kappa, rates, momenta, options.epochs),
            closed_form(rule, options.kappa, rates, momenta),
        )
        difference = np.abs(maps[name][0] - maps[name][1])
        errors[name] = float(np.nanmedian(difference))
        best = rule.best(1.0, options.kappa)
        here = measured(rule, options.kappa, np.array([best.learning_rate]), np.array([best.momentum]), options.epochs)
        setting = f"η = {best.learning_rate:.6g}, β = {best.momentum:.6g}"
        rows.append((name, f"contraction at {setting}", f"{best.contraction:.6f}", f"{here[0, 0]:.6f}"))
        rows.append(
            (
                name,
                "median and 99th percentile of the difference",
                "0",
                f"{errors[name]:.1e}, {np.nanquantile(difference, 0.99):.1e}",
            )
        )
        agrees = np.mean((maps[name][0] < 1) == (maps[name][1] < 1))
        rows.append((name, "share of the map on the same side of contraction 1", "1", f"{agrees:.4f}"))
    report.show(
        f"contraction per epoch, condition number {options.kappa:g}",
        rows,
        "momentum",
        "figure",
        "closed form",
        "measured",
    )
    report.saved(_picture(maps, rates, momenta, options.kappa), options.out, "momentum_phases.png")
    return errors


def _contraction(costs: np.ndarray) -> float:
    epochs = np.flatnonzero((costs > _COUNTED[0]) & (costs < _COUNTED[1]))
    late = epochs[len(epochs) // 2 :]
    if len(late) < 2:
        return np.nan
    return float(np.exp(np.polyfit(late, np.log(costs[late]), 1)[0] / 2))  # cost is distance squared


def _picture(maps: dict[str, tuple[np.ndarray, np.ndarray]], rates: np.ndarray, momenta: np.ndarray, kappa: float):
    import matplotlib
    from matplotlib.figure import Figure

    from jaxgd.show.style import RC

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9.5, 7))
        every = figure.subplots(len(maps), 2, sharex=True, sharey=True)
        for line, (name, pair) in zip(every, maps.items(), strict=True):
            rule, best = RULES[name], RULES[name].best(1.0, kappa)
            for axes, values, kind in zip(line, pair, ("measured", "closed form"), strict=True):
                shown = np.clip(values, 0.75, 1.25).T
                drawn = axes.pcolormesh(
                    rates * kappa, momenta, shown, cmap="RdBu_r", vmin=0.75, vmax=1.25, rasterized=True
                )
                axes.plot(rule.limit(1.0, momenta), momenta, "k--", linewidth=1, label="limit")
                axes.plot(best.learning_rate * kappa, best.momentum, "k*", label="best in theory")
                axes.set_title(f"{name}, {kind}")
                axes.set_xlim(0, rates[-1] * kappa)
            line[0].set_ylabel("momentum β")
            figure.colorbar(drawn, ax=line, label="contraction per epoch")
        for axes in every[-1]:
            axes.set_xlabel("learning rate × sharpness, ηL")
        every[0, 0].legend(loc="lower right", facecolor="white", frameon=True)
    return figure


if __name__ == "__main__":
    main()
