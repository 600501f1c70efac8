"""The cost as a surface to look at: over one or two params, or a slice through many of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from jaxgd import jaxprs
from jaxgd import plan as plans
from jaxgd.outcome import DIVERGED, named
from jaxgd.table import ranking

if TYPE_CHECKING:
    import xarray

Positions = Float[np.ndarray, "path record axis"]

_CELLS = {1: 801, 2: 121}  # each way, by the number of axes
_FEWEST_CELLS = 11
_MOST_WORK = 4e9  # floating-point operations for a whole surface, by the compiler's estimate
_BATCH_WORK = 4e6  # and for the cells that are evaluated side by side
_MOST_ROWS = 256  # of points from which principal directions are taken
_PROBES = 4  # points at which costs of different lanes are compared


def of_run(
    plan: plans.Plan,
    results: "xarray.Dataset",
    paths: "xarray.Dataset | None",
    *,
    domain: Any = None,
    seed: int = 0,
) -> "xarray.Dataset | None":
    """The surface of a run's cost, as `surface` gives it, at the best lane's setting if the cost varies with one.

    None if the cost calls back into Python, for it would do so at every point of the surface.

    Args:
      plan, results, paths: of the run; without paths its domain, or the start, says where to look.
      domain: low and high of each param, if known.
      seed: of random directions.
    """
    if calls_back(plan):
        return None
    place = _best_place(plan, results)
    with jax.enable_x64(plan.x64), plans.plain_words():
        cost, params = _opened_at(plan, place)
        at = _where_costs_differ(plan, place, params)
        return surface(cost, params, paths, minima=plan.minima, domain=domain, seed=seed, at=at)


def surface(
    cost: Callable[[PyTree], Any],
    params: PyTree,
    paths: "xarray.Dataset | None" = None,
    *,
    minima: Any = None,
    domain: Any = None,
    seed: int = 0,
    at: str = "",
) -> "xarray.Dataset":
    """The cost over one or two params; of more, over the plane  origin + x·direction₀ + y·direction₁.

    The plane goes through the known minimum that the paths came nearest to, or through where the best
    of them ended, along the two directions in which the paths spread most; without paths, along two
    random ones. Directions have length 1, so that x and y are distances.

    Args:
      cost: of the params.
      params: any of them; they say how many there are, and where to look if nothing else does.
      paths: descents in it: `cost` (path, epoch), `outcome` (path), `params…` (path, epoch, …).
      minima: known ones, [minimum, params].
      domain: low and high of each param.
      seed: of random directions.
      at: the setting at which the cost is drawn, in words, if it differs with one.

    Where no minima are known, of one or two params the lowest point near the paths is looked for, on ever
    finer grids, and taken for one.

    Returns:
      A Dataset: `cost` over (y, x), or over (x) for a single param; the coordinates' `long_name` says
      what they are, `cost.attrs["kind"]` whether they are "params", "principal" or "random" directions,
      and `cost.attrs["at"]` at which setting. `minima` (minimum, axis) and `minimum_cost`: the known
      minima that lie in the picture. `origin` (param) and `direction` (axis, param): where it lies
      among the params.
    """
    import xarray

    start, back = ravel_pytree(params)
    flat, seen = np.asarray(start, float), _seen(paths, start.size)
    known = np.zeros((0, len(flat))) if minima is None else np.asarray(minima, float).reshape(-1, len(flat))
    reached = _reached(seen, known)
    plane = _plane(seen, reached, flat, param_names(params), seed)
    domain = None if domain is None or plane.kind != "params" else np.asarray(domain, float)
    box = _box(seen, reached, plane, flat, domain)
    costs = _Costs(lambda numbers: cost(back(numbers)), start)
    if minima is None and plane.kind == "params":
        known = _lowest(costs, plane, box)
        box = _box(seen, known, plane, flat, domain) if len(known) else box
    scales = [np.linspace(low, high, costs.affordable(len(box))) for low, high in box]
    marked = plane.onto(plane.holding(known, box))
    dimensions = ("y", "x")[-len(box) :]
    heights = costs.at(plane, np.stack(np.meshgrid(*scales), axis=-1))
    data = {
        "cost": (dimensions, heights, {"long_name": "cost", "kind": plane.kind, "at": at}),
        "minima": (("minimum", "axis"), marked),
        "minimum_cost": ("minimum", costs.at(plane, marked)),
    }
    data |= {"origin": ("param", plane.origin), "direction": (("axis", "param"), plane.directions)}
    coordinates = {
        name: (name, scale, {"long_name": label})
        for name, scale, label in zip("xy"[: len(box)], scales, plane.labels, strict=True)
    }
    return xarray.Dataset(data, coordinates)


def projected(surface: "xarray.Dataset", paths: "xarray.Dataset") -> Positions:
    """Where paths lie on a surface, [path, epoch, axis]: the foot of the perpendicular, if it is a slice."""
    if "position" in paths:
        return paths["position"].values
    return plane_of(surface).onto(_flattened(paths))


def plane_of(surface: "xarray.Dataset") -> "Plane":
    """Where a surface lies among the params."""
    labels = tuple(surface[name].attrs["long_name"] for name in "xy"[: surface["cost"].ndim])
    return Plane(surface["origin"].values, surface["direction"].values, surface["cost"].attrs["kind"], labels)


def param_names(params: PyTree) -> list[str]:
    """What the params are called one by one, in the order in which they are flattened: x_0, x_1, bias."""
    found = []
    for name, leaf in named("params", params).items():
        short = name.removeprefix("params").removeprefix(".") or "x"
        found += ["_".join(map(str, (short, *index))) for index in np.ndindex(*np.shape(leaf))]
    return found


# --- which cost ---


def calls_back(plan: plans.Plan) -> bool:
    """Whether the cost calls Python while it runs, to print, say."""
    return jaxprs.calls_back(plan.trace().cost)


def _best_place(plan: plans.Plan, results: "xarray.Dataset") -> tuple[int, ...]:
    """Where the best lane lies: of several seeds, the first; if none is best, the first lane of all."""
    best = [*ranking(results, plan.select, 1), *ranking(results, "final_cost", 1), {}][0]
    return tuple(best.get(dimension.name, 0) for dimension in plan.dimensions)


def _opened_at(plan: plans.Plan, place: tuple[int, ...]) -> tuple[Callable[[PyTree], Any], PyTree]:
    """The cost of a lane, and its start; made within programs, for outside of them each operation is one of its own."""

    def lane():
        return plan.trace(place).opened(_point(plan, place))

    return lambda params: lane().cost(params), jax.jit(lambda: lane().params)()


def _point(plan: plans.Plan, place: tuple[int, ...]) -> dict[str, Any]:
    return jax.tree.map(lambda values: values[0], plans.points(plan, [place]))


def _where_costs_differ(plan: plans.Plan, place: tuple[int, ...], params: PyTree) -> str:
    """The axes along which the cost itself differs, with where they stand at `place`: epsilon = 0.2.

    By its value at a few points about the params, for the first, the middle and the last lane along each.
    """
    start, back = ravel_pytree(params)
    steps = np.random.default_rng(0).normal(size=(_PROBES, len(start))) * np.maximum(1, np.abs(np.asarray(start)))
    probes = (np.asarray(start) + steps).astype(start.dtype)
    programs: dict[tuple[int, ...], Callable] = {}

    def costs(place):
        static = tuple(i if d.static else 0 for d, i in zip(plan.dimensions, place, strict=True))

        def one(numbers, point):
            return plan.trace(static).opened(point).cost(back(numbers))

        program = programs.setdefault(static, jax.jit(jax.vmap(one, (0, None))))
        return np.asarray(program(probes, _point(plan, place)))

    differing = []
    for along, dimension in enumerate(plan.dimensions):
        others = {0, dimension.size // 2, dimension.size - 1} - {place[along]}
        lanes = [(*place[:along], other, *place[along + 1 :]) for other in sorted(others)]
        if any(not np.array_equal(costs(lane), costs(place), equal_nan=True) for lane in lanes):
            differing += [f"{name} = {_said(dimension.at(name, place[along]))}" for name in dimension.axes]
    return ", ".join(differing)


def _said(value: Any) -> str:
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, (int, float, np.generic)):
        return f"{value:.6g}"
    return getattr(value, "__name__", "that of the best")


# --- where to look ---


class Plane(NamedTuple):
    """A line or a plane among the params, by a point of it and its directions, which are orthonormal."""

    origin: Float[np.ndarray, " param"]
    directions: Float[np.ndarray, "axis param"]
    kind: str
    labels: tuple[str, ...]

    def at(self, positions: Float[np.ndarray, "... axis"]) -> Float[np.ndarray, "... param"]:
        return self.origin + positions @ self.directions

    def onto(self, points: Float[np.ndarray, "... param"]) -> Float[np.ndarray, "... axis"]:
        with np.errstate(invalid="ignore", over="ignore"):  # what ran away lies nowhere
            return (points - self.origin) @ self.directions.T

    def holding(self, points: Float[np.ndarray, "point param"], box: np.ndarray) -> Float[np.ndarray, "some param"]:
        """Those of the points that lie in it, within a box."""
        places = self.onto(points)
        apart = np.linalg.norm(self.at(places) - points, axis=-1)
        inside = ((places >= box[:, 0]) & (places <= box[:, 1])).all(axis=-1)
        return points[inside & (apart <= 1e-6 * np.maximum(1, np.linalg.norm(points, axis=-1)))]


class _Seen(NamedTuple):
    """Paths as far as they are finite."""

    starts: Float[np.ndarray, "path param"]
    ends: Float[np.ndarray, "tame param"]  # of the paths that came no higher than they started, the best first
    points: Float[np.ndarray, "point param"]  # of all paths
    tame: Float[np.ndarray, "some param"]  # of the paths in `ends`
    best: Float[np.ndarray, "few param"]  # of the first of them


def _seen(paths: "xarray.Dataset | None", count: int) -> _Seen:
    if paths is None:
        return _Seen(*[np.zeros((0, count))] * 5)
    points, costs = _flattened(paths), paths["cost"].values.astype(float)
    finite = np.isfinite(points).all(axis=-1) & np.isfinite(costs)
    begun = finite.any(axis=1)
    points, costs, finite = points[begun], costs[begun], finite[begun]
    first = finite.argmax(axis=1)
    last = finite.shape[1] - 1 - finite[:, ::-1].argmax(axis=1)
    row = np.arange(len(points))
    tame = (costs[row, last] <= costs[row, first]) & (paths["outcome"].values[begun] != DIVERGED)
    order = np.flatnonzero(tame)[np.argsort(costs[row, last][tame], kind="stable")]
    best = points[order[:1]][finite[order[:1]]]
    return _Seen(points[row, first], points[order, last[order]], points[finite], points[tame][finite[tame]], best)


def _flattened(paths: "xarray.Dataset") -> Float[np.ndarray, "path epoch param"]:
    leaves = [paths[name].values for name in paths.data_vars if str(name).split(".")[0] == "params"]
    return np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=-1).astype(float)


def _reached(seen: _Seen, known: np.ndarray) -> Float[np.ndarray, "some param"]:
    """The known minima nearest to where paths ended, the best path's first; or where that one ended; or none."""
    if not len(known):
        return seen.ends[:1]
    ends = seen.ends if len(seen.ends) else seen.starts[:1]
    nearest = [int(np.linalg.norm(known - end, axis=1).argmin()) for end in ends]
    return known[list(dict.fromkeys(nearest)) or [0]]


def _lowest(costs: "_Costs", plane: "Plane", box: np.ndarray) -> Float[np.ndarray, "some param"]:
    """The lowest point in and around a box, to rounding; none if it lies on the border: a lower one may lie beyond."""
    middle, width = box.mean(axis=1), np.diff(box)[:, 0]
    cells = costs.affordable(len(box))
    for _ in range(_ROUNDS):
        scales = [np.linspace(m - w, m + w, cells) for m, w in zip(middle, width, strict=True)]
        grid = np.stack(np.meshgrid(*scales), axis=-1)
        heights = costs.at(plane, grid)
        place = np.unravel_index(np.where(np.isfinite(heights), heights, np.inf).argmin(), heights.shape)
        if any(i in (0, cells - 1) for i in place):
            return np.zeros((0, len(plane.origin)))
        middle, width = grid[place], 4 * width / (cells - 1)
    return plane.at(middle)[None]


_ROUNDS = 5


def _plane(seen: _Seen, reached: np.ndarray, flat: np.ndarray, names: list[str], seed: int) -> Plane:
    count = len(flat)
    if count <= 2:
        return Plane(np.zeros(count), np.eye(count), "params", tuple(names))
    origin = reached[0] if len(reached) else flat
    rows = seen.tame[np.unique(np.linspace(0, len(seen.tame) - 1, _MOST_ROWS).astype(int))] if len(seen.tame) else []
    spread, kind = np.zeros(0), "random"
    directions = np.zeros((0, count))
    if len(rows) and np.any(rows != origin):
        _, values, directions = np.linalg.svd(rows - origin, full_matrices=False)
        spread, kind = values**2 / (values**2).sum(), "principal"
        directions = directions[: 2 if len(spread) > 1 and spread[1] > _NO_SPREAD else 1]
    labels = [
        f"{word} principal direction ({100 * share:.3g} % of the spread)"
        for word, share, _ in zip(("1st", "2nd"), spread, directions, strict=False)
    ]
    labels += ["a random direction", "another random direction"][: 2 - len(labels)]
    random = np.random.default_rng(seed).normal(size=(2, count))
    directions = np.linalg.qr(np.concatenate([directions, random])[:2].T)[0].T
    towards = seen.starts[0] - origin if len(seen.starts) else np.ones(count)
    directions *= np.where(directions @ towards < 0, -1, 1)[:, None]  # the first path comes from the positive side
    return Plane(origin, directions, kind, tuple(labels))


_NO_SPREAD = 1e-9  # of all, below which paths have no second direction


def _box(
    seen: _Seen, reached: np.ndarray, plane: Plane, flat: np.ndarray, domain: np.ndarray | None
) -> Float[np.ndarray, "axis 2"]:
    """What to show along each axis: where paths start, where tame ones end, what they reach, with the minimum inside;
    the best one's way; and of the others' what lies not far from there, so that one that ran away spoils nothing."""
    best = plane.onto(seen.best)
    starts, ends, points, minima = (
        plane.onto(some) for some in (seen.starts, seen.ends, seen.tame if len(seen.ends) else seen.points, reached)
    )
    core = np.concatenate([starts, ends, minima])
    if domain is not None and not len(starts):
        return domain.astype(float)
    if not len(starts):
        core = np.concatenate([core, plane.onto(flat)[None]])
    low, high = _wide(core, domain)
    reach = (_NEAR if len(ends) else 2 * _NEAR) * (high - low)
    near = [points[_within(points, low - reach, high + reach)]]
    near += [best[_within(best, low - _FAR * reach, high + _FAR * reach)]]
    low, high = _wide(np.concatenate([core, *near]), domain)
    width = high - low
    if len(minima):
        outer = np.stack([minima.min(axis=0) - _INSIDE * width, minima.max(axis=0) + _INSIDE * width])
        outer = outer if domain is None else outer.clip(*domain.T)
        low, high = np.minimum(low, outer[0]), np.maximum(high, outer[1])
    return np.stack([low - _MARGIN * width, high + _MARGIN * width], axis=1)


_NEAR, _FAR, _INSIDE, _MARGIN = 0.75, 10, 0.25, 0.06  # in widths of what is shown; _FAR, in nears


def _within(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return ((points >= low) & (points <= high)).all(axis=1)


def _wide(points: np.ndarray, domain: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Low and high along each axis; where all lie in one place, as wide as the other axis, or as is customary there."""
    low, high = points.min(axis=0), points.max(axis=0)
    width = high - low
    if not width.max() > 0:
        usual = np.maximum(1, np.abs(low)) if domain is None else (domain[:, 1] - domain[:, 0]) / 4
        return low - usual / 2, high + usual / 2
    short = np.where(width > 1e-6 * width.max(), 0, width.max())
    return low - short / 2, high + short / 2


# --- how high it lies ---


class _Costs:
    """The cost at many points, a few of them side by side, so that memory and time stay bounded."""

    def __init__(self, cost: Callable[[Any], Any], start: Any):
        self.dtype = start.dtype
        known = jax.jit(cost).lower(start).cost_analysis() or {}
        self.work = max(1.0, float(known.get("flops", 0)), float(start.size))  # of one evaluation
        self.batch = int(np.clip(_BATCH_WORK // self.work, 1, 4096))
        self.program = jax.jit(jax.vmap(cost))

    def affordable(self, axes: int) -> int:
        """How many cells along each of so many axes."""
        return int(np.clip((_MOST_WORK / self.work) ** (1 / axes), _FEWEST_CELLS, _CELLS[axes]))

    def at(self, plane: Plane, positions: Float[np.ndarray, "... axis"]) -> Float[np.ndarray, "..."]:
        rows, found = positions.reshape(-1, positions.shape[-1]), []
        for first in range(0, len(rows), self.batch):
            some = np.minimum(np.arange(first, first + self.batch), len(rows) - 1)  # padded: one program does for all
            costs = self.program(plane.at(rows[some]).astype(self.dtype))
            found.append(np.asarray(costs)[: len(rows) - first])
        return np.concatenate([np.zeros(0, self.dtype), *found]).reshape(positions.shape[:-1])
