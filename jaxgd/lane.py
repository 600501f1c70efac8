"""A checked config to a plan: one lane, and the axes along which lanes vary."""

import inspect
import math
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import config as cfg
from jaxgd import expression, names, ranges
from jaxgd import plan as plans
from jaxgd.config import Config
from jaxgd.descent import Descent
from jaxgd.outcome import FIGURES
from jaxgd.ranges import Axis, ConfigError, near, shown
from jaxgd.trials import Trials, trials_of

if TYPE_CHECKING:
    import xarray

_RESERVED = {*FIGURES, "params", "epoch", "cost_history", "known_limit", "limit_formula", "sharpness"}  # in results
_VARIES = ("seed", "start", "cost.constants")  # beside what varies the optimizer


def planned(config: Config, where: str, folder: Path) -> plans.Plan:
    """The plan of a config.

    Args:
      config: checked.
      where: opens every message, usually the file's name.
      folder: where `function = "module:name"` looks first.

    Raises:
      ConfigError: a name that stands for nothing, a start of the wrong shape, a cost that is no cost,
        an axis that can't vary.
    """
    plan = None
    with jax.enable_x64(config.run.precision == "float64"):
        try:
            plan = _plan(config, folder)
            plans.fingerprint(plan)  # traces the start and the first step of every program, as the run will
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error.__cause__
        except _NOT_TRACED as error:
            raise ConfigError(f"{where}: {_not_traced(config, error)}") from error
        except (TypeError, ValueError, IndexError) as error:  # what Descent, its cost or the optimizer refuse
            raise ConfigError(f"{where}: {_place(error, folder)}{error}") from error
        except Exception as error:
            if not (place := _place(error, folder)):
                raise
            raise ConfigError(f"{where}: {place}{type(error).__name__}: {error}") from error
    return plan


def at(config: Config, setting: "xarray.Dataset") -> Config:
    """The config of one setting of its sweep: no [sweep], and the setting's values in place.

    Seeds, being replicates, keep the config's own.
    """
    content = config.model_dump(exclude_none=True) | {"sweep": {}}
    chosen = None
    if config.optimizers:
        chosen = setting["optimizer"].item()
        content["optimizer"] = {"name": chosen} | content.pop("optimizers")[chosen]
    for axis in cfg.axes(config):
        if axis.key == "seed" or axis.optimizer not in (None, chosen):
            continue
        if axis.path[0] == "start" and len(axis.path) == 3:  # an element: its vector must be there, drawn or not
            name = axis.path[1]
            vector = _start_at({name: _start_of(name, content["start"][name])}, config.seed)[name]
            content["start"][name] = vector.tolist()
        path = ["optimizer", axis.path[-1]] if axis.path[0] == "optimizers" else axis.path
        cfg.lay(content, path, _value_at(config, axis, setting))
    return cfg.checked(content, "the best setting")


def _value_at(config: Config, axis: Axis, setting: "xarray.Dataset") -> Any:
    if axis.optimizer:
        trials = trials_of(config, _private_numbers(config))
        return trials.arguments(axis.optimizer)[axis.path[-1]].tolist()[setting["trial"].item()]
    name = f"{axis.name}.value" if f"{axis.name}.value" in setting.coords else axis.name
    return setting[name].values.tolist()


def _plan(config: Config, folder: Path) -> plans.Plan:
    trials = trials_of(config, _private_numbers(config))
    shared = [axis for axis in cfg.axes(config) if axis.optimizer is None]
    lane = _UserLane(config, folder) if config.lane else _Lane(config, folder, trials)
    values: dict[str, Any] = {}
    if config.optimizers:
        values["optimizer"] = plans.each(list(config.optimizers))
    if trials.axes:
        values["trial"] = lane.trial_values()
    for axis in cfg.axes(config):
        if axis.name in _RESERVED or axis.name in values:
            raise ConfigError(
                f"sweep.{axis.key}: the result has a variable named {axis.name}; rename the axis, as in "
                f'{{ ..., name = "{axis.path[0]}_{axis.name}" }}'
            )
        if axis in shared:
            values[axis.name] = lane.values(axis)
    named = {axis.key: axis.name for axis in shared}
    minimum, minima = lane.known_minima(values)
    return plans.planned(
        lane,
        values,
        epochs=config.run.epochs,
        target=config.run.target,
        ceiling=config.run.ceiling,
        history=config.record.history,
        paired=[[named[key] for key in group] for group in cfg.paired(config) if group[0] in named],
        minimum=minimum,
        minima=minima,
        tolerance=config.run.tolerance,
        labels=trials.labels(),
        absent=trials.absent(),
        keep_params=config.record.params == "all",
    )


# --- what can't be traced ---

_NOT_TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def _not_traced(config: Config, error: Exception) -> str:
    swept = [f"sweep.{axis.key}" for axis in cfg.axes(config) if axis.path[0] in ("optimizer", "optimizers", "lane")]
    said = str(error).strip().splitlines()[0]
    if not swept:
        return f"JAX can't trace this: {said}"
    return (
        f"{' or '.join(swept)}: Python needs the value itself, for a branch, a shape or a name, so it can't vary "
        f"within one program; write it with jax.numpy, or add each = true to its range, for a program per value. "
        f"JAX says: {said}"
    )


def _place(error: Exception, folder: Path) -> str:
    """The last line of the user's own code on the way to an error, if it came through there."""
    own = folder.resolve()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == own]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: " if frames else ""


# --- what varies ---


def _private_numbers(config: Config) -> dict[str, np.ndarray]:
    """The values along each axis that varies one optimizer only, by its key."""
    found = {}
    for axis in cfg.axes(config):
        if axis.optimizer:
            numbers = ranges.numbers(axis, config.seed)
            if any(isinstance(value, (list, dict)) for value in numbers):
                raise ConfigError(f"sweep.{axis.key}: must be single values where it varies one optimizer only")
            real = isinstance(numbers, np.ndarray) or all(map(ranges.is_number, numbers))
            found[axis.key] = np.array(numbers, float if real else object)
    return found


def _start_of(name: str, value: Any) -> Any:
    """A start as (distribution, numbers, shape) if it is drawn, else as an array."""
    where = f"start.{name}"
    if isinstance(value, dict):
        word, numbers, size = ranges.draw_of(where, value)
        return word, numbers, () if size is None else (size,)
    return ranges.reals(where, value)


def _start_at(start: Mapping[str, Any], seed: Any, settings: Mapping[str, Any] | None = None) -> dict[str, jax.Array]:
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


def _under(prefix: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


# --- one lane ---


class _Lane:
    """Cost, start and optimizer of a config as one lane; calling it with a point of the grid gives a Descent."""

    def __init__(self, config: Config, folder: Path, trials: Trials):
        self.config, self.trials = config, trials
        self.surface, self.cost = names.cost_of(config.cost, folder)
        self.start = {name: _start_of(name, value) for name, value in config.start.items()}
        self.shapes = {name: np.shape(value) for name, value in _start_at(self.start, 0).items()}
        self.tables = config.optimizers or {"optimizer": config.optimizer}
        self.factories = {
            name: names.factory_of(f"optimizers.{name}" if config.optimizers else name, table, folder)
            for name, table in self.tables.items()
        }
        self._check_names()
        self._check_start()
        self.keys: dict[str, str] = {}  # of the shared axes, by the axis' name
        for axis in cfg.axes(config):
            self._check_axis(axis)
            if axis.optimizer is None:
                self.keys[axis.name] = axis.key

    def __call__(self, optimizer: str = "optimizer", trial: Any = 0, **point: Any) -> Descent:
        settings = {self.keys[name]: value for name, value in point.items()}
        constants = self.config.cost.constants | _under("cost.constants.", settings)
        arguments = self._given(optimizer, self.tables[optimizer].arguments)
        arguments |= _under("optimizer.", settings) | _under("optimizers.", settings) | self._tried(optimizer, trial)
        start = _start_at(self.start, settings.get("seed", self.config.seed), _under("start.", settings))
        factory = self.factories[optimizer]
        return Descent(lambda params: self.cost(**params, **constants), start, factory(**arguments))

    def values(self, axis: Axis) -> Any:
        """The values along an axis, in the type that its key needs."""
        where, numbers = f"sweep.{axis.key}", ranges.numbers(axis, self.config.seed)
        if axis.key == "seed":
            return ranges.seeds(where, numbers)
        if axis.path[0] in ("optimizer", "optimizers"):
            for factory in self.factories.values():
                numbers = names.along(where, names.parameters(factory).get(axis.path[-1]), numbers)
        else:
            numbers = ranges.reals(where, numbers)
        return plans.each(list(numbers)) if axis.each or isinstance(numbers, list) else numbers

    def trial_values(self) -> Any:
        """The axis of trials; a program for each if one of the hyperparameters that vary needs that."""
        for axis in self.trials.axes:
            parameter = names.parameters(self.factories[axis.optimizer]).get(axis.path[-1])
            column = ranges.numbers(axis, self.config.seed)
            if axis.each or isinstance(names.along(f"sweep.{axis.key}", parameter, column), list):
                return plans.each(range(self.trials.count))
        return np.arange(self.trials.count)

    def _given(self, optimizer: str, values: Mapping[str, Any]) -> dict[str, Any]:
        known = names.parameters(self.factories[optimizer])
        return {name: names.argument(name, known.get(name), value) for name, value in values.items()}

    def _tried(self, optimizer: str, trial: Any) -> dict[str, Any]:
        columns = self.trials.arguments(optimizer)
        if isinstance(trial, int):
            return self._given(optimizer, {name: column.tolist()[trial] for name, column in columns.items()})
        return {name: jnp.asarray(column, float)[trial] for name, column in columns.items()}

    def known_minima(self, values: Mapping[str, Any]) -> tuple[float | None, Any]:
        """Lowest cost and where the minima lie, as far as they are known and the same for every lane."""
        cost = self.config.cost
        if cost.minima is not None:
            count = sum(map(math.prod, self.shapes.values()))
            if wrong := [point for point in cost.minima if len(point) != count]:
                raise ConfigError(f"cost.minima: {shown(wrong[0])} must have {count} numbers, as many as [start]")
        if self.surface is None or cost.minimum is not None or cost.minima is not None:
            return cost.minimum, cost.minima
        swept = {key: values[name] for name, key in self.keys.items() if key.startswith("cost.constants.")}
        dimension = max(1, math.prod(self.shapes["x"]))
        known = []
        for corner in (min, max):  # known for all lanes if it is the same at both ends
            ends = {k: float(corner(v.values if isinstance(v, plans.Each) else v)) for k, v in swept.items()}
            constants = cost.constants | _under("cost.constants.", ends)
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
                inspect.signature(self.cost).bind(**self.start, **cost.constants)
            except TypeError as error:
                raise ConfigError(
                    f"cost.function: {cost.function}{inspect.signature(self.cost)} is called with the names of [start] "
                    f"and [cost.constants], here {', '.join([*self.start, *cost.constants])}: {error}"
                ) from error
            except ValueError:
                pass  # a function whose signature Python can't tell: its call will show

    def _check_expression(self, used: tuple[str, ...]) -> None:
        cost = self.config.cost
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

    def _check_axis(self, axis: Axis) -> None:
        """Whether a swept key names something that can vary."""
        where, (table, *rest) = f"sweep.{axis.key}", axis.path
        if table == "start" and rest:
            self._check_start_axis(where, axis, rest)
        elif axis.key.startswith("cost.constants."):
            known = self.config.cost.constants | (self.surface.constants if self.surface else {})
            if rest[1:] != [name for name in rest[1:] if name in known]:
                raise ConfigError(f"{where}: there is no constant {'.'.join(rest[1:])}{near(rest[1], known)}")
        elif axis.optimizer is not None and self.config.optimizers:
            if axis.optimizer not in self.factories:
                known = near(axis.optimizer, self.factories)
                raise ConfigError(f"{where}: there is no optimizer {axis.optimizer}{known}")
            names.check_hyperparameter(where, rest[1], self.factories[axis.optimizer])
        elif table == ("optimizers" if self.config.optimizers else "optimizer") and len(rest) == 1:
            if rest[0] in ("name", "function"):
                raise ConfigError(f"{where}: to compare optimizers, give each a table [optimizers.NAME]")
            for factory in self.factories.values():
                names.check_hyperparameter(where, rest[0], factory)
        elif axis.key != "seed":
            tables = (*_VARIES, "optimizers" if self.config.optimizers else "optimizer")
            raise ConfigError(f"{where}: {axis.key} can't be swept{near(table, tables, cutoff=0.8)}")

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


class _UserLane:
    """The user's own lane function, with the config's arguments filled in."""

    def __init__(self, config: Config, folder: Path):
        self.config, given = config, config.lane.arguments
        self.function = names.imported("lane.function", config.lane.function, folder)
        self.keys = {axis.name: axis.key for axis in cfg.axes(config)}
        known = names.parameters(self.function)
        anything = names.takes_anything(known)
        self.takes_seed = "seed" in known or anything
        for name in given:
            if name not in known and not anything:
                raise ConfigError(f"lane.{name}: {config.lane.function} has no argument {name}{near(name, known)}")
        for name in names.needed(known):
            if name not in given and name != "seed":
                raise ConfigError(f"lane.{name} is missing: {config.lane.function} needs it")
        for axis in cfg.axes(config):
            self._check_axis(axis, {**known, **given})

    def __call__(self, **point: Any) -> Descent:
        settings = {self.keys[name].removeprefix("lane."): value for name, value in point.items()}
        seed = {"seed": self.config.seed} if self.takes_seed else {}
        return self.function(**seed | self.config.lane.arguments | settings)

    def values(self, axis: Axis) -> Any:
        where, numbers = f"sweep.{axis.key}", ranges.numbers(axis, self.config.seed)
        if axis.key == "seed":
            return ranges.seeds(where, numbers)
        parameter = names.parameters(self.function).get(axis.path[1])
        numbers = names.along(where, parameter, numbers)
        return plans.each(list(numbers)) if axis.each or isinstance(numbers, list) else numbers

    def known_minima(self, values: Mapping[str, Any]) -> tuple[None, None]:
        return None, None

    def _check_axis(self, axis: Axis, known: Mapping[str, Any]) -> None:
        where, (table, *rest) = f"sweep.{axis.key}", axis.path
        if axis.key == "seed":
            if not self.takes_seed:
                raise ConfigError(f"{where}: {self.config.lane.function} has no argument seed")
        elif table != "lane" or len(rest) != 1:
            raise ConfigError(f"{where}: with [lane], what varies is lane.NAME or seed")
        elif rest[0] not in known and not names.takes_anything(names.parameters(self.function)):
            raise ConfigError(f"{where}: {self.config.lane.function} has no argument {rest[0]}{near(rest[0], known)}")
