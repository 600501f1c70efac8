"""Sharpness is the Hessian's largest eigenvalue, and the known limits are where quadratics turn unstable."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgd import stability
from jaxgd.stability import known_limit, sharpness
from jaxgd.surfaces import SURFACES

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

EPS = np.finfo(float).eps


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def rotated(eigenvalues, seed):
    """A symmetric matrix with these eigenvalues."""
    size = len(eigenvalues)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return jnp.asarray((q * eigenvalues) @ q.T)


@functools.cache
def sharpness_of_quadratic(size):
    return jax.jit(lambda hessian: sharpness(lambda x: x @ hessian @ x / 2, jnp.ones(size)))


@pytest.mark.parametrize("size", [1, 2, 7, 50, 65, 150])  # on both sides of where the Hessian is no longer written down
@given(seed=st.integers(0, 2**32 - 1), decades=st.floats(0, 6))
@settings(deadline=None, max_examples=8)
def test_sharpness_of_random_quadratics(size, seed, decades):
    eigenvalues = 10 ** np.random.default_rng(seed).uniform(0, decades, size)
    eigenvalues[:2] = (10**decades, 1)[:size]
    assert float(sharpness_of_quadratic(size)(rotated(eigenvalues, seed))) == pytest.approx(max(eigenvalues), rel=1e-8)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.full(80, 3.0),
        np.r_[np.full(40, 5.0), np.full(40, 1.0)],
        5 - 1e-9 * np.arange(80),
        np.r_[1e-3, np.full(79, -1.0)],
    ],
)
def test_crowded_spectra(eigenvalues):
    found = float(sharpness_of_quadratic(80)(rotated(eigenvalues, 0)))
    assert found == pytest.approx(eigenvalues.max(), abs=1e-8 * np.abs(eigenvalues).max())


@pytest.mark.parametrize(
    ("name", "minimum", "limit"),
    [
        ("rosenbrock", (1, 1), 0.00199680384),
        ("beale", (3, 0.5), 0.0408331712),
        ("booth", (1, 3), 1 / 9),
        ("matyas", (0, 0), 2.0),
        ("himmelblau", (3, 2), 0.0243059818),
    ],
)
def test_limits_at_minima_of_well_known_surfaces(name, minimum, limit):
    found = stability.gradient_descent_limit(sharpness(SURFACES[name].cost, jnp.array(minimum, float)))
    assert float(found) == pytest.approx(limit, rel=1e-8)


@pytest.mark.parametrize("inner", [3, 100])  # few params, and many
def test_any_tree_and_any_batch_of_them(inner):
    def cost(params):
        return jnp.sum(jnp.cos(params["a"] * params["b"][0])) + params["a"] ** 4 + jnp.sum(params["b"][1] ** 3)

    rng = np.random.default_rng(1)
    many = {
        "a": jnp.asarray(rng.normal(size=3)),
        "b": [jnp.asarray(rng.normal(size=(3, inner))), jnp.asarray(rng.normal(size=(3, 2)))],
    }

    def by_matrix(params):
        flat, as_tree = jax.flatten_util.ravel_pytree(params)
        return jnp.linalg.eigvalsh(jax.hessian(lambda x: cost(as_tree(x)))(flat))[-1]

    expected = jax.jit(jax.vmap(by_matrix))(many)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda params: sharpness(cost, params)))(many), expected, rtol=1e-10)
    alone = sharpness(cost, jax.tree.map(lambda leaf: leaf[0], many))
    assert float(alone) == pytest.approx(float(expected[0]), rel=1e-10)


def test_downward_flat_and_broken_costs():
    assert float(sharpness(lambda x: -(x**2), 1.0)) == -2
    assert float(sharpness(lambda x: x[0] ** 2 - 5 * x[1] ** 2, jnp.zeros(2))) == 2  # a saddle: the upward curvature
    assert float(sharpness(lambda x: 3 * x, 1.0)) == 0
    assert np.isnan(float(sharpness(jnp.sqrt, -1.0)))
    assert np.isnan(float(sharpness(lambda x: jnp.sqrt(x.sum()), -jnp.ones(100))))
    with pytest.raises(TypeError, match="one real number"):
        sharpness(lambda x: x, jnp.ones(2))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lower_precision(dtype):
    found = sharpness(lambda x: jnp.sum(x**2) * 3, jnp.ones(4, dtype))
    assert found.dtype == jnp.float32 and float(found) == pytest.approx(6, rel=4 * float(jnp.finfo(jnp.float32).eps))


betas, eigenvalues, scaled_rates = st.floats(0, 0.999), st.floats(1e-3, 1e3), st.floats(0.01, 5)


def spectral_radius(step):
    """Of the linear map (x, v) → (x, v), given by what it makes of the two unit vectors."""
    return np.abs(np.linalg.eigvals(np.array([step(1.0, 0.0), step(0.0, 1.0)]).T)).max()


@given(betas, eigenvalues, scaled_rates)
@settings(deadline=None)
def test_contractions_are_spectral_radii(beta, eigenvalue, scaled):
    from jaxgd import momentum_update, nesterov_update

    rate = scaled / eigenvalue
    close = {"rel": 1e-6, "abs": 1e-7}  # a double root is known to √eps only
    for rule, contraction in (
        (momentum_update, stability.polyak_contraction),
        (nesterov_update, stability.nesterov_contraction),
    ):
        radius = spectral_radius(lambda x, v, rule=rule: rule(x, v, eigenvalue * x, rate, beta))
        assert contraction(eigenvalue, rate, beta) == pytest.approx(radius, **close)
    assert stability.polyak_contraction(eigenvalue, rate, 0.0) == pytest.approx(
        stability.gradient_descent_contraction(eigenvalue, rate), **close
    )


@given(betas, eigenvalues)
@settings(deadline=None)
def test_contraction_is_one_at_the_limit_and_crosses_it_there(beta, eigenvalue):
    for limit, contraction in (
        (stability.polyak_limit(eigenvalue, beta), lambda rate: stability.polyak_contraction(eigenvalue, rate, beta)),
        (
            stability.nesterov_limit(eigenvalue, beta),
            lambda rate: stability.nesterov_contraction(eigenvalue, rate, beta),
        ),
        (
            stability.gradient_descent_limit(eigenvalue),
            lambda rate: stability.gradient_descent_contraction(eigenvalue, rate),
        ),
    ):
        assert contraction(0.999 * limit) < 1 < contraction(1.001 * limit)
        assert contraction(limit) == pytest.approx(1, abs=1e-12 / (1 - beta))  # the two roots lie 1 − β apart


@given(st.floats(1.1, 1e4), eigenvalues)
@settings(deadline=None)
def test_best_settings_on_quadratics(kappa, smallest):
    largest = kappa * smallest
    root = np.sqrt(kappa)
    expected = {
        "gradient_descent": (kappa - 1) / (kappa + 1),
        "polyak": (root - 1) / (root + 1),
        "nesterov": 1 - 2 / np.sqrt(3 * kappa + 1),
    }
    for rule, contraction in expected.items():
        best = getattr(stability, f"{rule}_best")(smallest, largest)
        momentum = () if rule == "gradient_descent" else (best.momentum,)
        reached = [
            getattr(stability, f"{rule}_contraction")(e, best.learning_rate, *momentum) for e in (smallest, largest)
        ]
        assert best.contraction == pytest.approx(contraction, rel=1e-12)
        assert max(reached) == pytest.approx(contraction, abs=1e-6)  # at a double root, so to √eps
    assert stability.polyak_best(1.0, 100.0).contraction == pytest.approx(0.818182, abs=5e-7)


@pytest.mark.parametrize("rule", ["polyak", "nesterov"])
def test_no_setting_beats_the_best(rule):
    best, contraction = (getattr(stability, f"{rule}_{what}") for what in ("best", "contraction"))
    rates, momenta = np.meshgrid(np.linspace(1e-3, 0.04, 200), np.linspace(0, 0.99, 200))
    reached = np.maximum(*(contraction(e, rates, momenta) for e in (1.0, 100.0)))
    assert best(1.0, 100.0).contraction <= reached.min() <= best(1.0, 100.0).contraction + 0.01


def test_limits_are_known_by_name_and_only_there():
    assert known_limit("gradient_descent", 4.0, {}) == 0.5
    assert known_limit("sgd", 4.0, {}) == 0.5
    assert known_limit("momentum", 4.0, {"momentum": 0.5}) == 0.75
    assert known_limit("momentum", 4.0, {}) == pytest.approx(0.95)
    assert known_limit("sgd", 4.0, {"momentum": 0.5}) == 0.75
    assert known_limit("nesterov", 4.0, {"momentum": 0.5}) == 0.375
    assert known_limit("sgd", 4.0, {"momentum": 0.5, "nesterov": True}) == 0.375
    assert known_limit("adam", 4.0, {}) is None
    assert known_limit("gradient_ascent", 4.0, {}) is None


@pytest.mark.parametrize("arrays", [np, jnp])
def test_limits_where_nothing_curves_up(arrays):
    found = stability.gradient_descent_limit(arrays.array([2.0, 0.0, -1.0, np.nan]))
    assert isinstance(found, arrays.ndarray)
    np.testing.assert_array_equal(np.asarray(found), [1.0, np.inf, 0.0, np.nan])
    assert stability.gradient_descent_limit(0) == np.inf and stability.gradient_descent_limit(-3) == 0


def test_limits_differentiate():
    assert float(jax.grad(stability.polyak_limit, 1)(jnp.array(4.0), 0.5)) == 0.5
