"""Optimizers beside each other: a table for the terminal, the same in LaTeX, and the curves of few trials."""

import itertools
import math
import re
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from jaxgd import compare
from jaxgd.compare import Contender
from jaxgd.show.scales import WIDE
from jaxgd.show.style import DASHES, LINES, RC, figure_name
from jaxgd.show.tables import lost_seeds, setting

if TYPE_CHECKING:
    import xarray


def words(contenders: list[Contender], by: str, factor: float) -> Table:
    """The comparison for the terminal."""
    heads, *rows = _cells(contenders, by, factor)
    shown = Table(*heads, box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in shown.columns:
        column.no_wrap = True
    for row in rows:
        shown.add_row(*map(Text, row))
    return shown


def latex(contenders: list[Contender], by: str, factor: float) -> str:
    """The comparison as a LaTeX table; it needs the package booktabs."""
    heads, *rows = _cells(contenders, by, factor)
    lines = [" & ".join(map(_escaped, line)) + r" \\" for row in rows for line in _lines(row)]
    head = " & ".join(map(_escaped, heads)) + r" \\"
    body = [rf"\begin{{tabular}}{{{'l' * len(heads)}}}", r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
    return "\n".join([*body, r"\end{tabular}"])


def curves(expected: "xarray.Dataset", title: str) -> Figure:
    """The expected best over the number of random trials, a line for each optimizer."""
    values = expected["expected"]
    seen = values.values[np.isfinite(values.values)]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7, 4))
        axes = figure.subplots()
        for i, name in enumerate(values[values.dims[0]].values):
            style = {"color": LINES[i % len(LINES)], "linestyle": DASHES[i // len(LINES) % len(DASHES)]}
            mark = "o" if values.sizes["trials"] == 1 else None
            axes.plot(values["trials"], values.sel({values.dims[0]: name}), label=str(name), marker=mark, **style)
        axes.set(xlabel="random trials", ylabel=values.attrs["long_name"], title=title)
        if values.sizes["trials"] > 1:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if seen.size and seen.min() > 0 and seen.max() > WIDE * seen.min():
            axes.set_yscale("log")
        if values.sizes[values.dims[0]] > 1:
            axes.legend()
    return figure


def _cells(contenders: list[Contender], by: str, factor: float) -> list[list[str]]:
    """Headings, then a row for each contender; what it varies has a line each."""
    figures = list(next((c.figures for c in contenders if c.figures), {by: None}))
    heads = ["optimizer", *map(figure_name, figures), "at", f"within × {factor:g}", "diverged"]
    rows = []
    for contender in contenders:
        scored = [_spread(contender.figures[name]) if name in contender.figures else "none" for name in figures]
        at = ""
        if contender.setting is not None:
            at = "\n".join([*setting(contender.setting).split(", "), *filter(None, [lost_seeds(contender.setting)])])
        ranges = {one.name: _range(one) for one in contender.ranges}
        within = "\n".join(ranges.get(line.split(" = ")[0], "") for line in at.split("\n"))
        rows.append([contender.name or "the only one", *scored, at, within, f"{100 * contender.diverged:.0f} %"])
    return [heads, *rows]


def _lines(row: list[str]) -> list[tuple[str, ...]]:
    """A row whose cells hold several lines, line by line."""
    return list(itertools.zip_longest(*(cell.split("\n") for cell in row), fillvalue=""))


def _spread(figure: compare.Figure) -> str:
    median, low, high = ("never" if math.isinf(value) else f"{value:.4g}" for value in figure)
    return median + (f" ({low} … {high})" if figure.high > figure.low else "")


def _range(one: compare.Range) -> str:
    ratio = f" (× {one.high / one.low:.3g})" if one.low > 0 else ""
    return "" if math.isnan(one.low) else f"{one.low:.4g} … {one.high:.4g}{ratio}"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "…": r"\dots{}",
    "×": r"$\times$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _escaped(text: str) -> str:
    """Text as LaTeX prints it; 1.2e-05 as a power of ten."""
    text = "".join(_LATEX.get(sign, sign) for sign in text)
    return re.sub(r"(\d)e([+-]?)0*(\d+)", lambda m: rf"{m[1]} $\cdot 10^{{{m[2].strip('+')}{m[3]}}}$", text)
