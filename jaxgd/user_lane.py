"""The user's own lane function, with the config's arguments filled in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgd import config as cfg
from jaxgd import names, ranges
from jaxgd import plan as plans
from jaxgd.config import Config
from jaxgd.descent import Descent
from jaxgd.ranges import Axis, ConfigError, near


class UserLane:
    """[lane] of a config: calling it with a point of the grid gives the Descent of the user's function."""

    def __init__(self, config: Config, folder: Path):
        self.config, self.folder, given = config, folder, config.lane.arguments
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

    def __reduce__(self):
        return cfg.Rebuilt, (UserLane, cfg.as_toml(self.config), self.folder)

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

    def known_minima(self, swept: Mapping[str, Any]) -> tuple[None, None]:
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
