"""Small configs that several tests begin from, and how they come into a folder."""

from pathlib import Path

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
