"""What a sweep says of its learning rate: the best one, how much the choice matters, how far off the edge is."""

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from jaxgd.learning_rate import best_rates
from jaxgd.outcome import has_run
from jaxgd.show.style import figure_name
from jaxgd.table import REPLICATES, typical

if TYPE_CHECKING:
    import xarray

_MOST_ROWS = 20  # of a table over another axis; longer ones show every so many


def along_rates(table: "xarray.Dataset") -> "tuple[xarray.Dataset, str] | None":
    """The table of one optimizer, and the name of the learning rate that it varies; None if there is no one such.

    Trials over a grid of several hyperparameters become a dimension for each of them.
    """
    table = _unfolded(table)
    names = [str(name) for name in table.coords if "learning_rate" in str(name) and _is_scale(table, str(name))]
    return (table, names[0]) if len(names) == 1 else None


def rate_words(table: "xarray.Dataset", select: str, factor: float = 2.0) -> list[str]:
    """How much the choice of the learning rate matters, and how far below the edge the best one lies: a few lines."""
    found = along_rates(table)
    if found is None:
        return []
    if not has_run(found[0]["outcome"]).any():
        return ["no rate works: none has run"]
    by = _by(found[0], select)
    answer = best_rates(*found, by=by, factor=factor)
    best = answer["best"].values
    if np.isnan(best).all():
        return ["no rate works: all diverged"]
    lines = ["none met the target; by final cost:"] if by != select else []
    lines += _one(*found, answer, factor, by) if best.ndim == 0 else _many(answer, factor)
    return lines + _alternations(answer)


def _by(table: "xarray.Dataset", select: str) -> str:
    """The figure that rates are compared by: how soon they meet the target, if any setting does, else final cost."""
    met = select != "target_epoch" or np.isfinite(typical(table, select)).any()
    return select if met else "final_cost"


def rate_table(table: "xarray.Dataset", select: str, factor: float = 2.0) -> Table | None:
    """The answer for each point of the other axes, line by line; None if there is but one, or no learning rate."""
    found = along_rates(table)
    if found is None:
        return None
    by = _by(found[0], select)
    answer = best_rates(*found, by=by, factor=factor)
    others = [str(d) for d in answer["best"].dims]
    if not others:
        return None
    shape, size = answer["best"].shape, answer["best"].size
    said = Table(*others, "best", figure_name(by), f"within {factor:g} ×", "edge", "edge / best", box=None)
    said.header_style, said.pad_edge = "bold", False
    for place in np.unique(np.linspace(0, size - 1, min(size, _MOST_ROWS)).round().astype(int)):
        row = answer.isel(dict(zip(others, np.unravel_index(place, shape), strict=True)))
        figures = {name: float(row[name]) for name in ("best", "score", "low", "high", "edge", "below_edge")}
        labels = [f"{row[name].item():.6g}" for name in others]
        if np.isnan(figures["best"]):
            said.add_row(*labels, "none", "", "", "", "")
            continue
        best = f"{figures['best']:.4g}" + ("" if row["ties"] < 2 else f" (of {int(row['ties'])})")
        edge = (f"{figures['edge']:.4g}", f"{figures['below_edge']:#.3g}")
        if np.isnan(figures["edge"]):
            edge = ("none" if row["diverged"] == 0 else f"{100 * float(row['diverged']):.3g} % diverge", "")
        said.add_row(*labels, best, f"{figures['score']:.4g}", f"{figures['low']:.3g} … {figures['high']:.3g}", *edge)
    return said


def _one(table: "xarray.Dataset", along: str, answer: "xarray.Dataset", factor: float, by: str) -> list[str]:
    best, low, high, edge = (float(answer[name]) for name in ("best", "low", "high", "edge"))
    if low == high:
        lines = [f"no other within a factor of {factor:g}"]
    else:
        span = f", a span of {high / low:.3g}" if low > 0 else ""
        lines = [f"within a factor of {factor:g}: {low:.4g} … {high:.4g}{span}"]
    if answer["ties"] > 1:
        first = "ended lowest" if by == "target_epoch" else "was there first"
        lines.append(f"{int(answer['ties'])} do exactly as well; this {first}")
    values = table[along].values
    if best in (np.nanmin(values), np.nanmax(values)):
        lines.append("the best is the end of the range: widen it")
    if answer["diverged"] > 0:
        return [*lines, f"at the best, {100 * float(answer['diverged']):.3g} % of the seeds diverged"]
    if np.isnan(edge):
        return [*lines, "none above the best diverges"]
    ratio = float(answer["below_edge"])
    return [*lines, f"stable up to {edge:.4g}" + (f", {ratio:#.3g} times the best" if np.isfinite(ratio) else "")]


def _many(answer: "xarray.Dataset", factor: float) -> list[str]:
    """The same over other axes: from where to where each figure goes."""
    there = np.isfinite(answer["best"].values)
    others = " and ".join(map(str, answer["best"].dims))
    lines = [f"for each {others} the best is {_spread(answer['best'])}"]
    with np.errstate(all="ignore"):
        span = answer["high"] / answer["low"]
    if np.isfinite(span).any():
        lines.append(f"within a factor of {factor:g} a span of {_spread(span)}")
    if np.isfinite(answer["below_edge"]).any():
        lines.append(f"stable up to {_spread(answer['below_edge'])} times the best")
    if (some := answer["diverged"].values > 0).any():
        lines.append(f"at the best, seeds diverged for {np.count_nonzero(some)} of {there.size}")
    if not there.all():
        lines.append(f"none works for {np.count_nonzero(~there)} of {there.size}")
    return lines


def _alternations(answer: "xarray.Dataset") -> list[str]:
    most = np.nanmax(answer["changes"].values)
    return [f"no one edge: up to {int(most)} changes between neighbours"] if most > 2 else []


def _spread(values: "xarray.DataArray") -> str:
    known = values.values[np.isfinite(values.values)]
    low, middle, high = np.quantile(known, (0, 0.5, 1))
    return f"{low:.4g}" if low == high else f"{low:.4g} … {high:.4g} (median {middle:.4g})"


def _is_scale(table: "xarray.Dataset", name: str) -> bool:
    """Whether a coordinate holds more than one number along one dimension."""
    values: Any = table[name]
    return (
        values.ndim == 1
        and values.dims[0] in table["outcome"].dims
        and values.dims[0] not in REPLICATES
        and values.dtype.kind in "iuf"
        and f"{name}.value" not in table.coords
        and len(np.unique(values.values[np.isfinite(values.values)])) > 1
    )


def _unfolded(table: "xarray.Dataset") -> "xarray.Dataset":
    """Trials over a full grid of several hyperparameters, unfolded into its axes."""
    if "trial" not in table["outcome"].dims:
        return table
    ran = has_run(table["outcome"]).any([d for d in table["outcome"].dims if d != "trial"])
    there = table.isel(trial=ran.values)
    names = [str(n) for n in table.coords if n != "trial" and _is_scale(there, str(n)) and there[n].dims == ("trial",)]
    sizes = [len(np.unique(there[name].values)) for name in names]
    if len(names) < 2 or np.prod(sizes) != there.sizes["trial"]:
        return table
    return there.drop_vars("trial").set_index(trial=names).unstack("trial")
