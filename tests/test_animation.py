"""Films: which balls are shown, where they are in each frame, and how small the file is."""

import io

import numpy as np
import pytest
import xarray
from PIL import Image

from jaxgd.outcome import CONVERGED, DESCENDING, DIVERGED, TRAPPED
from jaxgd.show import animation
from jaxgd.show.style import COLOURS

pytestmark = pytest.mark.usefixtures("compiled_in_haste")


def bowl(axes):
    """The surface of Σ x², over one axis or two."""
    x = np.linspace(-2, 2, 41)
    cost = x**2 if axes == 1 else x[:, None] ** 2 + x**2
    data = {
        "cost": (("y", "x")[-axes:], cost, {"kind": "params", "at": ""}),
        "minima": (("minimum", "axis"), np.zeros((1, axes))),
        "origin": ("param", np.zeros(axes)),
        "direction": (("axis", "param"), np.eye(axes)),
    }
    scales = {name: (name, x, {"long_name": f"x_{i}"}) for i, name in enumerate("xy"[:axes])}
    return xarray.Dataset(data, scales)


def paths(factors, starts, outcomes, epochs=40, **labels):
    """Descents that multiply where they are by a factor in each epoch, [path, epoch, axis]."""
    starts = np.asarray(starts, float).reshape(len(factors), -1)
    params = starts[:, None] * np.asarray(factors)[:, None, None] ** np.arange(epochs + 1)[:, None]
    data = {
        "params.x": (("path", "epoch", "params.x.0"), params),
        "cost": (("path", "epoch"), (params**2).sum(axis=2)),
        "outcome": ("path", np.asarray(outcomes)),
    }
    labels = labels or {"learning_rate": np.arange(len(factors)) / 10}
    labels = {name: ("path", np.asarray(values)) for name, values in labels.items()}
    return xarray.Dataset(data, labels | {"epoch": np.arange(epochs + 1)})


def pixels(frame, colour):
    """How many dots of a frame have about this colour, and where their middle lies, as shares of its size."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    rgb = np.asarray(frame.convert("RGB")).astype(int)
    there = np.argwhere(np.abs(rgb - wanted).max(axis=2) < 24)
    return len(there), there.mean(axis=0) / rgb.shape[:2] if len(there) else None


@pytest.mark.parametrize("axes", [1, 2])
def test_one_that_arrives_beside_one_that_runs_away(axes):
    some = paths([0.8, -1.1, 0.99], [[1.5] * axes] * 3, [CONVERGED, DIVERGED, DESCENDING])
    shown = animation.panels(bowl(axes), some)
    assert [panel.balls for panel in shown] == [[0], [1]]
    assert [panel.title for panel in shown] == ["learning_rate = 0: converged", "learning_rate = 0.1: diverged"]
    film = animation.animated(bowl(axes), some, "A bowl")
    first, last = film.frames[0], film.frames[-1]
    assert pixels(first, COLOURS["converged"])[1][1] < 0.5 < pixels(first, COLOURS["diverged"])[1][1]
    assert pixels(last, COLOURS["converged"])[0] > 20


def test_where_none_arrives_the_best_is_shown_beside_one_that_runs_away():
    some = paths([0.99, -1.1, 0.98], [[1.5, 1.5]] * 3, [DESCENDING, DIVERGED, DESCENDING])
    assert [panel.balls for panel in animation.panels(bowl(2), some)] == [[2], [1]]


def test_the_ball_rolls_down_to_the_middle():
    film = animation.animated(bowl(1), paths([0.8], [1.5], [CONVERGED]), "One")
    ways = [pixels(frame, COLOURS["converged"])[1] for frame in (film.frames[0], film.frames[-1])]
    (up, right), (down, middle) = ways
    assert down > up and right > middle


def test_what_has_run_out_of_sight_is_gone():
    film = animation.animated(bowl(1), paths([2.0], [1.5], [DIVERGED]), "Away")
    seen = [pixels(frame, COLOURS["diverged"])[0] for frame in (film.frames[0], film.frames[-1])]
    assert seen[0] > 5 * seen[1]


def test_balls_from_all_starts_at_once():
    starts = [[x, y] for x in (-1.5, 0.5, 1.5) for y in (-1, 1)]
    some = paths([0.9] * 6, starts, [CONVERGED] * 5 + [TRAPPED])
    (panel,) = animation.panels(bowl(2), some)
    assert panel.balls == list(range(6)) and panel.title == "6 balls: 5 converged, 1 trapped"
    assert len(animation.animated(bowl(2), some, "").frames) > 10


def test_optimizers_race_each_with_its_best():
    some = paths([0.9, 0.8, 0.7], [[1.5, 1]] * 3, [CONVERGED] * 3, optimizer=["adam", "adam", "momentum"])
    (panel,) = animation.panels(bowl(2), some)
    assert panel.balls == [1, 2] and panel.names == ["adam", "momentum"]
    marked = some.assign(best=("path", [True, False, True]))  # of a run that counts epochs, or selects by validation
    assert animation.panels(bowl(2), marked)[0].balls == [0, 2]


def test_few_frames_where_little_moves_and_the_last_stays():
    jumps = paths([0.0], [1.5], [CONVERGED], epochs=1000)  # there after the first epoch
    film = animation.animated(bowl(1), jumps, "")
    assert len(film.frames) == len(film.durations) <= 80
    assert film.durations[-1] > film.durations[0]
    middle, last = (pixels(film.frames[i], COLOURS["converged"])[1] for i in (len(film.frames) * 3 // 4, -1))
    np.testing.assert_allclose(middle, last, atol=0.01)


def test_a_film_is_a_small_gif_that_loops():
    some = paths([0.95] * 30, np.linspace(-1.5, 1.5, 60), [CONVERGED] * 30, epochs=300)
    film, content = animation.animated(bowl(2), some, "Many"), io.BytesIO()
    film.save(content)
    assert len(content.getvalue()) < 3_000_000
    image = Image.open(content)
    assert image.format == "GIF" and image.info["loop"] == 0 and image.n_frames > 10
    assert film._repr_png_()[:3] == b"GIF"


@pytest.mark.parametrize(
    "some",
    [paths([1.0], [1.5], [TRAPPED], epochs=0), paths([np.inf], [1.5], [DIVERGED]), paths([1.0], [0.5], [TRAPPED])],
    ids=["a single record", "gone after one epoch", "stands still"],
)
def test_odd_ones_are_filmed_too(some):
    with np.errstate(invalid="ignore"):
        assert animation.animated(bowl(1), some, "odd").frames


def test_no_ball_is_said_plainly():
    with pytest.raises(ValueError, match="no ball to show"):
        animation.animated(bowl(1), paths([1.0], [np.nan], [DIVERGED]), "nothing")


def test_figures_in_turn():
    from matplotlib.figure import Figure

    film = animation.slides([Figure(figsize=(2, 1)), Figure(figsize=(3, 1)), Figure(figsize=(2, 2))])
    assert len({frame.size for frame in film.frames}) == 1
    assert len(film.frames) == 3 and film.durations[-1] > film.durations[0]
