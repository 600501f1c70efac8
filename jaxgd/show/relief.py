"""The cost surface as a page draws it: heights, contour lines, and the scale that they are on."""

from typing import Any, NamedTuple

import numpy as np

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
    least = float(max(above[above > 0].min(initial=np.inf), 1e-6 * above.max()))
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


def as_drawn(x: np.ndarray, y: np.ndarray | None, cost: np.ndarray, minimum: float | None) -> dict[str, Any]:
    """What the page needs of a surface over x, or over x and y (cost[y, x])."""
    surface = relief(cost, minimum)
    lines = None if y is None else contours(x, y, surface)
    scale = {name: getattr(surface, name) for name in ("log", "base", "least")}
    return {"x": x, "y": y, "height": surface.height, "lines": lines, "range": [surface.low, surface.high], **scale}
