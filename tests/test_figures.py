"""Figures: every one of every kind of run is drawn, odd runs too; nothing is clipped, and no two texts overlap."""

import base64
import io
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray
from IPython.core.formatters import DisplayFormatter
from matplotlib._pylab_helpers import Gcf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image
from test_show import a_table

import jaxgd
from jaxgd import landscape
from jaxgd.outcome import CONVERGED, DESCENDING, DIVERGED, OSCILLATING, OUTCOMES, TRAPPED
from jaxgd.show import atlas, display, gallery, notebook, plots, style, terrain

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

RATES = np.geomspace(1e-3, 10, 6)


def bowl(x):
    return jnp.sum(x**2) + 5


def balls(codes, count=2, steps=30, names=None, away=1e30):
    """Paths [path, epoch] in a bowl, one for each outcome code; those that diverged run away."""
    factor = np.select([np.array(codes) == DIVERGED, np.array(codes) == OSCILLATING], [-3.0, -1.0], 0.7)
    points = np.array([3.0, -1.0, 2.0][:count])[None, None] * factor[:, None, None] ** np.arange(steps)[None, :, None]
    points[np.abs(points) > away] = np.nan
    coords = {"epoch": np.arange(steps), "learning_rate": ("path", np.linspace(0.1, 2, len(codes)))}
    coords |= {"optimizer": ("path", names)} if names else {}
    data = {"cost": (("path", "epoch"), (points**2).sum(-1) + 5), "outcome": ("path", np.array(codes, np.int8))}
    return xarray.Dataset(data | {"params.x": (("path", "epoch", "params.x.0"), points)}, coords)


def ground(paths, count=2, cost=bowl, **known):
    return landscape.surface(cost, jnp.ones(count) if count > 1 else jnp.array(1.0), paths, **known)


def drawn(figure):
    """Draws a figure, and checks that its texts are inside of it and none lies on another."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    assert np.ptp(np.asarray(canvas.buffer_rgba())[..., :3]) > 100  # it isn't blank
    width, height = canvas.get_width_height()
    boxes = [text.get_window_extent() for text in _texts(figure) if text.get_text().strip()]
    for box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
    for i, box in enumerate(boxes):
        assert not any(_overlap(box, other) for other in boxes[:i])
    return figure


def _texts(figure):
    """Titles, labels of axes, and legends; slanted ones apart, for their boxes are larger than they are."""
    found = [figure._suptitle] if figure._suptitle else []
    for axes in figure.axes:
        found += [axes.title, axes._left_title] + ([] if axes.name == "3d" else [axes.xaxis.label, axes.yaxis.label])
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return found + [text for legend in legends for text in legend.get_texts()]


def _overlap(one, other):
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    return across > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(Text))


CASES = {
    "one lane": (a_table({}, DESCENDING, 1.0), balls([DESCENDING])),
    "a race": (
        a_table({"optimizer": ["a", "b"]}, CONVERGED, 1.0),
        balls([CONVERGED, DESCENDING], names=["a", "b"]),
    ),
    "rates": (
        a_table({"learning_rate": RATES}, lambda learning_rate: np.where(learning_rate > 3, DIVERGED, CONVERGED), 1.0),
        balls([CONVERGED, OSCILLATING, DIVERGED]),
    ),
    "all diverged": (a_table({"learning_rate": RATES}, DIVERGED, np.inf), balls([DIVERGED] * 5)),
    "constant cost": (
        a_table({"learning_rate": RATES}, TRAPPED, 3.0, start_cost=3.0),
        balls([TRAPPED] * 3).assign(cost=(("path", "epoch"), np.full((3, 30), 3.0))),
    ),
    "NaN at the start": (
        a_table({"learning_rate": RATES}, DIVERGED, np.nan, start_cost=np.nan),
        balls([DIVERGED] * 2).where(False).assign(outcome=("path", [DIVERGED] * 2)),
    ),
    "two axes and names": (
        a_table(
            {"optimizer": ["a", "b"], "momentum": np.linspace(0, 0.9, 4), "learning_rate": RATES},
            lambda learning_rate, **_: np.where(learning_rate > 3, DIVERGED, CONVERGED),
            lambda learning_rate, **_: 1.0 + learning_rate,
            target_epoch=5.0,
        ),
        balls([CONVERGED, DIVERGED], names=["a", "b"]),
    ),
}


@pytest.mark.parametrize(
    ("name", "count"), [*((n, 2) for n in CASES), ("one lane", 1), ("rates", 1), ("all diverged", 1)]
)
def test_every_kind_of_run_is_drawn(name, count):
    table, paths = CASES[name]
    if count == 1:
        paths = paths.assign({"params.x": paths["params.x"].isel({"params.x.0": 0})})
    for draw in gallery.fitting(table, paths, ground(paths, count), name).values():
        drawn(draw())


def test_which_figures_fit():
    paths = balls([CONVERGED])
    fits = {name: list(gallery.fitting(CASES[name][0], paths, ground(paths))) for name in CASES}
    assert fits["one lane"] == ["overview", "surface", "contours"]
    assert fits["rates"] == ["overview", "surface", "contours", "curves"]
    assert fits["two axes and names"] == ["overview", "surface", "contours", "curves", "rates", "maps", "optimizers"]
    line = paths.assign({"params.x": paths["params.x"].isel({"params.x.0": 0})})
    assert list(gallery.fitting(CASES["one lane"][0], line, ground(line, 1))) == ["overview", "valley"]


def test_a_thousand_dimensions_are_cut_and_say_so():
    rng = np.random.default_rng(0)
    points = rng.normal(size=1000) * 0.9 ** np.arange(20)[:, None]
    paths = balls([CONVERGED], steps=20).drop_vars("params.x")
    paths = paths.assign({"params.x": (("path", "epoch", "i"), points[None])})
    surface = ground(paths, 1000)
    for draw in (terrain.surface, terrain.contours):
        assert "1st principal direction" in texts(drawn(draw(surface, paths, "many")))


def test_what_a_surface_can_t_show_is_said():
    nowhere = ground(None, cost=lambda x: jnp.nan * x[0])
    assert "no finite cost" in texts(drawn(terrain.surface(nowhere, None, "nothing")))
    at = ground(None).copy()
    at["cost"].attrs["at"] = "epsilon = 0.2"
    assert "drawn at epsilon = 0.2" in texts(drawn(terrain.contours(at, None, "one of several")))


def test_the_ball_lies_where_its_path_ends():
    paths = balls([CONVERGED, DIVERGED])
    surface = ground(paths)
    ends = {ball.outcome: ball for ball in terrain.balls_of(surface, paths, 4)}
    np.testing.assert_allclose(ends["converged"].positions, paths["params.x"][0])
    away = ends["diverged"].positions
    assert np.isfinite(away[0]).all() and np.isnan(away[-1]).all()  # cut where it left the picture
    axes = drawn(terrain.contours(surface, paths)).axes[0]
    last = np.array([line.get_xydata()[-1] for line in axes.lines if line.get_label() == ends["converged"].label])
    np.testing.assert_allclose(last, [paths["params.x"].values[0, -1]])


def test_edge_best_and_known_limit_are_marked():
    def outcome(learning_rate):
        return np.where(learning_rate > 3, DIVERGED, CONVERGED)

    table = a_table({"learning_rate": RATES}, outcome, lambda learning_rate: 1.0 + learning_rate)
    table["known_limit"] = ((), 2.5, {"along": "learning_rate"})
    axes = drawn(plots.final_cost(table)).axes[0]
    marks = {line.get_label(): line.get_xdata()[0] for line in axes.lines}
    assert marks["known limit"] == 2.5 and marks["best"] == RATES[0]
    assert marks["edge"] == pytest.approx(np.sqrt(RATES[3] * RATES[4]))
    two = a_table({"momentum": np.linspace(0, 0.9, 4), "learning_rate": RATES}, CONVERGED, 1.0)
    two["known_limit"] = ("momentum", np.linspace(0.5, 1, 4), {"along": "learning_rate"})
    shown = drawn(atlas.maps(two))
    assert "dashed: known limit" in texts(shown)
    np.testing.assert_allclose(shown.axes[0].lines[0].get_xdata(), np.linspace(0.5, 1, 4))


def test_what_has_no_axes_is_refused_plainly():
    with pytest.raises(ValueError, match=r"two axes of numbers; the table has learning_rate 6"):
        atlas.maps(a_table({"learning_rate": RATES}, CONVERGED, 1.0))
    with pytest.raises(ValueError, match=r"no axis of numbers 'rate': the table has learning_rate 6"):
        plots.final_cost(a_table({"learning_rate": RATES}, CONVERGED, 1.0), "rate")


def test_outcomes_differ_in_grey():
    """By lightness (Rec. 709) or by mark: neighbours on a map are told apart without colour."""
    light = sorted(np.dot(to_rgb(style.COLOURS[name]), [0.2126, 0.7152, 0.0722]) for name in OUTCOMES)
    assert np.diff(light).min() > 0.03 and len(set(style.MARKS.values())) == len(OUTCOMES)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_files_of_every_kind(kind, tmp_path):
    table, paths = CASES["rates"]
    figures = {"overview": lambda: plots.overview(table, paths, "one")}
    (file,) = gallery.written(tmp_path / "figures", figures, kind)
    assert file.name == f"overview.{kind}"
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind]
    assert file.read_bytes().startswith(start)


# --- for a notebook ---


@pytest.fixture(scope="module")
def histories():
    rules = {"sgd": optax.sgd(0.1), "momentum": jaxgd.momentum(0.05, 0.9)}
    return {name: jaxgd.descend(bowl, jnp.array([3.0, 1.0]), rule, epochs=20) for name, rule in rules.items()}


def test_histories_are_drawn_without_a_run(histories, tmp_path):
    surface = notebook.landscape(bowl, histories)
    np.testing.assert_allclose(surface["minima"], [[0, 0]], atol=1e-3)
    one = histories["sgd"]
    for figure in (
        notebook.surface(surface, histories),
        notebook.contours(surface, one),
        notebook.curves(histories),
        notebook.curves(one, "one"),
    ):
        drawn(figure)
    notebook.film(surface, histories).save(tmp_path / "race.gif")
    with Image.open(tmp_path / "race.gif") as film:
        assert film.n_frames > 10


def test_a_notebook_shows_what_it_is_given(histories, monkeypatch):
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    display.register()

    def shown(thing):
        return shell.display_formatter.format(thing)[0]

    one, table = histories["sgd"], CASES["two axes and names"][0]
    assert shown(one)["image/png"].startswith(b"\x89PNG") and shown(notebook.curves(one))["image/png"]
    assert "image/png" not in shown(jax.tree.map(lambda leaf: leaf[None], one))  # several in one array
    for dataset in (table, notebook.landscape(bowl, one)):
        page = shown(dataset)["text/html"]
        assert page.startswith("<img ") and "xr-wrap" in page
        with Image.open(io.BytesIO(base64.b64decode(re.search('base64,([^"]+)', page)[1]))) as picture:
            assert np.asarray(picture).std() > 10
    for dataset in (table.isel({d: 0 for d in table["outcome"].dims}), table[["final_cost"]], xarray.Dataset()):
        assert shown(dataset)["text/html"].startswith("<div>")  # as xarray shows it
    assert not Gcf.figs  # pyplot's list of figures


def test_a_table_is_drawn_without_a_run(histories):
    table = CASES["two axes and names"][0]
    for figure in (notebook.overview(table), notebook.maps(table), notebook.final_cost(table)):
        drawn(figure)
    drawn(notebook.optimizers(table, histories))


def test_what_is_no_history_is_refused(histories):
    with pytest.raises(TypeError, match="expected a History, or several by name"):
        notebook.curves([1, 2])
    longer = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), histories["sgd"])
    with pytest.raises(ValueError, match="different lengths"):
        notebook.curves({"a": histories["sgd"], "b": longer})


def test_the_package_knows_its_pictures_by_name():
    assert jaxgd.show.maps is atlas.maps and "show" in dir(jaxgd)
    assert set(jaxgd.show.__all__) == set(notebook.__all__)
    with pytest.raises(AttributeError, match="no attribute 'map'; it has contours"):
        jaxgd.show.map  # noqa: B018


def test_the_readme_opens_with_a_film_that_the_command_makes():
    project = Path(jaxgd.__file__).parents[1]
    opening = project.joinpath("README.md").read_text("utf-8").split("##")[0]
    picture = re.search(r"!\[.+\]\((.+)\)", opening)[1]
    assert f"jaxgd animate learning_rates --to {picture}" in opening
    assert (project / picture).stat().st_size < 400_000
    with Image.open(project / picture) as film:
        assert film.n_frames > 50 and film.info["loop"] == 0
