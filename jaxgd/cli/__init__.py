"""The command: words in, words out, exit codes. 0 done, 1 failed, 2 bad input, 130 interrupted."""

import errno
import gc
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from jaxgd.cli import carrying, naming, reading
from jaxgd.cli.kept import keep_programs
from jaxgd.cli.words import BadInput, Interrupted, refusing

app = typer.Typer(
    help="Which learning rate? Runs gradient descents by the million, and says what became of each.",
    add_completion=False,
    rich_markup_mode=None,  # plain help: a text that any terminal and any pager shows as it is
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_INTERRUPTED = 130
_OBJECTS = 100_000  # made between two looks for garbage: libraries and traces make as many that stay, within a second
_FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """The console command."""
    gc.set_threshold(_OBJECTS)
    keep_programs()
    warnings.formatwarning = _as_a_message
    code = answered()
    gc.freeze()  # what is left goes with the process
    sys.exit(code)


def answered(words: list[str] | None = None) -> int:
    """Carries out a command line, by default this process's own; returns its exit code."""
    try:
        code = app(words, standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Interrupted as stop:
        _complain(f"interrupted; {stop}, and the same command goes on from there")
        return _INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):  # the command line itself is wrong
            _complain(error.format_message())
            return 2
        if isinstance(error, BadInput):
            _complain(str(error))
            return 2
        if os.environ.get("JAXGD_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.errno in _FULL:
            _complain(
                f"the disk is full{f', at {error.filename}' if error.filename else ''}; what is finished is kept: "
                "make room, and the same command goes on from there"
            )
            return 1
        _complain(f"{type(error).__name__}: {error}\n(set JAXGD_TRACEBACK=1 to see where)")
        return 1
    if code == _INTERRUPTED:
        _complain("interrupted; what is finished is kept, and the same command goes on from there")
    return code


def _complain(text: str) -> None:
    print(_message(text), file=sys.stderr)


def _message(text: str) -> str:
    from jaxgd.ranges import visible

    return f"jaxgd: {visible(text)}"


_as_python_does = warnings.formatwarning


def _as_a_message(message: Warning | str, kind: type[Warning], file: str, line: int, code: str | None = None) -> str:
    """A warning of jaxgd's own in one line, as all that it says; another's as Python shows it."""
    if Path(file).is_relative_to(Path(__file__).parents[1]):
        return f"{_message(str(message))}\n"
    return _as_python_does(message, kind, file, line, code)


def _said_version(wanted: bool) -> None:
    if wanted:
        from jaxgd import __version__

        print(f"jaxgd {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_said_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


_COMMANDS = {
    "run": carrying.run,
    "check": carrying.check,
    "list": naming.list_,
    "init": naming.init,
    "best": reading.best,
    "explain": reading.explain,
    "zoom": carrying.zoom,
    "compare": reading.compare,
    "report": reading.report,
    "animate": reading.animate,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(refusing(_command))
