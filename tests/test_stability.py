"""Sharpness is the Hessian's largest eigenvalue, and the known limits are where quadratics turn unstable."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxgd import descend, stability
from jaxgd.stability import known_limit, preconditioner, sharpness
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
    assert known_limit("adam", 4.0, {}) == pytest.approx(38 / 4)
    assert known_limit("adam", 4.0, {"b1": 0.5}) == known_limit("adamw", 4.0, {"b1": 0.5, "weight_decay": 0}) == 1.5
    assert known_limit("adamw", 4.0, {}) == pytest.approx(38 / (4 + 19e-4))
    assert known_limit("rmsprop", 4.0, {}) == 0.5
    assert known_limit("rmsprop", 4.0, {"momentum": 0.5}) == 0.75
    assert known_limit("rmsprop", 4.0, {"momentum": 0.5, "nesterov": True}) == 0.375
    for other in ("adamax", "amsgrad", "nadam"):
        assert known_limit(other, 4.0, {}) is None
    assert known_limit("adam", 4.0, {"nesterov": True}) is None and known_limit("adamw", 4.0, {"mask": {}}) is None
    assert known_limit("gradient_ascent", 4.0, {}) is None


@pytest.mark.parametrize("arrays", [np, jnp])
def test_limits_where_nothing_curves_up(arrays):
    found = stability.gradient_descent_limit(arrays.array([2.0, 0.0, -1.0, np.nan]))
    assert isinstance(found, arrays.ndarray)
    np.testing.assert_array_equal(np.asarray(found), [1.0, np.inf, 0.0, np.nan])
    assert stability.gradient_descent_limit(0) == np.inf and stability.gradient_descent_limit(-3) == 0


def test_limits_differentiate():
    assert float(jax.grad(stability.polyak_limit, 1)(jnp.array(4.0), 0.5)) == 0.5


@pytest.mark.parametrize("size", [7, 80])  # on both sides of where the Hessian is no longer written down
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_preconditioned_sharpness_is_the_largest_eigenvalue_of_the_preconditioned_hessian(size, dtype):
    rng = np.random.default_rng(size)
    hessian, diagonal = np.asarray(rotated(10 ** rng.uniform(-1, 2, size), size)), 10 ** rng.uniform(-3, 1, size)
    expected = np.linalg.eigvals(hessian / diagonal[:, None]).real.max()

    def cost(params):
        x = jnp.append(params["many"], params["one"])
        return x @ jnp.asarray(hessian, dtype) @ x / 2

    as_params = lambda flat: {"many": jnp.asarray(flat[:-1], dtype), "one": jnp.asarray(flat[-1], dtype)}  # noqa: E731
    params, given = as_params(np.ones(size)), as_params(diagonal)
    for found in (
        sharpness(cost, params, preconditioner=given),
        jax.jit(lambda p: sharpness(cost, params, preconditioner=p))(given),
    ):
        assert found.dtype == dtype and float(found) == pytest.approx(expected, rel=100 * float(jnp.finfo(dtype).eps))
    ones = jax.tree.map(jnp.ones_like, params)
    assert float(sharpness(cost, params, preconditioner=ones)) == float(sharpness(cost, params))


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ([jnp.ones(2)], ValueError, "must be a tree of the same structure"),
        (
            {"x": jnp.ones(3)},
            ValueError,
            r"preconditioner\['x'\] has shape \[3\]; it must have that of the params, \[2\]",
        ),
        ({"x": jnp.array([1.0, 0.0])}, ValueError, r"preconditioner\['x'\] = .* must be positive"),
        ({"x": np.array([1.0, np.nan])}, ValueError, "must be positive"),
        ({"x": jnp.array([True, True])}, TypeError, "holds bool; it must hold positive numbers"),
        ({"x": np.array(["1", "2"])}, TypeError, "preconditioner"),
    ],
)
def test_preconditioners_that_are_none(given, error, says):
    with pytest.raises(error, match=says):
        sharpness(lambda params: jnp.sum(params["x"] ** 2), {"x": jnp.ones(2)}, preconditioner=given)


def test_a_traced_preconditioner_that_is_not_positive():
    of = jax.jit(lambda p: sharpness(lambda x: jnp.sum(x**2), jnp.ones(2), preconditioner=p))
    assert float(of(jnp.array([1.0, 4.0]))) == 2
    for wrong in ([1.0, 0.0], [1.0, -1.0], [1.0, np.nan]):
        assert np.isnan(float(of(jnp.array(wrong))))


SQUARES = [
    ("adam", {"b2": 0.9, "eps": 0.1}),
    ("adam", {"eps_root": 0.01}),
    ("adamw", {"weight_decay": 0.0}),
    *(
        ("rmsprop", {"eps": 0.1, "centered": centered, "eps_in_sqrt": in_sqrt, "bias_correction": corrected})
        for centered in (False, True)
        for in_sqrt in (False, True)
        for corrected in (False, True)
    ),
]


@pytest.mark.parametrize(("optimizer", "hyperparameters"), SQUARES)
def test_the_preconditioner_is_what_the_optimizer_divides_by(precision, optimizer, hyperparameters):
    """Without momentum the update is −ηg/p; in a chain, too."""
    given = hyperparameters | ({} if optimizer == "rmsprop" else {"b1": 0.0})
    tx = optax.chain(optax.identity(), getattr(optax, optimizer)(0.5, **given))
    params = {"a": jnp.ones(3), "b": jnp.ones(())}
    state = tx.init(params)
    for step in range(4):
        grads = {"a": jnp.array([1.0, -2.0, 0.1]) * (step + 1), "b": jnp.array(5.0 - step)}
        updates, state = tx.update(grads, state, params)
    found = preconditioner(optimizer, state, given)
    expected = jax.tree.map(lambda g, u: -0.5 * g / u, grads, updates)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.dtype(precision)
        np.testing.assert_allclose(one, other, rtol=16 * float(jnp.finfo(one.dtype).eps))


def test_preconditioners_that_no_state_holds():
    with pytest.raises(ValueError, match=r"optimizer = 'adamax': the preconditioner is known of adam, adamw, rmsprop"):
        preconditioner("adamax", optax.adamax(0.1).init(1.0), {})
    with pytest.raises(ValueError, match=r"state holds no averages of squared gradients"):
        preconditioner("adam", optax.sgd(0.1).init(1.0), {})
    two = optax.chain(optax.adam(0.1), optax.adam(0.1))
    with pytest.raises(ValueError, match=r"state holds 2 averages"):
        preconditioner("adam", two.init(1.0), {})
    assert np.isnan(preconditioner("adam", optax.adam(0.1).init(jnp.ones(2)), {})).all()  # nothing averaged yet
    np.testing.assert_allclose(preconditioner("rmsprop", optax.rmsprop(0.1).init(jnp.ones(2)), {}), 1e-4)  # √ε


@given(st.floats(0, 0.99), st.floats(0, 1), st.floats(-0.5, 1e3))
@settings(deadline=None)
def test_adamw_limit_is_where_the_spectral_radius_passes_one(b1, decay, eigenvalue):
    assume(eigenvalue + decay > 1e-3)  # nearer to 0 the radius is 1 to rounding at any rate
    limit = stability.adamw_limit(eigenvalue, b1, decay)

    def radius(rate):
        def step(x, m):
            m = b1 * m + (1 - b1) * eigenvalue * x
            return (1 - rate * decay) * x - rate * m, m

        return spectral_radius(step)

    assert radius(0.99 * limit) < 1 < radius(1.01 * limit)
    if decay == 0:
        assert limit == pytest.approx(stability.adam_limit(eigenvalue, b1))


def test_adamw_limit_where_decay_holds_what_curves_down():
    assert stability.adamw_limit(-1.0, 0.9, 0.5) == 0  # every rate leads away
    assert 0 < stability.adamw_limit(-0.25, 0.9, 0.5) < np.inf  # the decay is stronger


ADAPTIVE = [
    ("adam", {}),
    ("adam", {"b1": 0.5}),
    ("adamw", {"weight_decay": 1e-19}),
    ("rmsprop", {"eps_in_sqrt": False}),
    ("rmsprop", {"eps_in_sqrt": False, "momentum": 0.5}),
    ("rmsprop", {"eps_in_sqrt": False, "momentum": 0.5, "nesterov": True}),
]


@pytest.mark.parametrize(("optimizer", "hyperparameters"), ADAPTIVE)
def test_adaptive_optimizers_diverge_beyond_their_limit(precision, optimizer, hyperparameters):
    """optax's own, on a quadratic, with an ε beside which the gradients stay small: the preconditioner hardly moves.

    The first epochs don't count: there the correction of Adam's first moment raises the rate up to tenfold.
    """
    hessian, eps = jnp.asarray(rotated(np.array([0.5, 1.0, 4.0]), 0), float), 1e18
    given = hyperparameters | {"eps": eps}
    largest = sharpness(lambda x: x @ hessian @ x / 2, jnp.ones(3), preconditioner=jnp.full(3, eps))
    limit = float(known_limit(optimizer, largest, given))

    def growth(share):
        tx = getattr(optax, optimizer)(share * limit, **given)
        cost = descend(lambda x: x @ hessian @ x / 2, 1e-14 * jnp.ones(3), tx, epochs=100).cost
        return cost[100] / cost[40]

    assert growth(0.98) < 0.1 and growth(1.02) > 10


@pytest.mark.parametrize("seed", range(2))
def test_a_frozen_preconditioner_of_any_shape(precision, seed):
    """Adam with √ν̂ + ε held fixed: stable below the limit of P⁻¹H, unstable above, though H alone says otherwise."""
    rng = np.random.default_rng(seed)
    hessian = jnp.asarray(rotated(np.array([1.0, 2.0, 8.0, 20.0]), seed), float)
    diagonal = jnp.asarray(10 ** rng.uniform(-1, 1, 4), float)
    cost = lambda x: x @ hessian @ x / 2  # noqa: E731
    largest = float(sharpness(cost, jnp.ones(4), preconditioner=diagonal))
    divide = optax.stateless(lambda updates, _: updates / diagonal)

    def grown(share):
        tx = optax.chain(optax.ema(0.9, debias=False), divide, optax.scale(-share * known_limit("adam", largest, {})))
        history = descend(cost, jnp.ones(4), tx, epochs=200).cost
        return history[-1] / history[0]

    assert grown(0.99) < 0.1 and grown(1.01) > 10
    assert abs(largest / float(sharpness(cost, jnp.ones(4))) - 1) > 0.1
