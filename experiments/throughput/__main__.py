"""Speed, measured: jaxgd beside what a user would otherwise write, how it grows, and where a run's time goes.

    python -m experiments.throughput                                   # everything, at full size
    python -m experiments.throughput --quick --only rosenbrock         # a first look
    python -m experiments.throughput --part peers --torch-python ~/torch/bin/python

Every peer runs every workload in a fresh process, by the interpreter given for its package; where the
package is not installed they are left out, and the output says so. A peer that would take too long on
a CPU runs a sample of the lanes, evenly spread, and its time is scaled; that is said too.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.throughput import growth, phases, show
from experiments.throughput.compare import Environment, Row, compared
from experiments.throughput.peers import ENVIRONMENTS, OURS, PEERS
from experiments.throughput.worker import worker
from experiments.throughput.workloads import WORKLOADS, Workload, sized

PARTS = ("peers", "growth", "phases")
_QUICK = {"lanes": 1 << 12, "epochs": 200, "repeats": 2}
_FULL = {"lanes": 1 << 22, "epochs": 2000, "repeats": 5}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. 0 if every result equals jaxgd's, 1 if one does not or a peer failed."""
    asked = _parsed(arguments)
    good = True
    for part in asked.part or PARTS:
        path = asked.out.with_stem(f"{asked.out.stem}-{part}")
        good &= {"peers": _peers, "growth": _growth, "phases": _phases}[part](asked, path)
        print(f"picture: {path}\n", flush=True)
    return 0 if good else 1


def _peers(asked: argparse.Namespace, path: Path) -> bool:
    rows: list[Row] = []
    good = True
    environments = dict(_environments(asked))
    for name, workload in asked.workloads.items():
        more, failed = compared(name, workload, environments, asked.repeats, asked.peer)
        print(f"{name}: {workload.lanes} lanes, up to {workload.epochs} epochs, target {workload.target}")
        print(show.table(show.PEER_COLUMNS, [show.peer_cells(row, workload.lanes) for row in more]))
        print(*(f"failed: {peer}: {why}\n" for peer, why in failed.items()), sep="", flush=True)
        good &= not failed and all(row.agreement.equal for row in more)
        rows += more
    show.draw_peers(rows, path)
    return good


def _environments(asked: argparse.Namespace) -> Iterator[tuple[str, Environment]]:
    """Every environment that is installed; prints a line about each, and what is left out."""
    for package in ENVIRONMENTS:
        python = {"torch": asked.torch_python, "optimistix": asked.optimistix_python}.get(package, sys.executable)
        with worker(python) as ask:
            versions = {name: ask("timing:has", name) for name in ("jax", "optax", "numpy", package)}
            here = package == "jaxgd" or versions[package] is not None
            devices = f"; on {ask('timing:devices')}, {os.cpu_count()} cores" if package == "jaxgd" else ""
            accelerated = here and ask("timing:is_accelerated", package)
        if not here:
            missing = ", ".join(name for name, peer in PEERS.items() if peer.environment == package)
            print(f"left out: {missing}: {python} has no {package} (--{package}-python names another)")
            continue
        print(f"{package}: {', '.join(f'{name} {version}' for name, version in versions.items() if version)}{devices}")
        yield package, Environment(python, accelerated)
    print('seconds and ratios are of all lanes, scaled where it says "scaled"; what a call adds is of the lanes run\n')


def _growth(asked: argparse.Namespace, path: Path) -> bool:
    print("growth: lanes with a target; epochs at full length; dimensions of Rastrigin's function, by Adam")
    points = list(growth.points(asked.lanes, asked.epochs, asked.repeats))
    print(show.table(show.GROWTH_COLUMNS, map(show.growth_cells, points)), flush=True)
    show.draw_growth(points, path)
    return True


def _phases(asked: argparse.Namespace, path: Path) -> bool:
    measured = {config: phases.divided(config) for config in phases.CONFIGS}
    names = next(iter(measured.values()))
    print("phases: seconds of one jaxgd run")
    print(show.table(("config", *names), [(c, *(f"{s:.2f}" for s in t.values())) for c, t in measured.items()]))
    added = {c: t["the command"] - t["import JAX"] - t["compile"] - t["pictures"] for c, t in measured.items()}
    print("added to importing JAX, compiling and the pictures:", ", ".join(f"{c} {s:.2f}" for c, s in added.items()))
    print(f"jaxgd --help: {phases.help_seconds():.2f}\n")
    print("programs compiled, one sweep after the other")
    print(show.table(("sweep", "programs"), phases.compilations().items()), flush=True)
    show.draw_phases(measured, path)
    return True


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.throughput",
        description=__doc__.split("\n")[0],
        epilog="\n".join(WORKLOADS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be given again")
    parser.add_argument("--only", metavar="WORKLOAD", default="", help="workloads whose name begins so (below)")
    parser.add_argument(
        "--peer", action="append", choices=[name for name in PEERS if name != OURS], help="only this one beside jaxgd"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: a first look, not a measurement")
    parser.add_argument("--lanes", type=_count, metavar="N", help="at most so many")
    parser.add_argument("--epochs", type=_count, metavar="N", help="at most so many, rounded down to a multiple of 10")
    parser.add_argument("--repeats", type=_count, metavar="N", help="rounds that are timed (5; 2 with --quick)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        default=Path("throughput.png"),
        help="the pictures, the part's name added to each (%(default)s)",
    )
    for package in ("torch", "optimistix"):
        parser.add_argument(
            f"--{package}-python", metavar="PATH", default=sys.executable, help=f"an interpreter with {package}"
        )
    asked = parser.parse_args(arguments)
    for name, default in (_QUICK if asked.quick else _FULL).items():
        setattr(asked, name, getattr(asked, name) or default)
    asked.workloads = _chosen(asked)
    if not asked.workloads:
        parser.error(f"--only {asked.only}: no workload begins so; there are: {'; '.join(WORKLOADS)}")
    return asked


def _chosen(asked: argparse.Namespace) -> Mapping[str, Workload]:
    return {n: sized(w, asked.lanes, asked.epochs) for n, w in WORKLOADS.items() if n.startswith(asked.only)}


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
