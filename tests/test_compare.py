"""Optimizers compared: the best of each, its ranges, the expected best of few trials, and the words for it."""

import itertools

import numpy as np
import pytest
import xarray
from command import command

from jaxgd.compare import compared, expected_best, expected_minimum
from jaxgd.outcome import DESCENDING, DIVERGED, PENDING
from jaxgd.show.comparison import _cells, _escaped

pytestmark = pytest.mark.usefixtures("compiled_in_haste")


def results(costs, dims, coords, **more):
    costs = np.array(costs, float)
    outcome = np.where(np.isnan(costs), DIVERGED, DESCENDING).astype(np.int8)
    data = {"outcome": outcome, "final_cost": costs, "start_cost": np.full(costs.shape, 10.0)}
    data |= {name: np.broadcast_to(values, costs.shape) for name, values in more.items()}
    data["best_epoch"] = np.zeros(costs.shape)
    return xarray.Dataset({name: (dims, values) for name, values in data.items()}, coords)


@pytest.mark.parametrize("total", [1, 2, 5, 7])
def test_the_expected_minimum_is_the_mean_over_every_sample(total):
    scores = np.random.default_rng(total).normal(size=total).round(1)  # some alike
    counts = np.arange(1, total + 2)
    means = [np.mean([min(some) for some in itertools.combinations(scores, n)]) for n in counts[:-1]]
    found = expected_minimum(scores, counts)
    np.testing.assert_allclose(found[:-1], means, rtol=1e-13)
    assert np.isnan(found[-1])


def test_the_expected_minimum_of_many_trials_neither_overflows_nor_rises():
    scores = np.random.default_rng(0).lognormal(sigma=3, size=5000)
    counts = np.array([1, 10, 100, 1000, 4999, 5000])
    found = expected_minimum(scores, counts)
    assert (np.diff(found) < 0).all()
    np.testing.assert_allclose(found[[0, -1]], [scores.mean(), scores.min()], rtol=1e-9)


def test_the_expected_best_is_unbiased():
    """The mean of it over samples of 4 from a population equals the mean minimum of 2 draws from that population."""
    population = np.array([0.0, 1.0, 4.0, 9.0, 16.0])
    draws = np.array(list(itertools.product(population, repeat=4)))
    mean = np.mean([expected_minimum(sample, np.array([2]))[0] for sample in draws])
    exact = np.mean([min(pair) for pair in itertools.product(population, repeat=2)])
    np.testing.assert_allclose(mean, exact)


def test_a_trial_costs_no_more_than_its_start():
    table = results([[1.0, np.nan, 99.0], [2.0, 3.0, 4.0]], ("optimizer", "rate"), {"optimizer": ["a", "b"]})
    curve = expected_best(table)["expected"]
    assert curve.dims == ("optimizer", "trials") and curve.trials.values.tolist() == [1, 2, 3]
    np.testing.assert_allclose(curve.sel(optimizer="a"), [7, 4, 1])
    np.testing.assert_allclose(curve.sel(optimizer="b"), [3, 7 / 3, 2])


def test_with_a_target_the_first_to_meet_it_leads_and_one_that_never_does_comes_last():
    epochs = [[np.nan, np.nan], [30.0, np.nan], [40.0, 20.0]]
    table = results([[0.0, 1.0], [2.0, 3.0], [2.0, 3.0]], ("optimizer", "rate"), {"optimizer": ["a", "b", "c"]})
    table = table.assign(target_epoch=(("optimizer", "rate"), epochs)).assign_coords(rate=[0.1, 0.2])
    found = compared(table.assign_attrs(target=3.0))
    assert [contender.name for contender in found] == ["c", "b", "a"]
    heads, *rows = _cells(found, "target_epoch", 2.0)
    assert heads[1:3] == ["epochs to the target", "final cost"]
    assert [row[1:4] for row in rows] == [
        ["20", "3", "rate = 0.2"],
        ["30", "2", "rate = 0.1"],
        ["never", "0", "rate = 0.1"],
    ]


def test_seeds_are_no_trials_and_what_has_not_run_is_none():
    table = results([[1.0, 5.0, 9.0], [2.0, 2.0, 2.0]], ("rate", "seed"), {"rate": [0.1, 0.2]})
    assert expected_best(table)["expected"].values.tolist() == [[3.5, 2.0]]
    table["outcome"][1] = PENDING
    assert expected_best(table)["expected"].values.tolist() == [[5.0]]


def test_an_accuracy_is_the_better_the_higher():
    accuracy = [[0.5, 0.9, 0.7], [0.6, 0.6, 0.6]]
    table = results(
        [[1.0, 1.0, np.nan], [1.0] * 3],
        ("optimizer", "rate"),
        {"optimizer": ["a", "b"], "rate": [1.0, 2.0, 3.0]},
        validation_accuracy=accuracy,
        test_accuracy=np.array(accuracy) - 0.1,
    )
    curve = expected_best(table, "validation_accuracy")["expected"].sel(optimizer="a")
    np.testing.assert_allclose(curve, [(0.5 + 0.9 + 0) / 3, (0.9 + 0.9 + 0.5) / 3, 0.9])
    first, second = compared(table, "validation_accuracy")
    assert (first.name, second.name) == ("a", "b")
    assert first.setting.rate == 2 and first.figures["validation_accuracy"].median == 0.9
    assert first.figures["test_accuracy"].median == pytest.approx(0.8)
    assert second.ranges[0][:3] == ("rate", 1, 3)
    with pytest.raises(ValueError, match="must be a cost or an accuracy"):
        expected_best(table, "best_epoch")


def test_each_contender_has_its_best_its_spread_and_its_ranges():
    costs = np.array([[8.0, 1.0, 1.5, 7.0], [9.0, 9.0, 2.0, np.nan], [np.nan] * 4])
    seeds = np.stack([costs - 0.5, costs, costs + 0.5], axis=-1)
    coords = {"optimizer": ["a", "b", "c"], "learning_rate": [0.1, 0.2, 0.4, 0.8], "seed": [0, 1, 2]}
    found = compared(results(seeds, ("optimizer", "learning_rate", "seed"), coords))
    assert [(c.name, c.trials, c.diverged) for c in found] == [("a", 4, 0), ("b", 4, 0.25), ("c", 4, 1)]
    assert found[0].figures == {"final_cost": (1.0, 0.5, 1.5)} and found[0].setting.learning_rate == 0.2
    assert found[0].ranges == (("learning_rate", 0.2, 0.4, 0.2),)
    assert found[1].ranges == (("learning_rate", 0.4, 0.4, 0.4),)
    assert found[2].setting is None and found[2].ranges == () and found[2].figures == {}


def test_a_range_is_taken_where_the_others_are_at_their_best():
    """Along trials that vary a rate and a momentum, as along two dimensions."""
    costs = np.array([[4.0, 3.0, 9.0], [2.0, 1.0, 8.0]])  # momentum, rate
    grid = {"momentum": [0.0, 0.9], "rate": [1.0, 2.0, 3.0]}
    (whole,) = compared(results(costs, ("momentum", "rate"), grid))
    momentum, rate = (values.ravel() for values in np.meshgrid(*grid.values(), indexing="ij"))
    labels = {"trial": range(6), "momentum": ("trial", momentum), "rate": ("trial", rate)}
    (trials,) = compared(results(costs.ravel(), ("trial",), labels))
    assert whole.ranges == trials.ranges == (("momentum", 0.9, 0.9, 0.9), ("rate", 1, 2, 2))


RACE = """
title = "A & B"
[cost]
surface = "rosenbrock"
[start]
x = [-1.2, 1.0]
[optimizers.gradient_descent]
learning_rate = 0.001
[optimizers.adam]
learning_rate = 0.02
b1 = 0.9
[run]
epochs = 20
[sweep]
optimizers.gradient_descent.learning_rate = { values = [1e-4, 5e-4, 1e-3, 1e-2] }
optimizers.adam.learning_rate = { values = [0.01, 0.1] }
optimizers.adam.b1 = { values = [0.5, 0.9] }
"""


def test_the_command_says_who_is_best_and_draws_the_curves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "race.toml").write_text(RACE)
    assert command("run", "race.toml").code == 0
    code, out, err = command("compare", "race")
    assert (code, err) == (0, "") and out.startswith("A & B\n")
    lines = [line.split() for line in out.splitlines()]
    assert lines[2][:4] == ["optimizer", "final", "cost", "at"]
    assert [line[0] for line in lines if "learning_rate" in line] == ["gradient_descent", "adam"]
    (picture,) = tmp_path.glob("runs/*/figures/expected_best.png")
    assert picture.stat().st_size > 1000 and str(picture.relative_to(tmp_path)) in out
    table = command("compare", "race", "--latex").out.splitlines()
    assert table[0] == r"\begin{tabular}{lllll}" and table[-1] == r"\end{tabular}"
    (row,) = [line for line in table if line.startswith(r"gradient\_descent & ")]
    assert r"& learning\_rate = 0.001 & " in row and row.endswith(r"25 \% \\")
    assert all(line.count(" & ") == 4 for line in table[2:-2] if line != r"\midrule")
    refused = command("compare", "race", "--by", "final_cots")
    assert refused.code == 2 and "did you mean final_cost?" in refused.err


def test_latex_prints_what_was_said():
    assert _escaped(r"a_b & 5 % of $x^2$ ~ {\n}") == (
        r"a\_b \& 5 \% of \$x\textasciicircum{}2\$ \textasciitilde{} \{\textbackslash{}n\}"
    )
    assert _escaped("1.5e-07 … 2e+12") == r"1.5 $\cdot 10^{-7}$ \dots{} 2 $\cdot 10^{12}$"
