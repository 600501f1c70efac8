"""Outcomes do not depend on the units of cost and params: cost → a·cost + b, at rate/a; params → c·params + d, at rate·c².

Powers of two for a and c scale every number exactly, so that the outcomes must be the same one by one. Any a, b, c and d
change roundings; then they must be the same wherever the dtype resolves the shifted numbers, but for lanes on a boundary.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxgd
from jaxgd.outcome import OUTCOMES
from jaxgd.surfaces import SURFACES

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

RATES = np.geomspace(1e-5, 3, 16)
MOMENTA = (0.0, 0.9)
EPOCHS = 300


def start_on(surface):
    """A point of its box that is no special one."""
    low, high = np.asarray(surface.box(surface.dimension or 2), float).T
    point = low + 0.3 * (high - low)
    return point[0] if surface.dimension == 1 else point


@functools.cache
def program(name, precision):
    """(a, b, c, d) → outcomes over the rates and momenta; one compiled program for all units."""
    surface = SURFACES[name]

    def lane(learning_rate, momentum, units):
        a, b, c, d = units

        def cost(z):
            return a * surface.cost((z - d) / c) + b

        optimizer = optax.sgd(learning_rate * c * c / a, momentum)
        return jaxgd.Descent(cost, c * jnp.asarray(start_on(surface), precision) + d, optimizer)

    def outcomes(*units):
        axes = {"learning_rate": RATES, "momentum": MOMENTA, "units": [np.asarray(units, precision)]}
        with jax.enable_x64(precision == "float64"):
            table = jaxgd.sweep(lane, axes, epochs=EPOCHS)
        return [OUTCOMES[code] for code in table.outcome.values.ravel()]

    return outcomes


def differing(name, precision, *units):
    """Lanes whose outcomes differ: (rate, momentum, before, after)."""
    outcomes = program(name, precision)
    pairs = zip(itertools.product(RATES, MOMENTA), outcomes(1, 0, 1, 0), outcomes(*units), strict=True)
    return [(*map(float, lane), before, after) for lane, before, after in pairs if before != after]


@pytest.mark.parametrize("name", sorted(SURFACES))
def test_powers_of_two_change_no_outcome(name, precision):
    """2²⁶ is 7e7. Every number scales exactly."""
    for a, c in ((2.0**26, 1), (2.0**-26, 1), (1, 2.0**10), (2.0**-20, 2.0**-5)):
        assert not differing(name, precision, a, 0, c, 0), (a, c)


@given(
    a=st.floats(-8, 8).map(lambda power: 10.0**power),
    b=st.floats(-1, 1),
    c=st.floats(-3, 3).map(lambda power: 10.0**power),
    d=st.floats(-1, 1),
)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", ["sphere", "rosenbrock", "himmelblau", "double_well"])
def test_any_units_change_few_outcomes(name, precision, a, b, c, d):
    """Few lanes are on a boundary to rounding. Shifts of the size of cost and params also hide the last of the way: what
    descends without them may have converged with them, as far as the dtype resolves."""
    assert len(differing(name, precision, a, 0, c, 0)) <= 3
    differ = differing(name, precision, a, a * b, c, c * d)
    assert len([lane for lane in differ if lane[2:] != ("descending", "converged")]) <= 3, differ
    assert not any({"converged", "diverged"} == set(lane[2:]) for lane in differ), differ
