"""One style for everything drawn: colours that colour-blind readers tell apart, a ladder of lightness for greyscale."""

import textwrap
from typing import Any

from jaxgd.ranges import visible

# After Okabe and Ito (2008), "Color Universal Design"; lightness set apart, so that outcomes differ in grey too
COLOURS = {
    "pending": "#e6e6e6",
    "converged": "#009e73",
    "trapped": "#e69f00",
    "oscillating": "#8f4a86",
    "descending": "#8fcaee",
    "diverged": "#6e1f00",
    "stopped": "#0f0f14",
}
DARK = {  # the same on a dark page, where browns and violets would drown
    "pending": "#3a3d44",
    "converged": "#1fb98b",
    "trapped": "#f0b442",
    "oscillating": "#c07fb8",
    "descending": "#8fcaee",
    "diverged": "#b5491a",
    "stopped": "#f4f4f4",
}
MARKS = {
    "pending": ".",
    "converged": "o",
    "trapped": "s",
    "oscillating": "D",
    "descending": "v",
    "diverged": "x",
    "stopped": "P",
}
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", "-.", ":")
NOWHERE = "#f2f2f2"  # on a map, where there is nothing to say

MEANINGS = {
    "pending": "not run yet",
    "converged": "met the target or the minimum",
    "trapped": "at rest above the minimum",
    "oscillating": "crosses the valley and gets no lower",
    "descending": "still on its way when the epochs ended",
    "diverged": "left the finite numbers, or grows without a new low",
    "stopped": "at rest where the gradient does not vanish, or never moved",
}

RC = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "image.cmap": "viridis",
}


def figure_name(name: str) -> str:
    """A figure of a lane in words."""
    return "epochs to the target" if name == "target_epoch" else name.replace("_", " ")


def titled(figure: Any, title: str) -> Any:
    """The figure with its title on the left, in as many lines as it needs."""
    across = int(figure.get_size_inches()[0] * 10)  # letters of this size to the inch, with room to spare
    figure.suptitle(textwrap.fill(visible(title), across), x=0.01, ha="left", parse_math=False)
    return figure


def legend_below(figure: Any, entries: dict[str, Any]) -> None:
    """A legend of handles by label, below all axes, in as many columns as its longest label leaves room for."""
    across = max(1, int(figure.get_size_inches()[0] * 13) // (max(map(len, entries)) + 6))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(len(entries), across))
