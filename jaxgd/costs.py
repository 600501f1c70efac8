"""What a config descends: its [cost], from its [start]."""

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import expression, names, ranges
from jaxgd import plan as plans
from jaxgd.config import Config
from jaxgd.fit import Fit, NetworkCost
from jaxgd.ranges import Axis, ConfigError, near, shown


def cost_of(config: Config, folder: Path) -> "WrittenCost | NetworkCost":
    """What the config descends."""
    return NetworkCost(config, folder) if config.cost.network else WrittenCost(config, folder)


class WrittenCost:
    """A cost by expression, surface or function, from a start by its variables' names; a function may take data."""

    def __init__(self, config: Config, folder: Path):
        self.config, self.layers = config, tuple(config.start)
        self.fit = Fit(config, folder) if config.data else None
        self.varies = ("start", "cost.constants", *(Fit.varies if config.data else ()))
        self.surface, self.cost = names.cost_of(config.cost, folder)
        self.start = {name: start_of(name, value) for name, value in config.start.items()}
        drawn = jax.eval_shape(lambda: start_at(self.start, 0))
        self.shapes = {name: value.shape for name, value in drawn.items()}
        self._check_names()
        self._check_start()

    def descent(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What a `Descent` is made of, its optimizer apart; `settings` are what varies, by key."""
        constants = self.config.cost.constants | under("cost.constants.", settings)
        start = start_at(self.start, settings.get("seed", self.config.seed), under("start.", settings))
        if self.fit is None:
            return {"cost": lambda params: self.cost(**params, **constants), "params": start}

        def cost(params, batch):
            return self.cost(**params, **constants, batch=batch)

        return {"params": start} | self.fit.descent(settings, cost, None)

    def check_axis(self, axis: Axis) -> None:
        """Whether a swept key of [start] or [cost] names something that can vary."""
        where, (table, *rest) = f"sweep.{axis.key}", axis.path
        if table == "start":
            self._check_start_axis(where, axis, rest)
        elif table == "cost":
            known = self.config.cost.constants | (self.surface.constants if self.surface else {})
            if rest[1:] != [name for name in rest[1:] if name in known]:
                raise ConfigError(f"{where}: there is no constant {'.'.join(rest[1:])}{near(rest[1], known)}")

    def numbers(self, axis: Axis) -> Any:
        """The values along an axis of [start], [cost] or [data]."""
        if axis.path[0] == "data":
            return self.fit.numbers(axis)
        return ranges.reals(f"sweep.{axis.key}", ranges.numbers(axis, self.config.seed))

    def known_minima(self, swept: Mapping[str, Any]) -> tuple[float | None, Any]:
        """Lowest cost and where the minima lie, as far as they are known and the same for every lane.

        Args:
          swept: the values along each axis, by its key.
        """
        cost = self.config.cost
        if cost.minima is not None:
            count = sum(map(math.prod, self.shapes.values()))
            if wrong := [point for point in cost.minima if len(point) != count]:
                raise ConfigError(f"cost.minima: {shown(wrong[0])} must have {count} numbers, as many as [start]")
        if self.surface is None or cost.minimum is not None or cost.minima is not None:
            return cost.minimum, cost.minima
        swept = {key: values for key, values in swept.items() if key.startswith("cost.constants.")}
        dimension = max(1, math.prod(self.shapes["x"]))
        known = []
        for corner in (min, max):  # known for all lanes if it is the same at both ends
            ends = {k: float(corner(v.values if isinstance(v, plans.Each) else v)) for k, v in swept.items()}
            constants = cost.constants | under("cost.constants.", ends)
            minimum = self.surface.minimum(dimension, **constants)
            places = [self.surface.minima(dimension, **constants), self.surface.local_minima(dimension, **constants)]
            known.append((minimum, np.concatenate([p for p in places if len(p)]) if any(map(len, places)) else None))
        (minimum, minima), (other, others) = known
        return minimum if minimum == other else None, minima if np.array_equal(minima, others) else None

    def _check_names(self) -> None:
        cost = self.config.cost
        if both := {*self.start} & {*cost.constants}:
            raise ConfigError(f"{min(both)} is in [start] and in [cost.constants]; it can be only one of them")
        if self.surface:
            for name in cost.constants:
                if name not in self.surface.constants:
                    near_by = near(name, self.surface.constants)
                    raise ConfigError(f"cost.constants.{name}: {cost.surface} has no such constant{near_by}")
        elif isinstance(self.cost, expression.Expression):
            self._check_expression(self.cost.names)
        else:
            try:
                given = dict.fromkeys((*self.start, *cost.constants, *(["batch"] if self.fit else ())))
                inspect.signature(self.cost).bind(**given)
            except TypeError as error:
                raise ConfigError(
                    f"cost.function: {cost.function}{inspect.signature(self.cost)} is called with the names of [start] "
                    f"and [cost.constants]{' and with batch' if self.fit else ''}, here {', '.join(given)}: {error}"
                ) from error
            except ValueError:
                pass  # a function whose signature Python can't tell: its call will show

    def _check_expression(self, used: tuple[str, ...]) -> None:
        cost = self.config.cost
        for number in self.cost.numbers:
            ranges.check_held("cost.expression: the number", number, self.config.run.precision)
        tables = dict.fromkeys(self.start, "start") | dict.fromkeys(cost.constants, "cost.constants")
        for name, table in tables.items():
            if meaning := expression.meaning(name):
                raise ConfigError(f"{table}.{name}: in an expression, {name} is {meaning}; call it otherwise")
            if name not in used:
                raise ConfigError(f"{table}.{name}: the expression has no {name}{near(name, used)}")
        for name in used:
            if name not in tables:
                raise ConfigError(
                    f"cost.expression: {name} has no value: give it a start (start.{name} = 1.0) "
                    f"or a constant (cost.constants.{name} = 1.0)"
                )

    def _check_start(self) -> None:
        if self.surface is None:
            return
        if wrong := [name for name in self.start if name != "x"]:
            raise ConfigError(f"start.{wrong[0]}: {self.config.cost.surface} starts from x alone, as in x = [1.0, 2.0]")
        shape, dimension = self.shapes["x"], self.surface.dimension
        fits = len(shape) == 1 and shape[0] > 1 if dimension is None else shape == self.surface.shape()
        if not fits:
            wanted = "one number" if dimension == 1 else f"a list of {dimension or '2 or more'} numbers"
            raise ConfigError(f"start.x: {self.config.cost.surface} needs {wanted}; x has shape {shape}")

    def _check_start_axis(self, where: str, axis: Axis, rest: list[str]) -> None:
        name, *element = rest
        if name not in self.start:
            raise ConfigError(f"{where}: [start] has no {name}{near(name, self.start)}")
        shape = self.shapes[name]
        if element:
            one = len(element) == len(shape) == 1 and element[0].isdecimal() and int(element[0]) < shape[0]
            if not one:
                raise ConfigError(f"{where}: start.{name} has shape {shape}, and no element {'.'.join(element)}")
        elif axis.word != "values" and shape:
            raise ConfigError(
                f"{where}: start.{name} has shape {shape}; sweep start.{name}.0 and so on, or values of its shape"
            )
        elif axis.word == "values":
            for value in axis.numbers:
                if ranges.reals(where, value).shape != shape:
                    raise ConfigError(f"{where}: {shown(value)} must have the shape of start.{name}, {shape}")


def start_of(name: str, value: Any) -> Any:
    """A start of the config as (distribution, numbers, shape) if it is drawn, else as an array."""
    where = f"start.{name}"
    if isinstance(value, dict):
        word, numbers, size = ranges.draw_of(where, value)
        return word, numbers, () if size is None else (size,)
    return ranges.reals(where, value)


def start_at(start: Mapping[str, Any], seed: Any, settings: Mapping[str, Any] | None = None) -> dict[str, jax.Array]:
    """Where a lane starts: its draws drawn, what varies in place (x as a whole, or x.0)."""
    settings, found = settings or {}, {}
    for name, value in start.items():
        value = settings.get(name, value)
        if isinstance(value, tuple):
            value = ranges.draw(seed, f"start.{name}", *value)
        value = jnp.asarray(value, float)
        for key, element in settings.items():
            if key.startswith(f"{name}."):
                value = value.at[int(key.removeprefix(f"{name}."))].set(element)
        found[name] = value
    return found


def under(prefix: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings whose key begins so, by the rest of it."""
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
