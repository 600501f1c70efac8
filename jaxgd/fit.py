"""What a config fits: its [data], in batches, and a network of [cost.network] upon it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgd import data, ranges
from jaxgd import plan as plans
from jaxgd.config import Config
from jaxgd.networks import LOSSES, MLP
from jaxgd.ranges import Axis, ConfigError, near, shown

_BY_DEFAULT = {True: "softmax_cross_entropy_with_integer_labels", False: "squared_error"}  # by whether there are labels
_BY_NAME = ("cost.network.activation", "cost.network.initialisation")  # a program for each


class Fit:
    """[data] of a config: what a `Descent` takes of it, and the figures of its three parts.

    A run is known by the numbers of these parts, in its precision, and not by the bytes of a file: an
    edit that changes any of them makes a new run, and 1.0 written as 1.00, a column renamed or a tenth
    digit that float32 can't hold makes none, for no result would differ.
    """

    varies = ("data.seed", "data.batch_size")

    def __init__(self, config: Config, folder: Path, labels: bool | None = None):
        self.config, table = config, config.data
        self.found = data.load(
            name=table.name,
            file=table.file,
            target=table.target,
            split=table.split,
            standardise=table.standardise,
            labels=table.labels if labels is None else labels,
            seed=config.seed,
            folder=folder,
            **table.arguments,
        )
        self.parts = {part: _on_device(*getattr(self.found, part)) for part in ("train", "validation", "test")}
        if table.batch_size is not None:
            self._check_batch_size("data.batch_size", table.batch_size)

    def descent(
        self, settings: Mapping[str, Any], cost: Callable[..., Any], accuracy: Callable[..., Any] | None
    ) -> dict[str, Any]:
        """What a `Descent` is made of beside its params and its optimizer; `settings` are what varies, by key."""
        figures = {"cost": cost} | ({"accuracy": accuracy} if accuracy else {})
        return {
            "cost": cost,
            "data": self.parts["train"],
            "batch_size": settings.get("data.batch_size", self.config.data.batch_size),
            "remainder": self.config.data.remainder,
            "key": seed_of("data.seed", self.config.data.seed, settings, self.config),
            "metrics": {
                f"{part}_{what}": lambda params, figure=figure, rows=rows: figure(params, rows)
                for what, figure in figures.items()
                for part, rows in self.parts.items()
            },
        }

    def numbers(self, axis: Axis) -> Any:
        """The values along an axis of [data]."""
        where, numbers = f"sweep.{axis.key}", ranges.numbers(axis, self.config.seed)
        if axis.key == "data.seed":
            return ranges.seeds(where, numbers)
        for number in (sizes := list(numbers)):
            self._check_batch_size(where, number)
        return plans.each(list(map(int, sizes)))

    def _check_batch_size(self, where: str, size: Any) -> None:
        rows = len(self.found.train.inputs)
        if not (ranges.is_number(size) and 1 <= size <= rows and size == int(size)):
            raise ConfigError(f"{where} = {shown(size)}: must be a whole number from 1 to {rows}, the rows of train")


class NetworkCost:
    """[cost.network]: a network whose inputs and outputs are as many as the data has; it starts at random."""

    varies = ("cost.network.seed", *_BY_NAME, *Fit.varies)

    def __init__(self, config: Config, folder: Path):
        self.config, network = config, config.cost.network
        self.fit = _fit(config, folder)
        loss = network.loss or _BY_DEFAULT[self.fit.found.classes is not None]
        train = {part: _encoded(self.fit.found, part, loss) for part in self.fit.parts}
        self.fit.parts = {part: _on_device(*rows) for part, rows in train.items()}
        targets = train["train"][1]
        outputs = len(self.fit.found.classes) if LOSSES[loss].labels else 1 if targets.ndim == 1 else targets.shape[1]
        sizes = (train["train"][0].shape[1], *network.hidden, outputs)
        chosen = {name: getattr(network, name) for name in ("activation", "initialisation", "bias")}
        try:
            self.network = MLP(sizes, loss=loss, **chosen)
            self.network.check(train["train"])
        except ValueError as error:
            raise ConfigError(f"cost.network.{error}") from error
        self.layers = self.network.layers
        if config.run.select == "validation_accuracy" and LOSSES[loss].is_right is None:
            raise ConfigError(
                f'run.select = "validation_accuracy": {loss} tells no classes apart; use "validation_cost"'
            )

    def descent(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What a `Descent` is made of, its optimizer apart; `settings` are what varies, by key."""
        chosen = {key.rpartition(".")[2]: settings[key] for key in _BY_NAME if key in settings}
        network = replace(self.network, **chosen)
        accuracy = network.accuracy if LOSSES[network.loss].is_right else None
        seed = seed_of("cost.network.seed", self.config.cost.network.seed, settings, self.config)
        return {"params": network.init(seed)} | self.fit.descent(settings, network.cost, accuracy)

    def check_axis(self, axis: Axis) -> None:
        """Whether a swept key of [cost] or [data] can vary: all that `varies` names can."""

    def numbers(self, axis: Axis) -> Any:
        """The values along an axis of [cost] or [data]."""
        where, numbers = f"sweep.{axis.key}", ranges.numbers(axis, self.config.seed)
        if axis.path[0] == "data":
            return self.fit.numbers(axis)
        if axis.key == "cost.network.seed":
            return ranges.seeds(where, numbers)
        for word in numbers:
            try:
                replace(self.network, **{axis.path[-1]: word})
            except (ValueError, TypeError) as error:
                raise ConfigError(f"sweep.cost.network.{error}") from error
        return plans.each(list(numbers))

    def known_minima(self, swept: Mapping[str, Any]) -> tuple[float | None, None]:
        return self.config.cost.minimum, None


def layers_of(config: Config) -> tuple[str, ...]:
    """The names at the top of the params: a network's layers, or the variables of [start]."""
    if config.cost.network is None:
        return tuple(config.start)
    return MLP((1, *config.cost.network.hidden, 1)).layers


def seed_of(key: str, own: int | None, settings: Mapping[str, Any], config: Config) -> Any:
    """The seed of one thing: as swept, else as its table says, else the one that all things share."""
    return settings.get(key, own if own is not None else settings.get("seed", config.seed))


def _fit(config: Config, folder: Path) -> Fit:
    loss = config.cost.network.loss
    if loss is None:
        return Fit(config, folder)
    if loss not in LOSSES:
        raise ConfigError(f"cost.network.loss = {shown(loss)}: there is no such loss{near(loss, LOSSES)}")
    labels = LOSSES[loss].is_right is not None
    if config.data.labels not in (None, labels):
        raise ConfigError(
            f"data.labels = {shown(config.data.labels)}: {loss} takes {'labels' if labels else 'numbers'}"
        )
    try:
        return Fit(config, folder, labels)
    except ConfigError as error:
        raise ConfigError(f"{error} (cost.network.loss = {shown(loss)})") if "label" in str(error) else error from None


def _encoded(found: data.Data, part: str, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of one part as the loss takes them."""
    (inputs, targets), classes = getattr(found, part), found.classes
    if classes is None or LOSSES[loss].labels:
        return inputs, targets
    if loss == "softmax_cross_entropy":
        return inputs, np.eye(len(classes))[targets]
    if len(classes) != 2:
        raise ConfigError(
            f"cost.network.loss = {shown(loss)}: tells two classes apart, and the data has {len(classes)}; "
            f"use {_BY_DEFAULT[True]}"
        )
    return inputs, np.where(targets, 1.0, -1.0 if loss == "hinge_loss" else 0.0)


def _on_device(inputs: np.ndarray, targets: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Rows in the precision of the run; they stay on the device, shared by all lanes."""
    real = jax.dtypes.canonicalize_dtype(float)
    whole = targets.dtype.kind in "iu"
    return jax.numpy.asarray(inputs, real), jax.numpy.asarray(targets, np.int32 if whole else real)
