"""What every study needs to show its results: words to the terminal, a picture to a file."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich

from jaxgd.show.tables import names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser that knows where pictures go."""
    first_paragraph = (description or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(
        description=first_paragraph, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="folder for the picture")
    return parser


def show(title: str, rows: Iterable[Sequence[Any]], *headings: str) -> None:
    """A table under a title."""
    rich.print(f"[bold]{title}[/]")
    rich.print(names([tuple(map(str, row)) for row in rows], *headings))


def saved(figure: "Figure", folder: Path, name: str) -> Path:
    """The picture's path, once it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / name)
    rich.print(f"picture: {folder / name}")
    return folder / name
