"""Outcomes: the exact oracle of the parabola, and the rules one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import pending

import jaxgd
from jaxgd.outcome import (
    CONVERGED,
    DESCENDING,
    DIVERGED,
    FIGURES,
    NEVER,
    OSCILLATING,
    OUTCOMES,
    PENDING,
    STOPPED,
    TRAPPED,
    goal,
    judgement,
    tolerances,
    verdict,
)
from jaxgd.surfaces import SURFACES

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

EPOCHS = (1, 2, 3, 49, 50, 51, 100, 149, 1000)
STARTS = (9000.0, -3.0)


def parabola(x):
    return x**2 + 5


def names(codes):
    return [OUTCOMES[code] for code in np.ravel(codes)]


def eps_of(precision):
    return float(np.finfo(precision).eps)


def swept(cost, optimizer, rates, start, epochs, **options):
    """Learning rates from one start."""

    def lane(learning_rate):
        return jaxgd.Descent(cost, start, optimizer(learning_rate))

    return jaxgd.sweep(lane, {"learning_rate": rates}, epochs=epochs, **options)


# The oracle: for x² + 5 the ball is at x₀(1 − 2η)ᵏ.


def rate_classes(precision):
    eps = eps_of(precision)
    return {
        "one side": [1e-30, 1e-9, 1e-4, 0.01, 0.1, 0.3, 0.49, 0.5 - 8 * eps],
        "one step": [0.5],
        "overshoots": [0.5 + 8 * eps, 0.51, 0.7, 0.9, 0.99, 0.9999, 1 - 8 * eps],
        "for ever": [1.0],
        "slowly away": [1 + eps, 1 + 2 * eps, 1 + 16 * eps, 1.0001, 1.01],
        "away": [1.5, 3.0, 1e6, 1e30],
    }


@functools.cache
def oracle_table(precision, epochs):
    """All rate classes from all starts."""
    rates = np.array(sum(rate_classes(precision).values(), []), precision)
    with jax.enable_x64(precision == "float64"):

        def lane(learning_rate, x):
            return jaxgd.Descent(parabola, x, jaxgd.gradient_descent(learning_rate))

        return jaxgd.sweep(lane, {"learning_rate": rates, "x": np.array(STARTS)}, epochs=epochs)


def expected(rate, start, epochs, minimum, precision):
    """The outcomes that the closed form allows: one, or two where rounding decides between them."""
    eps = eps_of(precision)
    if 2 * rate < eps / 4:  # less than half of the spacing of numbers, wherever x is
        return {"stopped"}
    if rate == 1:
        return {"oscillating"}
    if rate > 1:
        return {"diverged"}
    if epochs == 1 and rate == 1 - 8 * eps:  # one update whose cost is the same to the last bit
        return {"descending", "oscillating"}
    allowed = set()
    for error in (-2 * eps, 0, 2 * eps):  # of x − η·2x, relative to x
        for factor in (0.8, 1.25):  # of the tolerances
            first, last = (abs(start) * max(abs(1 - 2 * rate) + error, 0) ** epoch for epoch in _window(epochs))
            steps = 1 if rate > 0.5 else min(epochs, 50)
            there = _settles(first, last, rate, steps, start, factor * eps) or (
                minimum == 5 and last**2 <= factor * 8 * 5 * eps
            )
            allowed.add("converged" if there else "descending")
    return allowed


def _window(epochs):
    """The first and the last epoch of the last window."""
    return epochs - min(epochs, 50), epochs


def _settles(first, last, rate, steps, start, eps):
    """Whether a lane that begins its window so far from 0 looks as if at rest."""
    vanishes, rests = last <= abs(start) * max(eps**0.75, 64 * eps), 2 * rate * last * steps <= 8 * eps * abs(start)
    flickers = rate > 0.5 and first**2 <= 8 * 5 * eps and first <= eps**0.5 * abs(start)
    quiet = first**2 <= max(8 * 5 * eps, (eps * start) ** 2)
    vanished = last < (1e-38 if eps > 1e-10 else 1e-307)  # XLA takes such numbers for 0
    return (vanishes and rests and quiet) or flickers or vanished


@pytest.mark.parametrize("minimum", [None, 5.0], ids=["minimum unknown", "minimum known"])
@pytest.mark.parametrize("epochs", EPOCHS)
@pytest.mark.parametrize("which", ["one side", "one step", "overshoots", "for ever", "slowly away", "away"])
def test_oracle_of_the_parabola(which, epochs, minimum, precision):
    table = oracle_table(precision, epochs)
    codes = verdict(table, minimum)
    for rate in np.array(rate_classes(precision)[which], precision):
        for start in STARTS:
            outcome = OUTCOMES[int(codes.sel(learning_rate=rate, x=start))]
            assert outcome in expected(float(rate), start, epochs, minimum, precision), (rate, start)


def test_oracle_reaches_every_class_of_outcome(precision):
    classes = rate_classes(precision)
    table = oracle_table(precision, 1000).sel(x=9000.0)
    reached = {
        which: set(names(table.outcome.sel(learning_rate=rates, method="nearest"))) for which, rates in classes.items()
    }
    assert reached["one side"] == {"converged", "descending", "stopped"}
    assert reached["overshoots"] == {"converged", "descending"}
    assert names(table.outcome.sel(learning_rate=0.5)) == ["converged"]


def test_far_above_the_edge_the_numbers_overflow_and_the_last_finite_state_is_kept(precision):
    table = oracle_table(precision, 1000).sel(x=9000.0, learning_rate=[1.5, 1e6, 1e30], method="nearest")
    assert (table.diverged_epoch > 0).all()
    assert (table.epochs == table.diverged_epoch).all()
    assert np.isfinite(table.params).all() and np.isfinite(table.final_cost).all()


def test_slightly_above_the_edge_the_gradient_tells_what_the_cost_cannot():
    table = oracle_table("float32", 50).sel(x=9000.0, learning_rate=np.float32(1 + 2**-23))
    assert table.final_cost == pytest.approx(float(table.start_cost), rel=1e-4)  # hardly moved
    assert np.isnan(table.diverged_epoch)
    assert names(table.outcome) == ["diverged"]


# Other optimizers on the parabola.


@pytest.mark.parametrize("rule, edge", [(jaxgd.momentum, 1.9), (jaxgd.nesterov, 1.9 / 2.8)])
def test_momentum_and_nesterov_up_to_their_edge(rule, edge, precision):
    """The edge on curvature 2 is (2 + 2β)/2, and (2 + 2β)/(2(1 + 2β)) for Nesterov, β = 0.9."""
    rates = np.concatenate([[1e-6], edge * np.array([0.01, 0.1, 0.5, 0.9, 1.01, 1.1, 2])])
    outcomes = {}
    for epochs in (300, 3000):
        codes = swept(parabola, lambda rate: rule(rate, 0.9), rates, 9000.0, epochs).outcome
        outcomes[epochs] = names(codes)
        assert outcomes[epochs][0] == "descending"
        assert outcomes[epochs][-3:] == ["diverged"] * 3
        assert "diverged" not in outcomes[epochs][1:5]
    assert outcomes[3000][1:5] == ["converged"] * 4


def test_momentum_swings_are_judged_alike_whatever_their_phase():
    """Between one side of the valley and the other the last gradient is large or small by luck."""
    rates = np.geomspace(0.02, 1.0, 64)
    codes = swept(parabola, lambda rate: jaxgd.momentum(rate, 0.9), rates, 9000.0, 110).outcome
    assert set(names(codes)) == {"descending"}


def test_adam_flickers_around_the_minimum_and_has_converged(precision):
    rates = np.geomspace(0.02, 0.3, 24)
    for minimum in (None, 5.0):
        table = swept(parabola, optax.adam, rates, 1.0, 3000, minimum=minimum)
        assert set(names(table.outcome)) == {"converged"}
    assert set(names(swept(parabola, optax.adam, [1e-6, 1e-5], 1.0, 3000).outcome)) == {"descending"}


def test_adam_that_bursts_near_the_minimum_has_not_diverged(precision):
    """Its step outgrows a vanishing gradient, now and then, for a few epochs, far below the start."""
    codes = swept(parabola, optax.adam, np.geomspace(0.3, 3, 48), 1.0, 3000).outcome
    assert "diverged" not in names(codes)


# Other valleys.


def test_gradient_descent_that_bounces_between_walls_oscillates(precision):
    """Above 2/sharpness at the minimum the ball stays in the valley of a double well or of Rosenbrock, on a
    cycle or in chaos, whose gradient norm grows or shrinks from one end of the window to the other by luck."""
    start = jnp.array([-1.2, 1.0])
    walls = [("double_well", np.linspace(0.125, 0.2, 64), 2.0), ("rosenbrock", np.linspace(0.0026, 0.005, 64), start)]
    for surface, rates, start in walls:
        codes = names(swept(SURFACES[surface].cost, optax.sgd, rates, start, 2000).outcome)
        assert codes.count("diverged") == 0
        assert codes.count("oscillating") >= 0.8 * len(codes)  # some do settle on a cycle, or find a new low


def test_local_minimum_traps_gradient_descent_and_momentum_rolls_over_the_hill(precision):
    lowest = SURFACES["double_well"].minimum()
    minima = np.concatenate([SURFACES["double_well"].minima(), SURFACES["double_well"].local_minima()])

    def lane(momentum, x):
        return jaxgd.Descent(SURFACES["double_well"].cost, x, jaxgd.momentum(0.01, momentum))

    axes = {"momentum": [0.0, 0.98], "x": [2.0, -2.0]}
    table = jaxgd.sweep(lane, axes, epochs=4000, minimum=lowest, minima=minima)
    assert names(table.outcome) == ["trapped", "converged", "converged", "converged"]
    assert table.minimum.values.tolist() == [[1, 0], [0, 0]]
    assert names(verdict(table)) == ["converged"] * 4  # nobody said that there is a lower one


def test_saddle_from_its_ridge_is_trapped_and_from_beside_it_falls():
    def saddle(x):
        return x[0] ** 2 - x[1] ** 2

    on = swept(saddle, optax.sgd, [0.1], jnp.array([1.0, 0.0]), 500, minimum=-1.0)
    assert names(on.outcome) == ["trapped"]
    beside = swept(saddle, optax.sgd, [0.1], jnp.array([1.0, 1e-3]), 2000)
    assert names(beside.outcome) == ["diverged"]


@pytest.mark.parametrize("height", [0.0, 3.0])
def test_flat_start(height):
    def flat(x):
        return 0 * x + height

    assert names(swept(flat, optax.sgd, [0.1], 1.0, 60).outcome) == ["stopped"]  # it never moved
    assert names(swept(flat, optax.sgd, [0.1], 1.0, 60, minimum=height).outcome) == ["converged"]
    assert names(swept(flat, optax.sgd, [0.1], 1.0, 60, minimum=-1.0).outcome) == ["stopped"]


def test_wide_valley_looks_flat_before_its_bottom_and_is_no_trap(precision):
    """Where the gradient 2ax comes down to √eps, a wide valley's cost ax² is still eps/4a above the minimum."""

    def wide(x):
        return 1e-3 * x**2

    table = swept(wide, optax.sgd, [100.0], 1.0, 300, minimum=0.0)
    assert names(table.outcome) == ["converged"]
    quartic = swept(lambda x: x**4, optax.sgd, [0.1], 1.0, 1000, minimum=0.0)
    assert names(quartic.outcome)[0] in ("converged", "descending")


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1, 1e3, 1e9])
def test_units_of_the_cost_do_not_matter(unit, precision):
    """A cost in small units has small gradients everywhere, which is no sign of a minimum."""
    rates = np.array([1e-5, 0.3, 0.9, 1.01, 2]) / unit
    table = swept(lambda x: unit * x**2, optax.sgd, rates, 1.0, 1000)
    assert names(table.outcome) == ["descending", "converged", "converged", "diverged", "diverged"]


def test_cost_that_falls_for_ever_descends_until_it_leaves_the_finite_numbers():
    assert names(swept(lambda x: x, optax.sgd, [1.0], 1.0, 200).outcome) == ["descending"]
    assert names(swept(lambda x: -jnp.exp(x), optax.sgd, [1.0], 1.0, 200).outcome) == ["diverged"]


def test_minus_infinity_is_no_minimum():
    def pit(x):
        return jnp.where(x > 0, x, -jnp.inf)

    table = swept(pit, optax.sgd, [0.3], 1.0, 100, target=-10.0)
    assert names(table.outcome) == ["diverged"]
    assert (table.diverged_epoch, table.epochs) == (4, 4)
    assert np.isnan(table.target_epoch) and table.final_cost == pytest.approx(0.1, rel=1e-5)


def test_start_that_is_not_a_number_has_diverged_at_once():
    table = swept(jnp.sqrt, optax.sgd, [0.1], -1.0, 100)
    assert names(table.outcome) == ["diverged"]
    assert (table.diverged_epoch, table.epochs) == (0, 0)


def test_ascent_climbs_away(precision):
    table = swept(parabola, jaxgd.gradient_ascent, [1e-4, 0.1], 3.0, 120)
    assert names(table.outcome) == ["diverged", "diverged"]
    assert np.isnan(table.diverged_epoch).all()  # long before it overflows


def test_target_and_ceiling_end_a_lane_where_it_meets_them(precision):
    rates = [0.25, 0.01, 1.5]
    table = swept(parabola, optax.sgd, rates, 4.0, 100, target=6.0, ceiling=100.0)
    # |x| halves, so x² + 5 is 21, 9, 6; or doubles: 21, 69, 261.
    assert names(table.outcome) == ["converged", "converged", "diverged"]
    assert table.target_epoch.values[0] == 2 and table.final_cost.values[0] == 6
    k = np.ceil(np.log(1 / 4) / np.log(0.98))
    assert table.target_epoch.values[1] == table.epochs.values[1] == k
    assert table.diverged_epoch.values[2] == table.epochs.values[2] == 2


@pytest.mark.parametrize("surface", ["himmelblau", "styblinski_tang"])
def test_near_a_known_minimum_a_fair_rate_converges_and_says_which(surface, precision):
    surface = SURFACES[surface]
    minima = np.concatenate([surface.minima(2), surface.local_minima(2)])

    def lane(start):
        return jaxgd.Descent(surface.cost, start, optax.sgd(0.01))

    table = jaxgd.sweep(lane, {"start": minima + 0.05}, epochs=1000, minimum=surface.minimum(2), minima=minima)
    lowest = len(surface.minima(2))
    assert names(table.outcome) == ["converged"] * lowest + ["trapped"] * (len(minima) - lowest)
    assert (table.minimum == np.arange(len(minima))).all()


# The rules, one by one, on figures made up for the purpose.


def figures(precision="float32", **changes):
    """A lane still on its way, 100 epochs down; and what is different about the one to judge."""
    plain = {
        "start_cost": 100.0,
        "final_cost": 10.0,
        "best_cost": 10.0,
        "best_epoch": 100,
        "epochs": 100,
        "gradient_norm": 2.0,
        "start_gradient_norm": 20.0,
        "target_epoch": NEVER,
        "diverged_epoch": NEVER,
        "distance": 5.0,
        "rounding": 1e-6,
        "window": 50,
        "progress": 5.0,
        "moves": 51,
        "crossings": 0,
        "growths": 0,
        "highest_update_norm": 0.4,
        "last_update_norm": 0.4,
        "swing_update_norm": 0.4,
        "window_gradient_norm": 4.0,
        "highest_cost": 15.0,
        "window_cost": np.nan,
        "late_cost": np.nan,
        "cost_noise": np.nan,
    }
    assert changes.keys() <= plain.keys()
    real = np.dtype(precision).type
    return {k: np.array([real(v) if isinstance(plain[k], float) else v]) for k, v in (plain | changes).items()}


FLAT = {"gradient_norm": 1e-6, "window_gradient_norm": 1e-6, "progress": 0.0, "highest_cost": 10.0}
STILL = FLAT | {"moves": 0, "highest_update_norm": 0.0, "last_update_norm": 0.0}
NO_SLOPE = {"start_gradient_norm": 0.0, "gradient_norm": 0.0, "window_gradient_norm": 0.0}
BOUNCES = {"crossings": 50, "progress": 0.0, "best_cost": 9.0}
RUNS_AWAY = BOUNCES | {"growths": 50, "final_cost": 101.0, "highest_cost": 101.0}
CLIMBS = {"progress": 0.0, "final_cost": 101.0, "best_cost": 100.0, "highest_cost": 101.0}
NOISY = {"crossings": 8, "window": 10, "progress": 0.0, "window_cost": 10.0, "late_cost": 10.0, "cost_noise": 1.0}
NOISY |= {"best_cost": 5.0, "best_epoch": 50, "start_cost": 8.0, "window_gradient_norm": np.nan}


@pytest.mark.filterwarnings("ignore:the lowest cost")
@pytest.mark.parametrize(
    ("changes", "minimum", "outcome"),
    [
        ({}, None, "descending"),
        ({}, 0.0, "descending"),
        ({"epochs": -1}, None, "pending"),
        ({"epochs": -1, "diverged_epoch": 3}, None, "pending"),
        ({"diverged_epoch": 3}, None, "diverged"),
        ({"diverged_epoch": 3, "target_epoch": 3}, 10.0, "diverged"),
        ({"diverged_epoch": 3, "gradient_norm": np.nan}, 10.0, "converged"),  # a cusp, where only the gradient is NaN
        ({"diverged_epoch": 3, "gradient_norm": np.nan}, 9.0, "diverged"),
        ({"target_epoch": 3}, 0.0, "converged"),
        ({"final_cost": 0.0, "best_cost": 0.0}, 0.0, "converged"),
        ({}, 10.0, "converged"),
        ({}, 10 - 5e-6, "converged"),
        ({"final_cost": -1e-3, "best_cost": -1e-3}, 0.0, "descending"),  # the stated minimum is none
        (STILL | {"final_cost": -1e-3, "best_cost": -1e-3}, 0.0, "converged"),
        ({"final_cost": 1e-7, "best_cost": 1e-7}, 0.0, "descending"),
        (RUNS_AWAY, 101.0, "diverged"),  # its lowest cost shows that the stated minimum is none
        (STILL, None, "converged"),
        (STILL, 0.0, "trapped"),
        (STILL | {"final_cost": 5e-6, "best_cost": 5e-6}, 0.0, "converged"),  # 1e-6 of slope over the way of 5
        (STILL | {"final_cost": 6e-6, "best_cost": 6e-6}, 0.0, "trapped"),
        (STILL | {"gradient_norm": 1e-2}, None, "stopped"),
        (STILL | NO_SLOPE, None, "stopped"),
        (STILL | NO_SLOPE, 0.0, "stopped"),
        (STILL | NO_SLOPE, 10.0, "converged"),
        (STILL | {"target_epoch": 7}, 0.0, "converged"),
        (FLAT | {"last_update_norm": 8e-6, "crossings": 26}, None, "converged"),
        (FLAT | {"last_update_norm": 9e-6, "crossings": 26, "highest_cost": 10.1}, None, "oscillating"),
        (FLAT | {"last_update_norm": 8e-6 / 50}, None, "converged"),
        (FLAT | {"last_update_norm": 8e-6 / 50, "progress": 1e-4}, None, "descending"),  # though a large param hides it
        (FLAT | {"last_update_norm": 8e-6 / 50, "progress": 1e-13, "final_cost": 1e-13}, None, "converged"),
        (FLAT | {"last_update_norm": 9e-6 / 50}, None, "descending"),  # creeps, by more than rounding in 50 updates
        (FLAT | {"last_update_norm": 9e-6, "crossings": 3}, None, "converged"),  # flickers
        (BOUNCES | {"gradient_norm": 6e-3, "window_gradient_norm": 6e-3}, None, "oscillating"),
        (RUNS_AWAY, None, "diverged"),
        (RUNS_AWAY, 0.0, "diverged"),
        (RUNS_AWAY | {"progress": 1}, None, "descending"),  # a new low all the same
        (RUNS_AWAY | {"progress": 0.9}, None, "oscillating"),  # a new low by chance: a hundredth of the costs' range
        (STILL | {"final_cost": 101.0}, None, "converged"),  # at a maximum, by ascent
        ({"gradient_norm": 0.0, "last_update_norm": 0.0}, None, "converged"),  # one step led to the bottom
        ({"gradient_norm": 0.0}, None, "descending"),  # momentum leads on
        (CLIMBS | {"last_update_norm": 0.3}, None, "descending"),  # towards a maximum
        (CLIMBS | {"last_update_norm": 0.3, "highest_cost": 101.4}, None, "diverged"),
        (RUNS_AWAY | {"growths": 37}, None, "oscillating"),
        (RUNS_AWAY | {"crossings": 25, "growths": 25}, None, "oscillating"),  # rolls, does not bounce
        (RUNS_AWAY | {"moves": 15, "crossings": 12, "growths": 12}, None, "diverged"),  # with pauses in between
        (RUNS_AWAY | {"final_cost": 99.0}, None, "oscillating"),  # not yet beyond its start
        (RUNS_AWAY | {"final_cost": 100.0, "best_cost": 100.0}, None, "diverged"),  # it never was below
        (BOUNCES, None, "oscillating"),
        (BOUNCES | {"swing_update_norm": 0.38}, None, "descending"),
        (BOUNCES | {"swing_update_norm": 0.38, "growths": 1}, None, "oscillating"),
        (BOUNCES | {"swing_update_norm": 0.35, "growths": 12}, None, "descending"),
        (BOUNCES | {"swing_update_norm": 0.35, "growths": 13}, None, "oscillating"),
        (BOUNCES | {"swing_update_norm": 0.039, "growths": 13}, None, "descending"),
        (CLIMBS, None, "diverged"),
        (CLIMBS | {"best_cost": 99.0}, None, "descending"),  # it was below its start, and climbs a hill
        (CLIMBS | {"highest_cost": 104.0}, None, "descending"),  # and will soon be back at its start
        (CLIMBS | {"highest_cost": 102.0}, None, "descending"),
        (CLIMBS | {"highest_cost": 104.0, "gradient_norm": 200.0, "window_gradient_norm": 201.0}, None, "diverged"),
        (CLIMBS | {"highest_cost": 104.0, "gradient_norm": 22.0, "window_gradient_norm": 24.0}, None, "descending"),
        (CLIMBS | {"highest_cost": 101.4}, None, "diverged"),
        ({"progress": 1e-7, "crossings": 3, "growths": 2}, None, "oscillating"),
        ({"progress": 1e-3, "crossings": 3, "growths": 2}, None, "descending"),
        (NOISY, None, "oscillating"),
        (NOISY | {"late_cost": 15.0, "crossings": 2}, None, "diverged"),
        (NOISY | {"late_cost": 15.0}, None, "oscillating"),  # up and down
        (NOISY | {"late_cost": 13.0, "crossings": 2}, None, "oscillating"),  # within the noise
        (NOISY | {"late_cost": 15.0, "crossings": 2, "start_cost": 20.0}, None, "oscillating"),  # below the start
        (
            NOISY | {"late_cost": 15.0, "crossings": 2, "window_cost": 10.9, "best_epoch": 85},
            None,
            "oscillating",
        ),  # up from a new low
        (NOISY | {"late_cost": 6.5}, None, "descending"),
        (NOISY | {"late_cost": 9.0, "progress": 1.0}, None, "descending"),
        (NOISY | {"late_cost": 9.0, "progress": 0.0}, None, "oscillating"),
        (NOISY | {"late_cost": 9.0, "crossings": 0}, None, "descending"),
        (NOISY | {"window": 3}, None, "descending"),
    ],
)
def test_first_rule_that_holds_wins(changes, minimum, outcome):
    codes = verdict(figures(**changes), minimum)
    assert codes.dtype == np.int8
    assert names(codes) == [outcome]


def test_tolerance_is_of_the_cost_if_a_minimum_is_known_and_else_of_the_gradient():
    assert names(verdict(figures(), 0.0, tolerance=10.0)) == ["converged"]
    assert names(verdict(figures(), 0.0, tolerance=9.0)) == ["descending"]
    assert names(verdict(figures(), None, tolerance=4.0)) == ["converged"]
    assert names(verdict(figures(), None, tolerance=3.0)) == ["descending"]
    assert names(verdict(figures(**STILL, final_cost=1e-5), 0.0, tolerance=1e-6)) == ["trapped"]


def test_tolerances_follow_dtype_and_scale(precision):
    eps = float(np.finfo(precision).eps)
    lane = figures(precision, start_cost=1e-3, gradient_norm=1e-4, start_gradient_norm=1e-2, rounding=0.0)
    within = tolerances(lane, goal(minimum=-1000.0, tolerance=None))
    assert within.cost == pytest.approx(8000 * eps)
    assert within.flat == pytest.approx(8000 * eps + min(1e-4 * 5, 1000 * eps**0.5))
    assert within.gradient == pytest.approx(1e-2 * eps**0.75)
    assert np.isnan(tolerances(lane, goal(minimum=1000.0, tolerance=None)).minimum)  # the lane's lowest cost is lower
    rounded = tolerances(figures(precision, rounding=5e-4 * eps**0.5), goal(None, None))
    assert rounded.gradient == pytest.approx(20 * max(64e-4 * eps**0.5, eps**0.75))
    too_much = tolerances(figures(precision, rounding=0.02), goal(None, None))
    assert too_much.gradient == pytest.approx(20 * eps**0.75)


@pytest.mark.filterwarnings("ignore:the lowest cost")
@pytest.mark.parametrize("by", [(None, None), (0.1, None), (0.1, 0.3), (None, 0.3)], ids=str)
def test_a_program_judges_as_numpy_does(by, precision):
    """Figures about the borders of every rule, to the last bit."""
    drawn = np.random.default_rng(0)
    lanes = 100_000

    def exactly(*numbers):
        return np.asarray(numbers, precision)[drawn.integers(len(numbers), size=lanes)]

    def some(*numbers):
        around = exactly(*numbers)
        near = np.nextafter(around, drawn.choice([-np.inf, np.inf], lanes).astype(precision))
        return np.where(around == 0, around, near)  # XLA takes what is next to 0 for 0

    def count(*numbers):
        return np.asarray(numbers, np.int32)[drawn.integers(len(numbers), size=lanes)]

    eps = float(np.finfo(precision).eps)
    has_batches = drawn.integers(2, size=lanes) == 0

    def over_batches(*numbers):
        return np.where(has_batches, some(*numbers), np.asarray(np.nan, precision))

    table = {
        "start_cost": some(0, 0.1, 1, 1000, np.nan),
        "final_cost": some(0, 0.1, 0.1 * (1 + 8 * eps), 0.4, 1, 1000, np.nan, np.inf),
        "best_cost": some(0, 0.1, 0.4, 1),
        "progress": some(0, 0.3, 8 * eps, 1, np.nan),
        "distance": exactly(0, 1, 4),  # powers of two, whose products are exact, whether or not they are fused
        "rounding": exactly(0, 2**-9, 2**-8),
        "gradient_norm": some(0, eps**0.75, eps**0.5, 0.5, 1, 3, np.nan, np.inf),
        "window_gradient_norm": some(0, eps**0.75, eps**0.5, 0.5, 1, np.nan),
        "start_gradient_norm": some(0, 1, 3),
        "highest_update_norm": some(0, 2**-6, 0.3, 3, np.nan),
        "last_update_norm": some(0, 0.3, 3),
        "swing_update_norm": some(0, 2**-6, 0.03, 0.27, 0.3 * (1 - 50 * eps), 0.3, np.nan),
        "highest_cost": some(0.1, 0.1 * (1 + 8 * eps), 1, 1000, 1020),
        "window_cost": over_batches(0.1, 1, 1000),
        "late_cost": over_batches(0.1, 0.4, 1, 1000),
        "cost_noise": over_batches(0, 0.3, 300),
        **{name: count(-1, -1, -1, 7) for name in ("target_epoch", "diverged_epoch")},
        "epochs": count(-1, 50, 50, 2000),
        "best_epoch": count(0, 40, 50),
        "window": count(50, 50, 10, 3),
        "moves": count(0, 51, 51, 12),
        "crossings": count(0, 0, 9, 30, 49),
        "growths": count(0, 0, 5, 25, 40),
    }
    with jax.enable_x64(precision == "float64"):
        within = jax.jit(lambda table, goal: judgement(table, goal, jnp))(table, goal(*by))
    codes = verdict(table, *by)
    np.testing.assert_array_equal(within, codes)
    assert set(codes) == set(range(7)) - ({TRAPPED} if by[0] is None else set())


def test_cost_below_the_stated_minimum_is_a_warning():
    lane = figures(final_cost=-1.5, best_cost=-1.5)
    with pytest.warns(
        UserWarning, match="the lowest cost, -1.5, is below the stated minimum, 0.0: lanes that come below it"
    ):
        verdict(lane, 0.0)
    verdict(lane, 0.0, tolerance=2.0)  # warnings are errors here
    with pytest.warns(UserWarning, match="is below the stated minimum, 5.0"):
        swept(lambda x: -(x**2), optax.sgd, [0.1], 1.0, 1, minimum=5.0)


def test_codes_are_cf_flags_and_pending_is_zero():
    codes = (PENDING, CONVERGED, TRAPPED, OSCILLATING, DESCENDING, DIVERGED, STOPPED)
    assert tuple(range(7)) == codes
    attributes = swept(parabola, optax.sgd, [0.1], 1.0, 2).outcome.attrs
    assert attributes["flag_values"] == list(range(7))
    assert attributes["flag_meanings"] == "pending converged trapped oscillating descending diverged stopped"


def test_verdict_of_a_dataset_is_labelled_and_the_same_as_the_sweeps():
    table = swept(parabola, optax.sgd, np.geomspace(1e-3, 3, 20), 9000.0, 100)
    again = verdict(table)
    assert again.dims == ("learning_rate",)
    np.testing.assert_array_equal(again, table.outcome)
    assert set(FIGURES) <= set(table)


def test_lanes_that_have_not_run_are_pending():
    from jaxgd import plan

    planned = plan.planned(lambda rate: jaxgd.Descent(parabola, 1.0, optax.sgd(rate)), {"rate": [0.1, 0.2]}, epochs=3)
    empty = pending(planned)
    assert names(empty.outcome) == names(verdict(empty, 5.0)) == ["pending"] * 2
