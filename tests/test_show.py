"""What a user sees of a run: the lines of a descent, the closing table, the picture; of every kind, odd ones too."""

import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest
import xarray
from matplotlib._pylab_helpers import Gcf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

import jaxgd
from jaxgd.compare import compared, figure_of
from jaxgd.outcome import CONVERGED, DESCENDING, DIVERGED, FIGURES, OSCILLATING, OUTCOMES, PENDING, TRAPPED
from jaxgd.show import comparison, plots, rates, report, style, tables
from jaxgd.show import words as in_words
from jaxgd.table import COUNTS, ranking

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

RATES = np.geomspace(1e-3, 10, 24)
KNOWN_MINIMA = [[3.0, 2.0], [-2.8, 3.1], [-3.8, -3.3], [3.6, -1.8]]


def a_table(axes, outcome=None, cost=None, *, minimum=0.0, minima=None, coords=(), **figures):
    """A table over `axes`; each figure a number or a function of the axes' values."""
    dims = list(axes)
    grid = dict(zip(dims, np.meshgrid(*(np.arange(len(v)) for v in axes.values()), indexing="ij"), strict=True))
    shape = tuple(len(v) for v in axes.values())

    def over(value, dtype):
        return np.broadcast_to(np.asarray(value(**grid) if callable(value) else value), shape).astype(dtype)

    known = {
        "outcome": outcome,
        "final_cost": cost,
        "start_cost": 100.0,
        "start_gradient_norm": 20.0,
        "best_cost": cost,
        "best_epoch": 7.0,
        "epochs": 50.0,
    }
    known |= {"window": 50.0, "progress": 1.0, "gradient_norm": 1.0, "window_gradient_norm": 2.0} | figures
    data = {}
    for name in FIGURES:
        dtype = np.int8 if name == "outcome" else np.float64 if name in COUNTS else np.float32
        data[name] = (dims, over(known.get(name, np.nan), dtype))
    table = xarray.Dataset(data, {d: list(v) if isinstance(v[0], str) else v for d, v in axes.items()} | dict(coords))
    table.attrs = {"epochs": 50} | ({} if minimum is None else {"minimum": minimum})
    if minima:
        table["minimum"].attrs["known_minima"] = minima
    return table


def valley(learning_rate, **others):
    """Descending, converged, diverged, as the rate grows."""
    return np.select([learning_rate < 8, learning_rate < 18], [DESCENDING, CONVERGED], DIVERGED)


def depth(learning_rate, **others):
    return np.select([learning_rate < 8, learning_rate < 18], [10.0 ** (1 - learning_rate), 1e-9], np.nan)


def some_paths(costs, outcomes, names=None):
    """Paths [path, epoch] of a race."""
    costs = np.asarray(costs, np.float32)
    coords = {"epoch": np.arange(costs.shape[1])} | ({"optimizer": ("path", names)} if names else {})
    return xarray.Dataset(
        {"cost": (("path", "epoch"), costs), "outcome": ("path", np.asarray(outcomes, np.int8))}, coords
    )


def words(table, select="final_cost"):
    console = Console(width=80, highlight=False, file=None, color_system=None)
    with console.capture() as caught:
        console.print(tables.closing(table, select))
    return [line.rstrip() for line in caught.get().splitlines()]


# --- the closing table ---


def test_one_axis_says_counts_best_edges_and_what_is_missing():
    said = words(
        a_table(
            {"learning_rate": RATES}, valley, depth, progress=lambda learning_rate: 9 * depth(learning_rate)
        ).assign_attrs(tolerance=8 * 2.0**-23)
    )
    assert said == [
        "outcome     lanes   share",
        "converged      10  41.7 %  met the target or the minimum",
        "descending      8  33.3 %  still on its way when the epochs ended",
        "diverged        6  25.0 %  left the finite numbers, or grows without a new low",
        "",
        f"best     learning_rate = {RATES[8]:.6g}",
        "         final cost 1e-09, lowest in epoch 7 of 50",
        f"rates    within a factor of 2: {RATES[8]:.4g} … {RATES[17]:.4g}, a span of 36.7",
        "         10 do exactly as well; this was there first",
        f"         stable up to {RATES[17]:.4g}, 36.7 times the best",
        f"edge     learning_rate  converges at {RATES[8]:.6g} … {RATES[17]:.6g}",
        f"                        diverges from {RATES[18]:.6g} on",
        said[-1],
    ]
    # a factor 10 per window of 50, from 10^(1-i) to 8 eps ≈ 10^-6.02: 50·(7.02 − i), i < 8; median i = 3.5
    assert (
        said[-1]
        == f"missing  about {50 * (1 - np.log10(8 * 2.0**-23) - 3.5):.0f} epochs (median) where still descending"
    )


def test_of_data_it_is_said_where_lanes_diverge_and_not_that_none_converges():
    table = a_table(
        {"learning_rate": RATES}, lambda learning_rate: np.where(learning_rate > 20, DIVERGED, DESCENDING), 1.0
    )
    learns = table.assign(train_cost=table["final_cost"])
    assert tables.edge_words(learns, "learning_rate") == [f"diverges from {RATES[21]:.6g} on"]
    assert tables.edge_words(learns.isel(learning_rate=slice(0, 9)), "learning_rate") == ["diverges nowhere"]


def test_each_optimizer_has_its_lines_the_best_first():
    def shifted(optimizer, learning_rate):
        return np.where(optimizer == 2, DIVERGED, valley(learning_rate - 2 * optimizer))

    def costs(optimizer, learning_rate):
        return np.where(optimizer == 2, np.inf, np.where(optimizer == 0, 1e-3, 1e-5) + depth(learning_rate))

    said = words(
        a_table({"optimizer": ["momentum", "adam", "wild"], "learning_rate": RATES}, shifted, costs, progress=np.nan)
    )
    names = [line[9:17].strip() for line in said if line[:9].strip() in ("best", "") and line[9:17].strip()]
    assert names[:3] == ["adam", "momentum", "wild"]
    assert any("none: every lane diverged" in line for line in said)
    assert f"edge     momentum  learning_rate  converges at {RATES[8]:.6g} … {RATES[17]:.6g}" in said
    assert f"         adam      learning_rate  converges at {RATES[10]:.6g} … {RATES[19]:.6g}" in said
    assert "         wild      learning_rate  converges nowhere" in said


def test_gaps_are_admitted():
    gapped = words(
        a_table(
            {"learning_rate": RATES},
            lambda learning_rate: np.where(learning_rate % 3 == 0, OSCILLATING, CONVERGED),
            1.0,
        )
    )
    assert any(line.strip() == "with gaps" for line in gapped)


def test_two_axes_speak_of_somewhere_and_of_a_span():
    def outcome(momentum, learning_rate):
        return np.where(learning_rate > 10 + momentum, DIVERGED, np.where(momentum > 0, CONVERGED, DESCENDING))

    axes = {"momentum": np.linspace(0, 0.9, 4), "learning_rate": RATES}
    said = words(a_table(axes, outcome, 1.0, progress=np.nan))
    assert "edge     momentum       converges somewhere at 0.3 … 0.9" in said
    assert f"                        diverges from {RATES[11]:.6g} … {RATES[14]:.6g} on" in said
    assert f"best     momentum = 0, learning_rate = {RATES[0]:.6g}" in said  # in the order of the axes


def test_where_all_values_diverge_there_is_no_edge_along_them():
    """The largest rate diverges whatever the momentum, which says nothing of where an edge along momentum lies."""
    axes = {"momentum": [0.0, 0.5, 0.9], "learning_rate": [0.5, 1.0, 1.5, 2.5]}

    def outcome(momentum, learning_rate):  # by their place along each axis
        return np.where((learning_rate == 3) | (learning_rate > 1 + momentum), DIVERGED, CONVERGED)

    said = words(a_table(axes, outcome, 1.0))
    assert "edge     momentum       converges somewhere at 0 … 0.9" in said
    assert "                        diverges at every value for 1 of 4 learning_rate" in said
    assert "                        diverges from 1.5 … 2.5 on" in said
    assert not any("from 0 " in line for line in said)


def test_over_starts_it_says_lowest():
    starts = a_table({"x": np.linspace(-1, 1, 5)}, CONVERGED, 0.0, start_cost=lambda x: (x - 2.0) ** 2)
    said = words(starts)
    assert "lowest   x = -1" in said and "edge     x  converges at every value" in said
    assert not any(line.startswith("best") for line in said)


def test_replicates_are_a_median_and_no_axis():
    said = words(
        a_table(
            {"learning_rate": RATES[:3], "seed": [0, 1, 2, 3]},
            DESCENDING,
            lambda learning_rate, seed: 1.0 + seed,
            progress=np.nan,
        )
    )
    assert "         median final cost 2.5 of 4 seeds" in said
    assert not any("seed " in line for line in said)


@pytest.mark.parametrize(
    "table",
    [
        a_table({}, DIVERGED, np.nan),
        a_table({}, PENDING, np.nan, start_cost=np.nan, epochs=-1),
        a_table({"learning_rate": RATES}, DIVERGED, np.inf),
        a_table({"learning_rate": RATES}, PENDING, np.nan),
        a_table({"learning_rate": RATES[:1]}, CONVERGED, 1.0),
        a_table({"kernel": ["a", "b"], "flag": ["x", "y"]}, TRAPPED, 1.0),
        a_table({f"a{i}": np.arange(2) for i in range(9)}, CONVERGED, 1.0),
        a_table({"optimizer": [f"rule{i}" for i in range(30)]}, DESCENDING, 1.0),
        a_table(
            {"optimizer": ["a" * 40, "b" * 40], "learning_rate": RATES},
            lambda optimizer, learning_rate: valley(learning_rate),
            1.0,
        ),
    ],
    ids=lambda table: f"{dict(table.sizes)}",
)
def test_the_closing_table_of_odd_runs_stays_within_the_page(table):
    said = words(table)
    assert max(map(len, said)) <= 80
    assert any("none: " in line or "final cost" in line for line in said)


# --- the lesson's lines ---


def lines_of(params, costs):
    data = {"cost": (("path", "epoch"), [costs])}
    for name, values in params.items():
        data[name] = (("path", "epoch", *(f"{name}.{i}" for i in range(np.ndim(values) - 1))), np.asarray([values]))
    return list(tables.epoch_lines(xarray.Dataset(data, {"epoch": np.arange(len(costs))})))


def test_the_lines_are_the_lesson_s():
    assert lines_of({"params.x": [8444.218, 8275.334]}, [71304822.5, 68481154.0]) == [
        "EPOCH 0: Cost = 71304822.500, x = 8444.218",
        "EPOCH 1: Cost = 68481154.000, x = 8275.334",
    ]


def test_lines_of_many_params_are_short():
    (line,) = lines_of({"params.x": [np.arange(1000.0)], "params.params_of_mine": [np.zeros((2, 2))]}, [1e-9])
    assert (
        line == "EPOCH 0: Cost = 1.000e-09, x = [0.000, 1.000, 2.000, 3.000, …], "
        "params_of_mine = [0.000, 0.000, 0.000, 0.000]"
    )
    assert lines_of({"params": [2.0]}, [4.0]) == ["EPOCH 0: Cost = 4.000, x = 2.000"]


def test_lines_end_with_the_descent_and_are_few_for_a_long_one():
    costs = np.where(np.arange(5001) < 4001, 1.0, np.nan)
    said = lines_of({"params.x": costs}, costs)
    assert len(said) == 201 and said[0].startswith("EPOCH 0:") and said[-1].startswith("EPOCH 4000:")
    assert lines_of({"params.x": [np.nan, np.nan]}, [np.nan, np.nan]) == ["EPOCH 0: Cost = nan, x = nan"]


# --- the picture ---


def drawn(figure, dpi=60):
    """Draws, and checks that no text is cut off, that titles and legends cover nothing."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, page = canvas.get_renderer(), figure.bbox
    for text in figure.findobj(matplotlib.text.Text):
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent(renderer)
            inside = page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1 and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1
            ticks = any(
                text in axis.get_ticklabels(which="both") for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
            )
            assert inside or ticks, text.get_text()  # labels of ticks beyond the limits aren't drawn
    legends = [legend for legend in figure.legends] + [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    titles = [figure._suptitle] if figure._suptitle else []
    plots_ = [axes.get_window_extent(renderer) for axes in figure.axes]
    for artist in legends + titles:
        box = artist.get_window_extent(renderer)
        assert not any(box.shrunk(0.98, 0.9).overlaps(area) for area in plots_), artist
    return np.asarray(canvas.buffer_rgba())


def up_down(x, y):
    return np.where((x + y) % 7 == 0, TRAPPED, CONVERGED)


SWEEPS = {
    "a learning rate": a_table({"learning_rate": RATES}, valley, depth),
    "every mark there is": a_table(
        {"learning_rate": RATES},
        lambda learning_rate: np.select(
            [learning_rate < 4, learning_rate < 8, learning_rate < 12, learning_rate < 18],
            [DESCENDING, TRAPPED, OSCILLATING, CONVERGED],
            DIVERGED,
        ),
        depth,
        target_epoch=lambda learning_rate: np.where((learning_rate >= 12) & (learning_rate < 18), 30.0, np.nan),
    )
    .assign(
        known_limit=((), RATES[16], {"along": "learning_rate"}),
        limit_formula=((), "2/λ"),
        sharpness=((), 2 / RATES[16]),
    )
    .assign_attrs(target=1e-3),
    "no known minimum": a_table(
        {"learning_rate": RATES}, valley, lambda learning_rate: depth(learning_rate) - 3, minimum=None, start_cost=4.0
    ),
    "optimizers": a_table(
        {"optimizer": ["adam", "sgd"], "learning_rate": RATES},
        lambda optimizer, **o: valley(**o),
        lambda optimizer, **o: depth(**o),
    ),
    "many optimizers": a_table(
        {"optimizer": [f"rule{i}" for i in range(9)], "learning_rate": RATES}, lambda optimizer, **o: valley(**o), 1.0
    ),
    "seeds as replicates": a_table(
        {"learning_rate": RATES, "seed": np.arange(5)}, valley, lambda seed, **o: depth(**o) * (1 + seed)
    ),
    "seeds alone": a_table({"seed": np.arange(5)}, CONVERGED, lambda seed: 1.0 + seed),
    "seeds and names": a_table(
        {"kernel": ["a", "b"], "seed": np.arange(5)}, CONVERGED, lambda seed, kernel: 1.0 + seed
    ),
    "trials": a_table(
        {"optimizer": ["adam", "sgd"], "trial": np.arange(4)},
        DESCENDING,
        lambda trial, **o: 1.0 + trial,
        coords={"learning_rate": (("optimizer", "trial"), [[1e-3, 1e-2, 1e-1, 1], [1, 10, np.nan, np.nan]])},
    ),
    "all diverged": a_table({"learning_rate": RATES}, DIVERGED, np.inf),
    "NaN at the start": a_table({"learning_rate": RATES}, DIVERGED, np.nan, start_cost=np.nan),
    "nothing run yet": a_table({"learning_rate": RATES}, PENDING, np.nan, start_cost=np.nan),
    "constant cost": a_table({"learning_rate": RATES}, TRAPPED, 100.0, minimum=None),
    "one value": a_table({"learning_rate": RATES[:1]}, CONVERGED, 1.0),
    "unsorted values": a_table({"x": np.array([3.0, -1.0, 2.0]), "y": np.array([1.0, 1.0, 0.5])}, CONVERGED, 1.0),
    "1 × N": a_table(
        {"x": np.arange(1.0), "learning_rate": RATES}, lambda x, **o: valley(**o), lambda x, **o: depth(**o)
    ),
    "two axes": a_table(
        {"x": np.linspace(-2, 2, 21), "y": np.linspace(0, 1, 11)},
        up_down,
        lambda x, y: x * 1.0 + y,
        start_cost=lambda x, y: x + 1.0,
    ),
    "basins": a_table(
        {"x_1": np.linspace(-5, 5, 20), "x_0": np.linspace(-5, 5, 30)},
        CONVERGED,
        1e-13,
        minima=KNOWN_MINIMA,
        **{"best_epoch": lambda x_1, x_0: x_1 + x_0 + 1.0},
    ).assign(
        minimum=lambda t: (
            t["outcome"]
            .astype(float)
            .copy(data=np.indices((20, 30)).sum(0) % 5.0)
            .where(lambda m: m < 4)
            .assign_attrs(known_minima=KNOWN_MINIMA)
        )
    ),
    "two axes, names, seeds": a_table(
        {"rule": ["a", "b"], "learning_rate": RATES, "momentum": np.linspace(0, 0.9, 5), "seed": np.arange(2)},
        lambda rule, momentum, seed, **o: valley(**o),
        lambda rule, momentum, seed, **o: depth(**o),
    ),
    "four axes": a_table(
        {"a": np.arange(3), "b": np.arange(4), "c": np.arange(5), "learning_rate": RATES},
        lambda a, b, c, **o: valley(**o),
        1.0,
    ),
    "two axes, all diverged": a_table({"x": np.arange(4), "y": np.arange(5)}, DIVERGED, np.nan, start_cost=np.inf),
    "two axes, larger than a page": a_table({"x": np.arange(1500), "y": np.arange(20)}, CONVERGED, 1.0),
    "a large span": a_table(
        {"learning_rate": RATES}, CONVERGED, lambda learning_rate: 10.0 ** (3 * learning_rate - 38), start_cost=3e38
    ),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_draws(name):
    picture = drawn(
        plots.overview(
            SWEEPS[name], None, f"A rather long title, as it may stand in a config: {name}, over its axes, and so forth"
        )
    )
    assert picture[..., :3].std() > 0


STRAIGHT = 100 * 0.5 ** np.arange(30)
RACES = {
    "one": some_paths([STRAIGHT], [DESCENDING]),
    "three": some_paths(
        [STRAIGHT, STRAIGHT**0.5, STRAIGHT + 1], [CONVERGED, TRAPPED, OSCILLATING], ["adam", "momentum", "lion"]
    ),
    "one runs away": some_paths(
        [STRAIGHT, np.append(100 * 10.0 ** np.arange(29), np.inf)], [CONVERGED, DIVERGED], ["calm", "wild"]
    ),
    "all diverged at once": some_paths([np.append(100, np.full(29, np.nan))] * 2, [DIVERGED] * 2, ["a", "b"]),
    "NaN at the start": some_paths([np.full(30, np.nan)], [DIVERGED]),
    "constant": some_paths([np.full(30, 3.0)], [TRAPPED]),
    "below zero": some_paths([1 - STRAIGHT], [DESCENDING]),
    "many": some_paths([STRAIGHT + i for i in range(40)], [CONVERGED] * 40, [f"rule{i}" for i in range(40)]),
}


@pytest.mark.parametrize("minimum", [None, 0.0, -7.0])
@pytest.mark.parametrize("name", RACES)
def test_every_race_draws(name, minimum):
    paths = RACES[name]
    table = a_table({"optimizer": [f"rule{i}" for i in range(paths.sizes["path"])]}, CONVERGED, 1.0, minimum=minimum)
    figure = plots.overview(table, paths, name)
    drawn(figure)
    assert figure.axes[0].get_xlabel() == "epoch"


def test_a_map_shows_the_right_outcome_at_the_right_place():
    """Whichever way its axes run, and however they are spaced."""
    table = a_table(
        {"x": np.array([2.0, 0.0, 1.0]), "y": np.geomspace(1, 1e4, 5)},
        lambda x, y: np.where((x == 0) & (y == 4), DIVERGED, CONVERGED),
        1.0,
    )
    figure = plots.overview(table, None, "")
    axes, picture = figure.axes[0], drawn(figure)

    def colour(x, y):
        across, up = axes.transData.transform((y, x))
        return matplotlib.colors.to_hex(picture[picture.shape[0] - 1 - int(up), int(across), :3] / 255)

    assert axes.get_xscale() == "log" and (axes.get_xlabel(), axes.get_ylabel()) == ("y", "x")
    assert colour(2.0, 1e4) == style.COLOURS["diverged"]
    assert {colour(x, y) for x in (0.0, 1.0, 2.0) for y in (1.0, 1e2, 1e4) if (x, y) != (2.0, 1e4)} == {
        style.COLOURS["converged"]
    }


@pytest.mark.parametrize(("minimum", "scale"), [(None, "linear"), (-3.0, "log")])
def test_costs_below_zero_have_whole_curves_where_optimizers_are_compared(minimum, scale):
    paths = some_paths([[5, 1, -2], [4, 0, -1]], [DESCENDING] * 2, ["adam", "plain"])
    table = a_table({"optimizer": ["adam", "plain"]}, DESCENDING, -1.0, minimum=minimum)
    axes = plots.optimizers(table, paths).axes[0]
    assert axes.get_yscale() == scale
    for line, costs in zip([one for one in axes.lines if len(one.get_ydata()) == 3], paths["cost"].values, strict=True):
        np.testing.assert_allclose(line.get_ydata(), costs - (minimum or 0))


def test_a_third_axis_is_cut_at_the_best_and_the_picture_says_where():
    table = a_table(
        {"decay": np.arange(3) / 4, "x": np.arange(5), "y": np.arange(6)},
        CONVERGED,
        lambda decay, x, y: 1.0 + (decay != 2),
    )
    assert plots.overview(table, None, "").axes[0].get_ylabel() == "x\n(decay = 0.5)"


def test_trials_are_drawn_over_the_hyperparameter_that_they_vary():
    axes = plots.overview(SWEEPS["trials"], None, "").axes
    assert axes[-1].get_xlabel() == "learning_rate" and axes[0].get_xscale() == "log"


def test_the_minimum_s_legend_names_its_places():
    figure = plots.overview(SWEEPS["basins"], None, "")
    labels = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert labels == ["3, 2", "-2.8, 3.1", "-3.8, -3.3", "3.6, -1.8", "none"]
    assert figure.axes[1].get_title("left") == "epoch of the lowest cost"  # all costs are alike
    drawn(figure)


def luminance(colour):
    """CIE lightness, 0 to 100."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in matplotlib.colors.to_rgb(colour)]
    return 116 * float(np.dot([0.2126, 0.7152, 0.0722], linear)) ** (1 / 3) - 16


def test_outcomes_differ_in_grey():
    levels = sorted(luminance(style.COLOURS[name]) for name in OUTCOMES)
    assert min(np.diff(levels)) > 4 and len(set(style.MARKS.values())) == len(OUTCOMES) == len(style.MEANINGS)
    finished = sorted(luminance(style.COLOURS[name]) for name in OUTCOMES if name != "pending")
    assert min(np.diff(finished)) > 8  # lightness, of 100: several times what an eye tells apart


def test_drawing_leaves_no_state_behind():
    before = dict(matplotlib.rcParams)
    plots.overview(SWEEPS["a learning rate"], None, "")
    assert dict(matplotlib.rcParams) == before
    assert not Gcf.figs  # pyplot's list of figures, which keeps them for ever


# --- learning rates ---


def rate_lines(table, select="final_cost", factor=2.0):
    return rates.rate_words(table, select, factor)


def test_how_much_the_learning_rate_matters():
    said = rate_lines(a_table({"learning_rate": [1.0, 2.0, 3.0, 4.0]}, [3, 1, 1, 5], [9.0, 2.0, 3.0, np.nan]))
    assert said == ["within a factor of 2: 2 … 3, a span of 1.5", "stable up to 3, 1.50 times the best"]
    alone = rate_lines(a_table({"learning_rate": [1.0, 2.0, 3.0]}, CONVERGED, [9.0, 7.0, 1.0]))
    assert alone == [
        "no other within a factor of 2",
        "the best is the end of the range: widen it",
        "none above the best diverges",
    ]
    seeds = a_table({"learning_rate": [1.0, 2.0], "seed": [0, 1, 2]}, np.int8([[1, 1, 5], [1, 5, 5]]), 1.0)
    assert "at the best, 33.3 % of the seeds diverged" in rate_lines(seeds)
    tied = rate_lines(a_table({"learning_rate": [1.0, 2.0, 3.0]}, CONVERGED, 1.0))
    assert "3 do exactly as well; this was there first" in tied
    assert rate_lines(a_table({"learning_rate": [1.0, 2.0]}, DIVERGED, np.nan)) == ["no rate works: all diverged"]
    assert rate_lines(a_table({"learning_rate": [1.0, 2.0]}, PENDING, np.nan)) == ["no rate works: none has run"]
    assert rate_lines(a_table({"momentum": [0.0, 0.5]}, CONVERGED, 1.0)) == []


def test_half_of_the_seeds_diverged_is_said():
    """x⁴/4 from 100, which diverges at every rate, and from 1."""

    def lane(learning_rate, seed):
        return jaxgd.Descent(lambda x: x**4 / 4, jnp.where(seed == 0, 100.0, 1.0), optax.sgd(learning_rate))

    table = jaxgd.sweep(lane, {"learning_rate": [1e-3, 1e-2, 0.1, 3.0], "seed": [0, 1]}, epochs=100)
    assert (table["outcome"] == DIVERGED).values.tolist() == [[True, False]] * 3 + [[True, True]]
    np.testing.assert_allclose(table["final_cost"].values[:3, 1], [0.1735, 0.02747, 5.42e-4], rtol=1e-3)
    assert [place["learning_rate"] for place in ranking(table, "final_cost", 9)] == [2, 1, 0]
    text = " ".join(" ".join(words(table)).split())
    assert "learning_rate = 0.1 median final cost 0.000542167 of 1 seed, with 1 of 2 seeds diverged" in text
    assert "every lane diverged" not in text and "at the best, 50 % of the seeds diverged" in text
    (said,) = [one for one in in_words.came_out(table, "final_cost") if one.startswith("The best setting")]
    assert said == (
        "The best setting is learning_rate = 0.1, with a final cost of 0.000542167, the median of 1 seed, with 1 of 2 "
        "seeds diverged."
    )
    assert figure_of(jaxgd.best(table), "final_cost") == (float(table["final_cost"][2, 1]),) * 3
    assert report._best(table, "final_cost")["setting"] == "learning_rate = 0.1 (1 of 2 seeds diverged)"
    heads, row = comparison._cells(compared(table), "final_cost", 2.0)
    assert dict(zip(heads, row, strict=True))["at"] == "learning_rate = 0.1\n1 of 2 seeds diverged"
    met = jaxgd.sweep(lane, {"learning_rate": [1e-2, 0.1], "seed": [0, 1]}, epochs=100, target=0.01)
    text = " ".join(" ".join(words(met, "target_epoch")).split())
    assert "learning_rate = 0.1 target met by 1 of 2 seeds, final cost" in text


def test_near_misses_of_a_rounded_minimum_name_their_distance_and_the_tolerance():
    costs = np.float64(0.773199) + np.array([5.65e-8, 7.7e-6, 8e-6, -1e-9])
    table = a_table({"learning_rate": [1.0, 2.0, 3.0, 4.0]}, TRAPPED, 1.0, minimum=0.773199)
    table["final_cost"] = ("learning_rate", costs)
    near = "5.65e-08 … 7.7e-06 above the stated minimum 0.773199 (if that is rounded, tolerance = 1e-05 takes it as"
    assert f"near trapped {near} reached)" in " ".join(" ".join(words(table)).split())
    assert f"2 trapped lanes end {near} reached)." in in_words.came_out(table, "final_cost")
    one = table.isel(learning_rate=[0])
    near = "5.65e-08 above the stated minimum 0.773199 (if that is rounded, tolerance = 1e-07 takes it as reached)"
    assert f"1 trapped lane ends {near}." in in_words.came_out(one, "final_cost")
    for other in (table.isel(learning_rate=[2, 3]), table.assign(outcome=table["outcome"] * 0 + CONVERGED)):
        assert not any("stated" in said for said in in_words.came_out(other, "final_cost"))
    assert "stated" not in " ".join(words(table.isel(learning_rate=[2, 3])))
    assert "stated" not in " ".join(words(a_table({"learning_rate": [1.0, 2.0]}, TRAPPED, 1e-9)))  # 0 is not rounded


def test_a_rise_over_a_few_epochs_is_said_to_be_no_more_than_that():
    rates = {"learning_rate": [1.0, 2.0, 3.0, 4.0]}
    grown = {"start_cost": 1.0, "epochs": np.array([2, 9, 10, 2])}
    table = a_table(rates, DIVERGED, 2.0, diverged_epoch=np.array([np.nan, np.nan, np.nan, 2]), **grown)
    rose = "for a cost that rose over a few epochs: whether it comes down again is not known from so few"
    assert f"unsure 2 counted as diverged {rose}" in " ".join(" ".join(words(table)).split())
    assert f"2 lanes count as diverged {rose}." in in_words.came_out(table, "final_cost")
    assert "unsure" not in " ".join(words(table.isel(learning_rate=[2, 3])))
    (said,) = in_words.came_out(table.isel(learning_rate=[0]), "final_cost")
    assert said == (
        "After 2 epochs the ball counts as diverged: the cost rose from 1 to 2; whether it comes down again is not "
        "known from so few."
    )
    for place in (2, 3):
        assert "ran away" in in_words.came_out(table.isel(learning_rate=[place]), "final_cost")[0]


def test_names_of_which_half_the_seeds_diverged_come_between_whole_ones_and_none():
    axes = {"optimizer": ["wild", "half", "whole"], "learning_rate": [1.0], "seed": [0, 1]}
    table = a_table(
        axes, lambda optimizer, seed, **_: np.where(optimizer + seed < 2 - (optimizer == 2), DIVERGED, 1), 2.0
    )
    table["final_cost"][1] = 1.0
    assert (table["outcome"] == DIVERGED).values.squeeze(1).tolist() == [[True] * 2, [True, False], [False] * 2]
    said = [line[9:14].strip() for line in words(table) if line[9:14].strip() in axes["optimizer"]]
    assert said[:3] == ["whole", "half", "wild"]
    assert [contender.name for contender in compared(table)] == ["whole", "half", "wild"]
    assert "whole 2 at learning_rate = 1; half 1 at learning_rate = 1; wild none." in " ".join(
        in_words.came_out(table, "final_cost")
    )


def test_with_a_target_rates_go_by_how_soon_they_meet_it():
    table = a_table({"learning_rate": [1.0, 2.0, 3.0]}, CONVERGED, [3.0, 1.0, 2.0]).assign_attrs(target=3.0)
    assert "none met the target; by final cost:" in rate_lines(table, "target_epoch")
    met = table.assign(target_epoch=("learning_rate", [20.0, 20.0, 90.0]))
    assert rate_lines(met, "target_epoch")[:2] == [
        "within a factor of 2: 1 … 2, a span of 2",
        "2 do exactly as well; this ended lowest",
    ]
    assert any("learning_rate = 2" in line for line in words(met, "target_epoch"))
    assert any("target met in epoch 20, final cost 1" in line for line in words(met, "target_epoch"))
    assert rate_lines(a_table({"learning_rate": [0.1]}, CONVERGED, 1.0)) == []


def test_alternating_rates_have_no_one_edge():
    said = rate_lines(
        a_table({"learning_rate": [1.0, 2.0, 3.0, 4.0, 5.0]}, [1, 5, 1, 5, 1], [1.0, np.nan, 2.0, np.nan, 3.0])
    )
    assert "no one edge: up to 4 changes between neighbours" in said


def test_rates_over_another_axis_in_a_few_words_and_in_a_table():
    table = a_table(
        {"momentum": [0.0, 0.5, 0.9], "learning_rate": [1.0, 2.0, 4.0]},
        [[1, 1, 5], [1, 1, 1], [5, 5, 5]],
        [[2.0, 3.0, np.nan], [1.0, 4.0, 1.0], [np.nan] * 3],
    )
    assert rate_lines(table) == [
        "for each momentum the best is 1",
        "within a factor of 2 a span of 1 … 2 (median 1.5)",
        "stable up to 2 times the best",
        "none works for 1 of 3",
    ]
    console = Console(width=100, color_system=None)
    with console.capture() as caught:
        console.print(rates.rate_table(table, "final_cost"))
    assert [line.split() for line in caught.get().splitlines()] == [
        ["momentum", "best", "final", "cost", "within", "2", "×", "edge", "edge", "/", "best"],
        ["0", "1", "2", "1", "…", "2", "2", "2.00"],
        ["0.5", "1", "(of", "2)", "1", "1", "…", "1", "none"],
        ["0.9", "none"],
    ]


def test_rates_of_an_optimizer_s_own_trials():
    grid = {"learning_rate": ("trial", [1.0, 1.0, 2.0, 2.0]), "momentum": ("trial", [0.0, 0.5, 0.0, 0.5])}
    table = a_table({"trial": [0, 1, 2, 3]}, CONVERGED, [1.0, 4.0, 5.0, 2.0], coords=grid)
    found, along = rates.along_rates(table)
    assert along == "learning_rate" and found["final_cost"].sel(learning_rate=2, momentum=0.5) == 2
    assert rate_lines(table)[0] == "for each momentum the best is 1 … 2 (median 1.5)"
    walked = table.assign_coords(
        momentum=("trial", [0.0, 0.1, 0.2, 0.3]), learning_rate=("trial", [1.0, 2.0, 3.0, 4.0])
    )
    assert rate_lines(walked)[0] == "no other within a factor of 2"


def test_the_known_limit_stands_beside_the_measured_edge():
    table = a_table({"learning_rate": RATES}, valley, depth)
    limits = {
        "known_limit": ((), 0.5, {"along": "learning_rate"}),
        "limit_formula": ((), "2/λ"),
        "sharpness": ((), 4.0),
    }
    said = words(table.assign(limits))
    assert [line.strip() for line in said if "limit" in line or "sharpness" in line] == [
        "known limit 2/λ = 0.5",
        "at sharpness λ = 4",
    ]
    over = {"known_limit": ("momentum", [0.02, 0.03], {"along": "learning_rate"}), "limit_formula": ((), "(2 + 2β)/λ")}
    both = a_table({"momentum": [0.0, 0.5], "learning_rate": RATES}, valley, depth).assign(limits | over)
    assert any("known limit (2 + 2β)/λ = 0.02 … 0.03" in line for line in words(both))
    unknown = {"known_limit": ((), np.nan, {"along": "learning_rate"}), "limit_formula": ((), "")}
    assert not any("limit" in line for line in words(table.assign(limits | unknown)))
