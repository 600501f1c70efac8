"""Laws that every named surface keeps. The registry is walked: a new surface is tested by existing.

Tolerances come from the dtype: a computed cost is the exact cost of a point that is wrong in its last
digits, so it may be wrong by eps·|x|·|gradient|, where that vanishes by eps·|x|²·|Hessian|/2, and a
gradient by eps·|x|·|Hessian|. `ROUNDINGS` says how many last digits, per variable.
"""

import doctest
import functools
import itertools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgd import surfaces
from jaxgd.surfaces import SURFACES

ROUNDINGS = 8

# The definitions as the literature prints them, in plain NumPy, written apart from `surfaces`. Analytic in x,
# so that a complex step differentiates them without rounding.
DEFINITIONS = {
    "parabola": lambda x: x[0] ** 2 + 5,
    "double_well": lambda x: x[0] ** 4 - 4 * x[0] ** 2 + x[0],
    "chaotic": lambda x: x[0] ** 2 * (1 + 0.2 * np.cos(2 * np.pi * x[0] / 0.1)),
    "sphere": lambda x: sum(v * v for v in x),
    "quadratic": lambda x: sum(100 ** (i / (len(x) - 1)) * v**2 / 2 for i, v in enumerate(x)),
    "rosenbrock": lambda x: sum(100 * (after - v**2) ** 2 + (1 - v) ** 2 for v, after in itertools.pairwise(x)),
    "himmelblau": lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2,
    "beale": lambda x: sum((c - x[0] + x[0] * x[1] ** k) ** 2 for k, c in enumerate((1.5, 2.25, 2.625), start=1)),
    "booth": lambda x: (x[0] + 2 * x[1] - 7) ** 2 + (2 * x[0] + x[1] - 5) ** 2,
    "matyas": lambda x: 0.26 * (x[0] ** 2 + x[1] ** 2) - 0.48 * x[0] * x[1],
    "branin": lambda x: (
        (x[1] - 5.1 / (4 * np.pi**2) * x[0] ** 2 + 5 / np.pi * x[0] - 6) ** 2
        + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x[0])
        + 10
    ),
    "three_hump_camel": lambda x: 2 * x[0] ** 2 - 1.05 * x[0] ** 4 + x[0] ** 6 / 6 + x[0] * x[1] + x[1] ** 2,
    "six_hump_camel": lambda x: (
        (4 - 2.1 * x[0] ** 2 + x[0] ** 4 / 3) * x[0] ** 2 + x[0] * x[1] + (-4 + 4 * x[1] ** 2) * x[1] ** 2
    ),
    "goldstein_price": lambda x: (
        (1 + (x[0] + x[1] + 1) ** 2 * (19 - 14 * x[0] + 3 * x[0] ** 2 - 14 * x[1] + 6 * x[0] * x[1] + 3 * x[1] ** 2))
        * (
            30
            + (2 * x[0] - 3 * x[1]) ** 2
            * (18 - 32 * x[0] + 12 * x[0] ** 2 + 48 * x[1] - 36 * x[0] * x[1] + 27 * x[1] ** 2)
        )
    ),
    "mccormick": lambda x: np.sin(x[0] + x[1]) + (x[0] - x[1]) ** 2 - 1.5 * x[0] + 2.5 * x[1] + 1,
    "easom": lambda x: -np.cos(x[0]) * np.cos(x[1]) * np.exp(-((x[0] - np.pi) ** 2 + (x[1] - np.pi) ** 2)),
    "saddle": lambda x: x[0] ** 2 - x[1] ** 2,
    "monkey_saddle": lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2,
    "powell_singular": lambda x: (
        (x[0] + 10 * x[1]) ** 2 + 5 * (x[2] - x[3]) ** 2 + (x[1] - 2 * x[2]) ** 4 + 10 * (x[0] - x[3]) ** 4
    ),
    "rastrigin": lambda x: 10 * len(x) + sum(v**2 - 10 * np.cos(2 * np.pi * v) for v in x),
    "ackley": lambda x: (
        -20 * np.exp(-0.2 * np.sqrt(np.mean(x**2))) - np.exp(np.mean(np.cos(2 * np.pi * x))) + 20 + np.e
    ),
    "griewank": lambda x: (
        1 + sum(v**2 for v in x) / 4000 - np.prod([np.cos(v / np.sqrt(i)) for i, v in enumerate(x, start=1)])
    ),
    "levy": lambda x: levy_of_w(1 + (x - 1) / 4),
    "styblinski_tang": lambda x: sum(v**4 - 16 * v**2 + 5 * v for v in x) / 2,
    "zakharov": lambda x: (
        sum(v**2 for v in x) + sum(sum(0.5 * i * v for i, v in enumerate(x, start=1)) ** power for power in (2, 4))
    ),
    "dixon_price": lambda x: (
        (x[0] - 1) ** 2
        + sum(i * (2 * v**2 - before) ** 2 for i, (before, v) in enumerate(itertools.pairwise(x), start=2))
    ),
}


def levy_of_w(w):
    middle = sum((v - 1) ** 2 * (1 + 10 * np.sin(np.pi * v + 1) ** 2) for v in w[:-1])
    return np.sin(np.pi * w[0]) ** 2 + middle + (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2)


# Lowest costs as printed: Jamil & Yang (2013), and the Virtual Library of Simulation Experiments at sfu.ca.
PUBLISHED_MINIMA = {
    "branin": "0.397887",
    "six_hump_camel": "-1.0316",
    "goldstein_price": "3",
    "mccormick": "-1.9133",
    "easom": "-1",
    "styblinski_tang": "-78.332",
}

# 2/sharpness at a minimum: where gradient descent with a larger rate can no longer stay.
PUBLISHED_LIMITS = {
    "rosenbrock": 0.00199680384,
    "beale": 0.0408331712,
    "booth": 1 / 9,
    "matyas": 2.0,
    "himmelblau": 0.0243059818,
}


class Case(NamedTuple):
    name: str
    dimension: int
    dtype: type

    def __str__(self):
        return f"{self.name}-{self.dimension}-{self.dtype.__name__}"

    @property
    def surface(self):
        return SURFACES[self.name]

    @property
    def eps(self):
        return ROUNDINGS * np.finfo(self.dtype).eps


class Seen(NamedTuple):
    """What the surface says at some points, all in float64."""

    points: np.ndarray  # [point, dimension], rounded to the dtype
    cost: np.ndarray  # [point]
    gradient: np.ndarray  # [point, dimension]
    hessian: np.ndarray  # [point, dimension, dimension]


CASES = [
    Case(name, dimension, dtype)
    for name, surface in SURFACES.items()
    for dimension in ([surface.dimension] if surface.dimension else [2, 3, 10])
    for dtype in (np.float32, np.float64)
]

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_case_with_a_lowest_point = pytest.mark.parametrize(
    "case", [case for case in CASES if case.surface.minimum(case.dimension) is not None], ids=str
)
every_case_with_local_minima = pytest.mark.parametrize(
    "case", [case for case in CASES if len(case.surface.local_minima(case.dimension))], ids=str
)
every_surface = pytest.mark.parametrize("name", SURFACES)


@functools.cache
def program(case):
    """Cost, gradient and Hessian at many points, the constants traced."""

    def gradient(x, constants):
        cost, gradient = jax.value_and_grad(case.surface.cost)(x, **constants)
        return gradient, (cost, gradient)

    return jax.jit(jax.vmap(jax.jacfwd(gradient, has_aux=True), in_axes=(0, None)))


def see(case, points, **constants):
    constants = {name: case.dtype(value) for name, value in (case.surface.constants | constants).items()}
    n, points = case.dimension, np.array(points, case.dtype)
    with jax.enable_x64(case.dtype is np.float64):
        hessian, (cost, gradient) = program(case)(points.reshape(-1, *case.surface.shape(n)), constants)
    shapes = {"points": (-1, n), "cost": -1, "gradient": (-1, n), "hessian": (-1, n, n)}
    seen = zip(shapes.values(), (points, cost, gradient, hessian), strict=True)
    return Seen(*(np.array(each, float).reshape(shape) for shape, each in seen))


@functools.cache
def survey(case):
    """The surface at its minima, at its corners, across its domain and close around its minima; one compilation."""
    rng = np.random.default_rng(0)
    surface, n = case.surface, case.dimension
    low, high = box = surface.box(n).T
    minima, local = surface.minima(n), surface.local_minima(n)
    around = np.concatenate([minima, local])[:, None] + [
        [scale * rng.normal(size=n) for scale in 10.0 ** -np.arange(8)]
    ]
    groups = {
        "minima": minima,
        "local": local,
        "corners": np.array(list(itertools.product(*box.T))),
        "centre": box.mean(0)[None],
        "inside": rng.uniform(low, high, (256, n)),
        "around": np.clip(around.reshape(-1, n), low, high),
    }
    seen = see(case, np.concatenate(list(groups.values())))
    ends = np.cumsum([len(points) for points in groups.values()])
    return {
        name: Seen(*parts) for name, *parts in zip(groups, *(np.split(each, ends[:-1]) for each in seen), strict=True)
    }


def size(array):
    """Euclidean norm of every row."""
    return np.sqrt((array**2).sum(tuple(range(1, array.ndim))))


def cost_error(case, seen):
    """By how much a computed cost may be wrong: the terms that cancel are as large as those of its Taylor series."""
    away = size(seen.points)
    terms = np.abs(seen.cost) + size(seen.gradient) * away + size(seen.hessian) * away**2 / 2
    return case.eps * case.dimension * np.maximum(1, terms)


def gradient_error(case, seen):
    """By how much a computed gradient may be wrong; what is too small for the dtype is lost."""
    curve = size(seen.hessian) * np.maximum(1, size(seen.points))
    return case.eps * case.dimension * (size(seen.gradient) + curve) + np.finfo(case.dtype).tiny


def differentiated(definition, x):
    """Gradient by a complex step, which subtracts nothing and so loses no digits. Squire & Trapp (1998)."""
    return np.array([definition(x + 1e-30j * axis).imag / 1e-30 for axis in np.eye(len(x))])


@every_case
def test_cost_at_the_minima_is_the_minimum(case):
    minimum = case.surface.minimum(case.dimension)
    minima = survey(case)["minima"]
    assert (len(minima.points) > 0) == (minimum is not None)
    assert all(abs(minima.cost - minimum) <= case.eps * max(1, abs(minimum))) if minimum is not None else True


@every_case
@pytest.mark.parametrize("group", ["minima", "local"])
def test_gradient_vanishes_at_the_minima_and_the_hessian_is_positive_semidefinite(case, group):
    seen = survey(case)[group]
    assert all(size(seen.gradient) <= gradient_error(case, seen))
    lowest_curvature = np.linalg.eigvalsh(seen.hessian)[:, 0]
    assert all(lowest_curvature >= -case.eps * case.dimension * size(seen.hessian))


@every_case
def test_minima_are_distinct_and_in_the_domain(case):
    low, high = case.surface.box(case.dimension).T
    points = np.concatenate([case.surface.minima(case.dimension), case.surface.local_minima(case.dimension)])
    assert ((low <= points) & (points <= high)).all()
    assert len(np.unique(points.round(3), axis=0)) == len(points)


@every_case_with_a_lowest_point
def test_nothing_in_the_domain_lies_below_the_minimum(case):
    minimum = case.surface.minimum(case.dimension)
    for seen in survey(case).values():
        assert all(seen.cost >= minimum - case.eps * max(1, abs(minimum)))


@every_case_with_local_minima
def test_local_minima_lie_above_the_minimum_and_below_their_neighbours(case):
    local = survey(case)["local"]
    assert all(local.cost > case.surface.minimum(case.dimension) + cost_error(case, local))
    around = survey(case)["around"].cost.reshape(-1, 8)[-len(local.points) :, 2:]  # those within 1 % of a unit
    assert (around >= (local.cost - cost_error(case, local))[:, None]).all()


@every_case
def test_cost_gradient_and_hessian_are_finite(case):
    for seen in survey(case).values():
        assert all(np.isfinite(each).all() for each in seen)


@every_case
@pytest.mark.parametrize("group", ["corners", "inside"])
def test_cost_and_gradient_agree_with_the_definition(case, group):
    seen = Seen(*(each[:64] for each in survey(case)[group]))
    definition = DEFINITIONS[case.name]
    cost = np.array([definition(x) for x in seen.points])
    gradient = np.array([differentiated(definition, x) for x in seen.points])
    assert all(abs(seen.cost - cost) <= cost_error(case, seen))
    assert all(size(seen.gradient - gradient) <= gradient_error(case, seen))


@every_case
def test_one_call_with_default_constants_agrees_with_the_batch(case):
    inside = survey(case)["inside"]
    with jax.enable_x64(case.dtype is np.float64):
        x = jnp.asarray(inside.points[0], case.dtype).reshape(case.surface.shape(case.dimension))
        cost = case.surface.cost(x)
    assert abs(float(cost) - inside.cost[0]) <= cost_error(case, inside)[0]


@every_case
def test_dtype_is_kept(case):
    x = jax.ShapeDtypeStruct(case.surface.shape(case.dimension), case.dtype)
    with jax.enable_x64(True):  # so that nothing is cut down to float32 behind our back
        assert jax.eval_shape(case.surface.cost, x) == jax.ShapeDtypeStruct((), case.dtype)
        assert jax.eval_shape(jax.grad(case.surface.cost), x) == x


@every_surface
def test_gradient_compiles_without_gathers(name):
    surface = SURFACES[name]
    text = str(jax.make_jaxpr(jax.grad(surface.cost))(jnp.ones(surface.shape())))
    assert not re.search("gather|scatter|dynamic_slice", text)


@every_surface
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_any_point_of_the_domain_has_a_finite_gradient_and_lies_no_lower_than_the_minimum(name, data):
    surface = SURFACES[name]
    case = Case(name, len(surface.box()), np.float32)
    x = data.draw(st.tuples(*(st.floats(low, high) for low, high in surface.box())))
    seen = see(case, [x])
    assert np.isfinite(seen.cost) and np.isfinite(seen.gradient).all()
    minimum = surface.minimum()
    assert minimum is None or seen.cost >= minimum - case.eps * max(1, abs(minimum))


@pytest.mark.parametrize("case", [case for case in CASES if case.surface.constants], ids=str)
def test_minima_follow_the_constants(case):
    for name, value in case.surface.constants.items():
        constants = {name: 1.1 * value}
        minimum = case.surface.minimum(case.dimension, **constants)
        if minimum is None:
            continue
        seen = see(case, case.surface.minima(case.dimension, **constants), **constants)
        assert all(abs(seen.cost - minimum) <= cost_error(case, seen))
        assert all(size(seen.gradient) <= gradient_error(case, seen))


@pytest.mark.parametrize(
    ("name", "dimension", "constants"),
    [
        ("rosenbrock", 3, {"a": 2.0}),
        ("rosenbrock", 2, {"b": -1.0}),
        ("chaotic", 1, {"epsilon": 1.5}),
        ("quadratic", 2, {"condition_number": -1.0}),
        ("branin", 2, {"s": -10.0}),
        ("rastrigin", 2, {"amplitude": -1.0}),
        ("ackley", 2, {"b": -0.2}),
        ("saddle", 2, {}),
        ("monkey_saddle", 2, {}),
    ],
)
def test_minima_are_not_claimed_where_none_is_known(name, dimension, constants):
    surface = SURFACES[name]
    assert surface.minimum(dimension, **constants) is None
    assert surface.minima(dimension, **constants).shape == (0, dimension)
    assert surface.local_minima(dimension, **constants).shape == (0, dimension)


@pytest.mark.parametrize("name", PUBLISHED_MINIMA)
def test_minimum_agrees_with_the_published_figure(name):
    printed = PUBLISHED_MINIMA[name]
    last_digit = 10.0 ** -len(printed.partition(".")[2])
    assert abs(SURFACES[name].minimum() - float(printed)) <= last_digit  # some authors round, some cut


@pytest.mark.parametrize("name", PUBLISHED_LIMITS)
def test_limit_of_the_learning_rate_at_the_minimum(name):
    seen = survey(Case(name, 2, np.float64))["minima"]
    sharpness = np.linalg.eigvalsh(seen.hessian[0])[-1]
    np.testing.assert_allclose(2 / sharpness, PUBLISHED_LIMITS[name], rtol=5e-9)  # printed to nine digits


@pytest.mark.parametrize("condition_number", [1.0, 10.0, 1e6])
def test_eigenvalues_of_the_quadratic_span_its_condition_number(condition_number):
    case = Case("quadratic", 10, np.float64)
    seen = see(case, np.ones((1, 10)), condition_number=condition_number)
    expected = np.diag(np.geomspace(1, condition_number, 10))
    np.testing.assert_allclose(seen.hessian[0], expected, rtol=10 * case.eps)


@pytest.mark.parametrize("dimension", [2, 3, 10])
def test_rosenbrock_agrees_with_scipy(dimension):
    case = Case("rosenbrock", dimension, np.float64)
    inside = survey(case)["inside"]
    assert all(abs(inside.cost - scipy.optimize.rosen(inside.points.T)) <= cost_error(case, inside))
    gradient = scipy.optimize.rosen_der(inside.points.T).T
    assert all(size(inside.gradient - gradient) <= gradient_error(case, inside))


def test_styblinski_tang_has_a_valley_for_every_choice_of_wells():
    surface = SURFACES["styblinski_tang"]
    assert [len(surface.local_minima(n)) for n in (2, 3, 6, 7)] == [3, 7, 63, 0]


@every_surface
def test_registry_entry_is_complete(name):
    surface = SURFACES[name]
    assert surface.cost is getattr(surfaces, name)
    assert surface.equation and surface.about.endswith(".") and surface.source.endswith(".")
    assert all(isinstance(value, float) for value in surface.constants.values())
    assert (surface.box()[:, 0] < surface.box()[:, 1]).all()
    assert name in DEFINITIONS


def test_constants_come_from_the_signature():
    assert SURFACES["rosenbrock"].constants == {"a": 1.0, "b": 100.0}
    assert SURFACES["chaotic"].constants == {"epsilon": 0.2, "wavelength": 0.1}
    with pytest.raises(ValueError, match="rosenbrock: no constant is named 'c'; it has a, b"):
        SURFACES["rosenbrock"].minima(2, c=1.0)
    with pytest.raises(ValueError, match="beale: no constant is named 'a'; it has none"):
        SURFACES["beale"].minimum(a=1.0)


@every_surface
@pytest.mark.parametrize("ask", ["shape", "box", "minima", "local_minima", "minimum"])
def test_dimensions_that_do_not_exist_are_refused(name, ask):
    surface = SURFACES[name]
    allowed = surface.dimension or "2 or more"
    for dimension in (0, -1, 2.5, "2", True, 5 if surface.dimension else 1):
        with pytest.raises(ValueError, match=f"{name}: dimension is {dimension!r}; allowed is {allowed}"):
            getattr(surface, ask)(dimension)


def test_shapes_and_boxes():
    assert SURFACES["parabola"].shape() == ()
    assert SURFACES["beale"].shape() == (2,)
    assert SURFACES["rosenbrock"].shape() == (2,)
    assert SURFACES["rosenbrock"].shape(7) == (7,)
    assert SURFACES["double_well"].minima().shape == (1, 1)
    assert SURFACES["branin"].box().tolist() == [[-5, 10], [0, 15]]
    assert SURFACES["rastrigin"].box(3).tolist() == [[-5.12, 5.12]] * 3


def test_examples_in_the_docstrings():
    assert doctest.testmod(surfaces).failed == 0
