"""How closely so many epochs can place the boundary of stability."""

from typing import TYPE_CHECKING

import numpy as np

from jaxgd.outcome import AT_REST, DESCENDING, DIVERGED, OSCILLATING

if TYPE_CHECKING:
    import xarray

_NEEDED = ("outcome", "epochs", "window", "moves", "highest_update_norm", "rounding")
_STUCK = 1 / 64  # relative to the limit: further above it even swings of 16 roundings grow


def margins(table: "xarray.Dataset") -> "xarray.DataArray":
    """max(log(u/ρ)/(2n), ρ/u):   how far below a value that looks stable, relatively, the boundary may lie.

    At a learning rate of (1 + δ) times the limit of gradient descent, the steepest direction grows by 1 + 2δ with each
    update (with momentum, faster). Rounding starts every direction at ρ, so that it has ρ(1 + 2δ)ⁿ after n updates.
    That is not seen as long as it is lower than u, the highest norm of an update in the last window, in which the other
    directions still move. A lane at rest has u ≤ 8ρ. And a swing of u does not grow at all where 2δu, by which the next
    one should exceed it, is less than the rounding of its two ends; of a lane that does not move at all that says at
    least δ < 1/64. Updates that are pauses, as those of accumulated gradients, do not count.

    That holds for a rate that stays as it is, and a start that has at least the rounding of its size along the steepest
    direction: what begins with less, or at a low rate that warms up, stays hidden longer.

    Args:
      table: the result of a sweep.

    Returns:
      The margin of each lane, at most 1; NaN for lanes that diverged or have not run, and where the table has no
      figures of updates.
    """
    if any(name not in table for name in _NEEDED):
        return np.nan * table["outcome"]
    outcome, epochs, window, moves, highest, rounding = (table[name] for name in _NEEDED)
    moving = outcome.isin([DESCENDING, OSCILLATING, DIVERGED]) & (moves > 0) & (window > 0)
    share = (moves / window.where(window > 0, 1)).clip(max=1)
    usual = _median(share.values[moving.values])
    share = share.where(moving, usual)
    with np.errstate(all="ignore"):
        ratio = (highest / rounding).where(highest > 0, 0).where(highest.notnull())
        hidden = np.log(ratio.clip(min=AT_REST)) / (2 * epochs * share)
        found = np.maximum(hidden, (1 / ratio).clip(max=_STUCK)).clip(max=1)
    return found.where((outcome != DIVERGED) & (epochs > 0))


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else 1.0
