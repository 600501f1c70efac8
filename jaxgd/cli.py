"""The command: words in, words out, exit codes. 0 done, 1 failed, 2 bad input, 130 interrupted."""

import errno
import functools
import math
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Which learning rate? Runs gradient descents by the million, and says what became of each.",
    add_completion=False,
    rich_markup_mode=None,  # plain help: a text that any terminal and any pager shows as it is
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_SET_HELP = "Lay a value over the config, as in run.epochs=200 or sweep={}; as often as you like."
_RUN_HELP = "A run folder, its config, or the beginning of its name."
_FRESH_HELP = "Begin anew; an earlier run of the same config is kept under another name."
_AT_HELP = "Which lane: a value along each axis, as in learning_rate=1.2; the nearest there is counts."
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET_HELP)]
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.", show_default=False)]
RunName = Annotated[str, typer.Argument(metavar="RUN", help=_RUN_HELP, show_default=False)]
_SLOW = 1.0  # seconds from which progress is shown
_INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT)


class BadInput(Exception):
    """What the user asked for can't be; the text says why."""


class Interrupted(Exception):
    """The user stopped a run; the text says what of it is kept."""


def main() -> None:
    """The console command."""
    sys.exit(answered())


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
    print(f"jaxgd: {text}", file=sys.stderr)


def _said_version(wanted: bool) -> None:
    if wanted:
        from jaxgd import __version__

        print(f"jaxgd {__version__}")
        raise typer.Exit


def _templates() -> dict[str, Path]:
    """The configs that come with jaxgd, by name: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _like_help() -> str:
    return f"Which of them: {', '.join(_templates())}."


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_said_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def _refuses(command: Callable) -> Callable:
    """Turns what the rooms below refuse into one message and exit code 2."""

    @functools.wraps(command)
    def plain(*args: Any, **kwargs: Any) -> Any:
        from jaxgd.config import ConfigError
        from jaxgd.store import StoreError

        try:
            return command(*args, **kwargs)
        except (ConfigError, StoreError) as error:
            raise BadInput(str(error)) from error

    return plain


@app.command()
@_refuses
def run(
    config: ConfigPath,
    set: Settings = None,
    open: Annotated[bool, typer.Option("--open", help="Open the picture when done.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help=_FRESH_HELP)] = False,
) -> None:
    """Carry out a config, and show what came of it.

    Every descent, what became of each, and a picture. Goes on where an earlier run of the same
    config left off, and repeats nothing.
    """
    from jaxgd import run as runs
    from jaxgd import store
    from jaxgd.show import tables

    began = time.perf_counter()
    prepared = runs.prepared(config, set or ())
    if fresh and (earlier := runs.set_aside(prepared)):
        _console(stderr=True).print(f"the earlier run is kept as {earlier}", soft_wrap=True, markup=False)
    _carry_out(prepared)
    table, paths = store.opened_table(prepared.folder).load(), store.opened_paths(prepared.folder)
    if prepared.plan.lanes == 1:
        for line in tables.epoch_lines(paths):
            print(line)
        print()
    title = prepared.config.title or config.stem
    picture = _picture(prepared.folder, table, paths, title)
    out = _console()
    lanes = f"{prepared.plan.lanes:,}".replace(",", " ")
    out.print(f"[bold]{_plain(title)}[/]")
    took = f"{time.perf_counter() - began:.1f} s"
    out.print(f"{lanes} lane{'s' * (prepared.plan.lanes > 1)}, up to {prepared.plan.epochs} epochs, {took}\n")
    out.print(tables.closing(table, prepared.config.run.select))
    out.print(f"\n[bold]results[/]  {prepared.folder}\n[bold]picture[/]  {picture}", soft_wrap=True)
    if open:
        typer.launch(str(picture))


@app.command()
@_refuses
def check(config: ConfigPath, set: Settings = None) -> None:
    """Say what a config would take, and do nothing.

    How many lanes in which batches, how much memory and disk.
    """
    from jaxgd import run as runs
    from jaxgd import table
    from jaxgd.plan import bytes_of

    prepared = runs.prepared(config, set or ())
    plan = prepared.plan
    stored = sum(int(v.dtype.itemsize * math.prod(v.shape)) for v in table.variables(plan).values())
    working = plan.blocks * plan.block * (bytes_of(plan.outline) + 16 * 8)
    axes = " × ".join(f"{d.name} {d.size}" for d in plan.dimensions) or "a single descent"
    done = "finished or begun already" if prepared.folder.exists() else "new"
    out = _console()
    out.print(f"{config}: good", soft_wrap=True, markup=False)
    out.print(f"[bold]lanes[/]    {plan.lanes}  ({axes})")
    out.print(f"[bold]epochs[/]   {plan.epochs} each at most, {plan.lanes * plan.epochs:.3g} updates in all")
    size = math.prod(plan.chunk)
    out.print(f"[bold]batches[/]  {len(plan.boxes())}, of up to {size} lanes in blocks of {plan.block}")
    out.print(f"[bold]memory[/]   about {_size(working)} per worker")
    out.print(f"[bold]disk[/]     {_size(stored)} before compression")
    out.print(f"[bold]results[/]  {prepared.folder}  ({done})", soft_wrap=True)


@app.command("list")
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


@app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new config, NAME.toml.", show_default=False)],
    like: Annotated[str, typer.Option(metavar="TEMPLATE", help=_like_help())] = "lesson",
) -> None:
    """Write a new config, like one that comes with jaxgd."""
    from jaxgd.config import near

    templates = _templates()
    if like not in templates:
        raise BadInput(f"--like {like}: there is no such template{near(like, templates)}")
    name = name.removesuffix(".toml")
    target = Path(f"{name}.toml")
    if not name or name.endswith(("/", os.sep)):
        raise BadInput(f"{name!r} is no name for a config")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(templates[like].read_text("utf-8"))
    except FileExistsError as error:
        raise BadInput(f"{target} is there already; it is left as it is") from error
    except OSError as error:
        raise BadInput(f"{target}: can't be written: {error.strerror}") from error
    print(f"{target}: like {like}; now: jaxgd run {target}")


@app.command()
@_refuses
def best(
    run: RunName,
    toml: Annotated[bool, typer.Option("--toml", help="Print it as a config of its own.")] = False,
    factor: Annotated[float, typer.Option(min=1.0, help="How close to the best is good enough.")] = 2.0,
) -> None:
    """Show the best setting of a run.

    The one with the lowest median over seeds, what diverged counting as worst; never the luckiest lane.
    Where learning rates vary, also how much the choice of one matters, and how far off the edge is.
    """
    from jaxgd import config as cfg
    from jaxgd import lane, store
    from jaxgd import run as runs
    from jaxgd import table as tables
    from jaxgd.show.rates import rate_table, rate_words
    from jaxgd.show.tables import by_name, setting, vector

    folder = runs.resolved(run)
    config, table = runs.config_of(folder), store.opened_table(folder).load()
    try:
        winner = tables.best(table, config.run.select)
    except ValueError as error:
        raise BadInput(f"{folder}: {error}") from error
    if toml:
        print(cfg.as_toml(lane.at(config, winner)), end="")
        return
    print(setting(winner))
    for name in ("final_cost", "best_cost", "best_epoch", "epochs", "target_epoch", "gradient_norm"):
        values = winner[name].values
        said = f"{values.item():.6g}" if values.ndim == 0 else f"median {_median(values):.6g} of {values.size}"
        print(f"{name:14s} {said}")
    kept = store.opened_best(folder)
    params = winner if kept is None else kept
    for name in params.data_vars:
        if str(name).split(".")[0] == "params" and not winner["outcome"].ndim:  # of several seeds, none is the one
            print(f"{name:14s} {vector(params[name].values)}")
    for name, rows in by_name(table).items():
        if words := rate_words(rows, config.run.select, factor):
            print("\n" + "\n".join([*([f"{name}:"] if name else []), *words]))
        if rates := rate_table(rows, config.run.select, factor):
            _console().print(rates)


@app.command()
@_refuses
def explain(
    run: RunName,
    at: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help=_AT_HELP, show_default=False)
    ] = None,
) -> None:
    """Say why one lane of a run did what it did.

    Rate and sharpness against the known limit, how often it crossed the valley, where it got stuck,
    the nearest setting that converged, and how to see it again.
    """
    from jaxgd import run as runs
    from jaxgd.explain import explained
    from jaxgd.show.account import again, heading, sentences

    asked = dict(word.partition("=")[::2] for word in at or ())
    if wrong := [word for word in at or () if not all(word.partition("="))]:
        raise BadInput(f"{wrong[0]!r}: must be NAME=VALUE, as in learning_rate=0.1")
    facts = explained(runs.resolved(run), asked)
    print("\n".join(heading(facts)), end="\n\n")
    print(textwrap.fill(" ".join(sentences(facts)), _console().width), end="\n\n")
    print("\n".join(again(facts)))  # as they are, to be copied


def _carry_out(prepared: Any) -> None:
    """Runs with a progress bar, once it has taken long enough to want one."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from jaxgd import run as runs

    columns = (TextColumn("descending"), BarColumn(), MofNCompleteColumn(), TextColumn("lanes"), TimeRemainingColumn())
    bar = Progress(*columns, console=_console(stderr=True), transient=True)
    task = bar.add_task("", total=prepared.plan.lanes, completed=0)
    late = threading.Timer(_SLOW, bar.start)  # whatever is going on by then: compiling takes long too
    if bar.console.is_terminal:  # in a log a bar is only noise
        late.start()
    try:
        runs.carry_out(prepared, lambda done, lanes: bar.update(task, completed=done))
    except KeyboardInterrupt:
        kept = f"{bar.tasks[task].completed} of {prepared.plan.lanes} lanes are kept in {prepared.folder}"
        raise Interrupted(kept) from None
    finally:
        late.cancel()
        if late.ident is not None:
            late.join()
        if bar.live.is_started:
            bar.stop()


def _picture(folder: Path, table: Any, paths: Any, title: str) -> Path:
    from jaxgd.show import plots

    path = folder / "figures" / "overview.png"
    path.parent.mkdir(exist_ok=True)
    plots.overview(table, paths, title).savefig(path)
    return path


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _plain(text: str) -> str:
    """Text from a config, without meaning to the console."""
    from rich.markup import escape

    return escape(text)


def _median(values: Any) -> float:
    import numpy as np

    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


if __name__ == "__main__":
    main()
