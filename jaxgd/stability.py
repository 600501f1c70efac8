"""Why a descent is stable or not: the sharpness of a cost, and the learning rates that theory allows."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jaxgd.descent import Descent, opened

_DENSE = 64  # params up to which the Hessian is written down
_STEPS = 1000  # of the eigensolver at most; it ends sooner, once the residual is down to rounding

Number = Any  # a Python number or an array of any shape


def sharpness(cost: Callable[..., Float[Array, ""]], params: PyTree, data: PyTree = None) -> Float[Array, ""]:
    """λ = max over |v| = 1 of vᵀ H v,  with H the Hessian of the cost at params.

    The largest eigenvalue, not the largest in size: it bounds the learning rate of a descent into
    a minimum. It is negative where the cost curves down in every direction, as at the top of a hill.

    The Hessian is only ever multiplied with vectors (forward over reverse), in memory of a few
    copies of the params: LOBPCG finds the eigenvalue. Up to 64 params the products with the unit
    vectors are cheaper than that, and the matrix that they form is solved whole: no start that
    could miss a direction, and LOBPCG needs more than five params anyway.

    Pure, so it runs under `jit` and `vmap`; to call it often, `jit` it.

    Args:
      cost, params, data: as in `Descent`; the numbers are at least float32, and the result has their
        dtype. With data it is the cost of all of it.

    Returns:
      λ, to rounding of the largest |eigenvalue|; NaN where the Hessian is not finite.

    Raises:
      TypeError: what `descend` refuses.

    Source: Pearlmutter (1994), "Fast exact multiplication by the Hessian"; Knyazev (2001), "Toward
    the optimal preconditioned eigensolver: locally optimal block preconditioned conjugate gradient".
    """
    cost, params, *_ = opened(Descent(cost, params, optax.identity(), data=data))
    flat, as_params = ravel_pytree(params)
    flat = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))  # eigensolvers know no half precision
    gradient = jax.grad(lambda x: cost(as_params(x)).astype(flat.dtype))

    def times_hessian(vectors):
        return jax.vmap(lambda v: jax.jvp(gradient, (flat,), (v,))[1], 1, 1)(vectors)

    if flat.size <= _DENSE:
        return jnp.linalg.eigvalsh(times_hessian(jnp.eye(flat.size, dtype=flat.dtype)))[-1]
    from jax.experimental.sparse.linalg import lobpcg_standard  # loads scipy

    start = jax.random.normal(jax.random.key(0), (flat.size, 1), flat.dtype)
    return lobpcg_standard(times_hessian, start, _STEPS)[0][0]


def gradient_descent_limit(sharpness: Number) -> Number:
    """η = 2/λ.   Above it every step throws the ball further up the other side.

    Zero where λ < 0, for there every rate leads away, and infinite where λ = 0; as for all limits here.
    """
    return _over(2.0, sharpness)


def polyak_limit(sharpness: Number, momentum: Number) -> Number:
    """η = (2 + 2β)/λ.   Momentum 0 ≤ β < 1 allows larger rates.

    Polyak (1987), "Introduction to optimization", section 3.2.
    """
    return _over(2.0 + 2.0 * momentum, sharpness)


def nesterov_limit(sharpness: Number, momentum: Number) -> Number:
    """η = (2 + 2β)/(λ(1 + 2β)).   Looking ahead costs most of what momentum allows.

    Cohen et al. (2021), "Gradient descent on neural networks typically occurs at the edge of
    stability", arXiv:2103.00065.
    """
    return _over((2.0 + 2.0 * momentum) / (1.0 + 2.0 * momentum), sharpness)


def known_limit(optimizer: str, sharpness: Number, hyperparameters: Mapping[str, Any]) -> Number | None:
    """The largest stable learning rate of an optimizer, by its name in a config; None where theory has none.

    Args:
      optimizer: as in a config: "gradient_descent", "momentum", "nesterov", or optax's "sgd".
      sharpness: λ at the minimum.
      hyperparameters: what the optimizer is given besides its rate, by name.
    """
    rule, momentum = known_rule(optimizer, hyperparameters), hyperparameters.get("momentum")
    if rule is None or rule == "gradient_descent":
        return gradient_descent_limit(sharpness) if rule else None
    limit = polyak_limit if rule == "momentum" else nesterov_limit
    return limit(sharpness, _DEFAULT_MOMENTUM if momentum is None else momentum)


def known_rule(optimizer: str, hyperparameters: Mapping[str, Any]) -> str | None:
    """Which of the rules in `FORMULAS` an optimizer carries out, by its name in a config; None if it is another."""
    if optimizer == "sgd":
        optimizer = "gradient_descent" if hyperparameters.get("momentum") is None else "momentum"
        optimizer = "nesterov" if optimizer == "momentum" and hyperparameters.get("nesterov") else optimizer
    return optimizer if optimizer in FORMULAS else None


FORMULAS = {"gradient_descent": "2/λ", "momentum": "(2 + 2β)/λ", "nesterov": "(2 + 2β)/(λ(1 + 2β))"}
_DEFAULT_MOMENTUM = 0.9  # of jaxgd.momentum and jaxgd.nesterov


def gradient_descent_contraction(eigenvalue: Number, learning_rate: Number) -> Number:
    """ρ = |1 − ηλ|.   By how much each step shrinks the distance along one eigenvector."""
    return abs(1.0 - learning_rate * eigenvalue)


def polyak_contraction(eigenvalue: Number, learning_rate: Number, momentum: Number) -> Number:
    """ρ = max |z|,  z² − (1 + β − ηλ)z + β = 0.   As above, in the long run."""
    return _largest_root(1.0 + momentum - learning_rate * eigenvalue, momentum)


def nesterov_contraction(eigenvalue: Number, learning_rate: Number, momentum: Number) -> Number:
    """ρ = max |z|,  z² − (1 + β)(1 − ηλ)z + β(1 − ηλ) = 0.   As above, in the long run."""
    kept = 1.0 - learning_rate * eigenvalue
    return _largest_root((1.0 + momentum) * kept, momentum * kept)


class Best(NamedTuple):
    """The settings of a rule on quadratics, and what they achieve."""

    learning_rate: Number
    momentum: Number
    contraction: Number  # of the distance to the minimum per epoch, in the long run


def gradient_descent_best(smallest: Number, largest: Number) -> Best:
    """η = 2/(L + μ),  ρ = (κ − 1)/(κ + 1),  for eigenvalues from μ = smallest to L = largest, κ = L/μ.

    Polyak (1987), "Introduction to optimization", section 1.4.
    """
    return Best(2.0 / (largest + smallest), 0.0, (largest - smallest) / (largest + smallest))


def polyak_best(smallest: Number, largest: Number) -> Best:
    """η = 4/(√L + √μ)²,  β = ρ²,  ρ = (√κ − 1)/(√κ + 1).

    Polyak (1964), "Some methods of speeding up the convergence of iteration methods".
    """
    low, high = smallest**0.5, largest**0.5
    contraction = (high - low) / (high + low)
    return Best(4.0 / (high + low) ** 2, contraction**2, contraction)


def nesterov_best(smallest: Number, largest: Number) -> Best:
    """η = 4/(3L + μ),  β = (√(3κ + 1) − 2)/(√(3κ + 1) + 2),  ρ = 1 − 2/√(3κ + 1).

    The usual choice, η = 1/L and β = (√κ − 1)/(√κ + 1), serves all strongly convex costs, and on
    quadratics is slower: ρ = 1 − 1/√κ.

    Lessard, Recht & Packard (2016), "Analysis and design of optimization algorithms via integral
    quadratic constraints", SIAM Journal on Optimization 26, proposition 1.
    """
    root = (3.0 * largest / smallest + 1.0) ** 0.5
    return Best(4.0 / (3.0 * largest + smallest), (root - 2.0) / (root + 2.0), 1.0 - 2.0 / root)


def _over(numerator: Number, sharpness: Number) -> Number:
    """numerator / sharpness; infinite for 0, and 0 below."""
    where = _arrays(sharpness).where
    quotient = numerator / where(sharpness == 0, 1.0, sharpness)
    return where(sharpness == 0, np.inf, where(sharpness < 0, 0.0, quotient))[()]


def _largest_root(total: Number, product: Number) -> Number:
    """max |z| of z² − total·z + product = 0, real or complex."""
    discriminant = total**2 - 4.0 * product
    arrays = _arrays(discriminant)
    real = (abs(total) + arrays.sqrt(arrays.maximum(discriminant, 0.0))) / 2.0
    return arrays.where(discriminant < 0, arrays.sqrt(arrays.maximum(product, 0.0)), real)[()]


def _arrays(value: Number) -> Any:
    """NumPy for plain numbers, which keep their full precision whatever JAX is set to; else jax.numpy."""
    return jnp if isinstance(value, jax.Array) else np
