"""A process that does the work: the parent names a function and its arguments, the worker calls it and answers.

python -m experiments.throughput.worker     # reads pickled requests, writes pickled answers
"""

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Ask = Callable[..., Any]
LIMIT = 1200.0  # seconds for an answer; some programs would take PyTorch hours to compile


class PeerError(Exception):
    """What went wrong in a worker, as its last line said it."""


@contextmanager
def worker(python: str) -> Iterator[Ask]:
    """A process of the given interpreter, as a function: ask("module:function", *arguments) → its answer.

    It finds no program that was compiled before: JAX keeps none on disk, and PyTorch keeps them in a
    folder that is empty at first and goes with the process.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [python, "-m", "experiments.throughput.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment() | {"JAX_ENABLE_COMPILATION_CACHE": "0", "TORCHINDUCTOR_CACHE_DIR": folder},
        )
        try:
            yield partial(_ask, process)
        finally:
            with suppress(BrokenPipeError):  # a request to a process that died may be left unsent
                process.stdin.close()
            process.stdout.close()
            process.wait()


def _ask(process: subprocess.Popen, function: str, *arguments: Any) -> Any:
    late = threading.Timer(LIMIT, process.kill)
    late.start()
    try:
        pickle.dump((function, arguments), process.stdin)
        process.stdin.flush()
        good, answer = pickle.load(process.stdout)
    except (BrokenPipeError, EOFError) as error:
        why = f"{process.args[0]} ended with code {process.wait()}"
        raise PeerError(f"{why} after {LIMIT:g} s without an answer" if late.finished.is_set() else why) from error
    finally:
        late.cancel()
    if not good:
        raise PeerError(answer)
    return answer


def environment() -> dict[str, str]:
    """Of every child: it finds this study and jaxgd, and leaves room on a GPU for the others."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def named(function: str) -> Callable:
    """The function that a "module:function" of this study names."""
    module, name = function.split(":")
    return getattr(importlib.import_module(f"experiments.throughput.{module}"), name)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up between the answers
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (True, named(function)(*arguments))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
