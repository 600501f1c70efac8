"""Pictures of what Python holds in its hands, a history or a table, without a run folder."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

from jaxgd import landscape as ground
from jaxgd.descent import Descent, History, opened
from jaxgd.outcome import DESCENDING, DIVERGED, named
from jaxgd.show import animation, plots, terrain
from jaxgd.show.atlas import maps
from jaxgd.show.plots import final_cost, overview

if TYPE_CHECKING:
    import xarray

__all__ = ["contours", "curves", "film", "final_cost", "landscape", "maps", "optimizers", "overview", "surface"]


def landscape(cost: Callable, histories: Any, *, minima: Any = None, domain: Any = None) -> "xarray.Dataset":
    """The surface of a cost around the ways of descents, as `jaxgd.landscape.surface` gives it.

    Args:
      cost: a function of the params.
      histories: a `History`, or several by name.
      minima: known ones, [minimum, params]; domain: low and high of each param.
    """
    params = jax.tree.map(lambda leaf: leaf[0], next(iter(_by_name(histories).values())).params)
    traced = opened(Descent(cost, params, optax.identity())).cost
    return ground.surface(traced, params, as_paths(histories), minima=minima, domain=domain)


def surface(surface: "xarray.Dataset", histories: Any = None, title: str = "") -> Figure:
    """A cost over two params in 3-D, with the balls and the ways they came."""
    return terrain.surface(surface, as_paths(histories), title)


def contours(surface: "xarray.Dataset", histories: Any = None, title: str = "") -> Figure:
    """A cost from above, with paths and minima; over one param, as a curve."""
    return terrain.contours(surface, as_paths(histories), title)


def curves(histories: Any, title: str = "") -> Figure:
    """Cost over epochs, linear and logarithmic."""
    import xarray

    return plots.curves(xarray.Dataset(), as_paths(histories), title)


def optimizers(table: "xarray.Dataset", histories: Any = None, title: str = "") -> Figure:
    """Optimizers compared: cost over epochs of the best of each, and final cost over the longest axis."""
    return plots.optimizers(table, as_paths(histories), title)


def film(surface: "xarray.Dataset", histories: Any, title: str = "") -> animation.Film:
    """The balls as they roll."""
    return animation.animated(surface, as_paths(histories), title)


def as_paths(histories: Any) -> "xarray.Dataset | None":
    """Histories as a run keeps its paths; what is one already, or None, as it is.

    Raises:
      TypeError: it is neither.
      ValueError: histories of different lengths.
    """
    import xarray

    if histories is None or isinstance(histories, xarray.Dataset):
        return histories
    several = _by_name(histories)
    if len({len(history.cost) for history in several.values()}) > 1:
        raise ValueError("histories of different lengths can't be drawn side by side: give them the same epochs")
    first = next(iter(several.values()))
    data: dict[str, Any] = {
        name: (("path", "epoch"), np.stack([np.asarray(getattr(history, name)) for history in several.values()]))
        for name in ("cost", "gradient_norm")
    }
    for name in named("params", first.params):
        leaves = np.stack([np.asarray(named("params", history.params)[name]) for history in several.values()])
        data[name] = (("path", "epoch", *(f"{name}.{axis}" for axis in range(leaves.ndim - 2))), leaves)
    data["outcome"] = ("path", np.array([_outcome(history) for history in several.values()], np.int8))
    coordinates: dict[str, Any] = {"epoch": np.asarray(first.epoch)}
    if len(several) > 1:
        coordinates["optimizer"] = ("path", list(several))
    return xarray.Dataset(data, coordinates)


def _by_name(histories: Any) -> dict[str, History]:
    several = {"": histories} if isinstance(histories, History) else histories
    if not (isinstance(several, Mapping) and several and all(isinstance(h, History) for h in several.values())):
        raise TypeError(
            f"expected a History, or several by name, as {{'adam': history}}; got {type(histories).__name__}"
        )
    return dict(several)


def _outcome(history: History) -> int:
    """A history has no verdict; but whether it ran away is plain to see."""
    costs = np.asarray(history.cost, float)
    away = not np.isfinite(costs).all() or (len(costs) > 1 and costs[-1] > costs[0] and costs[-1] >= costs.max())
    return DIVERGED if away else DESCENDING
