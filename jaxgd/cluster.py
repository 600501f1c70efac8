"""Other machines: batches go to the workers of a running `dask.distributed` scheduler.

Dask places the work, notices workers that die, and gives theirs to others. Every batch is the same
program in the same blocks wherever it runs, so on machines of one kind the numbers are those of one
machine. A worker that sees the run folder writes its batch there, chunks of its own; the others send
their figures back. The ledger has one writer, which is the process that asked.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgd import manifest, store
from jaxgd import plan as plans
from jaxgd.plan import Box, Plan
from jaxgd.ranges import ConfigError
from jaxgd.store import Folder
from jaxgd.sweep import as_finished, batch

if TYPE_CHECKING:
    from distributed import Client

_PATIENCE = 10  # seconds for a scheduler to answer, and for a first worker to be there
_CHANCES = 3  # of a batch, each on as many workers as Dask allows
_AHEAD = 2  # batches for each thread of each worker


@contextlib.contextmanager
def connected(address: str) -> Iterator["Client"]:
    """A client of the scheduler at an address (tcp://host:8786), or in the file that a scheduler has written.

    Raises:
      ConfigError: nothing answers there, there are no workers, or theirs are other packages than ours; or, from within,
        the scheduler is gone.
    """
    try:
        from distributed import Client
        from distributed.comm import CommClosedError
    except ImportError:
        raise ConfigError('--cluster needs dask.distributed: pip install "jaxgd[cluster]"') from None
    where = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    try:
        client = Client(**where, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # a timeout is an OSError too
        raise ConfigError(
            f"--cluster {address}: no scheduler answers there within {_PATIENCE} s; "
            "give the address that dask-scheduler prints, as in tcp://host:8786, or its scheduler file"
        ) from error
    with contextlib.ExitStack() as after, client:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE)
        except OSError as error:
            raise ConfigError(
                f"--cluster {address}: the scheduler has no workers yet; start some, then again"
            ) from error
        _check_versions(address, client.run(versions))
        try:
            yield client
        except (CancelledError, CommClosedError) as error:
            after.enter_context(_unlogged("distributed.client"))  # closed while it connects again, it logs a traceback
            raise ConfigError(
                f"--cluster {address}: the scheduler is gone; what is finished is kept, and the same command goes on "
                "from there: start a scheduler and workers again, or leave out --cluster"
            ) from error


@contextlib.contextmanager
def _unlogged(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def carried_out(
    client: "Client", folder: Folder, boxes: Sequence[Box]
) -> Iterator[tuple[Box, dict[str, np.ndarray] | None]]:
    """Box by box as they finish: figures, or None where a worker has written them to the folder itself.

    Raises:
      ConfigError: a batch can't be done, whoever tries: its workers die, or lack what it imports.
    """
    unseen = []
    for box, figures in _done(client, folder, boxes, folder.path):
        if figures is None and not folder.is_whole(box):  # another folder by the same name, or not there yet
            unseen.append(box)
        else:
            yield box, figures
    yield from _done(client, folder, unseen, None)


def versions() -> dict[str, str | None]:
    """Of the packages that make the numbers, in this process."""
    return {name: manifest.version(name) for name in manifest.NUMERIC}


def _done(client: "Client", folder: Folder, boxes: Sequence[Box], path: Path | None) -> Iterator[tuple[Box, Any]]:
    from distributed import KilledWorker

    ahead = _AHEAD * sum(client.nthreads().values())
    executor = client.get_executor(pure=False)
    known_as = store.read_manifest(folder.path)["fingerprint"]
    left, given_up = list(boxes), Counter()  # by Dask, after the death of four workers: it may have been chance
    while left:
        asked: dict[str, Future] = {}

        def submit(box: Box, asked: dict[str, Future] = asked) -> Future:
            asked[str(box)] = executor.submit(_batch, *plans.alone(folder.plan, box), box, path, known_as)
            return asked[str(box)]

        try:
            for box, figures in as_finished(tuple(left), submit, ahead=ahead):
                left.remove(box)
                del asked[str(box)]
                yield box, figures
        except KilledWorker as error:
            given_up.update(name for name, future in asked.items() if _is_killed(future))
            if max(given_up.values()) == _CHANCES:
                raise ConfigError(
                    "--cluster: every worker that took a batch died of it, of too little memory perhaps; "
                    "what is finished is kept, and the same command goes on from there"
                ) from error
            left.sort(key=lambda box: given_up[str(box)])  # the others first


def _is_killed(future: Future) -> bool:
    from distributed import KilledWorker

    return future.done() and not future.cancelled() and isinstance(future.exception(), KilledWorker)


def _batch(plan: Plan, box: Box, place: Box, path: Path | None, known_as: str) -> dict[str, np.ndarray] | None:
    """On a worker: one batch, into the run folder if that is seen from here."""
    figures = batch(plan, box)
    if path is not None and (folder := store.seen(path, plan, known_as)) is not None:
        folder.write(place, figures)
        return None
    return figures


def _check_versions(address: str, theirs: dict[str, dict[str, str | None]]) -> None:
    ours = versions()
    for worker, found in theirs.items():
        if wrong := [name for name in manifest.NUMERIC if found[name] != ours[name]]:
            said = ", ".join(f"{name} {found[name]} (here {ours[name]})" for name in wrong)
            raise ConfigError(f"--cluster {address}: the worker at {worker} has {said}; the numbers would differ")
