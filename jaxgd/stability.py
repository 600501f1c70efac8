"""Why a descent is stable or not: the sharpness of a cost, and the learning rates that theory allows."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jaxgd import checks
from jaxgd.descent import Descent, opened

_DENSE = 64  # params up to which the Hessian is written down
_STEPS = 1000  # of the eigensolver at most; it ends sooner, once the residual is down to rounding

Number = Any  # a Python number or an array of any shape


def sharpness(
    cost: Callable[..., Float[Array, ""]], params: PyTree, data: PyTree = None, *, preconditioner: PyTree = None
) -> Float[Array, ""]:
    """λ = max over |v| = 1 of vᵀ H v,  with H the Hessian of the cost at params;  or P^(-1/2) H P^(-1/2) in its place.

    The largest eigenvalue, not the largest in size: it bounds the learning rate of a descent into
    a minimum. It is negative where the cost curves down in every direction, as at the top of a hill.

    An optimizer that divides its step by the numbers p of a diagonal P sees the curvature of P⁻¹H. Its
    eigenvalues are those of the symmetric P^(-1/2) H P^(-1/2), the preconditioned Hessian.

    The Hessian is only ever multiplied with vectors (forward over reverse), in memory of a few
    copies of the params: LOBPCG finds the eigenvalue. Up to 64 params the products with the unit
    vectors are cheaper than that, and the matrix that they form is solved whole: no start that
    could miss a direction, and LOBPCG needs more than five params anyway.

    Pure, so it runs under `jit` and `vmap`; to call it often, `jit` it.

    Args:
      cost, params, data: as in `Descent`; the numbers are at least float32, and the result has their
        dtype. With data it is the cost of all of it.
      preconditioner: p, a tree of positive numbers with the structure and shapes of the params, as the function
        `preconditioner` reads it from the state of Adam; None: ones.

    Returns:
      λ, to rounding of the largest |eigenvalue|; NaN where the Hessian is not finite, or where a traced p is not
      positive.

    Raises:
      TypeError: what `descend` refuses, or a preconditioner that holds no real numbers.
      ValueError: the preconditioner has another structure or another shape than the params, or a number that is not
        positive.

    >>> def bowl(x):
    ...     return x[0] ** 2 + 10 * x[1] ** 2
    >>> print(sharpness(bowl, jnp.ones(2)), sharpness(bowl, jnp.ones(2), preconditioner=jnp.array([0.25, 4.0])))
    20.0 8.0

    Source: Pearlmutter (1994), "Fast exact multiplication by the Hessian"; Knyazev (2001), "Toward
    the optimal preconditioned eigensolver: locally optimal block preconditioned conjugate gradient".
    """
    cost, params, *_ = opened(Descent(cost, params, optax.identity(), data=data))
    flat, as_params = ravel_pytree(params)
    flat = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))  # eigensolvers know no half precision
    gradient = jax.grad(lambda x: cost(as_params(x)).astype(flat.dtype))
    scale = 1 if preconditioner is None else _inverse_root(preconditioner, params, flat.dtype)[:, None]

    def times_hessian(vectors):
        return scale * jax.vmap(lambda v: jax.jvp(gradient, (flat,), (v,))[1], 1, 1)(scale * vectors)

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


def adam_limit(sharpness: Number, b1: Number) -> Number:
    """η = (2 + 2β₁)/((1 − β₁)λ),  with λ that of the preconditioned Hessian.   At β₁ = 0.9, ηλ = 38.

    Adam with its preconditioner P held fixed is Polyak's momentum on P⁻¹H, with a velocity that is a moving average
    of the gradients: m = (1 − β₁)v, and so a rate that is 1 − β₁ times as large.

    Cohen et al. (2022), "Adaptive gradient methods at the edge of stability", arXiv:2207.14484.
    """
    return _over((2.0 + 2.0 * b1) / (1.0 - b1), sharpness)


def adamw_limit(sharpness: Number, b1: Number, weight_decay: Number) -> Number:
    """η = (2 + 2β₁)/((1 − β₁)λ + (1 + β₁)w),  with λ that of the preconditioned Hessian and w the weight decay.

    The decay is no part of the gradient: neither averaged nor preconditioned, it multiplies the params by 1 − ηw. Along
    an eigenvector of P⁻¹H, with P held fixed, (x, m) → ((1 − ηw)x − ηm', m') with m' = β₁m + (1 − β₁)λx. That map has
    the trace 1 + β₁ − ηw − η(1 − β₁)λ and the determinant β₁(1 − ηw), and its spectral radius is 1 where
    1 + trace + determinant = 0: the η above. So decay lowers the limit, by a factor of 1 + 19 w/λ at β₁ = 0.9.

    Zero where λ < −w, for there every rate leads away.
    """
    where = _arrays(sharpness).where
    return _over(
        2.0 + 2.0 * b1, where(sharpness < -weight_decay, -1.0, (1.0 - b1) * sharpness + (1.0 + b1) * weight_decay)
    )


def known_limit(optimizer: str, sharpness: Number, hyperparameters: Mapping[str, Any]) -> Number | None:
    """The largest stable learning rate of an optimizer, by its name in a config; None where theory has none.

    Args:
      optimizer: as in a config: "gradient_descent", "momentum", "nesterov", or optax's "sgd"; and of those that
        precondition (`PRECONDITIONED`) "adam", "adamw" and "rmsprop".
      sharpness: λ at the minimum. Of an optimizer that preconditions it is λ of the preconditioned Hessian,
        `sharpness(..., preconditioner=preconditioner(optimizer, state, hyperparameters))`; that of the Hessian alone
        gives a wrong limit.
      hyperparameters: what the optimizer is given besides its rate, by name; what is left out is as in optax.

    Returns:
      η, the smallest rate at which a step with the preconditioner held fixed is no longer stable on a quadratic. An
      adaptive optimizer changes its preconditioner from step to step, so that its limit holds for the state that the
      preconditioner is of: a lane beyond it need not diverge, for its own swings raise P. None for Nesterov's variant
      of Adam and for a mask on the weight decay, too.

    >>> print(f"{known_limit('adam', 100.0, {'b1': 0.9}):.3g}")
    0.38
    """
    rule, momentum = known_rule(optimizer, hyperparameters), hyperparameters.get("momentum")
    if rule is None or rule == "gradient_descent":
        return gradient_descent_limit(sharpness) if rule else None
    if rule in ("adam", "adamw"):
        b1 = _setting(optimizer, "b1", hyperparameters)
        if rule == "adam":
            return adam_limit(sharpness, b1)
        return adamw_limit(sharpness, b1, _setting(optimizer, "weight_decay", hyperparameters))
    limit = polyak_limit if rule == "momentum" else nesterov_limit
    return limit(sharpness, _DEFAULT_MOMENTUM if momentum is None else momentum)


def known_rule(optimizer: str, hyperparameters: Mapping[str, Any]) -> str | None:
    """Which of the rules in `FORMULAS` an optimizer carries out, by its name in a config; None if it is another.

    With the preconditioner held fixed, where it has one: RMSProp is then gradient descent, or momentum.
    """
    if optimizer in ("sgd", "rmsprop"):
        optimizer = "gradient_descent" if hyperparameters.get("momentum") is None else "momentum"
        optimizer = "nesterov" if optimizer == "momentum" and hyperparameters.get("nesterov") else optimizer
    elif optimizer in PRECONDITIONED and (hyperparameters.get("nesterov") or hyperparameters.get("mask") is not None):
        return None
    return optimizer if optimizer in FORMULAS else None


FORMULAS = {
    "gradient_descent": "2/λ",
    "momentum": "(2 + 2β)/λ",
    "nesterov": "(2 + 2β)/(λ(1 + 2β))",
    "adam": "(2 + 2β₁)/((1 − β₁)λ)",
    "adamw": "(2 + 2β₁)/((1 − β₁)λ + (1 + β₁)w)",
}
PRECONDITIONED = ("adam", "adamw", "rmsprop")  # their λ is that of the preconditioned Hessian
_DEFAULT_MOMENTUM = 0.9  # of jaxgd.momentum and jaxgd.nesterov


def preconditioner(optimizer: str, state: PyTree, hyperparameters: Mapping[str, Any]) -> PyTree:
    """p = √(ν̂ + ε_root) + ε:   what Adam, AdamW or RMSProp divided its last step by, from its state.

    ν̂ = ν/(1 − β₂ᵗ) is the average of squared gradients after t updates, corrected as optax corrects it. RMSProp has
    p = √(ν + ε), or √ν + ε without `eps_in_sqrt`, and subtracts the squared average of the gradients if `centered`.
    The correction of Adam's first moment, 1 − β₁ᵗ, is no part of p: it is nearly 1 after some tens of updates.

    Args:
      optimizer: "adam", "adamw" or "rmsprop": the state does not say which optimizer it is of.
      state: of that optimizer, alone or within that of a chain.
      hyperparameters: what the optimizer is given besides its rate, by name; what is left out is as in optax.

    Returns:
      p, a tree with the structure and shapes of the params. Before the first update nothing is averaged yet: NaN where
      the average is corrected, as in Adam; of ε alone where it is not, as in RMSProp.

    Raises:
      ValueError: another optimizer, or a state that holds no average of squared gradients, or several.

    >>> adam = optax.adam(0.1)
    >>> _, state = adam.update(jnp.array([3.0, -4.0]), adam.init(jnp.zeros(2)))
    >>> print(preconditioner("adam", state, {}).round())
    [3. 4.]
    """
    if optimizer not in PRECONDITIONED:
        known = ", ".join(PRECONDITIONED)
        raise ValueError(f"optimizer = {checks.shown(optimizer)}: the preconditioner is known of {known}")
    parts = jax.tree.leaves(state, is_leaf=lambda part: hasattr(part, "nu"))
    parts = [part for part in parts if hasattr(part, "nu")]
    if len(parts) != 1:
        raise ValueError(
            f"state holds {len(parts) or 'no'} averages of squared gradients (nu); it must be that of one "
            f"optax.{optimizer}, alone or within a chain"
        )
    (part,), decay = parts, _setting(optimizer, "b2" if optimizer != "rmsprop" else "decay", hyperparameters)
    eps = _setting(optimizer, "eps", hyperparameters)
    is_corrected = "count" in part._fields  # every tuple has a method of that name
    kept = 1 - decay**part.count if is_corrected else 1  # the sum of the weights of the average
    squares = jax.tree.map(lambda nu: nu / kept, part.nu)
    if optimizer != "rmsprop":
        root = _setting(optimizer, "eps_root", hyperparameters)
        return jax.tree.map(lambda square: jnp.sqrt(square + root) + eps, squares)
    if _setting(optimizer, "centered", hyperparameters):
        squares = jax.tree.map(lambda square, mu: square - (mu / kept) ** 2, squares, part.mu)
    if _setting(optimizer, "eps_in_sqrt", hyperparameters):
        return jax.tree.map(lambda square: jnp.sqrt(square + eps), squares)
    return jax.tree.map(lambda square: jnp.sqrt(square) + eps, squares)


def _setting(optimizer: str, name: str, hyperparameters: Mapping[str, Any]) -> Any:
    """A hyperparameter of an optimizer of optax, or its default there."""
    return hyperparameters.get(name, inspect.signature(getattr(optax, optimizer)).parameters[name].default)


def _inverse_root(preconditioner: PyTree, params: PyTree, dtype: Any) -> Float[Array, " params"]:
    """p^(-1/2), as one vector; NaN where p is not positive, which raises a ValueError unless p is traced."""
    if jax.tree.structure(preconditioner) != jax.tree.structure(params):
        raise ValueError(
            f"preconditioner is {jax.tree.structure(preconditioner)} and params are {jax.tree.structure(params)}: "
            "it must be a tree of the same structure, with a positive number for each of the params"
        )
    checks.held_leaves("preconditioner", preconditioner)
    given = jax.tree_util.tree_leaves_with_path(preconditioner)
    for (path, leaf), param in zip(given, jax.tree.leaves(params), strict=True):
        name, kind = f"preconditioner{jax.tree_util.keystr(path)}", jnp.result_type(leaf)
        if not (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)):
            raise TypeError(f"{name} holds {kind}; it must hold positive numbers")
        if jnp.shape(leaf) != jnp.shape(param):
            shape = list(jnp.shape(param))
            raise ValueError(f"{name} has shape {list(jnp.shape(leaf))}; it must have that of the params, {shape}")
        if not isinstance(leaf, jax.core.Tracer) and not np.all(np.asarray(leaf) > 0):
            raise ValueError(f"{name} = {checks.shown(leaf)}: must be positive")
    diagonal = jnp.concatenate([jnp.ravel(jnp.asarray(leaf, dtype)) for _, leaf in given])
    return jnp.where(diagonal > 0, 1 / jnp.sqrt(diagonal), jnp.nan)


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
