"""Named cost surfaces: the bowls, valleys, hills and saddles on which descents are compared.

Each is a pure function of x, which is a scalar for a surface of one variable and a vector for all
others; constants are keyword arguments and may be traced. The dtype of x is kept. The first paragraph
of its docstring is the equation, the second says what it is good for, the third where it comes from.

`SURFACES` adds what a function cannot say of itself: the dimension, the domain and the known minima.

>>> surface = SURFACES["rosenbrock"]
>>> surface.cost(jnp.array([1.0, 1.0])).item()
0.0
>>> surface.minima(2, a=3.0)
array([[3., 9.]])
"""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Scalar = Float[Array, ""]
Pair = Float[Array, "2"]
Vector = Float[Array, "dimension"]
Points = Float[np.ndarray, "minimum dimension"]


def parabola(x: Scalar) -> Scalar:
    """x² + 5

    The lesson's valley: one bottom, and a learning rate above 1 throws the ball out of it.

    The lesson on gradient descent that jaxgd grew from.
    """
    return x**2 + 5


def double_well(x: Scalar) -> Scalar:
    """x⁴ − 4x² + x

    Two valleys: a ball from the right is caught, while the lowest point lies over the next hill.

    The usual quartic double well, tilted by x so that one valley is deeper.
    """
    return x**4 - 4 * x**2 + x


def chaotic(x: Scalar, epsilon: float = 0.2, wavelength: float = 0.1) -> Scalar:
    """x² (1 + ε cos(2πx/λ)), with ε = epsilon and λ = wavelength

    A bowl with ripples: learning rates that converge and that diverge are interleaved at every scale.

    Liu (2024), "Complex fractal trainability boundary can arise from trivial non-convexity", arXiv:2406.13971.
    """
    return x**2 * (1 + epsilon * jnp.cos(2 * jnp.pi * x / wavelength))


def sphere(x: Vector) -> Scalar:
    """Σ xᵢ²

    The simplest bowl in many variables: one learning rate suits every direction.

    Schumer & Steiglitz (1968), "Adaptive step size random search", IEEE Trans. Automatic Control 13, 270–276.
    """
    return jnp.sum(x**2)


def quadratic(x: Vector, condition_number: float = 100.0) -> Scalar:
    """½ Σ λᵢ xᵢ², with λᵢ from 1 to the condition number in equal ratios

    A long bowl: its steep direction limits the learning rate, and its flat direction makes that rate slow.

    After f2 of Hansen, Finck, Ros & Auger (2009), INRIA research report RR-6829.
    """
    eigenvalues = condition_number ** jnp.linspace(0, 1, x.size, dtype=x.dtype)
    return jnp.sum(eigenvalues * x**2) / 2


def rosenbrock(x: Vector, a: float = 1.0, b: float = 100.0) -> Scalar:
    """Σ (a − xᵢ)² + b(xᵢ₊₁ − xᵢ²)²

    A curved, narrow valley: easy to fall into, and slow to follow to its end.

    Rosenbrock (1960), The Computer Journal 3, 175–184.
    """
    here, after = x[:-1], x[1:]
    return jnp.sum((a - here) ** 2 + b * (after - here**2) ** 2)


def himmelblau(x: Pair) -> Scalar:
    """(x² + y − 11)² + (x + y² − 7)²

    Four equally deep valleys: the start and the learning rate decide which one a descent ends in.

    Himmelblau (1972), "Applied Nonlinear Programming", McGraw-Hill.
    """
    x, y = x
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def beale(x: Pair) -> Scalar:
    """(1.5 − x + xy)² + (2.25 − x + xy²)² + (2.625 − x + xy³)²

    A wide plain between steep walls: a rate that is fast on the plain is thrown off by the walls.

    Beale (1958), Technical Report 25, Statistical Techniques Research Group, Princeton University.
    """
    x, y = x
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def booth(x: Pair) -> Scalar:
    """(x + 2y − 7)² + (2x + y − 5)²

    A mildly stretched bowl: everything the theory of quadratics promises can be read off it.

    Jamil & Yang (2013), Int. J. Mathematical Modelling and Numerical Optimisation 4, 150–194.
    """
    x, y = x
    return (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2


def matyas(x: Pair) -> Scalar:
    """0.26 (x² + y²) − 0.48xy

    A shallow trough along the diagonal: quick into the trough, slow along it.

    Jamil & Yang (2013), Int. J. Mathematical Modelling and Numerical Optimisation 4, 150–194.
    """
    x, y = x
    return 0.26 * (x**2 + y**2) - 0.48 * x * y


def branin(
    x: Pair,
    a: float = 1.0,
    b: float = 5.1 / (4 * math.pi**2),
    c: float = 5 / math.pi,
    r: float = 6.0,
    s: float = 10.0,
    t: float = 1 / (8 * math.pi),
) -> Scalar:
    """a(y − bx² + cx − r)² + s(1 − t) cos x + s

    Three equally deep valleys of different shape, in a row.

    Branin (1972), IBM Journal of Research and Development 16, 504–522.
    """
    x, y = x
    # cos x + 1 = 2 cos²(x/2): the two terms in s would cancel at the minima, and cost digits there.
    return a * (y - b * x**2 + c * x - r) ** 2 + 2 * s * (1 - t) * jnp.cos(x / 2) ** 2 + s * t


def three_hump_camel(x: Pair) -> Scalar:
    """2x² − 1.05x⁴ + x⁶/6 + xy + y²

    A central valley between two shallower ones: a start on either side is likely to be trapped.

    Branin (1972), IBM Journal of Research and Development 16, 504–522.
    """
    x, y = x
    return 2 * x**2 - 1.05 * x**4 + x**6 / 6 + x * y + y**2


def six_hump_camel(x: Pair) -> Scalar:
    """(4 − 2.1x² + x⁴/3) x² + xy + (4y² − 4) y²

    Six valleys at three depths: a map of which start ends where.

    Dixon & Szegö (1978), "The global optimization problem: an introduction", Towards Global Optimisation 2.
    """
    x, y = x
    return (4 - 2.1 * x**2 + x**4 / 3) * x**2 + x * y + (4 * y**2 - 4) * y**2


def goldstein_price(x: Pair) -> Scalar:
    """[1 + (x + y + 1)² (19 − 14x + 3x² − 14y + 6xy + 3y²)]
    · [30 + (2x − 3y)² (18 − 32x + 12x² + 48y − 36xy + 27y²)]

    Costs from 3 to a million: a learning rate that is safe on the slopes crawls at the bottom.

    Goldstein & Price (1971), "On descent from local minima", Mathematics of Computation 25, 569–574.
    """
    x, y = x
    one = 1 + (x + y + 1) ** 2 * (19 - 14 * x + 3 * x**2 - 14 * y + 6 * x * y + 3 * y**2)
    other = 30 + (2 * x - 3 * y) ** 2 * (18 - 32 * x + 12 * x**2 + 48 * y - 36 * x * y + 27 * y**2)
    return one * other


def mccormick(x: Pair) -> Scalar:
    """sin(x + y) + (x − y)² − 1.5x + 2.5y + 1

    A tilted, waving trough: its minimum is the lowest of the domain only, since beyond lies a lower wave.

    McCormick, in Lootsma (ed., 1972), "Numerical Methods for Non-linear Optimization", Academic Press.
    """
    x, y = x
    return jnp.sin(x + y) + (x - y) ** 2 - 1.5 * x + 2.5 * y + 1


def easom(x: Pair) -> Scalar:
    """−cos x cos y exp(−(x − π)² − (y − π)²)

    A plain with one hole: almost everywhere the slope is too small to tell where to go.

    Easom (1990), "A survey of global optimization techniques", M. Eng. thesis, University of Louisville.
    """
    x, y = x
    return -jnp.cos(x) * jnp.cos(y) * jnp.exp(-((x - jnp.pi) ** 2) - (y - jnp.pi) ** 2)


def saddle(x: Pair) -> Scalar:
    """x² − y²

    A pass between two hills: it holds only a ball that starts exactly on the ridge; all others fall for ever.

    The textbook saddle. Why descent leaves it: Lee, Simchowitz, Jordan & Recht (2016), COLT.
    """
    x, y = x
    return x**2 - y**2


def monkey_saddle(x: Pair) -> Scalar:
    """x³ − 3xy²

    A saddle with a place for the tail: flat to second order at its centre, so descent leaves it slowly.

    Kühnel (2008), "Differentialgeometrie", 4th ed., Vieweg.
    """
    x, y = x
    return x**3 - 3 * x * y**2


def powell_singular(x: Float[Array, "4"]) -> Scalar:
    """(w + 10x)² + 5(y − z)² + (x − 2y)⁴ + 10(w − z)⁴

    A bottom that is flat in two directions: descent never stops slowing down.

    Powell (1962), The Computer Journal 5, 147–151.
    """
    w, x, y, z = x
    return (w + 10 * x) ** 2 + 5 * (y - z) ** 2 + (x - 2 * y) ** 4 + 10 * (w - z) ** 4


def rastrigin(x: Vector, amplitude: float = 10.0) -> Scalar:
    """Σ xᵢ² + A(1 − cos 2πxᵢ), with A = amplitude

    A bowl lined with an egg box: nearly every start is trapped in the nearest of very many dimples.

    Rastrigin (1974); in n variables Mühlenbein, Schomisch & Born (1991), Parallel Computing 17, 619–632.
    """
    # 1 − cos 2z = 2 sin² z, which keeps its digits near the minimum.
    return jnp.sum(x**2 + 2 * amplitude * jnp.sin(jnp.pi * x) ** 2)


def ackley(x: Vector, a: float = 20.0, b: float = 0.2, c: float = 2 * math.pi) -> Scalar:
    """−a exp(−b √(mean xᵢ²)) − exp(mean cos cxᵢ) + a + e

    Dimples around a cone: at its tip the slope jumps, so a constant learning rate never comes to rest.

    Ackley (1987), "A Connectionist Machine for Genetic Hillclimbing", Kluwer.
    """
    square = jnp.mean(x**2)
    away = square > 0
    # √ has an infinite slope at 0, and `where` multiplies what it hides by 0: so hide 0 from √ as well.
    radius = jnp.where(away, jnp.sqrt(jnp.where(away, square, 1.0)), 0.0)
    # expm1 and 1 − cos z = 2 sin²(z/2) keep the digits that a + e would cancel near the minimum.
    dimples = -2 * jnp.mean(jnp.sin(c * x / 2) ** 2)
    return -a * jnp.expm1(-b * radius) - jnp.e * jnp.expm1(dimples)


def griewank(x: Vector) -> Scalar:
    """1 + Σ xᵢ²/4000 − Π cos(xᵢ/√i)

    Thousands of ripples on a vast, shallow bowl, which the ripples hide from anyone standing in them.

    Griewank (1981), J. Optimization Theory and Applications 34, 11–39.
    """
    return 1 + jnp.sum(x**2) / 4000 - jnp.prod(jnp.cos(x / jnp.sqrt(_ranks(x))))


def levy(x: Vector) -> Scalar:
    """sin² πw₁ + Σ (wᵢ − 1)² (1 + 10 sin²(πwᵢ + 1)) + (wₙ − 1)² (1 + sin² 2πwₙ), with wᵢ = 1 + (xᵢ − 1)/4

    Waves on the walls of a bowl: the farther out the start, the more traps on the way down.

    Laguna & Martí (2005), J. Global Optimization 33, 235–255, after Levy & Montalvo (1985).
    """
    u = (x - 1) / 4  # w − 1: every sine of w is, squared, that of u, and u is exact at the minimum
    body, last = u[:-1], u[-1]
    walls = jnp.sum(body**2 * (1 + 10 * jnp.sin(jnp.pi * body + 1) ** 2))
    return jnp.sin(jnp.pi * u[0]) ** 2 + walls + last**2 * (1 + jnp.sin(2 * jnp.pi * last) ** 2)


def styblinski_tang(x: Vector) -> Scalar:
    """½ Σ xᵢ⁴ − 16xᵢ² + 5xᵢ

    A double well in every variable: only one of 2ⁿ valleys is the lowest.

    Styblinski & Tang (1990), Neural Networks 3, 467–483.
    """
    return jnp.sum(x**4 - 16 * x**2 + 5 * x) / 2


def zakharov(x: Vector) -> Scalar:
    """Σ xᵢ² + z² + z⁴, with z = ½ Σ i xᵢ

    A bowl whose walls grow like a fourth power: a rate that suits the bottom diverges from afar.

    Jamil & Yang (2013), Int. J. Mathematical Modelling and Numerical Optimisation 4, 150–194.
    """
    z = jnp.sum(_ranks(x) * x) / 2
    return jnp.sum(x**2) + z**2 + z**4


def dixon_price(x: Vector) -> Scalar:
    """(x₁ − 1)² + Σ i (2xᵢ² − xᵢ₋₁)², i from 2

    A chain of bent valleys: each variable can settle only after the one before it.

    Dixon & Price (1989), J. Optimization Theory and Applications 60, 261–275.
    """
    before, here = x[:-1], x[1:]
    return (x[0] - 1) ** 2 + jnp.sum(_ranks(x)[1:] * (2 * here**2 - before) ** 2)


def _ranks(x: Vector) -> Vector:
    """1, 2, …, n in the dtype of x."""
    return jnp.arange(1, x.size + 1, dtype=x.dtype)


class Minima(NamedTuple):
    """What is known of a surface's lowest places. Empty where nothing is."""

    cost: float | None = None  # the lowest in the domain
    points: Sequence[Sequence[float]] = ()  # where it is reached
    local: Sequence[Sequence[float]] = ()  # other minima; not always all there are


UNKNOWN = Minima()


def _origin(dimension: int) -> Minima:
    return Minima(0.0, [[0] * dimension])


def _double_well_minima(dimension: int) -> Minima:
    return Minima(-5.4441920666108975, [[-1.4729976011140301]], local=[[1.3469974085277740]])


def _rosenbrock_minima(dimension: int, a: float, b: float) -> Minima:
    """Both squares vanish if xᵢ = a and xᵢ₊₁ = a². Beyond two variables that takes a = a²."""
    holds = b > 0 and (dimension == 2 or a in (0, 1))
    return Minima(0.0, [[a] + [a**2] * (dimension - 1)]) if holds else UNKNOWN


def _himmelblau_minima(dimension: int) -> Minima:
    """Both squares vanish: y = 11 − x², and a quartic for x that has one rational root, 3."""
    return Minima(
        0.0,
        [
            (3, 2),
            (-2.8051180869527449, 3.1313125182505730),
            (-3.7793102533777469, -3.2831859912861694),
            (3.5844283403304917, -1.8481265269644036),
        ],
    )


def _branin_minima(dimension: int, a: float, b: float, c: float, r: float, s: float, t: float) -> Minima:
    """The square vanishes along a parabola, and cos x = −1 at three places in the domain."""
    along = [(x, b * x**2 - c * x + r) for x in (-math.pi, math.pi, 3 * math.pi)]
    return Minima(s * t, along) if a > 0 and s * (1 - t) > 0 else UNKNOWN


def _three_hump_minima(dimension: int) -> Minima:
    """Where the gradient vanishes y = −x/2, and x⁴ − 4.2x² + 3.5 = 0 besides x = 0."""
    x = math.sqrt(2.1 + math.sqrt(0.91))
    return Minima(0.0, [(0, 0)], local=[(-x, x / 2), (x, -x / 2)])


def _six_hump_minima(dimension: int) -> Minima:
    return Minima(
        -1.0316284534898774,
        [(0.089842013100318062, -0.71265640302073963), (-0.089842013100318062, 0.71265640302073963)],
        local=[
            (1.7036067149699808, -0.79608356867262512),
            (-1.7036067149699808, 0.79608356867262512),
            (1.6071047529201972, 0.56865145488413137),
            (-1.6071047529201972, -0.56865145488413137),
        ],
    )


def _mccormick_minima(dimension: int) -> Minima:
    """Along x − y = 1, where cos(x + y) = −1/2."""
    x = 0.5 - math.pi / 3
    return Minima(-math.sqrt(3) / 2 - math.pi / 3, [(x, x - 1)])


def _styblinski_tang_minima(dimension: int) -> Minima:
    """Separable, so the minima are all choices of a well per variable; listed up to six variables."""
    deep, shallow = -2.9035340277711771, 2.7468027709908370
    _, *local = itertools.product((deep, shallow), repeat=dimension) if dimension <= 6 else [deep]
    return Minima(-39.166165703771415 * dimension, [[deep] * dimension], local)


def _dixon_price_minima(dimension: int) -> Minima:
    """x₁ = 1 and 2xᵢ² = xᵢ₋₁; the sign of the last variable, which no other depends on, is free."""
    *body, last = (2.0 ** (2.0 ** (1 - i) - 1) for i in range(1, dimension + 1))
    return Minima(0.0, [[*body, last], [*body, -last]])


@dataclass(frozen=True)
class Surface:
    """A cost with what is known of it.

    `minima`, `local_minima` and `minimum` take the surface's constants by name, and say nothing (no rows,
    None) where no closed form holds for them, or where there is no lowest point. Without a dimension,
    the surface's own is meant, or 2 where it has none.
    """

    cost: Callable[..., Scalar]
    dimension: int | None  # 1: x is a scalar; None: any from 2 on
    domain: tuple  # the customary box: (low, high) for every coordinate, or one such pair for each
    known: Callable[..., Minima]  # of the dimension and all constants

    @property
    def equation(self) -> str:
        """The cost in mathematical notation."""
        return self._paragraphs()[0]

    @property
    def about(self) -> str:
        """What it is good for showing, in a sentence."""
        return self._paragraphs()[1]

    @property
    def source(self) -> str:
        """Where it was published."""
        return self._paragraphs()[2]

    @property
    def constants(self) -> dict[str, float]:
        """Names and defaults, as the cost's signature has them."""
        _, *constants = inspect.signature(self.cost).parameters.values()
        return {constant.name: constant.default for constant in constants}

    def shape(self, dimension: int | None = None) -> tuple[int, ...]:
        """Shape of x: () for one variable."""
        dimension = self._allowed(dimension)
        return () if dimension == 1 else (dimension,)

    def box(self, dimension: int | None = None) -> Float[np.ndarray, "dimension 2"]:
        """The domain: low and high of every coordinate."""
        return np.broadcast_to(np.array(self.domain, float), (self._allowed(dimension), 2)).copy()

    def minima(self, dimension: int | None = None, **constants: float) -> Points:
        """Where the lowest cost is reached."""
        return self._known(dimension, constants).points

    def local_minima(self, dimension: int | None = None, **constants: float) -> Points:
        """Known minima that lie higher; not always all there are."""
        return self._known(dimension, constants).local

    def minimum(self, dimension: int | None = None, **constants: float) -> float | None:
        """The lowest cost in the domain."""
        return self._known(dimension, constants).cost

    def _known(self, dimension: int | None, constants: dict[str, float]) -> Minima:
        if unknown := constants.keys() - self.constants.keys():
            has = ", ".join(self.constants) or "none"
            raise ValueError(f"surface {self.cost.__name__}: no constant is named {min(unknown)!r}; it has {has}")
        dimension = self._allowed(dimension)
        cost, points, local = self.known(dimension, **(self.constants | constants))
        return Minima(cost, _rows(points, dimension), _rows(local, dimension))

    def _allowed(self, dimension: int | None) -> int:
        if dimension is None:
            return self.dimension or 2
        whole = isinstance(dimension, (int, np.integer)) and not isinstance(dimension, bool)
        if not whole or (dimension != self.dimension if self.dimension else dimension < 2):
            raise ValueError(
                f"surface {self.cost.__name__}: dimension is {dimension!r}; allowed is {self.dimension or '2 or more'}"
            )
        return int(dimension)

    def _paragraphs(self) -> list[str]:
        return [" ".join(paragraph.split()) for paragraph in inspect.getdoc(self.cost).split("\n\n")]


def _rows(points: Sequence[Sequence[float]], dimension: int) -> Points:
    return np.array(points, float).reshape(-1, dimension)  # so that no points still have a dimension


ANY = None

SURFACES: dict[str, Surface] = {
    "parabola": Surface(parabola, 1, (-10_000, 10_000), lambda _: Minima(5.0, [[0]])),
    "double_well": Surface(double_well, 1, (-3, 3), _double_well_minima),
    "chaotic": Surface(chaotic, 1, (-2, 2), lambda n, epsilon, wavelength: _origin(n) if abs(epsilon) < 1 else UNKNOWN),
    "sphere": Surface(sphere, ANY, (-5.12, 5.12), _origin),
    "quadratic": Surface(
        quadratic, ANY, (-5, 5), lambda n, condition_number: _origin(n) if condition_number > 0 else UNKNOWN
    ),
    "rosenbrock": Surface(rosenbrock, ANY, (-2.048, 2.048), _rosenbrock_minima),
    "himmelblau": Surface(himmelblau, 2, (-5, 5), _himmelblau_minima),
    "beale": Surface(beale, 2, (-4.5, 4.5), lambda _: Minima(0.0, [(3, 0.5)])),
    "booth": Surface(booth, 2, (-10, 10), lambda _: Minima(0.0, [(1, 3)])),
    "matyas": Surface(matyas, 2, (-10, 10), _origin),
    "branin": Surface(branin, 2, ((-5, 10), (0, 15)), _branin_minima),
    "three_hump_camel": Surface(three_hump_camel, 2, (-5, 5), _three_hump_minima),
    "six_hump_camel": Surface(six_hump_camel, 2, ((-3, 3), (-2, 2)), _six_hump_minima),
    "goldstein_price": Surface(
        goldstein_price, 2, (-2, 2), lambda _: Minima(3.0, [(0, -1)], local=[(-0.6, -0.4), (1.8, 0.2), (1.2, 0.8)])
    ),
    "mccormick": Surface(mccormick, 2, ((-1.5, 4), (-3, 4)), _mccormick_minima),
    "easom": Surface(easom, 2, (-100, 100), lambda _: Minima(-1.0, [(math.pi, math.pi)])),
    "saddle": Surface(saddle, 2, (-2, 2), lambda _: UNKNOWN),
    "monkey_saddle": Surface(monkey_saddle, 2, (-2, 2), lambda _: UNKNOWN),
    "powell_singular": Surface(powell_singular, 4, (-4, 5), _origin),
    "rastrigin": Surface(rastrigin, ANY, (-5.12, 5.12), lambda n, amplitude: _origin(n) if amplitude >= 0 else UNKNOWN),
    "ackley": Surface(ackley, ANY, (-32.768, 32.768), lambda n, a, b, c: _origin(n) if a > 0 and b > 0 else UNKNOWN),
    "griewank": Surface(griewank, ANY, (-600, 600), _origin),
    "levy": Surface(levy, ANY, (-10, 10), lambda n: Minima(0.0, [[1] * n])),
    "styblinski_tang": Surface(styblinski_tang, ANY, (-5, 5), _styblinski_tang_minima),
    "zakharov": Surface(zakharov, ANY, (-5, 10), _origin),
    "dixon_price": Surface(dixon_price, ANY, (-10, 10), _dixon_price_minima),
}
