"""A checked config to a plan: one lane, and the axes along which lanes vary."""

import contextlib
import io
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgd import budget, names, ranges, reserved
from jaxgd import config as cfg
from jaxgd import plan as plans
from jaxgd.config import Config
from jaxgd.costs import cost_of, start_at, start_of, under
from jaxgd.descent import Descent
from jaxgd.fit import layers_of
from jaxgd.ranges import Axis, ConfigError, near
from jaxgd.table import REPLICATES
from jaxgd.trials import trials_of
from jaxgd.user_lane import UserLane

if TYPE_CHECKING:
    import xarray


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
            budget.check_config(config)
            with _heard():
                plan = _plan(config, folder)
            budget.check_plan(plan)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error.__cause__
        except _NOT_TRACED as error:
            raise ConfigError(f"{where}: {_not_traced(config, error)}") from error
        except plans.NeedsValue as error:
            raise ConfigError(f"{where}: {_not_traced(config, error.__cause__)}") from error
        except (TypeError, ValueError, IndexError) as error:  # what Descent, its cost or the optimizer refuse
            raise ConfigError(f"{where}: {_place(error, folder)}{error}") from error
        except (Exception, SystemExit) as error:
            if not (place := _place(error, folder)):
                raise
            raise ConfigError(f"{where}: {place}{type(error).__name__}{f': {error}' if str(error) else ''}") from error
    return plan


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Says what it means if the user's own code prints: what `print` shows is not what happens in an epoch."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        print(printed.getvalue(), end="")
    if printed.getvalue():
        warnings.warn(
            "the config's own code prints: that happens while JAX traces it, some times and not in every epoch, and "
            "shows no numbers; jax.debug.print shows them, of every lane",
            stacklevel=3,
        )


def at(config: Config, setting: "xarray.Dataset") -> Config:
    """The config of one setting of its sweep: no [sweep], and the setting's values in place.

    Seeds, being replicates, keep the config's own; but one lane alone has its own seed.
    """
    content = config.model_dump(exclude_none=True) | {"sweep": {}}
    chosen = None
    if config.optimizers:
        chosen = setting["optimizer"].item()
        content["optimizer"] = {"name": chosen} | content.pop("optimizers")[chosen]
    swept = [axis for axis in cfg.axes(config) if axis.optimizer in (None, chosen)]
    for axis in swept:
        if axis.key == "seed" and setting["seed"].ndim == 0:
            content["seed"] = int(setting["seed"])
    for axis in swept:
        if axis.name in REPLICATES:
            continue
        if axis.path[0] == "start" and len(axis.path) == 3:  # an element: its vector must be there, drawn or not
            name = axis.path[1]
            with jax.enable_x64(config.run.precision == "float64"):
                vector = start_at({name: start_of(name, content["start"][name])}, content["seed"])[name]
            content["start"][name] = vector.tolist()
        path = ["optimizer", *axis.hyperparameter.split(".")] if axis.path[0] == "optimizers" else axis.path
        if axis.is_of_layer and not isinstance(rate := content["optimizer"]["learning_rate"], dict):
            content["optimizer"]["learning_rate"] = dict.fromkeys(layers_of(config), rate)
        cfg.lay(content, path, _value_at(config, axis, setting))
    return cfg.checked(content, "the best setting")


def settings(config: Config, other: Config) -> list[str]:
    """What to lay over a config, KEY=VALUE, so that it becomes the other: `--set` takes them."""
    before, after = (one.model_dump(exclude_none=True) for one in (config, other))
    return [f"{key}={value}" for key, value in _differences(before, after)]


def _differences(
    before: dict[str, Any], after: dict[str, Any], under: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    for name in {**before, **after}:
        old, new, key = before.get(name), after.get(name, {}), ".".join((*under, name))
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict) and new:
            yield from _differences(old, new, (*under, name))
        else:
            yield key, cfg.value_as_toml(new)


def _value_at(config: Config, axis: Axis, setting: "xarray.Dataset") -> Any:
    if axis.optimizer:
        trials = trials_of(config, _private_numbers(config))
        return trials.arguments(axis.optimizer)[axis.hyperparameter].tolist()[setting["trial"].item()]
    name = f"{axis.name}.value" if f"{axis.name}.value" in setting.coords else axis.name
    return setting[name].values.tolist()


def _plan(config: Config, folder: Path) -> plans.Plan:
    trials = trials_of(config, _private_numbers(config))
    shared = [axis for axis in cfg.axes(config) if axis.optimizer is None]
    lane = UserLane(config, folder) if config.lane else _Lane(config, folder)
    partners = {key for group in cfg.paired(config) for key in group}
    values: dict[str, Any] = {}
    if config.optimizers:
        values["optimizer"] = plans.each(list(config.optimizers))
    if trials.axes:
        values["trial"] = lane.trial_values()
    for axis in cfg.axes(config):
        _check_name(axis, {*reserved.NAMES, *values, *(() if config.lane else ("optimizer", "trial"))})
        if axis in shared:
            values[axis.name] = lane.values(axis)
            if axis.name in REPLICATES and axis.key not in partners:
                _check_distinct(axis, values[axis.name])
    named = {axis.key: axis.name for axis in shared}
    budget.check_programs(budget.programs(values.values()))
    minimum, minima = lane.known_minima({key: values[name] for key, name in named.items()})
    plan = plans.planned(
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
        select=config.run.select,
    )
    reserved.check(plan)
    return plan


def _check_distinct(axis: Axis, seeds: Any) -> None:
    known, counts = np.unique(seeds.values if isinstance(seeds, plans.Each) else seeds, return_counts=True)
    if twice := known[counts > 1].tolist():
        raise ConfigError(f"sweep.{axis.key}: the seed {twice[0]} is there twice; a lane that is repeated says no more")


def _check_name(axis: Axis, taken: set[str]) -> None:
    if axis.name in taken:
        raise ConfigError(
            f"sweep.{axis.key}: the result has a variable named {axis.name}; rename the axis, as in "
            f'{{ ..., name = "{axis.path[0]}_{axis.name}" }}'
        )
    is_seed = axis.path[-1] == "seed" and axis.path[0] != "start" and axis.path[1:2] != ["constants"]
    if axis.name in REPLICATES and not is_seed:
        raise ConfigError(
            f"sweep.{axis.key}: {axis.name} is the name of an axis of seeds, over which medians are taken; rename the "
            f'axis, as in {{ ..., name = "{axis.path[0]}_{axis.name}" }}'
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


# --- one lane ---


class _Lane:
    """Cost, start and optimizer of a config as one lane; calling it with a point of the grid gives a Descent."""

    def __init__(self, config: Config, folder: Path):
        self.config, self.folder, self.trials = config, folder, trials_of(config, _private_numbers(config))
        self.cost = cost_of(config, folder)
        self.tables = config.optimizers or {"optimizer": config.optimizer}
        self.factories = {
            name: names.factory_of(f"optimizers.{name}" if config.optimizers else name, table, folder)
            for name, table in self.tables.items()
        }
        self._check_rates()
        self.keys: dict[str, str] = {}  # of the shared axes, by the axis' name
        for axis in cfg.axes(config):
            self._check_axis(axis)
            if axis.optimizer is None:
                self.keys[axis.name] = axis.key

    def __reduce__(self):
        return cfg.Rebuilt, (_Lane, cfg.as_toml(self.config), self.folder)

    def __call__(self, optimizer: str = "optimizer", trial: Any = 0, **point: Any) -> Descent:
        settings = {self.keys[name]: value for name, value in point.items()}
        arguments = self._given(optimizer, self.tables[optimizer].arguments)
        swept = under("optimizer.", settings) | under("optimizers.", settings) | self._tried(optimizer, trial)
        rates = under("learning_rate.", swept)
        arguments |= {name: value for name, value in swept.items() if "." not in name}
        made = self._made(self.factories[optimizer], arguments, rates)
        return Descent(**self.cost.descent(settings), optimizer=made)

    def _made(
        self, factory: names.Factory, arguments: dict[str, Any], rates: dict[str, Any]
    ) -> optax.GradientTransformation:
        """The optimizer; where layers have rates of their own, one of its kind for each layer."""
        rate = arguments.get("learning_rate")
        if not rates and not isinstance(rate, dict):
            return factory(**arguments)
        rates = (rate if isinstance(rate, dict) else dict.fromkeys(self.cost.layers, rate)) | rates
        each = {layer: factory(**arguments | {"learning_rate": rates[layer]}) for layer in self.cost.layers}
        return optax.partition(each, {layer: layer for layer in self.cost.layers})

    def values(self, axis: Axis) -> Any:
        """The values along an axis, in the type that its key needs."""
        where, numbers = f"sweep.{axis.key}", ranges.numbers(axis, self.config.seed)
        if axis.key == "seed":
            return ranges.seeds(where, numbers)
        if axis.path[0] not in ("optimizer", "optimizers"):
            numbers = self.cost.numbers(axis)
        else:
            for factory in self.factories.values():
                numbers = names.along(where, names.parameters(factory).get(axis.path[1]), numbers)
        if isinstance(numbers, plans.Each):
            return numbers
        return plans.each(list(numbers)) if axis.each or isinstance(numbers, list) else numbers

    def trial_values(self) -> Any:
        """The axis of trials; a program for each if one of the hyperparameters that vary needs that."""
        for axis in self.trials.axes:
            parameter = names.parameters(self.factories[axis.optimizer]).get(axis.hyperparameter.partition(".")[0])
            column = ranges.numbers(axis, self.config.seed)
            if axis.each or isinstance(names.along(f"sweep.{axis.key}", parameter, column), list):
                return plans.each(range(self.trials.count))
        return np.arange(self.trials.count)

    def known_minima(self, swept: Mapping[str, Any]) -> tuple[float | None, Any]:
        return self.cost.known_minima(swept)

    def _given(self, optimizer: str, values: Mapping[str, Any]) -> dict[str, Any]:
        known = names.parameters(self.factories[optimizer])
        return {n: names.rates_or_one(n, known.get(n.partition(".")[0]), value) for n, value in values.items()}

    def _tried(self, optimizer: str, trial: Any) -> dict[str, Any]:
        columns = self.trials.arguments(optimizer)
        if isinstance(trial, int):
            return self._given(optimizer, {name: column.tolist()[trial] for name, column in columns.items()})
        return {name: jnp.asarray(column, float)[trial] for name, column in columns.items()}

    def _check_layers(self, where: str, given: Iterable[str]) -> None:
        if wrong := [name for name in given if name not in self.cost.layers]:
            raise ConfigError(f"{where}: the params have no part {wrong[0]}{near(wrong[0], self.cost.layers)}")

    def _check_rates(self) -> None:
        """Whether a table in place of a learning rate has a rate for every layer."""
        for name, table in self.tables.items():
            where = f"optimizers.{name}.learning_rate" if self.config.optimizers else "optimizer.learning_rate"
            if isinstance(rates := table.arguments.get("learning_rate"), dict):
                self._check_layers(where, rates)
                if missing := [layer for layer in self.cost.layers if layer not in rates]:
                    raise ConfigError(f"{where}.{missing[0]} is missing: the table needs a rate for each layer")

    def _check_axis(self, axis: Axis) -> None:
        """Whether a swept key names something that can vary."""
        where, (table, *rest) = f"sweep.{axis.key}", axis.path
        optimizers = "optimizers" if self.config.optimizers else "optimizer"
        if axis.key.startswith(tuple(f"{tables}." for tables in self.cost.varies)) or axis.key in self.cost.varies:
            self.cost.check_axis(axis)
        elif table == optimizers and rest:
            self._check_hyperparameter(where, axis)
        elif axis.key != "seed":
            tables = ("seed", *self.cost.varies, optimizers)
            raise ConfigError(f"{where}: {axis.key} can't be swept{near(table, tables, cutoff=0.8)}")

    def _check_hyperparameter(self, where: str, axis: Axis) -> None:
        if axis.optimizer is not None and axis.optimizer not in self.factories:
            raise ConfigError(f"{where}: there is no optimizer {axis.optimizer}{near(axis.optimizer, self.factories)}")
        name, _, layer = axis.hyperparameter.partition(".")
        if name in ("name", "function"):
            raise ConfigError(f"{where}: to compare optimizers, give each a table [optimizers.NAME]")
        for factory in self.factories.values() if axis.optimizer is None else [self.factories[axis.optimizer]]:
            names.check_hyperparameter(where, name, factory)
        if layer and name != "learning_rate":
            raise ConfigError(f"{where}: only a learning rate can differ from layer to layer")
        if layer:
            self._check_layers(where, [layer])
