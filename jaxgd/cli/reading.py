"""The commands that read runs: what came of them, in words, tables and pictures."""

import textwrap
from typing import Annotated, Any

import typer

from jaxgd.cli.words import KINDS, BadInput, Opens, RunName, RunNames, Target, check_kind, console, plain

_AT_HELP = "Which lane: a value along each axis, as in learning_rate=1.2; the nearest there is counts."


def best(
    run: RunName,
    toml: Annotated[bool, typer.Option("--toml", help="Print it as a config of its own.")] = False,
    factor: Annotated[float, typer.Option(min=1.0, help="How close to the best is good enough.")] = 2.0,
) -> None:
    """Show the best setting of a run.

    Of the settings of which the fewest seeds diverged, the one with the lowest median over the others;
    never the luckiest lane.
    With a target, the one that meets it in the fewest epochs.
    Where learning rates vary, also how much the choice of one matters, and how far off the edge is.
    """
    from jaxgd import config as cfg
    from jaxgd import lane, store
    from jaxgd import run as runs
    from jaxgd import table as tables
    from jaxgd.ranges import visible
    from jaxgd.show.rates import rate_table, rate_words
    from jaxgd.show.tables import of_seeds, setting, spread, vector

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
        if values.ndim == 0:
            said = f"{values.item():.6g}"
        elif name in ("final_cost", "best_cost"):
            said = f"median {float(tables.typical(winner, name)):.6g} {of_seeds(winner)}"
        else:
            said = f"median {_median(values):.6g} of {values.size}"
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
            console().print(rates)


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
    print(textwrap.fill(" ".join(sentences(facts)), console().width), end="\n\n")
    print("\n".join(again(facts)))  # as they are, to be copied


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
    out = console(width=200)  # a table that is cut short compares nothing: let the terminal wrap it
    out.print(f"[bold]{plain(title)}[/]\n")
    out.print(comparison.words(contenders, by, factor))
    picture = folder / "figures" / "expected_best.png"
    picture.parent.mkdir(exist_ok=True)
    comparison.curves(comparing.expected_best(table, by), title).savefig(picture)
    out.print(f"\n[bold]picture[/]  {plain(picture)}", soft_wrap=True)


def report(
    runs: RunNames,
    to: Target = None,
    figures: Annotated[str | None, typer.Option(metavar=KINDS, help="Draw the pictures again, as such files.")] = None,
    open: Opens = False,
) -> None:
    """Make the report of a run again; of several, side by side.

    From its stored results. One HTML file that holds all it shows: send it on, open it anywhere. And its
    pictures, where a run has none yet: one that was made in Python, say.
    """
    from jaxgd.run import resolved, title_of
    from jaxgd.show import gallery
    from jaxgd.show import report as reports

    check_kind(figures)
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


def _median(values: Any) -> float:
    import numpy as np

    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")
