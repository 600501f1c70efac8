"""Ends that need more words than their outcome: near misses of a stated minimum, and divergence in a few epochs."""

from typing import TYPE_CHECKING

import numpy as np

from jaxgd.outcome import DIVERGED, TRAPPED, below_minimum

if TYPE_CHECKING:
    import xarray

_ROUNDED = 1e-5  # of a minimum's size: six published digits are off by up to half of that
_FEW = 10  # epochs; divergence is seen in growth over several


def near_misses(table: "xarray.Dataset") -> np.ndarray:
    """How far above the stated minimum those trapped lanes end that miss it by no more than its published digits may be
    off, [lane]; empty if none do."""
    minimum = table.attrs.get("minimum", np.nan)
    above = table["final_cost"].values - minimum
    return above[(table["outcome"].values == TRAPPED) & (above > 0) & (above <= _ROUNDED * abs(minimum))]


def near_words(table: "xarray.Dataset") -> str:
    """By how little trapped lanes miss the stated minimum, and which tolerance takes that; empty if none are near."""
    above = near_misses(table)
    if not above.size:
        return ""
    minimum, least, most = float(table.attrs["minimum"]), *map(float, (above.min(), above.max()))
    span = f"{least:.3g}" if f"{least:.3g}" == f"{most:.3g}" else f"{least:.3g} … {most:.3g}"
    cure = f"tolerance = {10.0 ** np.ceil(np.log10(most)):.0e} takes it as reached"
    return f"{span} above the stated minimum {minimum!r} (if that is rounded, {cure})"


def below_words(table: "xarray.Dataset") -> str:
    """That lanes came below the stated minimum; empty if none did."""
    return below_minimum(table["best_cost"], table.attrs.get("minimum"), table.attrs.get("tolerance"))


def is_unsettled(table: "xarray.Dataset") -> np.ndarray:
    """Which lanes count as diverged for a rise of the cost over a few epochs, all numbers being finite, [lane]."""
    slowly = (table["outcome"].values == DIVERGED) & np.isnan(table["diverged_epoch"].values.astype(float))
    risen = table["final_cost"].values > table["start_cost"].values
    return slowly & risen & (table["epochs"].values < _FEW)


UNSETTLED = "whether it comes down again is not known from so few"  # epochs
