"""How values lie along an axis of a picture: by differences or by ratios, and how high a cost is drawn."""

from typing import TYPE_CHECKING

import numpy as np

from jaxgd.outcome import DIVERGED
from jaxgd.show.tables import is_axis
from jaxgd.table import by_name, is_log

if TYPE_CHECKING:
    import xarray

MOST_ROWS = 8  # of names, in one picture
WIDE = 100  # span of a scale's values from which it is logarithmic


def with_heights(table: "xarray.Dataset") -> "xarray.Dataset":
    """The table with a variable `height`: the final cost as it is drawn.

    Above the minimum, where that is known, and no lower than the figures resolve; what ran away,
    or never had a cost, lies along the top.
    """
    minimum = table.attrs.get("minimum")
    eps = float(np.finfo(table["final_cost"].dtype).eps)

    least = 0.0 if minimum is None else 8 * eps * max(1.0, abs(minimum))

    def above(name):
        costs = table[name].values.astype(float)
        return costs if minimum is None else np.maximum(costs - minimum, least)

    heights = above("final_cost")
    worth = np.concatenate([above(name).ravel() for name in ("start_cost", "best_cost")])
    worth = worth[np.isfinite(worth)]
    low, high = (float(worth.min()), float(worth.max())) if worth.size else (1.0, 1.0)
    log = low > 0 and high > WIDE * low
    top = 3 * high if log else high + 0.1 * (high - low or max(1.0, abs(high)))
    away = (table["outcome"].values == DIVERGED) | ~(heights < top)
    label = "final cost" if not minimum else "final cost above the minimum"
    attributes = {"label": label, "log": log, "top": top, "least": least}
    return table.assign(height=(table["outcome"].dims, np.where(away, top, heights), attributes))


def borders(values: np.ndarray) -> np.ndarray:
    """Where the cells around sorted values end: halfway, by ratio where the scale is logarithmic."""
    if is_log(values):
        return np.exp(borders(np.log(values)))
    values = values.astype(float)
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])


def rows(table: "xarray.Dataset") -> dict[str, "xarray.Dataset"]:
    """The tables of the first few names, with heights."""
    return dict(list(by_name(with_heights(table)).items())[:MOST_ROWS])


def has(table: "xarray.Dataset") -> str:
    """What a table has in place of what was wanted of it."""
    return "the table has " + (", ".join(f"{d} {n}" for d, n in table["outcome"].sizes.items()) or "one lane")


def longest(table: "xarray.Dataset", count: int) -> list[str]:
    """The longest numeric dimensions, in their own order: axes before replicates, the first of equals."""
    numeric = [str(d) for d in table["outcome"].dims if table[d].dtype.kind in "iuf"]
    chosen = sorted(numeric, key=lambda d: (not is_axis(table, d), -table.sizes[d]))[:count]
    return [d for d in numeric if d in chosen]
