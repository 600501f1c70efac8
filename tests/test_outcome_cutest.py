"""Outcomes on CUTEst problems that once were judged wrongly, each checked against plain JAX in float64."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgd
from experiments.oracle import _cutest, problem
from jaxgd.outcome import OUTCOMES, verdict

pytestmark = [
    pytest.mark.usefixtures("compiled_in_haste"),
    pytest.mark.filterwarnings("ignore:.*minimum"),  # two published ones are too high
    pytest.mark.skipif(importlib.util.find_spec("sif2jax") is None, reason="the problems are those of sif2jax"),
]

RATES = np.geomspace(1e-4, 10, 24)


def swept(name, optimizer, rates, precision="float64", **options):
    """2000 epochs from the problem's start, for each learning rate."""
    with jax.enable_x64(precision == "float64"):
        found = problem(name)
        start = jnp.asarray(found.start, precision)

        def lane(learning_rate):
            return jaxgd.Descent(found.cost, start, optimizer(learning_rate))

        return jaxgd.sweep(lane, {"learning_rate": jnp.asarray(rates, precision)}, epochs=2000, **options)


def words(codes):
    return [OUTCOMES[code] for code in np.asarray(codes)]


def test_hairy_swings_within_bounds():
    """Adam: bounded, far below the start, and above the minimum of 20."""
    table = swept("HAIRY", optax.adam, RATES[[15, 19]])
    assert words(table.outcome) == ["oscillating"] * 2
    assert ((table.best_cost < 21) & (table.final_cost < 30) & (table.start_cost > 700)).all()


def test_cliff_throws_lanes_out():
    """Its costs are a thousand to ten million times the start's, and there has been no new low since."""
    table = swept("CLIFF", optax.sgd, RATES[9:19])
    assert words(table.outcome) == ["diverged"] * 10
    assert ((table.final_cost > 1000 * table.start_cost) & (table.best_epoch == 0)).all()


@pytest.mark.parametrize(
    ("name", "published", "true"), [("EXPFIT", 8.7945855171, 0.2405106), ("KOWOSB", 0.00102734, 0.000307801)]
)
def test_published_minima_that_are_too_high(name, published, true):
    """A lane that got below is judged as if no minimum were known."""
    assert problem(name).minimum == published
    table = swept(name, optax.adam, RATES[6:20:2])
    below = table.best_cost.values < published
    assert below.sum() > 3 and float(table.best_cost.min()) == pytest.approx(true, rel=1e-6)
    assert words(verdict(table, minimum=published)[below]) == words(table.outcome.values[below])
    converged = below & (table.outcome.values == OUTCOMES.index("converged"))
    assert (table.gradient_norm.values[converged] < 1e-10).all()


@pytest.mark.parametrize(("name", "published"), [("HATFLDE", 5.120377e-07), ("OSBORNEA", 5.46489e-05)])
def test_minima_of_float32_whose_cost_is_tiny(name, published, monkeypatch):
    """A cost some times the minimum has not reached it, though both are far below 1."""
    assert problem(name).minimum == published
    module = sys.modules[getattr(_cutest(), name).__module__]
    for key, data in list(vars(module).items()):
        if isinstance(data, jax.Array):  # read in float64
            monkeypatch.setattr(module, key, data.astype(np.float32))
    table = swept(name, optax.adam, RATES[4:18:2], "float32", minimum=published)
    far = (table.final_cost > 1.1 * published).values
    assert far.sum() > 3 and "converged" not in words(table.outcome.values[far])
    assert "descending" in words(table.outcome.values[far])


@pytest.mark.parametrize(("name", "published", "short"), [("S308", 0.773199, 1e-6), ("JENSMP", 124.362, 1e-3)])
def test_published_minima_with_six_digits(name, published, short):
    """Lanes end a little above what is published: trapped, unless a tolerance covers it."""
    table = swept(name, optax.adam, RATES[10:15])
    at_rest = (table.outcome == OUTCOMES.index("converged")).values
    assert at_rest.any() and (np.abs(table.final_cost.values[at_rest] - published) < short).all()
    assert set(words(verdict(table, minimum=published)[at_rest])) <= {"trapped", "converged"}
    assert set(words(verdict(table, minimum=published, tolerance=short)[at_rest])) == {"converged"}
