"""Batches: which rows an epoch sees and in which order, what a lane's cost and verdict mean then, and metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgd
from jaxgd import run
from jaxgd.batches import batches
from jaxgd.outcome import DESCENDING, DIVERGED, OSCILLATING

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5], np.float32) + 0.1 * np.random.default_rng(1).normal(size=20).astype(np.float32)


def squares(weights, batch):
    x, y = batch
    return jnp.mean((x @ weights - y) ** 2)


def orders(remainder, epochs, key=0, size=6):
    made = batches((X, Y), size, key, remainder)
    return [np.asarray(made.order(epoch)) for epoch in range(epochs)]


# Which rows.


def test_dropped_rows_wait_for_another_epoch_and_padded_ones_come_again():
    for order in orders("drop", 5):
        assert order.shape == (3, 6) and len({*order.ravel().tolist()}) == 18
    assert {*np.concatenate(orders("drop", 5)).ravel().tolist()} == {*range(20)}
    for order in orders("pad", 5):
        assert order.shape == (4, 6)
        rows = order.ravel()
        assert {*rows[:20].tolist()} == {*range(20)} and (rows[20:] == rows[:4]).all()


def test_order_is_drawn_anew_each_epoch_from_the_key_alone():
    first, second = orders("drop", 2)
    assert (first != second).any()
    np.testing.assert_array_equal(first, orders("pad", 1)[0].ravel()[:18].reshape(3, 6))
    np.testing.assert_array_equal(first, orders("drop", 1, jax.random.key(0))[0])
    np.testing.assert_array_equal(first, orders("drop", 1, jax.random.PRNGKey(0))[0])
    assert (first != orders("drop", 1, 1)[0]).any()


def test_an_epoch_is_one_update_for_each_batch_in_that_order():
    """Against the same updates, one by one in NumPy; the cost is the whole data's, before the first of them."""
    history = jaxgd.descend(squares, np.zeros(3), optax.sgd(0.05), epochs=4, data=(X, Y), batch_size=6, key=5)
    weights = np.zeros(3)
    for epoch, order in enumerate(orders("drop", 4, key=5)):
        np.testing.assert_allclose(history.params[epoch], weights, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(history.cost[epoch], np.mean((X @ weights - Y) ** 2), rtol=1e-5)
        for rows in order:
            weights = weights - 0.05 * 2 * X[rows].T @ (X[rows] @ weights - Y[rows]) / 6
    np.testing.assert_allclose(history.params[4], weights, rtol=1e-5, atol=1e-6)


def test_full_batch_is_the_descent_of_the_cost_over_the_whole_data():
    plain = jaxgd.descend(lambda w: squares(w, (X, Y)), np.zeros(3), optax.adam(0.05), epochs=9)
    for size in (None, 20):
        full = jaxgd.descend(squares, np.zeros(3), optax.adam(0.05), epochs=9, data=(X, Y), batch_size=size)
        np.testing.assert_allclose(full.params, plain.params, rtol=1e-5, atol=1e-6)


# A sweep.


def lane(learning_rate, seed=0):
    error = {"error": lambda w: jnp.abs(X @ w - Y).max(), "signs": lambda w: w > 0}
    return jaxgd.Descent(
        squares, np.zeros(3), optax.adam(learning_rate), data=(X, Y), batch_size=6, key=seed, metrics=error
    )


@pytest.fixture(scope="module")
def table():
    axes = {"learning_rate": np.array([1e-9, 1e-3, 0.02, 1.0, 1e3, 3e38]), "seed": np.arange(3)}
    return jaxgd.sweep(lane, axes, epochs=25, history=26)


def test_lanes_equal_their_replays_with_a_seed_of_the_order_as_an_axis(table):
    for index in [(2, 0), (2, 2), (3, 1)]:
        row = table.isel(learning_rate=index[0], seed=index[1])
        history = jaxgd.replay(lane, row, epochs=25)
        np.testing.assert_allclose(row.cost_history, history.cost, rtol=1e-4)
        np.testing.assert_allclose(row.params, history.params[-1], rtol=1e-4)
        np.testing.assert_allclose(row.error, history.metrics["error"][-1], rtol=1e-4)
        np.testing.assert_allclose(row.gradient_norm, history.gradient_norm[-1], rtol=1e-2, atol=1e-5)
        np.testing.assert_allclose(row.start_gradient_norm, history.gradient_norm[0], rtol=1e-4)
        assert row.best_epoch == np.argmin(row.cost_history.values)
        assert row.window == 10
        changes = np.diff(row.cost_history.values[15:])
        assert row.crossings == (changes[1:] * changes[:-1] < 0).sum()
    assert len(np.unique(table.final_cost[3])) == 3  # three orders


def test_verdicts_go_by_the_cost_of_the_whole_data(table):
    codes, costs = table.outcome.values, table.cost_history.values
    assert (codes[0] == DESCENDING).all()  # too slow to see, and no turn
    new_low = costs[1:4, :, 16:].min(-1) < costs[1:4, :, :16].min(-1)
    np.testing.assert_array_equal(codes[1:4], np.where(new_low, DESCENDING, OSCILLATING))
    assert {DESCENDING, OSCILLATING} <= {*codes[1:4].ravel().tolist()}
    assert (codes[4] == OSCILLATING).all() and (
        table.epochs[4] == 25
    ).all()  # far above its start, and falls by no more than its noise
    assert (codes[5] == DIVERGED).all() and (table.epochs[5] < 25).all()  # left the finite numbers
    assert np.isnan(table.window_gradient_norm).all() and np.isfinite(table.gradient_norm).all()


def test_metrics_are_of_the_last_finite_params(table):
    assert table.signs.dims == ("learning_rate", "seed", "signs.0")
    for index in np.ndindex(6, 3):
        weights = table.params.values[index]
        expected = np.abs(X @ weights - Y).max()
        np.testing.assert_allclose(table.error.values[index], expected, rtol=1e-5)
        np.testing.assert_array_equal(table.signs.values[index], weights > 0)


def test_company_and_place_change_no_bit(table):
    axes = {"learning_rate": np.array([1.0, 0.02]), "seed": np.arange(3)[::-1].copy()}
    few = jaxgd.sweep(lane, axes, epochs=25, history=26).isel(seed=slice(None, None, -1))
    for name in ("params", "cost_history", "error", "best_epoch", "gradient_norm"):
        np.testing.assert_array_equal(few[name], table[name].isel(learning_rate=[3, 2]))


def test_targets_and_known_minima_hold_with_batches():
    axes = {"learning_rate": np.array([0.001, 0.05])}
    met = jaxgd.sweep(lambda learning_rate: lane(learning_rate), axes, epochs=60, target=0.1)
    assert met.outcome.values.tolist() == [DESCENDING, 1]
    assert met.final_cost[1] <= 0.1 and met.target_epoch[1] == met.epochs[1] < 60


# What is refused.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 21}, "batch_size = 21: must be a whole number from 1 to 20, the rows of the data"),
        ({"batch_size": 0}, "batch_size = 0: must be a whole number from 1"),
        ({"batch_size": 2.0}, "batch_size = 2.0: must be a whole number"),
        ({"remainder": "keep"}, "remainder = 'keep': must be one of drop, pad"),
        ({"data": (X, Y[:5])}, r"data\[0\] has shape \[20, 3\], data\[1\] has shape \[5\]: needs arrays"),
        ({"data": (X, 3.0)}, r"data\[1\] has shape \[\]: needs arrays"),
        ({"data": ()}, "data holds no arrays"),
        ({"data": None, "batch_size": 3}, "there is no data to make batches of"),
    ],
)
def test_data_that_makes_no_batches(options, says):
    cost = squares if options.get("data", X) is not None else jnp.sum
    with pytest.raises(ValueError, match=says):
        jaxgd.descend(cost, np.zeros(3), optax.sgd(0.1), epochs=1, **{"data": (X, Y)} | options)


def test_costs_that_do_not_take_a_batch_and_keys_that_are_none():
    with pytest.raises(TypeError, match=r"cost is called with data, as cost\(params, batch\); it takes \(w\)"):
        jaxgd.descend(lambda w: w.sum(), np.zeros(3), optax.sgd(0.1), epochs=1, data=X)
    with pytest.raises(TypeError, match=r"cost is called without data, as cost\(params\); it takes \(weights, batch\)"):
        jaxgd.descend(squares, np.zeros(3), optax.sgd(0.1), epochs=1)
    with pytest.raises(TypeError, match="a seed is a whole number or a key of jax.random, not 0.5"):
        jaxgd.descend(squares, np.zeros(3), optax.sgd(0.1), epochs=1, data=(X, Y), batch_size=2, key=0.5)


@pytest.mark.parametrize(
    ("metrics", "error", "says"),
    [
        ({"final_cost": jnp.sum}, ValueError, "metric 'final_cost': the result has an axis or a variable of this name"),
        ({"rate": jnp.sum}, ValueError, "metric 'rate': the result has an axis"),
        ({"error": 3.0}, TypeError, r"metrics\['error'\] is a float; it must be a function of the params"),
    ],
)
def test_metrics_that_are_none(metrics, error, says):
    with pytest.raises(error, match=says):
        jaxgd.sweep(
            lambda rate: jaxgd.Descent(jnp.sum, np.ones(3), optax.sgd(rate), metrics=metrics), {"rate": [0.1]}, epochs=1
        )


# Rows that are no numbers.


def holed(rows, value):
    x = X.copy()
    x[rows, 1] = value
    return x


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray, lambda x: jnp.asarray(x, jnp.bfloat16)])
@pytest.mark.parametrize(
    ("x", "says"),
    [
        (holed([7], np.nan), r"data\['x'\], row 7: holds nan; where the cost reads such a row it is NaN or infinite"),
        (holed([4, 9], -np.inf), r"data\['x'\], row 4: holds -inf \(2 of its 20 rows hold NaN or infinity\); where"),
    ],
)
def test_rows_that_are_no_numbers_are_named_where_data_is_checked(array, x, says):
    with pytest.warns(UserWarning, match=says) as said:
        batches({"x": array(x), "y": Y}, 5, 0, "drop")
    assert len(said) == 1


def test_data_without_such_rows_and_data_being_traced_warn_of_nothing():
    batches(
        {"x": X, "whole": np.arange(20), "flags": X > 0, "none": np.zeros((20, 0)), "half": X.astype(np.float16)},
        5,
        0,
        "drop",
    )
    jax.jit(lambda x: batches(x, 5, 0, "drop").data)(holed([7], np.nan))


def test_every_way_to_a_descent_names_the_row_that_is_no_number():
    data = (holed([7], np.nan), Y)

    def lane(learning_rate):
        return jaxgd.Descent(squares, np.zeros(3), optax.sgd(learning_rate), data=data, batch_size=5)

    says = r"data\[0\], row 7: holds nan"
    with pytest.warns(UserWarning, match=says):
        table = jaxgd.sweep(lane, {"learning_rate": [0.1, 0.2]}, epochs=2)
    assert (table["outcome"] == DIVERGED).all()
    with pytest.warns(UserWarning, match=says):
        jaxgd.descend(squares, np.zeros(3), optax.sgd(0.1), epochs=1, data=data)
    with pytest.warns(UserWarning, match=says):
        jaxgd.find_learning_rate(squares, np.zeros(3), optax.sgd, epochs=2, data=data)


def test_a_config_s_lane_whose_data_has_such_a_row_is_told(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp, jaxgd, numpy as np, optax\n"
        "DATA = {'x': np.array([1.0, np.inf, 2.0])}\n"
        "def lane(rate):\n"
        "    return jaxgd.Descent(lambda p, b: jnp.mean((b['x'] - p) ** 2), 0.0, optax.sgd(rate), data=DATA)\n"
    )
    config = tmp_path / "config.toml"
    config.write_text('[lane]\nfunction = "mine:lane"\nrate = 0.1\n[run]\nepochs = 2\n')
    with pytest.warns(UserWarning, match=r"data\['x'\], row 1: holds inf"):
        run.prepared(config)
