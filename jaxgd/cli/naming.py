"""The commands that one begins with: what a config can name, and a config to start from."""

import os
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from jaxgd.cli.words import BadInput


def _templates() -> dict[str, Path]:
    """The configs that come with jaxgd, by name: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _like_help() -> str:
    return f"Which of them: {', '.join(_templates())}."


def list_(
    what: Annotated[str, typer.Argument(metavar="surfaces|optimizers", help="What to list.", show_default=False)],
) -> None:
    """List what a config can name: surfaces or optimizers."""
    if what == "surfaces":
        from jaxgd.surfaces import SURFACES

        for name, surface in SURFACES.items():
            count = surface.dimension or "any number of"
            print(f"{name}, {count} variable{'s' * (count != 1)}\n    {surface.equation}\n    {surface.about}")
    elif what == "optimizers":
        from jaxgd.config import shown
        from jaxgd.names import hyperparameters, optimizers

        for name, factory in optimizers().items():
            values = [k if v is None else f"{k} = {shown(v)}" for k, v in hyperparameters(factory).items()]
            print(f"{name}\n{textwrap.indent(textwrap.fill(', '.join(values), 90), '    ')}")
    else:
        raise BadInput(f"list {what}: can list surfaces or optimizers")


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new config, NAME.toml.", show_default=False)],
    like: Annotated[str, typer.Option(metavar="TEMPLATE", help=_like_help())] = "lesson",
) -> None:
    """Write a new config, like one that comes with jaxgd."""
    from jaxgd.config import near

    known = _templates()
    if like not in known:
        raise BadInput(f"--like {like}: there is no such template{near(like, known)}")
    name = name.removesuffix(".toml")
    target = Path(f"{name}.toml")
    if not name or name.endswith(("/", os.sep)):
        raise BadInput(f"{name!r} is no name for a config")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(known[like].read_text("utf-8"))
    except FileExistsError as error:
        raise BadInput(f"{target} is there already; it is left as it is") from error
    except OSError as error:
        raise BadInput(f"{target}: can't be written: {error.strerror}") from error
    print(f"{target}: like {like}; now: jaxgd run {target}")
