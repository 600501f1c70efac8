"""The cost surface as a page draws it: heights, contour lines, and the scale that they are on."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import xarray

_MOST_CELLS = 61  # each way: they are drawn anew with every move of the ball
_LEVELS = 14  # contour lines
_FLAT = 20  # how many times its middle a surface may rise and still show its valley on a linear scale


class Relief(NamedTuple):
    """Heights over (y, x) or (x): costs themselves, or log10 of what they lie above `base`, at least `least`."""

    height: np.ndarray
    log: bool
    base: float
    least: float
    low: float  # of the picture's scale
    high: float

    def of(self, costs: Any) -> np.ndarray:
        """Heights at which costs are drawn; NaN where there is none."""
        costs = np.where(np.isfinite(costs), costs, np.nan).astype(float)
        return np.log10(np.maximum(costs - self.base, self.least)) if self.log else costs


def relief(cost: np.ndarray, minimum: float | None, flat: float = _FLAT) -> Relief:
    """Heights of a surface; logarithmic if it would else look like a plain with a wall around it.

    Args:
      flat: how many times its middle it may rise and still be linear.
    """
    cost = np.where(np.isfinite(cost), cost, np.nan).astype(float)
    seen = cost[np.isfinite(cost)]
    if not seen.size:
        return Relief(cost, False, 0.0, 0.0, 0.0, 1.0)
    base = float(min(seen.min(), np.inf if minimum is None else minimum))
    above = seen - base
    least = float(max(above[above > 0].min(initial=above.max()), 1e-6 * above.max()))  # 0 on a plain
    log = bool(cost.ndim == 2 and above.max() > flat * np.median(above) and 0 < least < np.inf)
    height = np.log10(np.maximum(cost - base, least)) if log else cost
    low, high = float(np.nanmin(height)), float(np.nanmax(height))
    room = 0.04 * (high - low) or max(1.0, abs(high))
    return Relief(height, log, base, least, low - room, high + room)


def contours(x: np.ndarray, y: np.ndarray, surface: Relief) -> dict[str, np.ndarray]:
    """Lines of equal height, one after another with NaN between them."""
    from contourpy import contour_generator

    lines = contour_generator(x, y, np.ma.masked_invalid(surface.height))
    parts = []
    for level in np.linspace(surface.low, surface.high, _LEVELS + 2)[1:-1]:
        for line in lines.lines(level):
            parts += [np.column_stack([line, np.full(len(line), level)]), np.full((1, 3), np.nan)]
    points = np.concatenate(parts) if parts else np.empty((0, 3))
    return {name: points[:, i].astype(np.float32) for i, name in enumerate("xyz")}


def as_drawn(surface: "xarray.Dataset", minimum: float | None) -> dict[str, Any]:
    """What the page needs of a stored surface: its heights and their scale, contours, minima, and what its axes are."""
    step = 1 if surface["cost"].ndim == 1 else -(-surface.sizes["x"] // _MOST_CELLS)
    surface = surface.isel({name: slice(None, None, step) for name in surface["cost"].dims})
    costs, kind = surface["cost"], surface["cost"].attrs["kind"]
    ground = relief(costs.values, minimum)
    x, y = surface["x"].values, surface["y"].values if costs.ndim == 2 else None
    marked = surface["minima"].values
    names = [surface[name].attrs["long_name"] for name in ("x", "y")[: costs.ndim]]
    return {
        "x": x,
        "y": y,
        "height": ground.height,
        "lines": None if y is None else contours(x, y, ground),
        "minima": {name: marked[:, i] for i, name in enumerate(("x", "y")[: costs.ndim])}
        | {"cost": surface["minimum_cost"].values},
        "range": [ground.low, ground.high],
        **{name: getattr(ground, name) for name in ("log", "base", "least")},
        "labels": names if kind == "params" else ["first direction", "second direction"][: costs.ndim],
        "exact": kind == "params",
        "note": _note(names, kind, costs.attrs["at"]),
    }


def _note(names: list[str], kind: str, at: str) -> str:
    said = []
    if kind != "params":
        said.append(f"A slice through more params than a picture has room for: {' and '.join(names)}.")
        said.append("The ball is drawn at its own cost, so it may lie above or below the slice.")
    return " ".join(said + ([f"The cost is that at {at}."] if at else []))
