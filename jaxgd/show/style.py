"""One style for everything drawn: colours that colour-blind readers tell apart, marks that survive greyscale."""

# Okabe and Ito (2008), "Color Universal Design"
COLOURS = {
    "pending": "#bbbbbb",
    "converged": "#009e73",
    "trapped": "#e69f00",
    "oscillating": "#cc79a7",
    "descending": "#56b4e9",
    "diverged": "#d55e00",
}
MARKS = {"pending": ".", "converged": "o", "trapped": "s", "oscillating": "D", "descending": "v", "diverged": "x"}
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", "-.", ":")

MEANINGS = {
    "pending": "not run yet",
    "converged": "met the target or the minimum",
    "trapped": "stands still above the minimum: a local minimum, a saddle, a plateau",
    "oscillating": "crosses the valley and gets no lower",
    "descending": "still on its way when the epochs ended",
    "diverged": "ran away",
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
