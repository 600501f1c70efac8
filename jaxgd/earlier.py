"""Results of earlier releases, which lack statistics that outcomes are judged by now."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxgd.outcome import ABSENT, CONVERGED, DIVERGED, FIGURES, PENDING, reach
from jaxgd.table import flags

if TYPE_CHECKING:
    import xarray


def missing(names: "set[str]") -> list[str]:
    """The figures that are not among the variables of a result."""
    return [name for name in FIGURES if name not in names]


def judged_anew(table: "xarray.Dataset", path: Path) -> "xarray.Dataset":
    """A result with outcomes by the present rules where its statistics suffice; the others keep the stored outcome.

    What suffices: that a lane met the target, left the finite numbers or passed the ceiling; or that its cost is that
    of the known minimum, within the tolerance.

    Warns:
      UserWarning: how many lanes kept the stored outcome.
    """
    if not (lacking := missing({*map(str, table.data_vars)})):
        return table
    codes = table["outcome"].values
    lost, met = np.isfinite(table["diverged_epoch"].values), np.isfinite(table["target_epoch"].values)
    arrived = _has_arrived(table)
    ran = (codes != PENDING) & (codes != ABSENT)
    codes = np.where(ran & (met | arrived), CONVERGED, codes)
    codes = np.where(ran & lost, DIVERGED, codes)
    kept = int((ran & ~(lost | met | arrived)).sum())
    warnings.warn(
        f"{path} was made by an earlier jaxgd and lacks {', '.join(lacking)}: {int(ran.sum()) - kept} of its "
        f"{int(ran.sum())} lanes are judged anew, {kept} keep the outcome that was stored, by the rules of then; "
        "run again with --fresh to judge them all",
        stacklevel=2,
    )
    attributes = table["outcome"].attrs | flags("trials" in table.attrs)
    return table.assign(outcome=table["outcome"].copy(data=codes.astype(np.int8)).assign_attrs(attributes))


def _has_arrived(table: "xarray.Dataset") -> np.ndarray:
    """Which lanes ended at the known minimum, and never below it."""
    minimum, tolerance = (table.attrs.get(name) for name in ("minimum", "tolerance"))
    cost, best = table["final_cost"].values, table["best_cost"].values
    if minimum is None:
        return np.zeros(cost.shape, bool)
    within = reach(cost, minimum, tolerance)
    return (np.abs(cost - minimum) <= within) & ~(best < minimum - within)
