"""How one `jaxgd run` divides into start-up, compile, descend, store and what is drawn; and what compiles again."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.throughput.worker import ROOT, environment, worker

CONFIGS = ("lesson", "learning_rates", "momentum_map")


def divided(config: str) -> dict[str, float]:
    """Seconds of each phase of one config, by name; and of the whole command, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = ROOT / "configs" / f"{config}.toml"
        seconds = {"import JAX": _python("import jax, jax.numpy, optax"), "import the rest": 0.0}
        seconds["import the rest"] = max(0.0, _python("import jaxgd.run") - seconds["import JAX"])
        with worker(sys.executable) as ask:
            seconds |= ask("phases:carried_out", str(path), f"{folder}/inside")
        for name in (
            "the command",
            "the command again",
        ):  # anew, but for the programs kept
            seconds[name] = _command(["run", str(path)], Path(folder, name.replace(" ", "-")))
    return seconds


def carried_out(config: str, folder: str) -> dict[str, float]:
    """In the worker: what `jaxgd run` does, phase by phase. Compiling is told apart by JAX's own clock."""
    import jaxgd.run as runs
    from experiments.throughput.timing import compiled, timed
    from jaxgd import store
    from jaxgd.sweep import carried_out as boxes_done

    seconds = dict.fromkeys(("check", "compile", "trace, descend", "store", "paths", "pictures", "report"), 0.0)

    def phase(name: str, act: Callable[[], Any]) -> Any:
        before = compiled()[1]
        took, result = timed(act)
        compiling = compiled()[1] - before
        seconds["compile"] += compiling
        seconds[name] += took - compiling
        return result

    run = phase("check", lambda: runs.prepared(Path(config), runs=Path(folder)))
    into = phase("store", lambda: store.opened(run.folder, run.plan, run.fingerprint))
    done = phase("trace, descend", lambda: list(boxes_done(run.plan, into.unfinished())))
    phase("store", lambda: [into.keep(box, figures) for box, figures in done])
    phase("paths", lambda: runs.carry_out(run))  # finds every box done: what is left are the chosen paths
    phase("pictures", lambda: _drawn(run.folder))
    phase("report", lambda: _reported(run.folder))
    return seconds


def _drawn(folder: Path) -> None:
    from jaxgd.show import gallery

    gallery.of_run(folder, folder.name)


def _reported(folder: Path) -> None:
    from jaxgd.show import report

    report.write([folder])


def help_seconds() -> float:
    """`jaxgd --help`."""
    with tempfile.TemporaryDirectory() as folder:
        return _command(["--help"], Path(folder, "here"))


def compilations() -> dict[str, int]:
    """How many programs each further sweep compiles, by what it changes."""
    with worker(sys.executable) as ask:
        return ask("phases:counted")


def counted() -> dict[str, int]:
    """In the worker: programs compiled by one sweep after the other."""
    import jax.numpy as jnp
    import numpy as np

    import jaxgd
    from experiments.throughput.timing import compiled

    def sweep(lanes: int, low: float, data: np.ndarray, target: float | None = None) -> None:
        shared = jnp.asarray(data)

        def lane(learning_rate):  # a fresh function each time, closing over fresh data
            return jaxgd.Descent(
                lambda x: jnp.sum((x - shared) ** 2), jnp.zeros(3), jaxgd.gradient_descent(learning_rate)
            )

        jaxgd.sweep(lane, {"learning_rate": np.geomspace(low, 1, lanes, dtype=np.float32)}, epochs=100, target=target)

    sweeps: dict[str, Callable] = {
        "the first sweep": lambda: sweep(1000, 1e-3, np.ones(3)),
        "the same again": lambda: sweep(1000, 1e-3, np.ones(3)),
        "other rates": lambda: sweep(1000, 1e-2, np.ones(3)),
        "other closed-over data": lambda: sweep(1000, 1e-3, np.zeros(3)),
        "a target": lambda: sweep(1000, 1e-3, np.ones(3), target=1e-3),
        "777 lanes instead of 1 000": lambda: sweep(777, 1e-3, np.ones(3)),
        "20 000 lanes": lambda: sweep(20_000, 1e-3, np.ones(3)),
    }
    return dict(_counts(sweeps, lambda: compiled()[0]))


def _counts(actions: dict[str, Callable], count: Callable[[], int]) -> Iterator[tuple[str, int]]:
    for name, act in actions.items():
        before = count()
        act()
        yield name, count() - before


def _command(arguments: list[str], folder: Path) -> float:
    folder.mkdir(exist_ok=True)
    cache = {  # empty at first, whatever the user's own holds, and used even if that is switched off
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
        "JAX_ENABLE_COMPILATION_CACHE": "1",
    }
    return _seconds([sys.executable, "-m", "jaxgd", *arguments], folder, environment() | cache)


def _python(statement: str) -> float:
    return _seconds([sys.executable, "-c", statement], ROOT, environment())


def _seconds(command: list[str], folder: Path, variables: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=variables, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began
