"""What the commands share: their options in words, what they refuse, how they print."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

_SET_HELP = "Lay a value over the config, as in run.epochs=200 or sweep={}; as often as you like."
_RUN_HELP = "A run folder, its config, or the beginning of its name."
_CLUSTER_HELP = "Let the workers of a running Dask scheduler do it: its address, or the file that it wrote."
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET_HELP)]
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.", show_default=False)]
RunName = Annotated[str, typer.Argument(metavar="RUN", help=_RUN_HELP, show_default=False)]
RunNames = Annotated[list[str], typer.Argument(metavar="RUN...", help=_RUN_HELP, show_default=False)]
Target = Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write it there instead.")]
Opens = Annotated[bool, typer.Option("--open", help="Open it when done.")]
Cluster = Annotated[str | None, typer.Option(metavar="ADDRESS", help=_CLUSTER_HELP)]
KINDS = "png|svg|pdf"  # of pictures


class BadInput(Exception):
    """What the user asked for can't be; the text says why."""


class Interrupted(Exception):
    """The user stopped a run; the text says what of it is kept."""


def refusing(command: Callable) -> Callable:
    """Turns what the rooms below refuse into one message and exit code 2."""

    @functools.wraps(command)
    def told(*args: Any, **kwargs: Any) -> Any:
        from jaxgd.config import ConfigError
        from jaxgd.store import StoreError

        try:
            return command(*args, **kwargs)
        except (ConfigError, StoreError) as error:
            raise BadInput(str(error)) from error

    return told


def check_kind(figures: str | None) -> None:
    if figures not in (None, *(kinds := KINDS.split("|"))):
        raise BadInput(f"--figures {figures}: can be {', '.join(kinds)}")


def console(stderr: bool = False, width: int | None = None) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, width=width)


def plain(text: object) -> str:
    """Text from a config, without meaning to the console or to the terminal."""
    from rich.markup import escape

    from jaxgd.ranges import visible

    return escape(visible(text))
