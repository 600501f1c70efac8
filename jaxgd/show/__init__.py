"""What a person sees: tables, figures, films and the report. These rooms read results and compute no descent.

For a notebook or a script, each function returns a matplotlib `Figure` (a `Film`, for `film`) to go on with:

    import jaxgd.show
    jaxgd.show.overview(table)                   # of a table from `jaxgd.sweep`
    jaxgd.show.final_cost(table), jaxgd.show.maps(table), jaxgd.show.optimizers(table)
    surface = jaxgd.show.landscape(cost, history)
    jaxgd.show.surface(surface, history), jaxgd.show.contours(surface, history)
    jaxgd.show.curves(history), jaxgd.show.film(surface, history)

Matplotlib loads when the first of them is used. In a notebook, histories, sweeps and surfaces show
themselves: as a picture, with what xarray says of them below it.
"""

from importlib import import_module
from typing import Any

from jaxgd.show.display import register

_ROOM = "jaxgd.show.notebook"
__all__ = ["contours", "curves", "film", "final_cost", "landscape", "maps", "optimizers", "overview", "surface"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_ROOM), name)
    raise AttributeError(f"module 'jaxgd.show' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__


register()
