"""In a notebook, histories, sweeps and surfaces show themselves: a picture, and what they hold below it."""

import base64
import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

    from jaxgd.descent import History

_SHARP, _PLAIN = 144, 96  # dots to the inch: of a page, whose screens may show more than one to its pixel; of a picture
_DRAWN = {"outcome", "start_cost", "final_cost", "best_cost", "best_epoch", "target_epoch", "minimum"}
_SURFACE = {"cost", "minima", "minimum_cost"}


def register() -> None:
    """Tells the notebook that this process serves, if it does, how to show what is ours; loads nothing else for it."""
    if "IPython" not in sys.modules or (shell := sys.modules["IPython"].get_ipython()) is None:
        return
    pages, pictures = (shell.display_formatter.formatters[kind] for kind in ("text/html", "image/png"))
    pages.for_type_by_name("xarray.core.dataset", "Dataset", page)
    pictures.for_type_by_name("jaxgd.descent", "History", _of_history)
    pictures.for_type_by_name("matplotlib.figure", "Figure", png)  # as pyplot does for those who have loaded it


def page(dataset: "xarray.Dataset") -> str:
    """A Dataset as xarray shows it, below its picture if it is a sweep's or a surface."""
    figure = _picture(dataset)
    if figure is None:
        return dataset._repr_html_()
    wide = round(_PLAIN * figure.get_figwidth())
    data = base64.b64encode(png(figure, _SHARP)).decode()
    style = f'width="{wide}" style="max-width: 100%"'
    picture = f'<img alt="Drawn: what is listed below" {style} src="data:image/png;base64,{data}">'
    return picture + dataset._repr_html_()


def png(figure: "Figure", dots: float = _PLAIN) -> bytes:
    """A figure as a file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dots)
    return content.getvalue()


def _picture(dataset: "xarray.Dataset") -> "Figure | None":
    """What a Dataset of ours looks like; None of any other, and of a sweep's where nothing varies."""
    from jaxgd.show import notebook
    from jaxgd.show.scales import longest

    if {*dataset} >= _SURFACE:
        return notebook.contours(dataset)
    return notebook.overview(dataset) if {*dataset} >= _DRAWN and longest(dataset, 1) else None


def _of_history(history: "History") -> bytes | None:
    """The curves of one descent; several in one array have no picture."""
    from jaxgd.show import notebook

    return png(notebook.curves(history)) if history.cost.ndim == 1 else None
