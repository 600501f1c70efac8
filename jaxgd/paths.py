"""Paths: chosen lanes of a sweep again, record by record, and the surface that they lie on."""

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from jaxgd import landscape, store, table
from jaxgd import plan as plans
from jaxgd.descent import History, norm
from jaxgd.outcome import named
from jaxgd.program import compiled
from jaxgd.trace import Trace
from jaxgd.watch import choose

if TYPE_CHECKING:
    import xarray

NAMES = ("cost", "gradient_norm", "position", "best", "outcome")  # of what is kept of paths, beside params and metrics
_BYTES = 1 << 23  # of all stored paths together; beyond it, their records are thinned
_MOST_RECORDS = 2001  # of a path: a curve has no more dots
_FEWEST_RECORDS = 201  # if there is no room for as many with all their params, these are not kept


def keep(
    folder: store.Folder,
    wanted: int | None = None,
    *,
    domain: Float[np.ndarray, "param 2"] | None = None,
    seed: int = 0,
) -> None:
    """Keeps in a run's folder what its pictures are drawn from, unless it is there: the surface of the cost, and paths.

    The surface first: where there are too many params to keep, all that is kept of paths is where they
    lie on it. A cost that calls back into Python has none. Where another number of paths is wanted than is there,
    both are made again, for the paths say where to look at the cost.

    Args:
      folder: of a run whose lanes are all finished.
      wanted: how many paths; by default as many as there are, and where there are none an eighth of the lanes,
        8 to 48. A single descent and a race are their own paths.
      domain, seed: as in `landscape.of_run`.
    """
    plan, kept, calls_back = folder.plan, folder.paths_kept(), landscape.calls_back(folder.plan)
    wanted = _number(plan, kept or None if wanted is None else wanted)
    whole = _records_kept(plan, wanted) >= min(plan.epochs + 1, _FEWEST_RECORDS)
    room = wanted if whole else max(1, _BYTES // (4 * plans.bytes_of(plan.outline["params"])))
    if calls_back:  # there is no surface on which more could lie
        wanted = room = min(wanted, room)
    if kept == wanted and (calls_back or folder.has_surface()):
        return
    if kept != wanted:
        folder.drop_paths()  # before there is another surface, on which they would not lie
    results = folder.table()
    chosen = table.representative(results, wanted)
    some = replayed(plan, results, table.representative(results, room)) if chosen else None
    surface = landscape.of_run(plan, results, some, domain=domain, seed=seed)
    if surface is None:
        warnings.warn("the cost calls back into Python, at every point of a surface too: none is drawn", stacklevel=3)
    else:
        folder.keep_surface(surface if whole else surface.drop_vars(("origin", "direction")))
    if chosen:
        folder.keep_paths(some if whole or surface is None else replayed(plan, results, chosen, surface))


def _number(plan: plans.Plan, wanted: int | None) -> int:
    lanes = plans.present(plan)
    if all(dimension.static or dimension.size == 1 for dimension in plan.dimensions):
        return lanes
    return min(lanes, min(max(lanes // 8, 8), 48) if wanted is None else wanted)


def replayed(
    plan: plans.Plan,
    results: "xarray.Dataset",
    chosen: list[tuple[int, ...]],
    surface: "xarray.Dataset | None" = None,
) -> "xarray.Dataset":
    """The chosen lanes again, with their records: cost, gradient norm and params over epochs.

    Dimensions (path, epoch); the coordinates say which lane each path is. NaN once the lane has ended.
    Beside them, of each path its `outcome`, and whether its lane is the `best` setting of its name.
    Given a surface, where they lie on it, `position` (path, epoch, axis), in place of the params.
    """
    import xarray

    plane = None if surface is None else landscape.plane_of(surface)
    epochs = _epochs_kept(plan.epochs, _records_kept(plan, len(chosen), plane))
    ended = np.array([int(results["epochs"].values[index]) for index in chosen], np.int32)
    records: list[dict[str, np.ndarray]] = [{}] * len(chosen)
    for static, places in plans.by_program(plan, chosen).items():
        together = _replayed(plan, static, [chosen[place] for place in places], ended[places], epochs, plane)
        for row, place in enumerate(places):
            records[place] = {name: values[row] for name, values in together.items()}
    past = epochs[None, :] > ended[:, None]
    data: dict[str, Any] = {}
    for name, leaf in records[0].items():
        values = np.stack([record[name] for record in records])
        values[past] = np.nan
        inner = ["axis"] if name == "position" else [f"{name}.{axis}" for axis in range(leaf.ndim - 1)]
        data[name] = (("path", "epoch", *inner), values)
    coordinates: dict[str, Any] = {"epoch": epochs}
    for name, (dimensions, values) in table.coordinates(plan).items():
        if set(dimensions) <= set(results["outcome"].dims):
            where = [results["outcome"].dims.index(dimension) for dimension in dimensions]
            coordinates[name] = ("path", np.array([values[tuple(index[i] for i in where)] for index in chosen]))
    best = table.best_lanes(results, len(chosen))
    data["best"] = ("path", np.array([lane in best for lane in chosen]))
    data["outcome"] = ("path", np.array([results["outcome"].values[index] for index in chosen]))
    return xarray.Dataset(data, coordinates)


def _replayed(
    plan: plans.Plan,
    static: tuple[int, ...],
    lanes: list[tuple[int, ...]],
    ended: np.ndarray,
    epochs: np.ndarray,
    plane: landscape.Plane | None,
) -> dict[str, np.ndarray]:
    """Records [lane, record] by name of the lanes of one program, a block of them side by side."""
    trace = plan.trace(static)
    size = 1 if trace.calls_back else min(len(lanes), plan.block)
    with jax.enable_x64(plan.x64), plans.plain_words():
        recorded = partial(_recorded, trace, epochs)

        def one_by_one(ended, point, onto):  # a branch that is not taken calls nothing, unless it is vmapped
            return jax.tree.map(lambda a: a[None], recorded(ended[0], jax.tree.map(lambda a: a[0], point), onto))

        many = one_by_one if trace.calls_back else jax.vmap(recorded, (0, 0, None))
        blocks = [np.minimum(first + np.arange(size), len(lanes) - 1) for first in range(0, len(lanes), size)]
        given = [(ended[block], plans.points(plan, [lanes[i] for i in block]), plane and plane[:2]) for block in blocks]
        program = compiled(many, given[0], jax.local_devices()[0], alone=True)  # padded: one does for all blocks
        records = [jax.tree.map(np.asarray, program.run(*inputs)) for inputs in given]
    history = jax.tree.map(lambda *blocks: np.concatenate(blocks)[: len(lanes)], *records)
    return {
        "cost": history.cost,
        "gradient_norm": history.gradient_norm,
        **history.metrics,
        **named("position" if plane else "params", history.params),
    }


def _recorded(lane: Trace, epochs: np.ndarray, ended: Any, point: dict[str, Any], onto: Any) -> History:
    """One lane as it is at `epochs`; what lies between them is not kept. Once it has ended, it stands at its start.

    Of its params are kept where they lie in the plane with origin and directions `onto`, if one is given.
    """
    one = lane.opened(point)
    start = (one.params, one.init(one.params))

    def stepped(now, carry):
        if lane.calls_back:
            params, state = carry
            nothing = jnp.full_like(jax.eval_shape(one.cost, params), jnp.nan), jax.tree.map(jnp.zeros_like, params)
            value, grads = jax.lax.cond(now <= ended, lambda: one.evaluate(params), lambda: nothing)
            return (
                value,
                grads,
                jax.lax.cond(now < ended, lambda: one.advance(params, state, value, grads), lambda: carry),
            )
        value, grads, *after = one.step(*carry)
        return value, grads, choose(now < ended, tuple(after), start)  # a finite place: a NaN makes line searches long

    def record(carry, span):
        now, following = span
        value, grads, after = stepped(now, carry)
        where = carry[0] if onto is None else jnp.asarray(onto[1]) @ (ravel_pytree(carry[0])[0] - onto[0])
        seen = History(now, where, value, norm(grads), one.metrics(carry[0]))
        return jax.lax.fori_loop(now + 1, following, lambda now, carry: stepped(now, carry)[2], after), seen

    spans = (jnp.asarray(epochs), jnp.asarray(np.append(epochs[1:], epochs[-1])))
    return jax.lax.scan(record, start, spans)[1]


def _records_kept(plan: plans.Plan, count: int, plane: landscape.Plane | None = None) -> int:
    """How many records of each of so many paths there is room for."""
    numbers = plans.bytes_of(plan.outline["params"]) if plane is None else 8 * len(plane.directions)
    return max(2, min(plan.epochs + 1, _MOST_RECORDS, _BYTES // (count * (numbers + 16) or 1)))


def _epochs_kept(epochs: int, count: int) -> np.ndarray:
    """All, or about `count` of them: half spread evenly, half by ratios, for most happens early."""
    if count > epochs:
        return np.arange(epochs + 1, dtype=np.int32)
    by_ratio = np.geomspace(1, epochs + 1, count - count // 2) - 1
    return np.unique(np.concatenate([np.linspace(0, epochs, max(2, count // 2)), by_ratio]).round().astype(np.int32))
