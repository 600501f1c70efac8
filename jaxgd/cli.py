"""The command: words in, words out, exit codes. 0 done, 1 failed, 2 bad input, 130 interrupted."""

import errno
import functools
import hashlib
import math
import os
import platform
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from importlib import metadata
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
_CLUSTER_HELP = "Let the workers of a running Dask scheduler do it: its address, or the file that it wrote."
_FRESH_HELP = "Begin anew; an earlier run of the same config is kept under another name."
_AT_HELP = "Which lane: a value along each axis, as in learning_rate=1.2; the nearest there is counts."
_AROUND_HELP = "Around the best setting; or around the edge of divergence, where it lies nearest to that."
_IMPORT_HELP = "Import the code that the config names (function = ...), which carries it out, and check it too."
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET_HELP)]
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.", show_default=False)]
RunName = Annotated[str, typer.Argument(metavar="RUN", help=_RUN_HELP, show_default=False)]
RunNames = Annotated[list[str], typer.Argument(metavar="RUN...", help=_RUN_HELP, show_default=False)]
Target = Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write it there instead.")]
Opens = Annotated[bool, typer.Option("--open", help="Open it when done.")]
_KINDS = "png|svg|pdf"
_SLOW = 1.0  # seconds from which progress is shown
_WORTH_KEEPING = 0.1  # seconds of compiling from which a program is kept
_INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT)


class BadInput(Exception):
    """What the user asked for can't be; the text says why."""


class Interrupted(Exception):
    """The user stopped a run; the text says what of it is kept."""


def main() -> None:
    """The console command."""
    _keep_programs()
    warnings.formatwarning = _as_a_message
    sys.exit(answered())


def _keep_programs() -> None:
    """Has JAX keep compiled programs in the user's cache folder, so that a second run of a config starts at once.

    One folder for each version of Python and of JAX and each kind of machine. Where it can't be written
    there is no cache. JAX_COMPILATION_CACHE_DIR names another, JAX_ENABLE_COMPILATION_CACHE=0 turns it off.
    """
    known = "-".join(map(metadata.version, ("jax", "jaxlib")))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxgd" / f"{known}-{_machine()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(_WORTH_KEEPING))


def _machine() -> str:
    """A short name for what a program is compiled for: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    told = "\n".join([platform.machine(), platform.processor(), platform.python_version(), *features])
    return hashlib.sha256(told.encode()).hexdigest()[:12]


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
    if Path(file).is_relative_to(Path(__file__).parent):
        return f"{_message(str(message))}\n"
    return _as_python_does(message, kind, file, line, code)


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
    open: Annotated[bool, typer.Option("--open", help="Open the report when done.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help=_FRESH_HELP)] = False,
    figures: Annotated[str, typer.Option(metavar=_KINDS, help="What kind of files the pictures are.")] = "png",
    cluster: Annotated[str | None, typer.Option(metavar="ADDRESS", help=_CLUSTER_HELP)] = None,
) -> None:
    """Carry out a config, and show what came of it.

    Every descent, what became of each, pictures and a report. Goes on where an earlier run of the same
    config left off, and repeats nothing.
    """
    from jaxgd import run as runs

    _check_kind(figures)
    began = time.perf_counter()
    prepared = runs.prepared(config, set or ())
    if fresh and (earlier := runs.set_aside(prepared)):
        _console(stderr=True).print(f"the earlier run is kept as {_plain(earlier)}", soft_wrap=True)
    page = _carried_out(prepared, began, figures, cluster)
    if open:
        typer.launch(page.resolve().as_uri())


@app.command()
@_refuses
def check(
    config: ConfigPath,
    set: Settings = None,
    import_: Annotated[bool, typer.Option("--import", help=_IMPORT_HELP)] = False,
) -> None:
    """Say what a config would take, and do nothing.

    How many lanes in which batches, how much memory and disk. Code that it names is imported, and so
    carried out, only if you say so.
    """
    from jaxgd import budget
    from jaxgd import config as cfg
    from jaxgd import run as runs
    from jaxgd.ranges import visible

    if (code := cfg.code_named(read := cfg.read(config, set or ()))) and not import_:
        budget.check_config(read)
        print(f"{visible(config)}: good, as far as can be told without the code that it names:")
        for key, reference in code.items():
            print(f"  {key} = {visible(reference)}, from {visible(_origin(reference, config))}")
        print("With --import it is imported, and so carried out, and checked too.")
        return
    prepared = runs.prepared(config, set or ())
    plan = prepared.plan
    size = math.prod(plan.chunk)
    axes = " × ".join(f"{d.name} {d.size}" for d in plan.dimensions) or "a single descent"
    done = "finished or begun already" if prepared.folder.exists() else "new"
    out = _console()
    out.print(f"{_plain(config)}: good", soft_wrap=True)
    out.print(f"[bold]lanes[/]    {plan.lanes}  ({axes})")
    out.print(f"[bold]epochs[/]   {plan.epochs} each at most, {plan.lanes * plan.epochs:.3g} updates in all")
    out.print(f"[bold]batches[/]  {len(plan.boxes())}, of up to {size} lanes in blocks of {plan.block}")
    out.print(f"[bold]memory[/]   about {budget.in_bytes(budget.working(plan))} per worker")
    out.print(f"[bold]disk[/]     {budget.in_bytes(budget.stored(plan))} before compression")
    out.print(f"[bold]results[/]  {_plain(prepared.folder)}  ({done})", soft_wrap=True)


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
    With a target, the one that meets it in the fewest epochs.
    Where learning rates vary, also how much the choice of one matters, and how far off the edge is.
    """
    from jaxgd import config as cfg
    from jaxgd import lane, store
    from jaxgd import run as runs
    from jaxgd import table as tables
    from jaxgd.ranges import visible
    from jaxgd.show.rates import rate_table, rate_words
    from jaxgd.show.tables import setting, spread, vector

    folder = runs.resolved(run)
    table = store.opened_table(folder).load()
    select = tables.selected_by(table)
    try:
        winner = tables.best(table, select)
    except ValueError as error:
        raise BadInput(f"{folder}: {error}") from error
    if toml:
        print(cfg.as_toml(lane.at(runs.config_of(folder), winner)), end="")
        return
    print(setting(winner))
    for name in (metric for metric in tables.METRICS if metric in winner):
        print(f"{name:19s} {spread(winner, name)}")
    for name in ("final_cost", "best_cost", "best_epoch", "epochs", "target_epoch", "gradient_norm"):
        values = winner[name].values
        said = f"{values.item():.6g}" if values.ndim == 0 else f"median {_median(values):.6g} of {values.size}"
        print(f"{name:14s} {said}")
    kept = store.opened_best(folder)
    params = winner if kept is None else kept
    for name in params.data_vars:
        if str(name).split(".")[0] == "params" and not winner["outcome"].ndim:  # of several seeds, none is the one
            print(f"{visible(name):14s} {vector(params[name].values)}")
    for name, rows in tables.by_name(table).items():
        if words := rate_words(rows, select, factor):
            print("\n" + "\n".join([*([f"{name}:"] if name else []), *words]))
        if rates := rate_table(rows, select, factor):
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


@app.command()
@_refuses
def zoom(
    run: RunName,
    around: Annotated[str, typer.Option(metavar="best|edge", help=_AROUND_HELP, show_default=False)],
    factor: Annotated[float, typer.Option(help="How many times as narrow every range becomes.")] = 10.0,
    frames: Annotated[int, typer.Option(min=1, help="In how many steps, each a run of its own; and film them.")] = 1,
    set: Settings = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the finer config, and do not run it.")] = False,
    open: Annotated[bool, typer.Option("--open", help="Open the report, or the film, when done.")] = False,
    cluster: Annotated[str | None, typer.Option(metavar="ADDRESS", help=_CLUSTER_HELP)] = None,
) -> None:
    """Look at a run more closely: its config over finer axes, around its best setting or its edge, run.

    Every range becomes narrower and keeps its number of points; seeds and lists of values stay. The
    finer run has a folder of its own, which can be looked at more closely in turn.
    """
    from jaxgd import config as cfg
    from jaxgd import run as runs
    from jaxgd import zoom as zooming
    from jaxgd.show import gallery

    folders = [runs.resolved(run)]
    if toml and frames > 1:
        raise BadInput("--toml prints one config: leave out --frames")
    for frame in range(1, frames + 1):
        began = time.perf_counter()
        prepared = zooming.closer(folders[-1], around, factor ** (1 / frames), set or (), (frame, frames))
        if toml:
            print(cfg.as_toml(prepared.config), end="")
            return
        shown = _carried_out(prepared, began, cluster=cluster, told=frame == frames)
        folders.append(prepared.folder)
        if frame < frames:
            _console().print(f"{frame} of {frames}  {_plain(prepared.folder)}", soft_wrap=True)
    if frames > 1:
        shown = gallery.filmed(folders)
        _console().print(f"[bold]film   [/]  {_plain(shown)}", soft_wrap=True)
    if open:
        typer.launch(shown.resolve().as_uri())


@app.command()
@_refuses
def compare(
    run: RunName,
    by: Annotated[str | None, typer.Option(help="A cost or an accuracy; by default what the run selects by.")] = None,
    factor: Annotated[float, typer.Option(help="How close to the best is good enough.", min=1)] = 2.0,
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table and nothing else.")] = False,
) -> None:
    """Compare the optimizers of a run.

    The best setting of each, the range of every hyperparameter that does nearly as well, and the
    best that so many random trials would be expected to find.
    """
    from jaxgd import compare as comparing
    from jaxgd import run as runs
    from jaxgd import store
    from jaxgd.config import near
    from jaxgd.show import comparison
    from jaxgd.table import selected_by

    folder = runs.resolved(run)
    table, title = store.opened_table(folder).load(), runs.title_of(folder)
    by = by or selected_by(table)
    if by not in (known := comparing.figures(table)):
        raise BadInput(f"--by {by}: can compare costs and accuracies only{near(by, known)}")
    contenders = comparing.compared(table, by, factor)
    if latex:
        print(comparison.latex(contenders, by, factor))
        return
    out = _console(width=200)  # a table that is cut short compares nothing: let the terminal wrap it
    out.print(f"[bold]{_plain(title)}[/]\n")
    out.print(comparison.words(contenders, by, factor))
    picture = folder / "figures" / "expected_best.png"
    picture.parent.mkdir(exist_ok=True)
    comparison.curves(comparing.expected_best(table, by), title).savefig(picture)
    out.print(f"\n[bold]picture[/]  {_plain(picture)}", soft_wrap=True)


@app.command()
@_refuses
def report(
    runs: RunNames,
    to: Target = None,
    figures: Annotated[str | None, typer.Option(metavar=_KINDS, help="Draw the pictures again, as such files.")] = None,
    open: Opens = False,
) -> None:
    """Make the report of a run again from its stored results; of several, side by side.

    One HTML file that holds all it shows: send it on, open it anywhere. And its pictures, where a run
    has none yet: one that was made in Python, say.
    """
    from jaxgd.run import resolved, title_of
    from jaxgd.show import gallery
    from jaxgd.show import report as reports

    _check_kind(figures)
    folders = [resolved(name) for name in runs]
    try:
        for folder in folders:
            if figures or not gallery.has_figures(folder):
                gallery.of_run(folder, title_of(folder), figures or "png")
        page = reports.write(folders, to)
    except OSError as error:
        raise BadInput(f"{error.filename or to}: can't be written: {error.strerror}") from error
    print(page)
    if open:
        typer.launch(page.resolve().as_uri())


@app.command()
@_refuses
def animate(
    runs: RunNames,
    to: Target = None,
    open: Opens = False,
) -> None:
    """Film a run: balls that roll over the cost. Of several, their pictures in turn.

    One GIF that loops: from the stored paths, without descending.
    """
    from jaxgd.run import resolved
    from jaxgd.show import gallery

    try:
        path = gallery.filmed([resolved(name) for name in runs], to)
    except OSError as error:
        raise BadInput(f"{error.filename or to}: can't be written: {error.strerror}") from error
    print(path)
    if open:
        typer.launch(str(path))


def _carried_out(
    prepared: Any, began: float, figures: str = "png", cluster: str | None = None, told: bool = True
) -> Path:
    """Runs, draws, writes the report, and tells what came of it; returns where the report is."""
    from jaxgd import run as runs
    from jaxgd import store
    from jaxgd.show import gallery, tables
    from jaxgd.show import report as reports

    _carry_out(prepared, cluster)
    table = store.opened_table(prepared.folder).load()
    if prepared.plan.lanes == 1:
        for line in tables.epoch_lines(store.opened_paths(prepared.folder)):
            print(line)
        print()
    title = prepared.config.title or runs.name_of(prepared.folder)
    pictures = gallery.of_run(prepared.folder, title, figures)
    page = reports.write([prepared.folder])
    if not told:
        return page
    out = _console()
    lanes = f"{prepared.plan.lanes:,}".replace(",", " ")
    out.print(f"[bold]{_plain(title)}[/]")
    took = f"{time.perf_counter() - began:.1f} s"
    out.print(f"{lanes} lane{'s' * (prepared.plan.lanes > 1)}, up to {prepared.plan.epochs} epochs, {took}\n")
    out.print(tables.closing(table, prepared.config.run.select))
    picture = f"{pictures[0]}{_others(pictures)}"
    for label, path in (("results", prepared.folder), ("picture", picture), ("report ", page)):
        gap = "\n" * (label == "results")
        out.print(f"{gap}[bold]{label}[/]  {_plain(path)}", soft_wrap=True)
    return page


def _carry_out(prepared: Any, cluster: str | None = None) -> None:
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
        runs.carry_out(prepared, lambda done, lanes: bar.update(task, completed=done), cluster)
    except KeyboardInterrupt:
        kept = f"{bar.tasks[task].completed} of {prepared.plan.lanes} lanes are kept in {prepared.folder}"
        raise Interrupted(kept) from None
    finally:
        late.cancel()
        if late.ident is not None:
            late.join()
        if bar.live.is_started:
            bar.stop()


def _others(pictures: list[Path]) -> str:
    """What lies beside the first picture."""
    return f"  (beside it: {', '.join(path.stem for path in pictures[1:])})" if pictures[1:] else ""


def _check_kind(figures: str | None) -> None:
    if figures not in (None, *(kinds := _KINDS.split("|"))):
        raise BadInput(f"--figures {figures}: can be {', '.join(kinds)}")


def _console(stderr: bool = False, width: int | None = None) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, width=width)


def _origin(reference: str, config: Path) -> str:
    """Where the code of "module:name" is read from."""
    from jaxgd.names import file_of

    return str(file_of(reference.partition(":")[0], config.resolve().parent) or "what is installed")


def _plain(text: object) -> str:
    """Text from a config, without meaning to the console or to the terminal."""
    from rich.markup import escape

    from jaxgd.ranges import visible

    return escape(visible(text))


def _median(values: Any) -> float:
    import numpy as np

    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


if __name__ == "__main__":
    main()
