"""Small configs that several tests begin from, how they come into a folder, and a table before its first lane."""

from pathlib import Path

import numpy as np

from jaxgd.table import MAYBE_NEVER, labelled, variables

PARABOLA = """
[cost]
expression = "x**2 + 5"
minimum = 5
[start]
x = 3.0
[optimizer]
name = "gradient_descent"
learning_rate = 0.1
[run]
epochs = 3
"""
RACE = """
[cost]
surface = "rosenbrock"
[start]
x = [-1.2, 1.0]
[optimizers.adam]
learning_rate = 0.02
[optimizers.momentum]
learning_rate = 0.001
[run]
epochs = 3
"""


def lasting(epochs: int, text: str) -> str:
    """The same for so many epochs."""
    assert text.count("epochs = 3\n") == 1
    return text.replace("epochs = 3\n", f"epochs = {epochs}\n")


def written(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def pending(plan):
    """The table of a sweep none of whose lanes has run."""
    results = {name: np.full(v.shape, v.fill, v.dtype) for name, v in variables(plan).items()}
    return labelled(plan, results | {name: np.full(plan.shape, np.nan) for name in MAYBE_NEVER})
