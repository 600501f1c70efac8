"""The commands that carry a config out, or say what that would take."""

import contextlib
import math
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxgd.cli.words import (
    KINDS,
    BadInput,
    Cluster,
    ConfigPath,
    Interrupted,
    RunName,
    Settings,
    check_kind,
    console,
    plain,
)

_FRESH_HELP = "Begin anew; an earlier run of the same config is kept under another name."
_AROUND_HELP = "Around the best setting; or around the edge of divergence, where it lies nearest to that."
_IMPORT_HELP = "Import the code that the config names (function = ...), which carries it out, and check it too."
_SLOW = 1.0  # seconds from which progress is shown


def run(
    config: ConfigPath,
    set: Settings = None,
    open: Annotated[bool, typer.Option("--open", help="Open the report when done.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help=_FRESH_HELP)] = False,
    figures: Annotated[str, typer.Option(metavar=KINDS, help="What kind of files the pictures are.")] = "png",
    cluster: Cluster = None,
) -> None:
    """Carry out a config, and show what came of it.

    Every descent, what became of each, pictures and a report. Goes on where an earlier run of the same
    config left off, and repeats nothing.
    """
    from jaxgd import run as runs

    check_kind(figures)
    began = time.perf_counter()
    prepared = runs.prepared(config, set or ())
    if fresh and (earlier := runs.set_aside(prepared)):
        console(stderr=True).print(f"the earlier run is kept as {plain(earlier)}", soft_wrap=True)
    page = _carried_out(prepared, began, figures, cluster)
    if open:
        typer.launch(page.resolve().as_uri())


def check(
    config: ConfigPath,
    set: Settings = None,
    import_: Annotated[bool, typer.Option("--import", help=_IMPORT_HELP)] = False,
) -> None:
    """Say what a config would take, and do nothing.

    How many lanes in which batches, how much memory and disk. That there is the data and the code that it
    names is checked in any case; code is imported, and so run, only if you say so.
    """
    from jaxgd import budget, references
    from jaxgd import config as cfg
    from jaxgd import plan as plans
    from jaxgd import run as runs
    from jaxgd.ranges import visible

    if (code := cfg.code_named(read := cfg.read(config, set or ()))) and not import_:
        folder = runs.source_of(config.resolve().parent)
        references.check(read, str(config), folder)
        print(f"{visible(config)}: good, as far as can be told without the code that it names:")
        for key, reference in code.items():
            print(f"  {key} = {visible(reference)}, from {visible(_origin(reference, folder))}")
        print("With --import it is imported, and so run, and checked too.")
        return
    prepared = runs.prepared(config, set or ())
    plan = prepared.plan
    size, lanes = math.prod(plan.chunk), plans.present(plan)
    most = {} if lanes == plan.lanes else {"trial": "up to "}
    axes = " × ".join(f"{d.name} {most.get(d.name, '')}{d.size}" for d in plan.dimensions) or "a single descent"
    done = "finished or begun already" if prepared.folder.exists() else "new"
    out = console()
    out.print(f"{plain(config)}: good", soft_wrap=True)
    out.print(f"[bold]lanes[/]    {lanes}  ({axes})")
    out.print(f"[bold]epochs[/]   {plan.epochs} each at most, {lanes * plan.epochs:.3g} updates in all")
    out.print(f"[bold]batches[/]  {len(plan.boxes())}, of up to {size} lanes in blocks of {plan.blocks(devices=1)[0]}")
    out.print(f"[bold]memory[/]   about {budget.in_bytes(budget.working(plan))} per worker")
    out.print(f"[bold]disk[/]     {budget.in_bytes(budget.stored(plan))} before compression")
    out.print(f"[bold]results[/]  {plain(prepared.folder)}  ({done})", soft_wrap=True)


def zoom(
    run: RunName,
    around: Annotated[str, typer.Option(metavar="best|edge", help=_AROUND_HELP, show_default=False)],
    factor: Annotated[float, typer.Option(help="How many times as narrow every range becomes.")] = 10.0,
    frames: Annotated[int, typer.Option(min=1, help="In how many steps, each a run of its own; and film them.")] = 1,
    set: Settings = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the finer config, and do not run it.")] = False,
    open: Annotated[bool, typer.Option("--open", help="Open the report, or the film, when done.")] = False,
    cluster: Cluster = None,
) -> None:
    """Look more closely at a run, around its best or around its edge.

    Its config is made a finer one, and run: every range becomes narrower and keeps its number of points;
    seeds and lists of values stay. The finer run has a folder of its own, which can be looked at more
    closely in turn.
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
            console().print(f"{frame} of {frames}  {plain(prepared.folder)}", soft_wrap=True)
        if lost := zooming.lost_edge(prepared):
            console().print(f"[bold]edge   [/]  {plain(lost)}")
            break  # there is no way on
    if len(folders) > 2:
        shown = gallery.filmed(folders)
        console().print(f"[bold]film   [/]  {plain(shown)}", soft_wrap=True)
    if open:
        typer.launch(shown.resolve().as_uri())


def _carried_out(
    prepared: Any, began: float, figures: str = "png", cluster: str | None = None, told: bool = True
) -> Path:
    """Runs, draws, writes the report, and tells what came of it; returns where the report is."""
    from jaxgd import plan as plans
    from jaxgd import run as runs
    from jaxgd import store

    threading.Thread(target=_load_what_shows).start()
    _carry_out(prepared, cluster)
    from jaxgd.show import gallery, tables
    from jaxgd.show import report as reports

    table = store.opened_table(prepared.folder).load()
    lanes = plans.present(prepared.plan)
    if lanes == 1:
        for line in tables.epoch_lines(store.opened_paths(prepared.folder)):
            print(line)
        print()
    title = prepared.config.title or runs.name_of(prepared.folder)
    pictures = gallery.of_run(prepared.folder, title, figures)
    page = reports.write([prepared.folder])
    if not told:
        return page
    out = console()
    out.print(f"[bold]{plain(title)}[/]")
    took = f"{time.perf_counter() - began:.1f} s"
    out.print(f"{tables.thousands(lanes)} lane{'s' * (lanes > 1)}, up to {prepared.plan.epochs} epochs, {took}\n")
    out.print(tables.closing(table, prepared.config.run.select))
    picture = f"{pictures[0]}{_others(pictures)}"
    for label, path in (("results", prepared.folder), ("picture", picture), ("report ", page)):
        gap = "\n" * (label == "results")
        out.print(f"{gap}[bold]{label}[/]  {plain(path)}", soft_wrap=True)
    return page


def _carry_out(prepared: Any, cluster: str | None = None) -> None:
    """Runs with a progress bar, once it has taken long enough to want one."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from jaxgd import plan as plans
    from jaxgd import run as runs

    lanes = plans.present(prepared.plan)
    columns = (TextColumn("descending"), BarColumn(), MofNCompleteColumn(), TextColumn("lanes"), TimeRemainingColumn())
    bar = Progress(*columns, console=console(stderr=True), transient=True)
    task = bar.add_task("", total=lanes, completed=0)
    late = threading.Timer(_SLOW, bar.start)  # whatever is going on by then: compiling takes long too
    if bar.console.is_terminal:  # in a log a bar is only noise
        late.start()
    try:
        runs.carry_out(prepared, lambda done, _: bar.update(task, completed=done), cluster)
    except KeyboardInterrupt:
        kept = f"{bar.tasks[task].completed} of {lanes} lanes are kept in {prepared.folder}"
        raise Interrupted(kept) from None
    finally:
        late.cancel()
        if late.ident is not None:
            late.join()
        if bar.live.is_started:
            bar.stop()


def _load_what_shows() -> None:
    """Loads what is wanted once the lanes have ended, while XLA compiles and Python has nothing to do."""
    with contextlib.suppress(Exception):  # whoever needs it will say what is wrong
        import xarray  # noqa: F401

        from jaxgd.show import gallery, report, tables  # noqa: F401

        report.prepare()


def _others(pictures: list[Path]) -> str:
    """What lies beside the first picture."""
    return f"  (beside it: {', '.join(path.stem for path in pictures[1:])})" if pictures[1:] else ""


def _origin(reference: str, folder: Path) -> str:
    """Where the code of "module:name" is read from."""
    from jaxgd.names import file_of

    return str(file_of(reference.partition(":")[0], folder) or "what is installed")
