"""Outcomes against the oracle of `experiments/outcomes.py`, at a tiny size: the cells that have to be empty are."""

import importlib.util

import jax
import numpy as np
import pytest

from experiments import oracle, outcomes

pytestmark = [
    pytest.mark.usefixtures("compiled_in_haste"),
    pytest.mark.skipif(importlib.util.find_spec("sif2jax") is None, reason="the problems are those of sif2jax"),
]


def test_no_outcome_contradicts_ten_times_as_many_epochs(tmp_path, capsys):
    found = outcomes.main(["--problems", "HIMMELBCLS", "--epochs", "1000", "--rates", "8", "--keep", str(tmp_path)])
    assert set(found) == {"float32", "float64"}
    for dtype, lanes in found.items():
        assert len(lanes) == 8 * len(oracle.USUAL | oracle.UNUSUAL)
        assert outcomes.unexplained(dtype, lanes) == []
        assert {"converged", "stopped", "descending", "diverged"} <= {lane.truth for lane in lanes}
    printed = capsys.readouterr().out
    assert "float32: 64 lanes" in printed and "that have to be empty" in printed
    for lanes in found.values():  # optax, and by hand
        assert sum(lane.same for lane in lanes) > 0.95 * len(lanes)


def lane(outcome, truth, rule="GD", lower=False, above=False, same=True):
    return outcomes.Lane("BEALE", rule, 0.1, outcome, outcome, truth, lower, above, same, 1.0, 1.0)


def test_what_contradicts_the_oracle():
    converged, minimum, diverged, descending = outcomes.FORBIDDEN
    lanes = {
        converged: [lane("converged", truth) for truth in ("stopped", "descending", "oscillating", "loosened")],
        minimum: [lane("converged", "converged", above=True)],
        diverged: [lane("diverged", "oscillating", lower=True), lane("diverged", "descending", lower=True)],
        descending: [lane("descending", "converged"), lane("descending", "stopped")],
    }
    fine = [
        lane("converged", "settling"),
        lane("converged", "loosened", rule="Adam"),
        lane("diverged", "descending"),
        lane("diverged", "above", lower=True),
        lane("descending", "settling"),
        lane("converged", "stopped", same=False),
    ]
    assert outcomes.forbidden([*fine, *(each for cell in lanes.values() for each in cell)]) == lanes


def test_exceptions_are_named_one_by_one(monkeypatch):
    wrong = lane("converged", "stopped")
    assert outcomes.unexplained("float32", [wrong])
    monkeypatch.setattr(outcomes, "EXCEPTIONS", {("float32", "BEALE", "GD", "0.1"): "a reason"})
    assert not outcomes.unexplained("float32", [wrong]) and outcomes.unexplained("float64", [wrong])


def simulated(cost, rates, epochs=200):
    """The oracle's words for gradient descent of a cost of one param, from 1."""
    problem = oracle.Problem("", cost, np.ones(1), None)
    of = oracle.Study((problem,), {"GD": oracle.USUAL["GD"]}, np.array(rates)[None, None])
    with jax.enable_x64(True):
        return oracle.judged(oracle.simulate(of, epochs, np.float64), np.finfo(float).eps)[0, 0].tolist()


def test_the_oracle_on_a_parabola():
    words = simulated(lambda x: 1 + (x[0] - 3) ** 2, [1e-20, 1e-4, 0.5, 1.0, 1.001, 3.0])
    assert words == ["stopped", "descending", "converged", "oscillating", "diverged", "diverged"]


def test_unknown_problems(capsys):
    with pytest.raises(SystemExit):
        outcomes.main(["--problems", "NONE"])
    assert "knows no NONE" in capsys.readouterr().err
