"""Sweeps: batches to workers, and what comes back to one table."""

import inspect
import itertools
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import checks, table, workers
from jaxgd import plan as plans
from jaxgd.afresh import new_context
from jaxgd.descent import Descent, History, descend
from jaxgd.outcome import warn_below_minimum
from jaxgd.plan import Box, Plan, planned

if TYPE_CHECKING:
    import xarray


def sweep(
    lane: Callable[..., Descent],
    axes: Mapping[str, Any],
    *,
    epochs: int,
    target: float | None = None,
    ceiling: float | None = None,
    history: int | None = None,
    paired: Sequence[Sequence[str]] = (),
    minimum: float | None = None,
    minima: Any = None,
    tolerance: float | None = None,
    run: str | os.PathLike | None = None,
    paths: int | None = None,
    executor: Executor | None = None,
) -> "xarray.Dataset":
    """Carries out one descent for every point of a grid, and says what became of each.

    Args:
      lane: a pure function that returns a `Descent`; its arguments name the axes. A scalar axis
        arrives as a scalar, an axis of vectors or of pytrees as one of them.
      axes: name → values, [size, ...] (a pytree of such arrays too), or `each([...])` for values
        that can't be traced. Every axis is a dimension of the result, in this order.
      epochs: updates per lane, at most; up to 10⁹.
      target: a lane whose cost comes down to it has converged, and stops; -inf is none.
      ceiling: a lane whose cost passes it has diverged, and stops; by default the largest finite number.
      history: how many records of the cost to keep per lane, spread evenly from start to end.
      paired: names of axes that walk together and share a dimension, the first one's.
      minimum: lowest cost, if known; minima: the points where it and other minima lie, [minimum, params], or
        [minimum] of a single param.
      tolerance: as in `outcome.verdict`.
      run: a folder that keeps the results, batch by batch; the same sweep run again goes on from there.
        `jaxgd report FOLDER` makes its pictures and its report.
      paths: how many lanes are run again for these, record by record; by default as many as the folder
        keeps, and where it keeps none an eighth, 8 to 48. Another number makes them again. It goes with `run`.
      executor: any `concurrent.futures.Executor`; by default one thread per CPU core, or per accelerator.

    Returns:
      An `xarray.Dataset` with a dimension per axis and a variable for every figure of
      `outcome.FIGURES`, for every leaf of the final params (`params`, `params.hidden.kernel`), and,
      if asked for, `cost_history` over `epoch`.

    The lane is called once for every call of `sweep`, and everything comes of that trace: what it reads (globals,
    attributes, arrays, the settings of JAX) counts as it is then. Programs that compute the same are compiled once.

    A lane that calls Python while it runs (`jax.debug.print`, `io_callback`, `pure_callback`) does so once for every
    epoch of every lane, the start and the end included, and with `run` once more for the lanes whose paths are
    kept; such lanes run one after the other. No promise is made of the order in which unordered callbacks are seen,
    nor of a `pure_callback` whose result is not used, nor of calls that JAX makes again for a derivative (as
    `jax.checkpoint` does). A lane that takes numbers from Python can't go on in a folder that has been begun.

    Raises:
      UnderTransformation: inside `jit`, `vmap`, `grad` or the lane of another sweep; `descend` can run there.
      ValueError, TypeError: an axis that the lane doesn't know or that has no values, a name that the
        result needs for itself, or what `Descent` and its cost refuse. Also any number that would change on its
        way in: whole numbers past int32 wrap in JAX, and floats past float32 become infinite or zero, without x64.

    >>> def lane(learning_rate):
    ...     return Descent(lambda x: x**2 + 5, 4.0, optax.sgd(learning_rate))
    >>> results = sweep(lane, {"learning_rate": [0.01, 0.5, 1, 2]}, epochs=100)
    >>> [OUTCOMES[code] for code in results.outcome.values]
    ['descending', 'converged', 'oscillating', 'diverged']
    """
    checks.executor(executor)
    if paths is not None:
        checks.whole("paths", paths, least=0)
        if run is None:
            raise ValueError(f"paths = {paths}: they are kept in a run's folder; give run=, or leave paths out")
    source = "" if run is None else _source(lane)
    plan = planned(
        lane,
        axes,
        epochs=epochs,
        target=target,
        ceiling=ceiling,
        history=history,
        paired=paired,
        minimum=minimum,
        minima=minima,
        tolerance=tolerance,
    )
    if said := checks.over_memory("sweep", *table.stored_factors(plan)):
        raise ValueError(said)
    if run is not None:
        from jaxgd import reserved, store  # loads zarr
        from jaxgd.files import sole_writer
        from jaxgd.paths import keep

        reserved.check(plan)
        run = checks.run_folder(run)
        with sole_writer(run):
            folder = store.opened(run, plan, plans.fingerprint(plan))
            folder.keep_lane(source)
            for box, figures in carried_out(plan, folder.begin(), executor):
                folder.keep(box, figures)
            keep(folder, paths)
            folder.finish()
            found = folder.table()
    else:
        found = in_memory(plan, executor)
    warn_below_minimum(found["best_cost"], minimum, tolerance)
    return found


def _source(lane: Callable[..., Descent]) -> str:
    """The lane function as it was written; of one that is not to be found, what it is called."""
    try:
        return textwrap.dedent(inspect.getsource(lane))
    except (OSError, TypeError):
        return f"# {getattr(lane, '__qualname__', type(lane).__qualname__)}\n"


def in_memory(plan: Plan, executor: Executor | None = None) -> Any:
    """The whole result of a plan, as a Dataset."""
    results = table.room(plan)
    for box, figures in carried_out(plan, plan.boxes(), executor):
        table.put(results, box, figures)
    return table.labelled(plan, results)


def carried_out(plan: Plan, boxes: Sequence[Box], executor: Executor | None = None) -> Iterator[tuple[Box, dict]]:
    """Box by box as they finish: (box, figures of the box as NumPy arrays in its shape)."""
    if executor is not None:
        apart = partial(plans.alone, plan)
        yield from as_finished(boxes, lambda box: executor.submit(batch, *apart(box)), ahead=2 * (os.cpu_count() or 1))
        return
    several = workers.ready(plan, boxes)
    batches = workers.batches(plan, boxes)
    if len(batches) == 1:  # to hand it over would take longer than many a sweep
        yield from zip(batches[0], workers.carried_out(plan, batches[0]), strict=True)
        return
    with ThreadPoolExecutor(several, thread_name_prefix="jaxgd") as threads:
        done = as_finished(batches, lambda some: threads.submit(workers.carried_out, plan, some), ahead=several)
        for some, figures in done:
            yield from zip(some, figures, strict=True)


def replay(lane: Callable[..., Descent], point: Mapping[str, Any], epochs: int) -> History:
    """One lane of a sweep again, with all its records; equal to the lane within the sweep to rounding.

    Args:
      lane: the lane function of the sweep.
      point: its arguments by name, or a one-lane selection of the result. Arguments that a table can
        only name or number, such as functions and trees, need to be given by name.
      epochs: how many updates; a target or a ceiling does not end it.

    Raises:
      ValueError: the selection holds several lanes, or an argument that it only numbers, or that would change on
        its way in, as whole numbers past int32 do without x64.
      TypeError: `point` is neither a selection nor a dict of the lane's arguments.

    >>> def lane(learning_rate):
    ...     return Descent(lambda x: x**2 + 5, 4.0, optax.sgd(learning_rate))
    >>> replay(lane, {"learning_rate": 0.25}, epochs=2).params.tolist()
    [4.0, 2.0, 1.0]
    >>> results = sweep(lane, {"learning_rate": [0.125, 0.25, 0.5]}, epochs=2)
    >>> replay(lane, results.sel(learning_rate=0.25), epochs=2).cost.tolist()
    [21.0, 9.0, 6.0]
    """
    if hasattr(point, "coords"):
        point = _point_of(lane, point)
    if not isinstance(point, Mapping) or not all(isinstance(name, str) for name in point):
        allowed = "must be the lane's arguments by name, or a one-lane selection of the result"
        raise TypeError(f"point = {checks.shown(point)}: {allowed}")
    for name, value in point.items():
        for leaf in jax.tree.leaves(value):
            if isinstance(leaf, (np.ndarray, np.generic)):  # Python's own objects go to the lane as they are
                checks.held(f"argument {name!r}", np.asarray(leaf))
    with new_context():
        descent = lane(**{name: jnp.asarray(v) if isinstance(v, np.ndarray) else v for name, v in point.items()})
    return descend(**{name: getattr(descent, name) for name in inspect.signature(Descent).parameters}, epochs=epochs)


def _point_of(lane: Callable[..., Descent], selection: "xarray.Dataset") -> dict[str, Any]:
    """The arguments of the one lane that a table has been narrowed down to."""
    if several := selection["outcome"].dims:
        raise ValueError(f"replay takes one lane, and the selection has several along {', '.join(several)}: select one")
    known = plans.parameters(lane)
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    point = {}
    for name, coordinate in selection.coords.items():
        if "." in name or name == "epoch" or not (name in known or anything):
            continue
        if any(other.startswith(f"{name}.") and other != f"{name}.value" for other in selection.coords):
            raise ValueError(f"the table only numbers the trees along {name!r}: give the lane's arguments by name")
        values = (selection[f"{name}.value"] if f"{name}.value" in selection.coords else coordinate).values
        point[name] = values.item() if values.dtype.kind in "bU" else values
    return point


def as_finished(work: Sequence[Any], submit: Callable[[Any], Future], ahead: int) -> Iterator[tuple[Any, Any]]:
    """Piece by piece with what came of it.

    Submits no more than the workers can soon do, so that memory holds a few batches, never all.
    """
    waiting = iter(work)
    running: dict[Future, Any] = {}

    def submit_more() -> None:
        running.update((submit(piece), piece) for piece in itertools.islice(waiting, ahead - len(running)))

    try:
        submit_more()
        while running:
            done = wait(running, return_when=FIRST_COMPLETED).done
            finished = [(running.pop(future), future) for future in done]
            submit_more()  # before the caller looks at what there is: no worker waits for that
            for piece, future in finished:
                yield piece, future.result()
    finally:
        for future in running:
            future.cancel()


def batch(plan: Plan, box: Box) -> dict[str, np.ndarray]:
    """Carries out the lanes of one box, wherever this process has a free device."""
    plan = plans.received(plan)
    return workers.carried_out(plan, [box])[0]
