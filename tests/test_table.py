"""The best setting, the edges, the lanes worth a look, and how many epochs are missing."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

import jaxgd
from jaxgd.outcome import ABSENT, CONVERGED, DESCENDING, DIVERGED, OSCILLATING, PENDING
from jaxgd.table import best_lanes, epochs_missing, ranking, representative, typical


def results(outcome, dims, final_cost=None, best_epoch=None, target_epoch=None, **coords):
    """A table made up for the purpose."""
    outcome = np.array(outcome, np.int8)

    def figure(values, fill):
        return (dims, np.broadcast_to(np.array(fill if values is None else values, float), outcome.shape).copy())

    return xarray.Dataset(
        {
            "outcome": (dims, outcome),
            "final_cost": figure(final_cost, 1.0),
            "best_epoch": figure(best_epoch, 0.0),
            "target_epoch": figure(target_epoch, np.nan),
        },
        coords or {dim: np.arange(size) for dim, size in zip(dims, outcome.shape, strict=True)},
    )


# best


def test_best_is_the_lowest_median_over_seeds_not_the_luckiest_lane():
    costs = [[0.0, 9.0, 9.0], [2.0, 3.0, 4.0]]
    table = results(np.full((2, 3), DESCENDING), ("rate", "seed"), costs)
    best = jaxgd.best(table)
    assert best.rate == 1 and best.sizes == {"seed": 3}


def test_best_counts_diverged_as_worst_however_low_the_cost():
    codes = [[DIVERGED, DIVERGED, CONVERGED], [CONVERGED] * 3]
    assert jaxgd.best(results(codes, ("rate", "seed"), [[0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])).rate == 1
    assert jaxgd.best(results([DIVERGED, PENDING, OSCILLATING], ("rate",), [0.0, 0.0, 7.0])).rate == 2


def test_best_of_equals_is_the_one_whose_lowest_cost_came_first():
    table = results([CONVERGED] * 3, ("rate",), [5.0, 5.0, 6.0], best_epoch=[30, 20, 10])
    assert jaxgd.best(table).rate == 1


def test_best_by_the_epoch_that_met_the_target():
    table = results([CONVERGED] * 3, ("rate",), [1.0, 0.0, 2.0], target_epoch=[30, np.nan, 20])
    assert jaxgd.best(table, by="target_epoch").rate == 2
    assert jaxgd.best(table).rate == 1 and jaxgd.best(table.assign_attrs(target=2.0)).rate == 2
    order = ranking(table, "target_epoch", 3)  # what does not get there comes after all that do
    assert [place["rate"] for place in order] == [2, 0, 1]


def test_best_by_the_target_needs_most_seeds_to_meet_it():
    """What diverged met nothing, whatever it had reached; where none meets it, the lowest cost is best."""
    codes = [[CONVERGED, DESCENDING, DESCENDING], [CONVERGED, CONVERGED, DIVERGED], [DIVERGED, DIVERGED, CONVERGED]]
    epochs = [[1, np.nan, np.nan], [50, 60, 1], [1, 1, 1]]
    table = results(codes, ("rate", "seed"), [[0.0] * 3, [9.0] * 3, [0.0] * 3], target_epoch=epochs)
    assert [place["rate"] for place in ranking(table.assign_attrs(target=1.0), "target_epoch", 3)] == [1, 0, 2]
    nowhere = table.assign(target_epoch=table["target_epoch"] * np.nan).assign_attrs(target=1.0)
    assert jaxgd.best(nowhere).rate == 0


@pytest.mark.parametrize("by", ["final_cost", "target_epoch"])
def test_of_equals_best_and_best_rates_say_the_same(by):
    rng = np.random.default_rng(0)
    for _ in range(20):
        figures = {name: rng.integers(1, 3, 8) for name in ("final_cost", "best_epoch", "target_epoch")}
        table = results([CONVERGED] * 8, ("rate",), **figures)
        assert float(jaxgd.best_rates(table, "rate", by=by)["best"]) == float(jaxgd.best(table, by)["rate"])


def test_best_over_several_dimensions_and_over_none():
    costs = np.arange(6.0).reshape(2, 3)[::-1]
    assert (
        jaxgd.best(results(np.full((2, 3), CONVERGED), ("a", "b"), costs))[["a", "b"]].to_dict()["coords"]["a"]["data"]
        == 1
    )
    assert jaxgd.best(results(CONVERGED, ())).final_cost == 1


@pytest.mark.parametrize(
    ("codes", "why"),
    [
        ([DIVERGED, DIVERGED], "every lane diverged"),
        ([DIVERGED, PENDING], "every lane diverged"),
        ([PENDING, PENDING], "no lane has run"),
        ([DESCENDING, DIVERGED], "no lane has a finite final_cost"),
    ],
)
def test_there_is_no_best_of_none(codes, why):
    with pytest.raises(ValueError, match=f"there is no best setting: {why}$"):
        jaxgd.best(results(codes, ("rate",), np.nan))


def test_half_diverged_is_not_every_lane_diverged():
    """First the settings that lost no seed; then by the share of seeds that are left, then by their median."""
    good, gone = DESCENDING, DIVERGED
    codes = [[good, gone, gone, gone], [good, gone, good, gone], [gone, good, gone, good], [gone] * 4]
    costs = [[0.0] * 4, [1.0, 0.0, 3.0, 0.0], [0.0, 4.0, 0.0, 1.0], [0.0] * 4]
    table = results(codes, ("rate", "seed"), costs)
    for count, order in ((1, [1]), (2, [1, 2]), (9, [1, 2, 0])):
        assert [place["rate"] for place in ranking(table, "final_cost", count)] == order
    assert typical(table, "final_cost").values.tolist() == [0.0, 2.0, 2.5, np.inf]
    answer = jaxgd.best_rates(table, "rate")
    assert [float(answer[name]) for name in ("best", "score", "diverged")] == [1, 2, 0.5] and np.isnan(answer.edge)
    most = results([*codes, [good, good, gone, good]], ("rate", "seed"), [*costs, [9.0, 8.0, 0.0, 7.0]])
    every = results([*codes, [good, good, gone, good], [good] * 4], ("rate", "seed"), [*most["final_cost"], [10.0] * 4])
    for by in ("final_cost", "target_epoch"):
        assert [place["rate"] for place in ranking(most, by, 9)] == [4, 1, 2, 0]
        assert [place["rate"] for place in ranking(every, by, 9)] == [5, 4, 1, 2, 0]
    assert typical(every, "final_cost").values[4:].tolist() == [8.0, 10.0]  # of 7, 8 and 9
    answer = jaxgd.best_rates(most, "rate")
    assert [float(answer[name]) for name in ("best", "score", "diverged")] == [4, 8.0, 0.25]
    answer = jaxgd.best_rates(every, "rate")
    assert [float(answer[name]) for name in ("best", "score", "diverged", "low")] == [5, 10.0, 0.0, 5]


def test_settings_rank_as_a_plain_sort_does():
    """Against a sort in Python, over two kinds of replicates, by the cost and by the epoch of the target."""
    rng = np.random.default_rng(1)
    codes = np.where(rng.uniform(size=(40, 2, 3)) < 0.5, DIVERGED, CONVERGED)
    costs = rng.integers(0, 3, codes.shape).astype(float)
    epochs = np.where(rng.uniform(size=codes.shape) < 0.3, np.nan, rng.integers(1, 4, codes.shape))
    table = results(codes, ("rate", "seed", "data_seed"), costs, target_epoch=epochs)

    def merit(place, by):
        left = codes[place] != DIVERGED
        met = np.median(np.where(left & np.isfinite(epochs[place]), epochs[place], np.inf))
        lost, cost = 1 - left.mean(), np.median(costs[place][left])
        if by == "final_cost":
            return lost, cost, place
        return 0.0 if np.isfinite(met) else lost, met, cost, place

    there = [place for place in range(40) if (codes[place] != DIVERGED).any()]
    assert len({merit(place, "final_cost")[0] for place in there}) > 3
    assert 0 < sum(np.isfinite(merit(place, "target_epoch")[1]) for place in there) < len(there)
    for by in ("final_cost", "target_epoch"):
        wanted = sorted(there, key=lambda place, by=by: merit(place, by))
        for count in (1, 7, 40):
            assert [place["rate"] for place in ranking(table, by, count)] == wanted[:count]


# edges


def test_next_to_a_trial_that_there_is_not_nothing_changes():
    codes = [[CONVERGED, DIVERGED, ABSENT], [CONVERGED, CONVERGED, DIVERGED], [CONVERGED, ABSENT, ABSENT]]
    edge = jaxgd.edges(results(codes, ("optimizer", "trial")), along="trial")
    assert edge.changes.values.tolist() == [1, 1, 0]
    np.testing.assert_array_equal(edge.stable, [0, 1, 0])
    np.testing.assert_array_equal(edge.unstable, [1, 2, np.nan])


def test_edges_of_one_boundary():
    codes = [DESCENDING, CONVERGED, CONVERGED, OSCILLATING, DIVERGED, DIVERGED]
    edge = jaxgd.edges(results(codes, ("rate",), rate=[0.1, 0.2, 0.5, 1.0, 1.5, 2.0]), along="rate")
    assert np.isnan(edge["surely_stable"])  # the table has no figures of updates
    assert {name: float(value) for name, value in edge.drop_vars("surely_stable").items()} == {
        "low": 0.2,
        "high": 0.5,
        "stable": 1.0,
        "unstable": 1.5,
        "changes": 1,
    }


def test_edges_of_several_boundaries_and_of_a_grid_out_of_order():
    codes = [CONVERGED, DIVERGED, CONVERGED, DIVERGED]
    edge = jaxgd.edges(results(codes, ("rate",), rate=[0.1, 0.2, 0.3, 0.4]), along="rate")
    assert (edge.stable, edge.unstable, edge.changes) == (0.3, 0.4, 3)
    mixed = jaxgd.edges(results(codes[::-1], ("rate",), rate=[0.4, 0.3, 0.2, 0.1]), along="rate")
    assert mixed.identical(edge)


def test_edges_that_are_not_there():
    edge = jaxgd.edges(results([DESCENDING] * 2, ("rate",)), along="rate")
    assert np.isnan([edge.low, edge.high, edge.unstable]).all() and edge.stable == 1 and edge.changes == 0
    edge = jaxgd.edges(results([DIVERGED] * 2, ("rate",)), along="rate")
    assert np.isnan(edge.stable) and edge.unstable == 0  # the boundary lies below the grid
    edge = jaxgd.edges(results([CONVERGED, DIVERGED, PENDING], ("rate",)), along="rate")
    assert edge.stable == 0  # what has not run is not known to be stable


def test_edges_for_each_point_of_the_other_dimensions():
    codes = [[CONVERGED, CONVERGED, DIVERGED], [CONVERGED, DIVERGED, DIVERGED]]
    edge = jaxgd.edges(results(codes, ("momentum", "rate")), along="rate")
    assert edge.high.dims == ("momentum",)
    assert edge.high.values.tolist() == [1, 0] and edge.unstable.values.tolist() == [2, 1]


def test_edges_along_what_has_none():
    table = results([CONVERGED] * 2, ("optimizer",), optimizer=["adam", "sgd"])
    with pytest.raises(ValueError, match="no dimension 'rate': the table has optimizer"):
        jaxgd.edges(table, along="rate")
    with pytest.raises(ValueError, match="'optimizer' holds names, which have no order"):
        jaxgd.edges(table, along="optimizer")


def test_edges_of_the_parabola_bracket_one():
    rates = np.linspace(0.1, 1.5, 57)
    table = jaxgd.sweep(
        lambda rate: jaxgd.Descent(lambda x: x**2 + 5, 9.0, optax.sgd(rate)), {"rate": rates}, epochs=100
    )
    edge = jaxgd.edges(table, along="rate")
    assert edge.stable <= 1 < edge.unstable and edge.changes == 1


# representative


@pytest.mark.parametrize("count", [1, 3, 10, 40, 1000])
def test_lanes_to_look_at_are_few_different_and_begin_with_the_best(count):
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(6), 20).reshape(12, 10)
    costs = rng.uniform(size=codes.shape)
    costs[5, 5], costs[11, 0] = -1.0, -2.0  # the second has diverged
    chosen = representative(results(codes, ("a", "b"), costs), count)
    assert len(chosen) == len(set(chosen)) <= count
    assert (5, 5) in chosen
    assert all(codes[lane] != PENDING for lane in chosen)
    if count >= 40:
        assert {int(codes[lane]) for lane in chosen} == {1, 2, 3, 4, 5}


def test_the_best_lane_of_each_name_is_among_those_to_look_at():
    """By the figure that the run selects by, and not by another."""
    costs = np.random.default_rng(0).uniform(size=(3, 40, 2))
    costs[1] += 5.0
    codes = np.full(costs.shape, DESCENDING)
    codes[2] = DIVERGED
    found = results(codes, ("optimizer", "rate", "seed"), costs).assign_coords(optimizer=["a", "b", "c"])
    found["validation_cost"] = -found["final_cost"]
    for select, pick in ({}, np.argmin), ({"select": "validation_cost"}, np.argmax):
        found.attrs = select
        lanes = [(place, int(pick(np.median(costs[place], axis=1))), 0) for place in (0, 1)]
        assert set(best_lanes(found, 12)) == set(lanes) <= set(representative(found, 12))


def test_lanes_to_look_at_of_small_tables():
    assert representative(results(CONVERGED, ()), 5) == [()]
    assert representative(results([PENDING, PENDING], ("rate",)), 5) == []
    assert representative(results([DIVERGED, DIVERGED], ("rate",), np.nan), 5) == [(0,), (1,)]


def test_the_best_setting_of_each_name_is_among_them_not_its_luckiest_lane():
    costs = np.full((3, 60, 3), 5.0)
    costs[0, 7], costs[1, 31], costs[2, 50] = 1.0, 2.0, 3.0
    costs[:, 3, 2] = -9.0
    grid = {"rule": ["a", "b", "c"], "rate": np.arange(60), "seed": np.arange(3)}
    table = results(np.full(costs.shape, CONVERGED), tuple(grid), costs, **grid)
    assert {(0, 7, 0), (1, 31, 0), (2, 50, 0)} <= set(representative(table, 8))


# epochs missing


@pytest.mark.parametrize(
    "known", [{}, {"minimum": 5.0}, {"minimum": 5.0, "target": 5.5}], ids=["by gradient", "minimum", "target"]
)
def test_epochs_missing_are_about_what_it_then_takes(known):
    def lane(rate):
        return jaxgd.Descent(lambda x: x**2 + 5, 30.0, optax.sgd(rate))

    rates = {"rate": [0.002, 0.004]}
    table = jaxgd.sweep(lane, rates, epochs=300, **known)
    assert (table.outcome == DESCENDING).all()
    missing = epochs_missing(table)
    for factor, outcome in ((0.9, DESCENDING), (1.1, CONVERGED)):
        for index, rate in enumerate(rates["rate"]):
            epochs = int(
                300 + factor * missing[index] + (50 if outcome == CONVERGED else 0)
            )  # the window has to be flat
            again = jaxgd.sweep(lane, {"rate": [rate]}, epochs=epochs, **known)
            assert again.outcome.values.tolist() == [outcome]


def test_epochs_missing_where_there_is_no_pace():
    table = jaxgd.sweep(lambda rate: jaxgd.Descent(lambda x: x, 0.0, optax.sgd(rate)), {"rate": [0.1]}, epochs=60)
    assert np.isnan(epochs_missing(table)).all()  # the slope never changes
    still = jaxgd.sweep(lambda rate: jaxgd.Descent(jnp.square, 0.0, optax.sgd(rate)), {"rate": [0.1]}, epochs=60)
    assert epochs_missing(still).size == 0
