"""Tables for the terminal and figures for the page, from what was measured."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from experiments.throughput.compare import Row
from experiments.throughput.growth import Point
from experiments.throughput.peers import OURS, PEERS
from jaxgd.show.style import LINES, RC

PEER_COLUMNS = (
    "peer",
    "keeps",
    "lanes run",
    "1st call adds s",
    "2nd adds s",
    "programs",
    "median s",
    "min–max s",
    "ratio",
    "min–max",
    "equal?",
)
GROWTH_COLUMNS = (
    "along",
    "size",
    "lanes",
    "epochs",
    "median s",
    "min–max s",
    "ns each",
    "peak MB",
    "stored MB",
    "table MB",
)
_EACH = {"lanes": "per lane", "epochs": "per lane and epoch", "dimensions": "per lane, epoch and number"}
_MARKS = "osD^vP*X"


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns as wide as what they hold; words to the left, numbers to the right."""
    lines = [list(headings), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = [not any(cell.lstrip("-")[:1].isdigit() for cell in column[1:]) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(line, widths, words, strict=True)
        ).rstrip()
        for line in lines
    )


def peer_cells(row: Row, lanes: int) -> Sequence[str]:
    return (
        row.peer,
        PEERS[row.peer].keeps,
        f"{row.lanes}" + (" (scaled)" if row.lanes < lanes else ""),
        *(f"{seconds:.2f}" for seconds in row.more),
        f"{row.programs[0]} + {row.programs[1]}",
        _digits(median(row.seconds)),
        _span(row.seconds),
        f"{_digits(median(row.ratios))}×",
        _span(row.ratios),
        "-" if row.peer == OURS else str(row.agreement),
    )


def growth_cells(point: Point) -> Sequence[str]:
    return (
        point.along,
        str(point.size),
        str(point.workload.lanes),
        str(point.workload.epochs),
        _digits(median(point.seconds)),
        _span(point.seconds),
        _digits(point.unit_time),
        *(f"{bytes_ / 1e6:.0f}" for bytes_ in (point.peak, point.peak_stored)),
        f"{point.table / 1e6:.1f}",
    )


def draw_peers(rows: Sequence[Row], path: Path) -> None:
    """How many times as long each peer takes, per workload; the bar is the spread over the rounds."""
    workloads = list(dict.fromkeys(row.workload for row in rows))[::-1]
    peers = [peer for peer in PEERS if peer != OURS and any(row.peer == peer for row in rows)]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9, 1.8 + 0.45 * len(workloads)))
        axes = figure.subplots()
        for i, peer in enumerate(peers):
            mine = [row for row in rows if row.peer == peer]
            middles = [median(row.ratios) for row in mine]
            spread = [
                [m - min(r.ratios) for m, r in zip(middles, mine, strict=True)],
                [max(r.ratios) - m for m, r in zip(middles, mine, strict=True)],
            ]
            heights = [workloads.index(row.workload) + 0.5 - (i + 1) / (len(peers) + 1) for row in mine]
            look = {"color": LINES[i % len(LINES)], "fmt": _MARKS[i % len(_MARKS)], "markersize": 5, "label": peer}
            axes.errorbar(middles, heights, xerr=spread, linewidth=1, **look)
        axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
        for line in range(len(workloads) - 1):
            axes.axhline(line + 0.5, color="#dddddd", linewidth=0.6)
        axes.set(xscale="log", xlabel="times as long as jaxgd (dotted: as long; bars: min to max)")
        axes.set_yticks(range(len(workloads)), workloads)
        axes.set_ylim(-0.5, len(workloads) - 0.5)
        axes.tick_params(axis="y", length=0)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
        figure.savefig(path)


def draw_growth(points: Sequence[Point], path: Path) -> None:
    """Time of one unit of work, and memory, along each of the three ways to grow."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(11, 5.6))
        for column, (along, each) in zip(figure.subplots(2, 3, sharex="col").T, _EACH.items(), strict=True):
            mine = [point for point in points if point.along == along]
            sizes = [point.size for point in mine]
            column[0].plot(sizes, [point.unit_time for point in mine], "o-", color=LINES[0])
            column[0].set(xscale="log", yscale="log", title=f"time {each}", ylabel="ns")
            memory = {"peak": "result in memory", "peak_stored": "result to a folder", "table": "the result itself"}
            for (name, label), colour, mark in zip(memory.items(), LINES[1:], _MARKS[1:], strict=False):
                column[1].plot(sizes, [getattr(p, name) / 1e6 for p in mine], f"{mark}-", color=colour, label=label)
            column[1].set(xscale="log", title="resident memory, peak", ylabel="MB", xlabel=along, ylim=(0, None))
        figure.axes[-1].legend()
        figure.savefig(path)


def draw_phases(phases: dict[str, dict[str, float]], path: Path) -> None:
    """One bar per config, divided into its phases."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9, 1.6 + 0.5 * len(phases)))
        axes = figure.subplots()
        names = [name for name in next(iter(phases.values())) if not name.startswith("the command")]
        left = [0.0] * len(phases)
        for name, colour in zip(names, (*LINES, "#999999", "#bbbbbb", "#dddddd"), strict=False):
            widths = [seconds[name] for seconds in phases.values()]
            axes.barh(list(phases), widths, left=left, color=colour, label=name)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set(xlabel="seconds of one jaxgd run")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
        figure.savefig(path)


def _digits(number: float) -> str:
    """Three digits, without an exponent."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}" if number >= 1e-3 else f"{number:.5f}"


def _span(numbers: Sequence[float]) -> str:
    return f"{_digits(min(numbers))}–{_digits(max(numbers))}"
