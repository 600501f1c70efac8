"""A checked config to a plan: what its names stand for, one lane, and the axes along which lanes vary."""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgd import config as cfg
from jaxgd import expression, update
from jaxgd import plan as plans
from jaxgd.config import Config, ConfigError, near
from jaxgd.descent import Descent
from jaxgd.outcome import FIGURES
from jaxgd.surfaces import SURFACES, Surface

if TYPE_CHECKING:
    import xarray

_UNSWEPT = ("run", "record", "title", "cost.expression", "cost.surface", "cost.function", "cost.minimum", "cost.minima")


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
    with jax.enable_x64(config.run.precision == "float64"):
        try:
            plan = _plan(config, folder)
            for static in plans.statics(plan):
                plans.outline(plan, static)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error.__cause__
        except (TypeError, ValueError, IndexError) as error:  # what Descent, its cost or the optimizer refuse
            raise ConfigError(f"{where}: {error}") from error
    return plan


def optimizers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Every optimizer that a config can name: jaxgd's rules, and what optax offers with a learning rate."""
    found: dict[str, Callable[..., optax.GradientTransformation]] = {}
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name in dir(module):
            factory = getattr(module, name)
            if callable(factory) and not name.startswith("_") and "learning_rate" in _arguments_of(factory):
                found[prefix + name] = factory
    return dict(sorted(found.items())) | update.RULES


def at(config: Config, setting: "xarray.Dataset") -> Config:
    """The config of one setting of its sweep: no [sweep], and the setting's values in place.

    Seeds, being replicates, keep the config's own.
    """
    content = config.model_dump(exclude_none=True)
    content["sweep"] = {}
    label = {name: setting[name].values for name in setting.coords}
    if config.optimizers:
        name = str(label["optimizer"])
        content["optimizer"] = {"name": name} | content.pop("optimizers")[name]
    for axis in cfg.axes(config):
        value, path = label[axis.name], axis.key.split(".")
        if value.ndim or axis.key == "seed" or (len(path) == 3 and path[0] == "optimizers" and path[1] != name):
            continue
        if path[0] == "optimizers":
            path = ["optimizer", path[-1]]
        *tables, key = path
        table: Any = content
        for part in tables:
            table = table.setdefault(part, {})
        table[int(key) if isinstance(table, list) else key] = value.item()
    return cfg.checked(content, "the best setting")


def _plan(config: Config, folder: Path) -> plans.Plan:
    trials = _Trials(config)
    builder = _lane_of_user(config, folder) if config.lane else _Lane(config, folder, trials)
    values: dict[str, Any] = {}
    if config.optimizers:
        values["optimizer"] = plans.each(list(config.optimizers))
    if trials.axes:
        values["trial"] = np.arange(trials.count)
    for axis in trials.shared:
        where = f"sweep.{axis.key}"
        if axis.key.split(".")[0] in _UNSWEPT or axis.key in _UNSWEPT:
            raise ConfigError(f"{where}: {axis.key} can't be swept; what can: start, optimizer, cost.constants, seed, lane")
        if axis.name in FIGURES:
            raise ConfigError(f'{where}: the result has a variable named {axis.name}; rename the axis with name = "..."')
        values[axis.name] = builder.values(axis.key, _numbers(axis, config.seed))
    names = {axis.key: axis.name for axis in trials.shared}
    minimum, minima = builder.known_minima(values)
    plan = plans.planned(
        builder,
        values,
        epochs=config.run.epochs,
        target=config.run.target,
        ceiling=config.run.ceiling,
        history=config.record.history,
        paired=[[names[key] for key in group] for group in cfg.paired(config) if not _private_group(group)],
        minimum=minimum,
        minima=minima,
        tolerance=config.run.tolerance,
        labels=trials.labels(),
        absent=trials.absent(),
        keep_params=config.record.params == "all",
    )
    return plan


# --- what names stand for ---


def _imported(key: str, reference: str, folder: Path) -> Callable:
    """The function that "package.module:name" refers to, in the config's folder first."""
    module_name, colon, name = reference.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f'{key} = {reference!r}: must be "package.module:name"')
    with _first_on_path(folder):
        try:
            module = _module(module_name, folder)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{key} = {reference!r}: no module {error.name!r}, neither in {folder} nor installed") from error
        except Exception as error:
            raise ConfigError(f"{key} = {reference!r}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ConfigError(f"{key} = {reference!r}: {module_name} has no function {name!r}{near(name, known)}")
    return function


def _module(name: str, folder: Path) -> Any:
    path = folder.joinpath(*name.split(".")).with_suffix(".py")
    if not path.is_file():
        return importlib.import_module(name)
    # Two folders may each hold a model.py: a module is known by its path, not by its name alone.
    unique = f"{name}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _arguments_of(factory: Callable) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return {}


def _key(seed: Any, role: str) -> jax.Array:
    """The key of one random thing: from the seed and its role alone."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(role.encode()) >> 1)


def _draw(key: jax.Array, word: str, numbers: list[float], shape: tuple[int, ...]) -> jax.Array:
    a, b = numbers
    if word == "normal":
        return a + b * jax.random.normal(key, shape, float)
    if word == "loguniform":
        return jnp.exp(jax.random.uniform(key, shape, float, math.log(a), math.log(b)))
    return jax.random.uniform(key, shape, float, a, b)


def _numbers(axis: cfg.Axis, seed: int) -> Any:
    """The values along one axis."""
    if axis.word == "values":
        return axis.numbers
    if axis.word in cfg.DRAWS:
        return np.asarray(_draw(_key(seed, f"sweep.{axis.key}"), axis.word, list(map(float, axis.numbers)), (axis.num,)))
    if axis.word == "arange":
        return np.arange(*axis.numbers)
    return getattr(np, axis.word)(*axis.numbers)


# --- one lane ---


class _Lane:
    """Cost, start and optimizer of a config as one lane; calling it with a point of the grid gives a Descent."""

    def __init__(self, config: Config, folder: Path, trials: "_Trials"):
        self.config, self.trials = config, trials
        self.keys = {axis.name: axis.key for axis in trials.shared}
        self.surface, self.cost = _cost_of(config, folder)
        self.start = {name: _start_of(name, value) for name, value in config.start.items()}
        tables = config.optimizers or {"optimizer": config.optimizer}
        self.factories = {
            name: _factory(f"optimizers.{name}" if config.optimizers else "optimizer", table, folder)
            for name, table in tables.items()
        }
        self._check_constants()
        self._check_start()
        for axis in trials.every:
            self._check_key(axis.key)

    def __call__(self, optimizer: str = "optimizer", trial: Any = 0, **point: Any) -> Descent:
        settings = {self.keys[name]: value for name, value in point.items()}
        constants = self.config.cost.constants | _under("cost.constants.", settings)
        table = self.config.optimizers[optimizer] if self.config.optimizers else self.config.optimizer
        arguments = (
            table.arguments
            | _under("optimizer.", settings)
            | {k: v for k, v in _under("optimizers.", settings).items() if "." not in k}
            | self.trials.arguments(optimizer, trial)
        )
        start = self._start_at(settings.get("seed", self.config.seed), _under("start.", settings))
        return Descent(lambda params: self.cost(**params, **constants), start, self.factories[optimizer](**arguments))

    def values(self, key: str, numbers: Any) -> Any:
        """The values along an axis, in the type that its key needs."""
        where, table = f"sweep.{key}", key.split(".")[0]
        if table in ("optimizer", "optimizers"):
            static = [self._is_static(name, key.split(".")[-1]) for name in self.factories]
            if any(static):
                return plans.each(list(np.asarray(numbers).tolist()))
            return _reals(where, numbers)
        if table == "seed":
            if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0 for n in numbers):
                raise ConfigError(f"{where}: seeds must be whole numbers, 0 or more")
            return np.asarray(numbers, np.int32)
        return _reals(where, numbers)

    def known_minima(self, values: Mapping[str, Any]) -> tuple[float | None, Any]:
        """Lowest cost and where the minima lie, as far as they are known and the same for every lane."""
        cost = self.config.cost
        if self.surface is None or cost.minimum is not None or cost.minima is not None:
            return cost.minimum, cost.minima
        swept = {self.keys[n]: v for n, v in values.items() if self.keys.get(n, "").startswith("cost.constants.")}
        dimension = max(1, math.prod(np.shape(self._start_at(0, {})["x"])))
        known = []
        for corner in (np.min, np.max):  # known for all lanes if it is the same at both ends
            constants = cost.constants | {k.removeprefix("cost.constants."): float(corner(v)) for k, v in swept.items()}
            minimum = self.surface.minimum(dimension, **constants)
            places = [self.surface.minima(dimension, **constants), self.surface.local_minima(dimension, **constants)]
            known.append((minimum, np.concatenate([p for p in places if len(p)]) if any(map(len, places)) else None))
        (minimum, minima), (other, others) = known
        return minimum if minimum == other else None, minima if np.array_equal(minima, others) else None

    def _start_at(self, seed: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        start = {}
        for name, value in self.start.items():
            value = settings.get(name, value)
            if isinstance(value, tuple):
                value = _draw(_key(seed, f"start.{name}"), *value)
            value = jnp.asarray(value, float)
            for key, element in settings.items():
                if key.startswith(f"{name}."):
                    value = value.at[int(key.rpartition(".")[2])].set(element)
            start[name] = value
        return start

    def _is_static(self, optimizer: str, name: str) -> bool:
        """Flags, names and whole numbers choose code or shapes, and can't be traced."""
        default = _arguments_of(self.factories[optimizer]).get(name)
        return default is not None and isinstance(default.default, (bool, int, str))

    def _check_constants(self) -> None:
        known = self.surface.constants if self.surface else None
        for name in self.config.cost.constants:
            if known is not None and name not in known:
                raise ConfigError(f"cost.constants.{name}: {self.config.cost.surface} has no such constant{near(name, known)}")
        if isinstance(self.cost, expression.Expression):
            given = {*self.config.start, *self.config.cost.constants}
            if both := {*self.config.start} & {*self.config.cost.constants}:
                raise ConfigError(f"{both.pop()} is in [start] and in [cost.constants]; it can be only one of them")
            for name in self.cost.names:
                if name not in given:
                    raise ConfigError(
                        f"cost.expression: {name} has no value: give it a start (start.{name} = 1.0) "
                        f"or a constant (cost.constants.{name} = 1.0)"
                    )
            for name in given - {*self.cost.names}:
                table = "start" if name in self.config.start else "cost.constants"
                raise ConfigError(f"{table}.{name}: the expression has no {name}{near(name, self.cost.names)}")

    def _check_start(self) -> None:
        if self.surface is None:
            return
        if set(self.start) != {"x"}:
            wrong = next(name for name in [*self.start, "x"] if name != "x" or "x" not in self.start)
            raise ConfigError(f"start.{wrong}: {self.config.cost.surface} starts from x alone, as in x = [1.0, 2.0]")
        shape = np.shape(self._start_at(0, {})["x"])
        dimension = self.surface.dimension or (shape[0] if len(shape) == 1 else None)
        wanted = self.surface.shape(dimension)
        if shape != wanted:
            one = "one number" if wanted == () else f"a list of {wanted[0]} numbers"
            raise ConfigError(f"start.x: {self.config.cost.surface} needs {one}; x has shape {shape}")

    def _check_key(self, key: str) -> None:
        """Whether a swept key names something."""
        table, *rest = key.split(".")
        if table == "seed" and not rest:
            return
        if table == "start" and rest:
            self._check_start_key(key, rest)
        elif key.startswith("cost.constants."):
            known = self.config.cost.constants | (self.surface.constants if self.surface else {})
            if rest[1] not in known:
                raise ConfigError(f"sweep.{key}: there is no constant {rest[1]}{near(rest[1], known)}")
        elif table == "optimizer" and self.config.optimizer and len(rest) == 1:
            _check_argument(f"sweep.{key}", rest[0], self.factories["optimizer"])
        elif table == "optimizers" and self.config.optimizers and rest:
            if len(rest) == 2 and rest[0] not in self.factories:
                raise ConfigError(f"sweep.{key}: there is no optimizer {rest[0]}{near(rest[0], self.factories)}")
            for name in [rest[0]] if len(rest) == 2 else self.factories:
                _check_argument(f"sweep.{key}", rest[-1], self.factories[name])
        elif table not in _UNSWEPT and key not in _UNSWEPT:
            tables = ["seed", "start", "cost.constants", "optimizers" if self.config.optimizers else "optimizer"]
            raise ConfigError(f"sweep.{key}: names nothing that varies{near(table, tables)}")

    def _check_start_key(self, key: str, rest: list[str]) -> None:
        name, *element = rest
        if name not in self.start:
            raise ConfigError(f"sweep.{key}: [start] has no {name}{near(name, self.start)}")
        shape = np.shape(self._start_at(0, {})[name])
        if element and not (len(element) == 1 and len(shape) == 1 and element[0].isdigit() and int(element[0]) < shape[0]):
            raise ConfigError(f"sweep.{key}: start.{name} has shape {shape}, and no element {'.'.join(element)}")
        if not element and shape and self._vector_expected(key, shape):
            raise ConfigError(f"sweep.{key}: start.{name} is a vector of {shape[0]}; sweep start.{name}.0 and so on, or values of whole vectors")

    def _vector_expected(self, key: str, shape: tuple[int, ...]) -> bool:
        axis = next(axis for axis in self.trials.every if axis.key == key)
        return axis.word != "values" or any(np.shape(v) != shape for v in axis.numbers)


def _lane_of_user(config: Config, folder: Path) -> "_UserLane":
    return _UserLane(config, _imported("lane.function", config.lane.function, folder))


class _UserLane:
    """The user's own lane function, with the config's arguments filled in."""

    def __init__(self, config: Config, function: Callable[..., Descent]):
        self.config, self.function = config, function
        known = _arguments_of(function)
        anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
        self.keys = {axis.name: axis.key for axis in cfg.axes(config)}
        swept = [key.removeprefix("lane.") for key in self.keys.values() if key.startswith("lane.")]
        for name in (*config.lane.arguments, *swept):
            if name not in known and not anything:
                raise ConfigError(f"lane.{name}: {config.lane.function} has no argument {name}{near(name, known)}")
        for key in self.keys.values():
            if key != "seed" and not key.startswith("lane."):
                raise ConfigError(f"sweep.{key}: with [lane], what varies is lane.NAME or seed")
        for name, parameter in known.items():
            given = name in config.lane.arguments or name in swept or name == "seed" or parameter.default is not parameter.empty
            if not given and parameter.kind is not parameter.VAR_KEYWORD:
                raise ConfigError(f"lane.{name} is missing: {config.lane.function} needs it")
        self.takes_seed = "seed" in known or anything
        if "seed" in self.keys.values() and not self.takes_seed:
            raise ConfigError(f"sweep.seed: {config.lane.function} has no argument seed")

    def __call__(self, **point: Any) -> Descent:
        settings = {self.keys[name].removeprefix("lane."): value for name, value in point.items()}
        seed = {"seed": self.config.seed} if self.takes_seed else {}
        return self.function(**seed | self.config.lane.arguments | settings)

    def values(self, key: str, numbers: Any) -> Any:
        array = np.asarray(numbers)
        if array.dtype.kind in "iuf":
            return array
        if array.dtype.kind not in "bU":
            raise ConfigError(f"sweep.{key}: values must be all numbers, all strings, or all true and false")
        return plans.each(array.tolist())

    def known_minima(self, values: Mapping[str, Any]) -> tuple[None, None]:
        return None, None


def _cost_of(config: Config, folder: Path) -> tuple[Surface | None, Callable]:
    cost = config.cost
    if cost.surface is not None:
        if cost.surface not in SURFACES:
            raise ConfigError(f"cost.surface = {cost.surface!r}: there is no such surface{near(cost.surface, SURFACES)}")
        return SURFACES[cost.surface], SURFACES[cost.surface].cost
    if cost.function is not None:
        return None, _imported("cost.function", cost.function, folder)
    try:
        return None, expression.parse(cost.expression)
    except expression.ExpressionError as error:
        raise ConfigError(f"cost.expression: {error}") from error


def _start_of(name: str, value: Any) -> Any:
    """A start as (distribution, numbers, shape) if it is drawn, else as an array."""
    where = f"start.{name}"
    if isinstance(value, dict):
        word, numbers, size = cfg.draw_of(where, value)
        return word, numbers, () if size is None else (size,)
    return _reals(where, value)


def _reals(where: str, numbers: Any) -> np.ndarray:
    wrong = f"{where} = {_short(numbers)}: must be a number or a list of numbers of even shape"
    try:
        array = np.asarray(numbers)
    except ValueError as error:
        raise ConfigError(wrong) from error
    if array.dtype.kind not in "iuf":
        raise ConfigError(wrong)
    if not np.isfinite(array).all():
        raise ConfigError(f"{where}: must be finite")
    return array.astype(float)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _factory(where: str, table: cfg.Optimizer, folder: Path) -> Callable[..., optax.GradientTransformation]:
    if table.function:
        factory = _imported(f"{where}.function", table.function, folder)
    else:
        name, known = table.name or where.rpartition(".")[2], optimizers()
        if name not in known:
            given = f"{where}.name = {name!r}" if table.name else f"{where}: name is missing, and {name!r}"
            raise ConfigError(f"{given}: there is no such optimizer{near(name, known)}")
        factory = known[name]
    for name in table.arguments:
        _check_argument(f"{where}.{name}", name, factory)
    return factory


def _check_argument(where: str, name: str, factory: Callable) -> None:
    known = _arguments_of(factory)
    if name not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        raise ConfigError(f"{where}: {getattr(factory, '__name__', 'the optimizer')} has no hyperparameter {name}{near(name, known)}")


def _under(prefix: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


# --- several optimizers, each over its own grid ---


def _private_group(group: list[str]) -> bool:
    return all(key.startswith("optimizers.") and key.count(".") == 2 for key in group)


class _Trials:
    """What varies one optimizer only: its trials, side by side with the others' along one dimension."""

    def __init__(self, config: Config):
        self.every = cfg.axes(config)
        private = [axis for axis in self.every if _private_group([axis.key])] if config.optimizers else []
        self.shared = [axis for axis in self.every if axis not in private]
        self.names = list(config.optimizers or {})
        self.axes = private
        self.tables = {name: self._grid(config, name) for name in self.names} if private else {}
        counts = {name: len(next(iter(table.values()), [0])) for name, table in self.tables.items()}
        self.counts, self.count = counts, max(counts.values(), default=0)
        if len(set(counts.values())) > 1 and not config.run.unequal_trials:
            raise ConfigError(
                "sweep: the optimizers differ in their number of trials ("
                + ", ".join(f"{name} {count}" for name, count in counts.items())
                + "), which favours the one with more; even them out, or set run.unequal_trials = true"
            )

    def _grid(self, config: Config, optimizer: str) -> dict[str, np.ndarray]:
        mine = [axis for axis in self.axes if axis.key.split(".")[1] == optimizer]
        columns = [_reals(f"sweep.{axis.key}", _numbers(axis, config.seed)) for axis in mine]
        groups = [[axis.key for axis in mine if axis.key in group] or [] for group in cfg.paired(config) if _private_group(group)]
        together: list[list[int]] = [[i for i, axis in enumerate(mine) if axis.key in group] for group in groups if group]
        alone = [[i] for i in range(len(mine)) if not any(i in group for group in together)]
        dimensions = sorted(together + alone)
        for group in dimensions:
            if len({len(columns[i]) for i in group}) > 1:
                raise ConfigError(f"sweep.paired: {' and '.join(mine[i].key for i in group)} differ in length")
        indices = np.meshgrid(*[np.arange(len(columns[group[0]])) for group in dimensions], indexing="ij")
        table = {i: columns[i][index.ravel()] for group, index in zip(dimensions, indices) for i in group}
        return {axis.name: table[i] for i, axis in enumerate(mine)}

    def arguments(self, optimizer: str, trial: Any) -> dict[str, Any]:
        """One trial's hyperparameters."""
        table = self.tables.get(optimizer, {})
        return {name: jnp.asarray(np.resize(values, self.count), float)[trial] for name, values in table.items()}

    def labels(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Each hyperparameter as a coordinate over (optimizer, trial); NaN where it does not apply."""
        labels = {}
        for name in dict.fromkeys(axis.name for axis in self.axes):
            values = np.full((len(self.names), self.count), np.nan)
            for row, optimizer in zip(values, self.names):
                column = self.tables[optimizer].get(name, [])
                row[: len(column)] = column
            labels[name] = (("optimizer", "trial"), values)
        return labels

    def absent(self) -> np.ndarray | None:
        """Which (optimizer, trial) there is nothing to run for."""
        if len(set(self.counts.values())) < 2:
            return None
        return np.arange(self.count) >= np.array(list(self.counts.values()))[:, None]
