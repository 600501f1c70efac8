"""Optimizers beside each other: a table for the terminal, the same in LaTeX, and the curves of few trials."""

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
from jaxgd.show.style import DASHES, LINES, RC
from jaxgd.show.tables import setting
from jaxgd.table import is_accuracy

if TYPE_CHECKING:
    import xarray


def words(contenders: list[Contender], by: str, factor: float) -> Table:
    """The comparison for the terminal."""
    heads, *rows = _cells(contenders, by, factor)
    shown = Table(*heads, box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    for row in rows:
        shown.add_row(*map(Text, row))
    return shown


def latex(contenders: list[Contender], by: str, factor: float) -> str:
    """The comparison as a LaTeX table; it needs the package booktabs."""
    heads, *rows = _cells(contenders, by, factor)
    lines = [" & ".join(map(_escaped, row)).replace("\n", ", ") + r" \\" for row in rows]
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
    """Headings, then a row for each contender."""
    figures = list(next((c.figures for c in contenders if c.figures), {by: None}))
    varied = any(c.ranges for c in contenders)
    within = f"within a factor of {factor:g} of {'what it misses' if is_accuracy(by) else 'that'}"
    heads = ["optimizer", "best setting", *(name.replace("_", " ") for name in figures), *[within] * varied, "diverged"]
    rows = []
    for contender in contenders:
        said = setting(contender.setting) if contender.setting is not None else "none: all diverged"
        scored = [_spread(contender.figures[name]) if name in contender.figures else "" for name in figures]
        ranges = ["\n".join(_range(one) for one in contender.ranges)] * varied
        rows.append([contender.name or "the only one", said, *scored, *ranges, f"{100 * contender.diverged:.0f} %"])
    return [heads, *rows]


def _spread(figure: compare.Figure) -> str:
    return f"{figure.median:.4g}" + (f" ({figure.low:.4g} … {figure.high:.4g})" if figure.high > figure.low else "")


def _range(one: compare.Range) -> str:
    if math.isnan(one.low):
        return one.name
    ratio = f" (× {one.high / one.low:.3g})" if one.low > 0 else ""
    return f"{one.name} {one.low:.4g} … {one.high:.4g}{ratio}"


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
