"""Runs that are killed, damaged, out of room or fed with nonsense: what is lost of them, and what is silently wrong.

Each measure is an option of its own; without any, all of them at a small size. Every run is the
command's own, in processes of their own where they are killed, and its results are compared bit for
bit with those of a run that was left in peace.
"""

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxgd
from experiments import hostile, report
from jaxgd import cli, expression, run, store

CONFIG = """
title = "64 batches of 2 000 lanes"
[cost]
expression = "x**2 + 5"
minimum = 5
[start]
x = { uniform = [-1, 1] }
[optimizer]
name = "momentum"
learning_rate = 0.1
[run]
epochs = 20
[sweep]
seed = { arange = [64] }
optimizer.learning_rate = { geomspace = [1e-3, 10, 2_000] }
"""
SMALL = CONFIG.replace("2_000", "64").replace("[64]", "[3]") + "[record]\npaths = 2\n"


# --- killed ---


class Killed(NamedTuple):
    kills: int = 0
    resumed: int = 0
    lanes: int = 0  # of all runs together
    lost: int = 0  # of those that were finished before a kill, no longer finished after it
    pending: int = 0  # when the run says that it is done
    different: int = 0

    def plus(self, other: "Killed") -> "Killed":
        return Killed(*map(sum, zip(self, other, strict=True)))


def killed(kills: int, seed: int, at_once: int) -> Killed:
    """SIGKILL at random instants; each run goes on, is killed again, and ends."""
    with tempfile.TemporaryDirectory() as scratch:
        reference = _folder(Path(scratch, "reference"), CONFIG)
        process = _process(reference)
        _began(reference, process)
        took = _finished(process)  # at work, which the start of Python is not
        whole = store.opened_table(_run_in(reference))
        shares = [kills // at_once + (i < kills % at_once) for i in range(at_once)]
        with ThreadPoolExecutor(at_once) as threads:
            chains = [
                threads.submit(_chain, Path(scratch, str(i)), share, random.Random(f"{seed} {i}"), took, whole)
                for i, share in enumerate(shares)
            ]
            total = Killed()
            for chain in chains:
                total = total.plus(chain.result())
    return total


def _chain(scratch: Path, kills: int, chance: random.Random, took: float, whole: Any) -> Killed:
    """Runs one after another, until so many kills have been dealt out."""
    total, number = Killed(), 0
    while total.kills < kills:
        folder, number = _folder(scratch / str(number), CONFIG), number + 1
        total = total.plus(_killed_again_and_again(folder, kills - total.kills, chance, took, whole))
        shutil.rmtree(folder)
    return total


def _killed_again_and_again(folder: Path, most: int, chance: random.Random, took: float, whole: Any) -> Killed:
    kills = resumed = lost = 0
    finished: set[tuple[int, ...]] = set()
    while True:
        process = _process(folder)
        if kills < most:
            with contextlib.suppress(subprocess.TimeoutExpired):
                _began(folder, process)
                process.wait(chance.uniform(0, took))
            process.kill()
        _, said = process.communicate()
        now = _finished_batches(folder)
        lost, finished = lost + len(finished - now) * 2000, now
        if process.returncode == -signal.SIGKILL:
            kills, resumed = kills + 1, resumed + 1
            continue
        if process.returncode:
            raise RuntimeError(f"a run that went on after a kill failed: {said}")
        break
    table = store.opened_table(_run_in(folder))
    pending = int((table["outcome"] == 0).sum())
    return Killed(kills, resumed, table["outcome"].size, lost, pending, _different(table, whole))


def _began(folder: Path, process: subprocess.Popen) -> None:
    """Waits until a run is at work on its folder."""
    while process.poll() is None and not list(folder.glob("runs/.*.writer")):
        time.sleep(0.002)


def _finished_batches(folder: Path) -> set[tuple[int, ...]]:
    """The batches that have every chunk on the disk and are marked."""
    if not (found := list(folder.glob("runs/*/manifest.json"))):
        return set()
    return store.finished(found[0].parent)


def _process(folder: Path, *words: str) -> subprocess.Popen:
    here = os.pathsep.join([str(Path(jaxgd.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(Path(tempfile.gettempdir(), "jaxgd-durability")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "jaxgd", "run", "config.toml", *words],
        cwd=folder,
        env=os.environ | cache | {"PYTHONPATH": here},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finished(process: subprocess.Popen) -> float:
    began = time.perf_counter()
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"jaxgd run: {said}")
    return time.perf_counter() - began


def _folder(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "config.toml").write_text(text)
    return path


def _run_in(folder: Path) -> Path:
    return next(path.parent for path in sorted(folder.glob("runs/*/manifest.json")))


def _different(table: Any, whole: Any) -> int:
    """Lanes of which any figure differs in any bit."""
    grid = whole["outcome"].ndim
    differs = np.zeros(whole["outcome"].shape, bool)
    for name in whole.data_vars:
        a, b = (one[name].values for one in (table, whole))
        if a.shape[:grid] == differs.shape:
            unequal = (a != b) & ~((a != a) & (b != b))
            differs |= unequal.reshape(*differs.shape, -1).any(-1)
    return int(differs.sum())


# --- damaged ---


class Damaged(NamedTuple):
    files: int
    tries: int
    refused: int
    redone: int
    used: int  # silently: another result than the honest one


def damaged(seed: int, every: int = 1) -> Damaged:
    """Every so many files of a finished run, truncated and flipped in one byte, in turn."""
    chance, counts = random.Random(seed), {"refused": 0, "redone": 0, "used": 0}
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        Path("config.toml").write_text(SMALL)
        prepared = run.prepared(Path("config.toml"))
        run.carry_out(prepared)
        honest = _all_of(prepared.folder)
        kept = {file: file.read_bytes() for file in sorted(prepared.folder.rglob("*")) if file.is_file()}
        chosen = list(kept)[:: max(1, every)]
        for file in chosen:
            for spoilt in _spoilt(kept[file], chance):
                file.write_bytes(spoilt)
                counts[_what_became(prepared, honest)] += 1
                shutil.rmtree(prepared.folder)
                for other, content in kept.items():
                    other.parent.mkdir(parents=True, exist_ok=True)
                    other.write_bytes(content)
    return Damaged(len(chosen), 2 * len(chosen), **counts)


def _spoilt(content: bytes, chance: random.Random) -> Iterator[bytes]:
    yield content[: chance.randrange(len(content))]
    at = chance.randrange(len(content))
    yield content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def _what_became(prepared: run.Prepared, honest: Any) -> str:
    """What reading says, and then what running again makes of it."""
    try:
        if not _same(_all_of(prepared.folder), honest):
            return "used"
    except store.StoreError:
        pass  # as it should be; and running again?
    try:
        run.carry_out(prepared)
    except store.StoreError:
        return "refused"
    return "redone" if _same(_all_of(prepared.folder), honest) else "used"


def _all_of(folder: Path) -> list[Any]:
    return [store.opened_table(folder), store.opened_paths(folder), store.config_file(folder).read_bytes()]


def _same(a: list[Any], b: list[Any]) -> bool:
    return a[0].identical(b[0]) and (a[1] is not None and a[1].identical(b[1])) and a[2] == b[2]


# --- out of room ---


class Full(NamedTuple):
    disks: int
    said: int  # plainly, with exit code 1
    resumed: int  # once there was room
    different: int


def full(disks: int) -> Full | None:
    """Runs on disks that fill up, and again when they are larger; None where nothing can be mounted."""
    said = resumed = different = 0
    with tempfile.TemporaryDirectory() as scratch:
        reference = _folder(Path(scratch, "reference"), CONFIG)
        _finished(_process(reference))
        whole, size = store.opened_table(_run_in(reference)), _size(reference)
        disk = Path(scratch, "disk")
        disk.mkdir()
        for number in range(disks):
            room = int(size * (0.05 + 0.85 * number / max(1, disks - 1)))
            mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", disk]
            if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
                return None
            try:
                folder = _folder(disk / "mine", CONFIG)
                process = _process(folder)
                _, words = process.communicate()
                plainly = process.returncode == 1 and words.startswith("jaxgd: the disk is full")
                if not plainly:
                    print(f"room for {room} bytes: exit code {process.returncode}, {words}", file=sys.stderr)
                said += plainly
                subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
                _finished(_process(folder))
                resumed += 1
                different += _different(store.opened_table(_run_in(folder)), whole)
            finally:
                subprocess.run(["umount", disk], check=True)
    return Full(disks, said, resumed, different)


def _size(folder: Path) -> int:
    """What the files take on a disk of pages of 4 096 bytes."""
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in folder.rglob("*") if file.is_file())


# --- nonsense ---


class Configs(NamedTuple):
    bad: int
    code_2: int
    one_line: int
    tracebacks: int
    files_written: int
    slowest: float


def bad_configs(count: int, seed: int) -> Configs:
    """Made-up configs until so many were bad; those that happen to be good don't count."""
    chance, bad = random.Random(seed), Configs(0, 0, 0, 0, 0, 0.0)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        while bad.bad < count:
            text = hostile.config(chance)
            Path("bad.toml").write_text(text, "utf-8", newline="")
            answer, seconds = _asked()
            if answer.code == 0:
                continue
            one = Configs(
                1,
                answer.code == 2,
                answer.err.startswith("jaxgd: ") and answer.err.count("\n") == 1 and answer.err[:-1].isprintable(),
                "Traceback" in answer.err or answer.code == 1,
                len(os.listdir()) - 1,
                0.0,
            )
            if not (one.code_2 and one.one_line):
                print(f"exit code {answer.code}: {answer.err}of this config:\n{text}", file=sys.stderr)
            bad = Configs(*map(sum, zip(bad[:-1], one[:-1], strict=True)), max(bad.slowest, seconds))
    return bad


class _Answer(NamedTuple):
    code: int
    err: str


def _asked() -> tuple[_Answer, float]:
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        code = cli.answered(["check", "bad.toml"])
    return _Answer(code, err.getvalue()), time.perf_counter() - began


class Expressions(NamedTuple):
    texts: int
    refused: int
    escaped: int  # what Python carried out, imported or opened meanwhile
    slowest: float  # seconds to refuse


def bad_expressions(count: int, seed: int) -> Expressions:
    """Made-up expressions, under Python's own audit of what is carried out."""
    chance, seen, refused, slowest = random.Random(seed), [], 0, 0.0
    watching = [False]

    def watch(event: str, arguments: Any) -> None:
        if watching[0] and event.partition(".")[0] in _EVENTS:
            seen.append((event, arguments))

    sys.addaudithook(watch)
    for _ in range(count):
        text = hostile.expression(chance)
        began, watching[0] = time.perf_counter(), True
        try:
            expression.parse(text)
        except expression.ExpressionError:
            refused += 1
            slowest = max(slowest, time.perf_counter() - began)
        finally:
            watching[0] = False
    return Expressions(count, refused, len(seen), slowest)


_EVENTS = ("exec", "import", "open", "os", "subprocess", "socket", "ctypes", "shutil", "builtins", "code", "pickle")


def main(argv: Sequence[str] | None = None) -> list[NamedTuple]:
    parser = report.arguments(__doc__)
    parser.add_argument("--kills", type=int, help="SIGKILLs at random instants")
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side that are killed")
    parser.add_argument("--damage", type=int, help="every so many files of a run, damaged in turn")
    parser.add_argument("--full-disks", type=int, help="disks that fill up; needs the right to mount")
    parser.add_argument("--configs", type=int, help="bad configs")
    parser.add_argument("--expressions", type=int, help="made-up expressions")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    measures = {
        "killed": (options.kills, 4, lambda count: killed(count, options.seed, options.at_once)),
        "damaged": (options.damage, 10, lambda every: damaged(options.seed, every)),
        "a full disk": (options.full_disks, 1, full),
        "bad configs": (options.configs, 100, lambda count: bad_configs(count, options.seed)),
        "expressions": (options.expressions, 100, lambda count: bad_expressions(count, options.seed)),
    }
    asked = any(wanted is not None for wanted, _, _ in measures.values())
    results = []
    for title, (wanted, small, measure) in measures.items():
        if wanted is None and asked:
            continue
        result = measure(small if wanted is None else wanted)
        if result is None:
            print(f"{title}: nothing can be mounted here")
            continue
        said = (f"{figure:.3g}" if isinstance(figure, float) else figure for figure in result)
        report.show(title, zip((field.replace("_", " ") for field in result._fields), said, strict=True), "", "")
        results.append(result)
    return results


if __name__ == "__main__":
    main()
