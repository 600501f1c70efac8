"""Small networks as cost surfaces: random weights, a forward pass, a cost, and the way back layer by layer.

The surface of the lesson has one dimension; that of a network has as many as the network has weights.
Nothing here knows of batches or sweeps: a network is a cost of (params, batch), as any other.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, Num, PyTree

from jaxgd.keys import key_of

Batch = tuple[Float[Array, "row feature"], Num[Array, "row ..."]]  # inputs, targets


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron: a₀ = inputs;  zₗ = aₗ₋₁ Wₗ + bₗ,  aₗ = φ(zₗ);  outputs = z of the last layer.

    A record of what describes the network; its params are a tree of their own, and every method is a
    pure function of them.

    Args:
      sizes: how many features, then units layer by layer, then outputs: (64, 32, 10).
      activation: φ of the hidden layers, one of `ACTIVATIONS`, by its name in `jax.nn`.
      initialisation: how weights start, one of `INITIALISATIONS`. Biases start at zero; with
        "standard_normal" they too are drawn.
      bias: whether layers have one.
      loss: one of `LOSSES`, by its name in optax.

    Raises:
      ValueError: sizes that make no network, or a name that is not known.

    >>> network = MLP(sizes=(2, 3, 1), loss="squared_error")
    >>> params = network.init(0)
    >>> jax.tree.map(jnp.shape, params)
    {'hidden': {'bias': (3,), 'kernel': (2, 3)}, 'output': {'bias': (1,), 'kernel': (3, 1)}}
    >>> history = descend(network.cost, params, optax.sgd(0.1), epochs=5, data=(jnp.eye(2), jnp.ones(2)))
    >>> bool(history.cost[5] < history.cost[0])
    True
    """

    sizes: tuple[int, ...]
    activation: str = "tanh"
    initialisation: str = "glorot_normal"
    bias: bool = True
    loss: str = "softmax_cross_entropy_with_integer_labels"

    def __post_init__(self):
        sizes = tuple(self.sizes)
        if len(sizes) < 2 or not all(isinstance(n, (int, np.integer)) and n >= 1 for n in sizes):
            raise ValueError(f"sizes = {self.sizes!r}: must be two or more whole numbers from 1, as (64, 32, 10)")
        object.__setattr__(self, "sizes", tuple(map(int, sizes)))
        for field, known in {"activation": ACTIVATIONS, "initialisation": INITIALISATIONS, "loss": LOSSES}.items():
            if getattr(self, field) not in known:
                raise ValueError(f"{field} = {getattr(self, field)!r}: {_not_among(getattr(self, field), known)}")

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, from the first to the last."""
        hidden = len(self.sizes) - 2
        return (*(("hidden",) if hidden == 1 else (f"hidden_{i + 1}" for i in range(hidden))), "output")

    def init(self, key: Key[Array, ""] | int) -> PyTree:
        """Random params {layer: {"kernel": [in, out], "bias": [out]}}, each drawn by key and name alone.

        Args:
          key: a seed, or a key of `jax.random`.
        """
        draw = INITIALISATIONS[self.initialisation]
        params: dict[str, dict[str, Array]] = {}
        for name, size, units in zip(self.layers, self.sizes, self.sizes[1:], strict=False):
            params[name] = {"kernel": draw(key_of(key, f"{name}.kernel"), (size, units), float)}
            if self.bias:
                drawn = draw if self.initialisation == "standard_normal" else jax.nn.initializers.zeros
                params[name]["bias"] = drawn(key_of(key, f"{name}.bias"), (units,), float)
        return params

    def __call__(self, params: PyTree, inputs: Float[Array, "row feature"]) -> Float[Array, "row output"]:
        """The outputs: of the last layer, before any softmax or sigmoid, which belong to the loss.

        Raises:
          ValueError: inputs of another number of features than the network takes.
        """
        return self._forward(params, inputs)[-1][1]

    def cost(self, params: PyTree, batch: Batch) -> Float[Array, ""]:
        """The mean loss over the rows of a batch (and over the outputs, where each has a loss of its own).

        Args:
          params: as `init` gives them.
          batch: inputs [row, feature], and targets [row] or [row, output] as the loss takes them.

        Raises:
          ValueError: inputs or targets that do not fit the network.
        """
        return self._mean_loss(self(params, batch[0]), batch[1])

    def accuracy(self, params: PyTree, batch: Batch) -> Float[Array, ""]:
        """The share of rows whose class the outputs tell rightly.

        Raises:
          ValueError: the loss knows no classes; or as `cost`.
        """
        loss, (inputs, targets) = LOSSES[self.loss], batch
        if loss.is_right is None:
            raise ValueError(f"loss = {self.loss!r} tells no classes apart, so there is no accuracy")
        return jnp.mean(loss.is_right(*self._fitted(self(params, inputs), targets)).astype(float))

    def backpropagation(self, params: PyTree, batch: Batch) -> dict[str, "Layer"]:
        """What back-propagation computes on its way there and back, layer by layer.

        δ of the last layer is the slope of the loss; δₗ = (δₗ₊₁ Wₗ₊₁ᵀ) ⊙ φ′(zₗ);
        ∂C/∂Wₗ = aₗ₋₁ᵀ δₗ and ∂C/∂bₗ = Σ δₗ over the rows. All of it comes from `jax.grad`, to which δₗ is the slope
        of the cost by a nudge to zₗ.

        Returns:
          A `Layer` by the name of each, from the first to the last.

        Source: Rumelhart, Hinton & Williams (1986), "Learning representations by back-propagating errors".
        """
        rows = len(batch[0])

        def nudged(params, nudges):
            passed = self._forward(params, batch[0], nudges)
            return self._mean_loss(passed[-1][1], batch[1]), passed

        nudges = [jnp.zeros((rows, units), float) for units in self.sizes[1:]]
        (grads, deltas), passed = jax.grad(nudged, (0, 1), has_aux=True)(params, nudges)
        outputs = [inputs for inputs, _ in passed[1:]] + [passed[-1][1]]
        return {
            name: Layer(inputs, sums, out, delta, grads[name])
            for name, (inputs, sums), out, delta in zip(self.layers, passed, outputs, deltas, strict=True)
        }

    def check(self, data: Batch) -> None:
        """Whether these inputs and targets are what the network takes; looks at their values, so not under `jit`.

        Raises:
          ValueError: another number of features or outputs; labels that are no whole numbers, or for
            which there is no output; rows that differ in number.
        """
        inputs, targets = map(np.asarray, data)
        if inputs.ndim != 2 or len(targets) != len(inputs):
            shapes = f"inputs {list(inputs.shape)} and targets {list(targets.shape)}"
            raise ValueError(f"{shapes}: must be [row, feature] and as many rows")
        self._check_features(inputs)
        self._fitted(np.empty((len(inputs), self.sizes[-1])), targets)
        wrong = [v for v in np.unique(targets).tolist() if not LOSSES[self.loss].takes(v, self.sizes[-1])]
        if wrong:
            wanted = LOSSES[self.loss].targets.format(last=self.sizes[-1] - 1)
            raise ValueError(f"targets hold {wrong[0]:g}; {self.loss} with {self.sizes[-1]} outputs takes {wanted}")

    def _forward(self, params: PyTree, inputs: Array, nudges: Sequence[Array] = ()) -> list[tuple[Array, Array]]:
        """What comes into each layer, and its sums, nudged or not."""
        self._check_features(inputs)
        activate, passed = ACTIVATIONS[self.activation], []
        for index, name in enumerate(self.layers):
            if passed:
                inputs = activate(passed[-1][1])
            sums = inputs @ params[name]["kernel"]
            for further in (*([params[name]["bias"]] if self.bias else []), *nudges[index : index + 1]):
                sums = sums + further
            passed.append((inputs, sums))
        return passed

    def _mean_loss(self, outputs: Array, targets: Array) -> Float[Array, ""]:
        return jnp.mean(LOSSES[self.loss].function(*self._fitted(outputs, targets)))

    def _check_features(self, inputs: Any) -> None:
        if inputs.ndim != 2 or inputs.shape[1] != self.sizes[0]:
            raise ValueError(
                f"inputs have shape {list(inputs.shape)}; sizes = {self.sizes} takes [row, {self.sizes[0]}]: "
                "the first of sizes is the number of features"
            )

    def _fitted(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Outputs and targets of one shape: a single output may have its targets as a plain list."""
        whole = jnp.issubdtype(targets.dtype, jnp.integer)
        if LOSSES[self.loss].labels:
            if not whole or targets.ndim != 1:
                raise ValueError(
                    f"targets are {targets.dtype}{list(targets.shape)}; {self.loss} takes whole numbers [row]"
                )
            return outputs, targets
        if targets.ndim == 1 and outputs.shape[1] == 1:
            outputs = outputs[:, 0]
        if targets.shape != outputs.shape:
            raise ValueError(
                f"targets have shape {list(targets.shape)}; {self.loss} takes {list(outputs.shape)}: "
                "the last of sizes is the number of outputs"
            )
        return outputs, targets


class Layer(NamedTuple):
    """One layer on the way there and back."""

    inputs: Float[Array, "row in"]
    sums: Float[Array, "row out"]  # z, with the bias
    outputs: Float[Array, "row out"]  # φ(z); of the last layer, z itself
    delta: Float[Array, "row out"]  # ∂C/∂z
    grads: dict[str, Array]  # ∂C/∂kernel, ∂C/∂bias


class Loss(NamedTuple):
    """A loss of (outputs, targets), and how classes are read off the outputs."""

    function: Callable[[Any, Any], Any]
    targets: str  # in words; {last} is the number of outputs less one
    takes: Callable[[float, int], bool]  # (a target, how many outputs) → whether it is one
    is_right: Callable[[Any, Any], Any] | None = None  # (outputs, targets) → [row]; None without classes
    labels: bool = False  # whether targets are whole numbers [row] that name an output


def _any_number(value: float, outputs: int) -> bool:
    return bool(np.isfinite(value))


def _share(value: float, outputs: int) -> bool:
    return 0 <= value <= 1


LOSSES: dict[str, Loss] = {
    "softmax_cross_entropy_with_integer_labels": Loss(
        optax.softmax_cross_entropy_with_integer_labels,
        "whole numbers from 0 to {last}",
        lambda value, outputs: 0 <= value < outputs,
        lambda outputs, labels: outputs.argmax(-1) == labels,
        labels=True,
    ),
    "softmax_cross_entropy": Loss(
        optax.softmax_cross_entropy,
        "shares from 0 to 1, one for each output",
        _share,
        lambda outputs, targets: outputs.argmax(-1) == targets.argmax(-1),
    ),
    "sigmoid_binary_cross_entropy": Loss(
        optax.sigmoid_binary_cross_entropy,
        "shares from 0 to 1",
        _share,
        lambda outputs, targets: (outputs > 0) == (targets > 0.5),
    ),
    "hinge_loss": Loss(
        optax.hinge_loss,
        "-1 and 1",
        lambda value, outputs: abs(value) == 1,
        lambda outputs, targets: (outputs > 0) == (targets > 0),
    ),
    "squared_error": Loss(optax.squared_error, "finite numbers", _any_number),
    "l2_loss": Loss(optax.l2_loss, "finite numbers", _any_number),
    "huber_loss": Loss(optax.huber_loss, "finite numbers", _any_number),
    "log_cosh": Loss(optax.log_cosh, "finite numbers", _any_number),
}

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    activation.__name__: activation
    for activation in (
        jax.nn.celu,
        jax.nn.elu,
        jax.nn.gelu,
        jax.nn.hard_sigmoid,
        jax.nn.hard_silu,
        jax.nn.hard_tanh,
        jax.nn.identity,
        jax.nn.leaky_relu,
        jax.nn.log_sigmoid,
        jax.nn.mish,
        jax.nn.relu,
        jax.nn.relu6,
        jax.nn.selu,
        jax.nn.sigmoid,
        jax.nn.silu,
        jax.nn.soft_sign,
        jax.nn.softplus,
        jax.nn.squareplus,
        jax.nn.tanh,
    )
}


def _variance(scale: float, of: Callable[[int, int], float], distribution: str) -> Callable[..., Array]:
    """The initialisation whose weights [in, out] have the variance scale / of(in, out).

    The same numbers as those of `jax.nn.initializers`, but drawn in a row: of a short last axis, such as
    that of ten outputs, the compiler unrolls every draw, for seconds.
    """

    def draw(key, shape, dtype):
        in_a_row = jax.nn.initializers.variance_scaling(scale / of(*shape), "fan_in", distribution)
        return in_a_row(key, (1, math.prod(shape)), dtype).reshape(shape)

    return draw


def _standard_normal(key, shape, dtype):
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


INITIALISATIONS: dict[str, Callable[..., Array]] = {
    f"{name}_{shape}": _variance(scale, of, distribution)
    for name, scale, of in (
        ("glorot", 1.0, lambda size, units: (size + units) / 2),
        ("he", 2.0, lambda size, units: size),
        ("lecun", 1.0, lambda size, units: size),
    )
    for shape, distribution in (("normal", "truncated_normal"), ("uniform", "uniform"))
} | {"standard_normal": _standard_normal}


def _not_among(name: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"must be one of {', '.join(known)}{hint}"
