"""Several optimizers, each over a grid of its own: its trials lie beside the others' along one dimension."""

from dataclasses import dataclass

import numpy as np

from jaxgd import config as cfg
from jaxgd.config import Config
from jaxgd.ranges import Axis, ConfigError

Columns = dict[str, np.ndarray]  # values by name


@dataclass(frozen=True)
class Trials:
    """What varies one optimizer only. An optimizer with fewer trials than another repeats its own, unless absent."""

    axes: tuple[Axis, ...]
    columns: dict[str, Columns]  # optimizer → hyperparameter → its value in each trial

    @property
    def counts(self) -> list[int]:
        return [len(next(iter(column.values()), [0])) for column in self.columns.values()]

    @property
    def count(self) -> int:
        return max(self.counts, default=1)

    def arguments(self, optimizer: str) -> Columns:
        """Hyperparameter → one value for every trial."""
        there = np.arange(self.count)
        return {name: column[there % len(column)] for name, column in self.columns.get(optimizer, {}).items()}

    def labels(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Each hyperparameter as a coordinate over (optimizer, trial); NaN or nothing where it does not apply."""
        return {name: (("optimizer", "trial"), self._label(name)) for name in dict.fromkeys(a.name for a in self.axes)}

    def _label(self, name: str) -> np.ndarray:
        mine = [axis for axis in self.axes if axis.name == name]
        named = {axis.optimizer: self.columns[axis.optimizer][axis.hyperparameter] for axis in mine}
        real = all(column.dtype.kind == "f" for column in named.values())
        label = np.full((len(self.columns), self.count), np.nan if real else "", float if real else object)
        for row, optimizer in zip(label, self.columns, strict=True):
            column = named.get(optimizer, np.array([]))
            row[: len(column)] = column if real else column.astype(str)
        return label if real else label.astype(str)

    def absent(self) -> np.ndarray | None:
        """Which (optimizer, trial) there is nothing to run for."""
        if len(set(self.counts)) < 2:
            return None
        return np.arange(self.count) >= np.array(self.counts)[:, None]


def trials_of(config: Config, values: Columns) -> Trials:
    """The trials of a config.

    Args:
      values: the values along each axis that varies one optimizer only, by its key.

    Raises:
      ConfigError: the optimizers differ in their number of trials, and may not; a pair differs in length.
    """
    axes = tuple(axis for axis in cfg.axes(config) if axis.key in values)
    columns = {name: _grid(config, name, axes, values) for name in config.optimizers or {}} if axes else {}
    trials = Trials(axes, columns)
    if len(set(trials.counts)) > 1 and not config.run.unequal_trials:
        said = ", ".join(f"{name} {count}" for name, count in zip(columns, trials.counts, strict=True))
        raise ConfigError(
            f"sweep: the optimizers differ in their number of trials ({said}); give them equal grids, "
            "or set run.unequal_trials = true"
        )
    return trials


def _grid(config: Config, optimizer: str, axes: tuple[Axis, ...], values: Columns) -> Columns:
    """The columns of one optimizer: every combination of its axes, those that are paired in step."""
    mine = {axis.key: axis.hyperparameter for axis in axes if axis.optimizer == optimizer}
    pairs = [group for group in cfg.paired(config) if group[0] in mine]
    partners = {key: group for group in pairs for key in group}
    groups = [partners.get(key, [key]) for key in mine if partners.get(key, [key])[0] == key]
    for group in groups:
        if len({len(values[key]) for key in group}) > 1:
            raise ConfigError(f"sweep.paired: {' and '.join(group)} differ in length")
    steps = np.meshgrid(*(np.arange(len(values[group[0]])) for group in groups), indexing="ij")
    return {mine[key]: values[key][step.ravel()] for group, step in zip(groups, steps, strict=True) for key in group}
