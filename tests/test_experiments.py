"""Every study at a tiny size, through its `main`; and its parts against what is known of them."""

import jax
import numpy as np
import pytest

from experiments import chaotic_rates, digits, edge_of_stability, hypergradients, momentum_phases, trainability_boundary

pytestmark = pytest.mark.usefixtures("compiled_in_haste")


@pytest.fixture(autouse=True, scope="module")
def float64():
    """The studies switch to float64 for good; the other tests shall not notice."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def drawn(path):
    return path.is_file() and path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.compiled_well
def test_chaotic_rates(tmp_path, capsys):
    counts, slope = chaotic_rates.main(["--k", "9", "--out", str(tmp_path)])
    assert counts == list(chaotic_rates.PUBLISHED[:10])
    assert slope == chaotic_rates.slope(chaotic_rates.PUBLISHED[:10])
    assert drawn(tmp_path / "chaotic_rates.png") and "published" in capsys.readouterr().out


@pytest.mark.compiled_well
def test_chaotic_rates_part_by_part(monkeypatch):
    whole = chaotic_rates.changes(7)
    monkeypatch.setattr(chaotic_rates, "_PART", 16)
    assert chaotic_rates.changes(7) == whole


def test_the_published_slope_is_that_of_the_published_counts():
    slope = chaotic_rates.slope(chaotic_rates.PUBLISHED)
    assert slope.value == pytest.approx(chaotic_rates.PUBLISHED_SLOPE, abs=5e-6)
    assert slope.error == pytest.approx(chaotic_rates.PUBLISHED_ERROR, abs=5e-6)


def test_edge_of_stability(tmp_path, capsys):
    """A fifth of the epochs is enough for gradient descent at the largest rate to settle at the edge."""
    ratios = edge_of_stability.main(["--shorten", "5", "--records", "20", "--out", str(tmp_path)])
    assert ratios[2] == pytest.approx(1, abs=0.03)
    assert all(0.8 < ratio < 1.2 for ratio in ratios)
    assert drawn(tmp_path / "edge_of_stability.png") and "Nesterov" in capsys.readouterr().out


def test_momentum_phases(tmp_path, capsys):
    errors = momentum_phases.main(["--size", "12", "--epochs", "200", "--out", str(tmp_path)])
    assert all(error < 1e-6 for error in errors.values())  # rounding, but for swings that the fit cuts off
    assert drawn(tmp_path / "momentum_phases.png") and "0.818182" in capsys.readouterr().out


def test_digits(tmp_path, capsys):
    """At a tiny size: jaxgd and the way by hand descend alike, and a rate is chosen."""
    size = ["--rates", "3", "--seeds", "2", "--epochs", "2", "--batch", "256", "--repeats", "1", "--sample", "2"]
    found = digits.main([*size, "--out", str(tmp_path)])
    np.testing.assert_allclose(found["costs"]["by hand"], found["costs"]["jaxgd"], rtol=1e-4)
    assert set(found["seconds"]) == {"jaxgd", "by hand", "one by one"} and 0 < found["test"] < 1
    assert drawn(tmp_path / "digits.png") and "chosen on validation" in capsys.readouterr().out


def test_hypergradients(tmp_path, capsys):
    found = hypergradients.main(["--epochs", "30", "--steps", "20", "--out", str(tmp_path)])
    assert found.cost < found.single_cost and found.cost < found.history[0]
    assert set(found.rates) == {"hidden", "output"} and "sweep" in capsys.readouterr().out


def test_trainability_boundary(tmp_path, capsys):
    size = ["--width", "3", "--epochs", "30", "--resolution", "24", "--frames", "1", "--out", str(tmp_path)]
    found = trainability_boundary.main(size)
    assert 0.3 < found["converged"] < 0.7
    assert set(trainability_boundary.CONDITIONS) < set(found)
    assert drawn(tmp_path / "trainability_boundary.png") and "minibatch" in capsys.readouterr().out


@pytest.mark.parametrize("name", trainability_boundary.CONDITIONS)
def test_trainings_are_those_of_a_plain_loop(name):
    condition, width, epochs, rates = trainability_boundary.CONDITIONS[name], 3, 30, (0.5, 3.0)
    lane = trainability_boundary.lane_of(condition, width, epochs)
    across, up = (np.full(24, rate) for rate in rates)  # as many as in the study above, whose program does for them
    values = trainability_boundary._strip(lane, up, across, epochs)
    costs = plain_costs(condition, width, epochs, *rates)
    np.testing.assert_allclose(values, np.full((24, 24), trainability_boundary.measure(costs)), rtol=1e-9)


def plain_costs(condition, width, epochs, rate_in, rate_out):
    """The cost before each update, in NumPy, with the gradient written out."""
    with jax.threefry_partitionable(False):
        first, rest = jax.random.split(jax.random.PRNGKey(0))[::-1]
        hidden, output = jax.random.split(first)
        w0, w1 = np.array(jax.random.normal(hidden, (width, width))), np.array(jax.random.normal(output, (width, 1)))
        rest, inputs = jax.random.split(rest)
        rest, outputs = jax.random.split(rest)
        points = condition.points(width)
        xs, ys = np.array(jax.random.normal(inputs, (points, width))), np.array(jax.random.normal(outputs, (points, 1)))
        keys = jax.random.split(jax.random.PRNGKey(42), epochs)
        draws = [np.array(jax.random.randint(key, (condition.batch or 1,), 0, points)) for key in keys]
    root = np.sqrt(2)
    act, slope = {
        "tanh": (lambda z: np.tanh(root * z), lambda z: root / np.cosh(root * z) ** 2),
        "relu": (lambda z: root * np.maximum(z, 0), lambda z: root * (z > 0)),
        "identity": (lambda z: z, np.ones_like),
    }[condition.activation]
    costs = []
    for batch in draws:
        costs.append(np.mean((act(xs @ w0 / np.sqrt(width)) @ w1 / width - ys) ** 2))
        x, y = (xs, ys) if condition.batch is None else (xs[batch], ys[batch])
        z = x @ w0 / np.sqrt(width)
        error = 2 * (act(z) @ w1 / width - y) / len(y) / width
        grad1, grad0 = act(z).T @ error, x.T @ (error @ w1.T * slope(z)) / np.sqrt(width)
        w0, w1 = w0 - rate_in * grad0, w1 - rate_out * grad1
    return np.array(costs)


def test_what_counts_as_trained():
    falling, rising = np.linspace(2, 0.5, 40), np.linspace(2, 50, 40)
    broken = np.r_[2.0, np.full(39, np.nan)]
    values = trainability_boundary.measure(np.stack([falling, rising, broken]))
    np.testing.assert_allclose(values, [-falling.sum() / 2, (2 / rising).sum(), 1 + 39 * 2 / trainability_boundary.CAP])


def test_a_straight_edge_has_dimension_one_and_dust_has_more():
    rows, _ = np.indices((257, 257))
    straight = np.where(rows > 128.5, 1.0, -1.0)
    assert trainability_boundary.dimension([straight]) == pytest.approx(1, abs=0.1)
    dust = np.where(np.random.default_rng(0).uniform(size=(257, 257)) < 0.02, 1.0, -1.0)
    assert trainability_boundary.dimension([dust]) > 1.5


def test_zooms_look_where_the_boundary_is():
    rows, columns = np.indices((64, 64))
    values = np.where(
        (rows - 48) ** 2 + (columns - 16) ** 2 < 9, 1.0, -1.0
    )  # a spot at a quarter across, three quarters up
    left, right, bottom, top = trainability_boundary.closer(
        (0.0, 1.0, 0.0, 2.0), trainability_boundary.boundary(values)
    )
    assert (right - left, top - bottom) == (0.5, 1.0)
    assert (left + right) / 2 == pytest.approx(0.25, abs=0.05) and (bottom + top) / 2 == pytest.approx(1.5, abs=0.1)


def test_zooms_may_look_where_the_boundary_is_as_dense_as_in_most_places():
    rows, columns = np.indices((64, 64))
    crowded = (rows < 16) & (columns < 16) & ((rows + columns) % 4 < 2)
    values = np.where((rows > 40) ^ crowded, 1.0, -1.0)  # a long straight line, and a thicket in a corner
    edge = trainability_boundary.boundary(values)
    densest = trainability_boundary.closer((0.0, 1.0, 0.0, 1.0), edge)
    usual = trainability_boundary.closer((0.0, 1.0, 0.0, 1.0), edge, crowd=0.1)
    assert densest[3] < 0.5 < usual[3] and usual[2] < 40 / 64 < usual[3]


@pytest.mark.parametrize("known", [1.2, 1.8])
def test_shores_have_the_dimension_they_are_made_with(known):
    shores = [trainability_boundary.surface(512, known, seed) for seed in range(6)]
    assert trainability_boundary.dimension(shores) == pytest.approx(known, abs=0.12)


def test_a_picture_is_read_back_as_it_was_drawn(tmp_path):
    rng = np.random.default_rng(3)
    values = np.kron(rng.normal(size=(6, 6)), np.ones((8, 8)))
    import matplotlib.image

    bare = tmp_path / "bare.png"
    matplotlib.image.imsave(bare, trainability_boundary.colours(values)[::-1], cmap="Spectral", vmin=-1, vmax=1)
    assert (trainability_boundary.converged_in(bare, 48) == (values < 0)).all()


@pytest.mark.parametrize(
    ("study", "options"),
    [
        (chaotic_rates, ["--k", "40"]),
        (edge_of_stability, ["--shorten", "0"]),
        (momentum_phases, ["--kappa", "0.5"]),
        (trainability_boundary, ["--resolution", "8"]),
        (trainability_boundary, ["--crowd", "0"]),
        (digits, ["--rates", "0"]),
        (hypergradients, ["--epochs", "0"]),
    ],
)
def test_options_out_of_range(study, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        study.main(options)
    assert stopped.value.code == 2 and options[0].strip("-") in capsys.readouterr().err
