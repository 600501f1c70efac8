"""Learning rates on a rippled bowl: those that converge and those that diverge are interleaved at every scale.

Gradient descent on x² (1 + ε cos(2πx/λ)), ε = 0.2, λ = 0.1, from x = 1, for 1 000 epochs in float64,
with 2ᵏ + 1 learning rates from 0 to 1.5. The figure is how often neighbours differ in whether their
final cost exceeds 1e8. It grows as 2^(dk): d is the fractal dimension of the boundary.

Liu (2024), "Complex fractal trainability boundary can arise from trivial non-convexity", arXiv:2406.13971.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

import jaxgd
from experiments import report
from jaxgd.surfaces import chaotic

PUBLISHED = (
    *(1, 1, 1, 1, 3, 5, 7, 13, 21, 27, 57, 115, 247, 423, 683, 1215, 2303, 4245, 7619, 13365, 22885, 40589, 73361),
    *(134187, 244291, 439969, 785943, 1399357, 2499319, 4501553, 8139197, 14745753),
)
PUBLISHED_SLOPE, PUBLISHED_ERROR = 0.83748, 0.00421
HIGHEST = 1.5
_LOST = 1e16  # a cost from which no lane comes back: its next step leads some 1e16 away
_PART = 1 << 18  # lanes at a time: what is kept of them is one bit


class Slope(NamedTuple):
    """Of log2(count) over k, with its standard error."""

    value: float
    error: float


def lane(learning_rate):
    return jaxgd.Descent(chaotic, 1.0, jaxgd.gradient_descent(learning_rate))


def diverges(rates: np.ndarray, epochs: int = 1000) -> np.ndarray:
    """Whether the final cost of each rate exceeds 1e8 or is not a number."""
    table = jaxgd.sweep(lane, {"learning_rate": rates}, epochs=epochs, ceiling=_LOST)
    return (table["final_cost"].values > 1e8) | ~np.isnan(table["diverged_epoch"].values)


def changes(k: int) -> list[int]:
    """Changes between neighbours on the grids of 2⁰ + 1, 2¹ + 1, …, 2ᵏ + 1 rates, each holding the one before."""
    size, part = 1 << k, min(1 << k, _PART)
    counts = np.zeros(k + 1, int)
    seams = []  # at the first rate of each part
    for start in range(0, size, part):
        here = diverges(HIGHEST * np.arange(start, start + part + 1) / size)
        seams.append(here[0])
        for level in range(k + 1):
            stride = size >> level
            if stride <= part:
                counts[level] += np.count_nonzero(np.diff(here[::stride]))
    seams.append(here[-1])
    for level in range(k + 1):
        stride = size >> level
        if stride > part:
            counts[level] = np.count_nonzero(np.diff(seams[:: stride // part]))
    return counts.tolist()


def slope(counts: Sequence[int], first: int = 4) -> Slope:
    """Least squares of log2(count) over k, from k = first on: before that, the grid sees one edge only."""
    k = np.arange(first, len(counts))
    (value, _), covariance = np.polyfit(k, np.log2(counts[first:]), 1, cov=True)
    return Slope(float(value), float(np.sqrt(covariance[0, 0])))


def main(argv: Sequence[str] | None = None) -> tuple[list[int], Slope]:
    parser = report.arguments(__doc__)
    parser.add_argument("--k", type=int, default=20, help="the finest grid has 2**k + 1 rates")
    options = parser.parse_args(argv)
    if not 6 <= options.k <= 31:
        parser.error(f"--k {options.k}: must be from 6 to 31")
    jax.config.update("jax_enable_x64", True)
    counts = changes(options.k)
    measured, published = slope(counts), slope(PUBLISHED[: options.k + 1])
    rows = [(k, PUBLISHED[k], n, f"{100 * (n / PUBLISHED[k] - 1):+.2f} %") for k, n in enumerate(counts)]
    report.show("changes between neighbours", rows, "k", "published", "measured", "difference")
    rows = [
        (
            f"k = 4 … {options.k}",
            f"{published.value:.5f} ± {published.error:.5f}",
            f"{measured.value:.5f} ± {measured.error:.5f}",
        ),
        ("k = 4 … 31", f"{PUBLISHED_SLOPE} ± {PUBLISHED_ERROR}", ""),
    ]
    report.show("slope of log2(count) over k", rows, "range", "published", "measured")
    report.saved(_picture(counts, measured), options.out, "chaotic_rates.png")
    return counts, measured


def _picture(counts: list[int], measured: Slope):
    import matplotlib
    from matplotlib.figure import Figure

    from jaxgd.show.style import COLOURS, LINES, RC

    finest = min(len(counts) - 1, 12)
    rates = HIGHEST * np.arange((1 << finest) + 1) / (1 << finest)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(10, 4))
        left, right = figure.subplots(1, 2)
        k = np.arange(len(counts))
        left.semilogy(
            k, PUBLISHED[: len(k)], "o", color=LINES[0], markersize=8, markerfacecolor="none", label="published"
        )
        left.semilogy(k, counts, ".", color=LINES[1], label=f"measured, slope {measured.value:.3f}")
        left.set(xlabel="k, for 2ᵏ + 1 learning rates", ylabel="changes", title="changes between neighbours")
        left.legend()
        # five views, each a zoom by ten into the one above
        low, high = 0.0, HIGHEST
        for row in range(5):
            rates = np.linspace(low, high, 1024)
            dead = diverges(rates)
            right.pcolormesh(
                np.linspace(0, 1, 1025), [-row - 0.9, -row], dead[None, :], vmin=0, vmax=1, cmap=_two_colours(COLOURS)
            )
            right.text(1.01, -row - 0.45, f"{low:.5g}\nto {high:.5g}", va="center", fontsize=8)
            low, high = _around_a_change(rates, dead)
        right.set_axis_off()
        right.set_title("converges (green) or diverges; closer to one change")
    return figure


def _two_colours(colours: dict[str, str]):
    from matplotlib.colors import ListedColormap

    return ListedColormap([colours["converged"], colours["diverged"]])


def _around_a_change(rates: np.ndarray, dead: np.ndarray) -> tuple[float, float]:
    """A tenth of the range, around the change that lies nearest to its middle."""
    places = np.flatnonzero(np.diff(dead))
    middle = rates[places[np.argmin(np.abs(places - len(rates) // 2))]] if places.size else rates[len(rates) // 2]
    half = (rates[-1] - rates[0]) / 20
    return middle - half, middle + half


if __name__ == "__main__":
    main()
