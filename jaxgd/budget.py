"""What a run would take of memory and time, reckoned before any of it is taken."""

import math
from collections.abc import Iterable

from jaxgd import checks, table
from jaxgd import config as cfg
from jaxgd.checks import count_of as _count
from jaxgd.checks import in_bytes as in_bytes
from jaxgd.checks import memory as memory
from jaxgd.config import Config
from jaxgd.outcome import FIGURES
from jaxgd.plan import Each, Plan, bytes_of
from jaxgd.ranges import Axis, ConfigError, is_number

MOST_PROGRAMS = 4_096  # each is traced to check a config, and compiled to run it: about a second
MOST_UPDATES = 1e18  # thirty years of a thousand million a second
_YEAR = 365.25 * 24 * 3600
_FEWEST_LANES = 64  # in a block
_COPIES = 3  # of the params, at least: they, their grads, what they become


def check_config(config: Config) -> None:
    """Refuses what no machine like this can hold, by what the config says alone.

    Raises:
      ConfigError: with the arithmetic.
    """
    real = 8 if config.run.precision == "float64" else 4
    for name, value in (config.start or {}).items():
        size = value.get("size") if isinstance(value, dict) else None
        if is_number(size):
            _refuse_over_memory(
                f"start.{name}", (_FEWEST_LANES, "lanes side by side"), (size, "numbers"), (_COPIES * real, "bytes")
            )
    lanes, said = _lanes(config)
    _refuse_over_memory("sweep", (lanes, f"lanes ({said})"), (4 * len(FIGURES), "bytes, and more with params"))
    updates = lanes * config.run.epochs
    if updates > MOST_UPDATES:
        raise ConfigError(
            f"run.epochs: {_count(lanes)} lanes × {_count(config.run.epochs)} epochs are {updates:.2g} updates; "
            f"at a thousand million a second, {updates / 1e9 / _YEAR:.0f} years"
        )
    programs = math.prod(axis.size for axis in cfg.axes(config) if axis.each)
    check_programs(programs * len(config.optimizers or [0]))


def check_programs(count: int) -> None:
    if count > MOST_PROGRAMS:
        raise ConfigError(
            f"sweep: {_count(count)} programs, one for each value that can't be traced, each compiled by itself; "
            f"allowed are {_count(MOST_PROGRAMS)}"
        )


def check_plan(plan: Plan) -> None:
    """Refuses a plan that this machine can't hold; nothing of it is allocated yet but its axes.

    Raises:
      ConfigError: with the arithmetic.
    """
    _refuse_over_memory("sweep", *table.stored_factors(plan))
    _refuse_over_memory(
        "start",
        (math.prod(plan.blocks(devices=1)), "lanes side by side"),
        (_lane_bytes(plan), "bytes of params and state"),
    )


def stored(plan: Plan) -> int:
    """Bytes of the results, before compression."""
    return table.stored(plan)


def working(plan: Plan) -> int:
    """Bytes that a worker needs, about."""
    return math.prod(plan.blocks(devices=1)) * _lane_bytes(plan)


def programs(values: Iterable[object]) -> int:
    """How many programs the values along some axes ask for."""
    return math.prod(len(along.values) for along in values if isinstance(along, Each))


def _lane_bytes(plan: Plan) -> int:
    return bytes_of(plan.outline) + 4 * len(FIGURES)


def _lanes(config: Config) -> tuple[int, str]:
    """How many lanes there are, and of what they are the product; walking together counts once."""
    followers = {key for group in cfg.paired(config) for key in group[1:]}
    axes = [axis for axis in cfg.axes(config) if axis.key not in followers]
    factors = {axis.name: axis.size for axis in axes if axis.optimizer is None}
    if trials := [_trials(axes, name) for name in config.optimizers or {}]:
        factors |= {"optimizer": len(trials), "trial": max(trials)}
    return math.prod(factors.values()), " × ".join(f"{name} {_count(size)}" for name, size in factors.items())


def _trials(axes: Iterable[Axis], optimizer: str) -> int:
    return math.prod(axis.size for axis in axes if axis.optimizer == optimizer)


def _refuse_over_memory(where: str, *factors: tuple[int, str]) -> None:
    if said := checks.over_memory(where, *factors, most=memory()):
        raise ConfigError(said)
