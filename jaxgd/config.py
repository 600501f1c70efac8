"""TOML to a checked config. Every error names the file, the key, what is wrong, and what is allowed."""

import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tomli_w
from pydantic import ConfigDict, Field

from jaxgd.plan import selected
from jaxgd.ranges import Axis, ConfigError, check_held, is_number, is_word, near, ranges_of, shown

_MOST_BYTES = 1 << 26
_DEEPEST = 32
_too_deep = f"it is nested more than {_DEEPEST} levels deep"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
_SELECT = ("final_cost", "best_cost", "target_epoch")
_SELECT_WITH_DATA = ("validation_cost", "validation_accuracy")


class Table(pydantic.BaseModel):
    """A table of the config: strict types, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Open(Table):
    """A table whose further keys are the arguments of what it names."""

    model_config = ConfigDict(extra="allow")

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Network(Table):
    hidden: list[Annotated[int, Field(ge=1, le=1_000_000)]] = []
    activation: str = "tanh"
    initialisation: str = "glorot_normal"
    bias: bool = True
    loss: str | None = None
    seed: Seed | None = None


class Cost(Table):
    expression: str | None = None
    surface: str | None = None
    function: str | None = None
    network: Network | None = None
    constants: dict[str, Finite] = {}
    minimum: Finite | None = None
    minima: list[list[Finite]] | None = None


class Data(Open):
    name: str | None = None
    file: str | None = None
    target: str | None = None
    labels: bool | None = None
    split: list[Finite] = [0.6, 0.2, 0.2]
    standardise: bool = True
    batch_size: Annotated[int, Field(ge=1)] | None = None
    remainder: Literal["drop", "pad"] = "drop"
    seed: Seed | None = None


class Optimizer(Open):
    name: str | None = None
    function: str | None = None


class Lane(Open):
    function: str


class Run(Table):
    epochs: Annotated[int, Field(ge=1, le=1_000_000_000)]
    target: Finite | None = None
    ceiling: Finite | None = None
    tolerance: Positive | None = None
    precision: Literal["float32", "float64"] = "float32"
    select: str | None = None  # with data validation_cost, else with a target target_epoch, else final_cost
    unequal_trials: bool = False


class Record(Table):
    history: Annotated[int, Field(ge=2, le=100_000)] | None = None
    paths: Annotated[int, Field(ge=0, le=100_000)] | None = None  # an eighth of the lanes, but 8 to 48
    params: Literal["all", "best", "none"] = "all"


class Config(Table):
    """What a run is asked to do; `start` and `sweep` are read further where they are used."""

    title: str = ""
    seed: Seed = 0
    data: Data | None = None
    cost: Cost | None = None
    start: dict[str, Any] | None = None
    optimizer: Optimizer | None = None
    optimizers: dict[str, Optimizer] | None = None
    lane: Lane | None = None
    run: Run
    sweep: dict[str, Any] = {}
    record: Record = Record()


def read(path: Path, settings: Iterable[str] = ()) -> Config:
    """The config in a TOML file, with `KEY=VALUE` settings laid over it.

    Raises:
      ConfigError: the file can't be read, isn't TOML, or isn't a config.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)  # no more, whatever it is
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"{path}: is longer than the {_MOST_BYTES} bytes that a config may have")
        content = _toml(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    return overlaid(content, settings, str(path))


def overlaid(content: dict[str, Any], settings: Iterable[str], where: str) -> Config:
    """As `checked`, with `KEY=VALUE` settings laid over the tables."""
    for setting in settings:
        _lay_over(content, setting)
    return checked(content, where)


def _toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
      TOMLDecodeError: it isn't one, or holds what nobody can have meant.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists within lists within lists
        raise tomllib.TOMLDecodeError(_too_deep if isinstance(error, RecursionError) else str(error)) from error
    level = [content]
    for _ in range(_DEEPEST):
        if not (level := [inner for value in level for inner in _within(value) if isinstance(inner, (dict, list))]):
            return content
    raise tomllib.TOMLDecodeError(_too_deep)


def _within(value: dict | list) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def checked(content: dict[str, Any], where: str) -> Config:
    """A config from the tables of a TOML file; `where` opens every message.

    Raises:
      ConfigError: as `read`.
    """
    try:
        config = Config.model_validate(content)
    except pydantic.ValidationError as error:
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a typo explains what is missing
        raise ConfigError(f"{where}: {_sentence(first)}") from error
    try:
        _check_tables(config)
        axes(config)
        for key, value in _numbers(config):
            check_held(key, value, config.run.precision)
        run = config.run.model_copy(update={"select": _selected(config)})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return config.model_copy(update={"run": run})


class Rebuilt:
    """What a config was made into; in another process it is made again from its text, when it is first called."""

    def __init__(self, kind: Callable[[Config, Path], Any], text: str, folder: Path):
        self.given, self.made = (kind, text, folder), None

    def __reduce__(self):
        return Rebuilt, self.given

    def __call__(self, **point: Any) -> Any:
        if self.made is None:
            kind, text, folder = self.given
            self.made = kind(checked(tomllib.loads(text), "the config"), folder)
        return self.made(**point)


def as_toml(config: Config) -> str:
    """The config with its defaults filled in, as TOML."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))


def value_as_toml(value: Any) -> str:
    """One value on one line, as it stands behind a key."""
    if isinstance(value, dict):
        inner = ", ".join(f"{name} = {value_as_toml(inner)}" for name, inner in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(value_as_toml, value)) + "]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def axes(config: Config) -> list[Axis]:
    """The entries of [sweep], in the order of the file.

    Raises:
      ConfigError: an entry that isn't a range, or two that would share a name.
    """
    found = list(ranges_of(config.sweep))
    known: dict[str, list[Axis]] = {}
    for axis in found:
        for other in known.setdefault(axis.name, []):
            if None in (axis.optimizer, other.optimizer) or axis.optimizer == other.optimizer:
                raise ConfigError(
                    f"sweep: {other.key} and {axis.key} would both be called {axis.name!r}; rename one, as in "
                    f'{axis.key} = {{ {axis.word} = [...], name = "{axis.path[0]}_{axis.name}" }}'
                )
        known[axis.name].append(axis)
    return found


def paired(config: Config) -> list[list[str]]:
    """Groups of swept keys that walk together.

    Raises:
      ConfigError: a group that isn't one, or keys that can't walk together.
    """
    groups, swept = config.sweep.get("paired", []), {axis.key: axis for axis in axes(config)}
    if not (isinstance(groups, list) and all(isinstance(g, list) and len(g) > 1 for g in groups)):
        raise ConfigError(
            'sweep.paired: must be a list of lists of swept keys, as [["optimizer.learning_rate", "start.x"]]'
        )
    seen: set[str] = set()
    for group in groups:
        for key in group:
            if key not in swept:
                raise ConfigError(f"sweep.paired: {shown(key)} is not swept{near(str(key), swept)}")
            if key in seen:
                raise ConfigError(f"sweep.paired: {key} is there twice")
            seen.add(key)
        if len({swept[key].optimizer for key in group}) > 1:
            raise ConfigError(
                f"sweep.paired: {' and '.join(group)} can't walk together: what varies one optimizer only goes with "
                "more of the same optimizer"
            )
    return groups


def code_named(config: Config) -> dict[str, str]:
    """The references to the user's own code, "module:name" by key: what carrying the config out imports."""
    content = config.model_dump(exclude={"sweep", "start", "optimizers"})
    tables = content | {f"optimizers.{name}": table.model_dump() for name, table in (config.optimizers or {}).items()}
    functions = {f"{name}.function": table.get("function") for name, table in tables.items() if isinstance(table, dict)}
    return {key: reference for key, reference in functions.items() if reference is not None}


def lay(content: dict[str, Any], path: list[str], value: Any) -> None:
    """Puts a value at a path of tables, and of lists, whose elements go by number.

    Raises:
      ConfigError: the path leads through something else, or to no element of its list.
    """
    *way, last = path
    here: Any = content
    for i, part in enumerate(path):
        if isinstance(here, list) and not (part.isdecimal() and int(part) < len(here)):
            raise ConfigError(f"{'.'.join(path[:i])} has {len(here)} elements, and none called {part}")
        if not isinstance(here, (dict, list)):
            raise ConfigError(f"{'.'.join(path[:i])} is not a table")
        if i < len(way):
            here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
    here[int(last) if isinstance(here, list) else last] = value


def _lay_over(content: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    path = [part.strip() for part in key.split(".")]
    where = f"--set {' '.join(setting.split())}"
    where = where if len(where) <= 80 else f"{where[:77]}..."
    if not equals or not all(path):
        raise ConfigError(f"{where}: must be KEY=VALUE, as in --set run.epochs=200")
    try:
        parsed = _toml(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if text.lstrip()[:1] in ("[", "{", '"', "'"):
            raise ConfigError(f"{where}: the value is not valid TOML: {error}") from error
        parsed = {"value": text.strip()}  # a bare word is a string
    if len(parsed) > 1:
        raise ConfigError(f"{where}: must be one value; give each its own --set")
    try:
        lay(content, path, parsed["value"])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _selected(config: Config) -> str:
    """The figure that the best setting is chosen by."""
    allowed = (*_SELECT, *_SELECT_WITH_DATA) if config.data else _SELECT
    chosen = config.run.select or ("validation_cost" if config.data else selected(config.run.target))
    if chosen.startswith("test_"):
        raise ConfigError(
            f"run.select = {shown(chosen)}: a setting is chosen on validation, and only reported on test; "
            f"allowed: {', '.join(allowed)}"
        )
    if chosen not in allowed:
        beside = " (there is no [data])" if chosen in _SELECT_WITH_DATA else ""
        raise ConfigError(f"run.select = {shown(chosen)}: must be one of {', '.join(allowed)}{beside}")
    return chosen


def reference(key: str, text: str) -> tuple[str, str]:
    """(module, name) of "package.module:name".

    Raises:
      ConfigError: it isn't one.
    """
    module, colon, name = text.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ConfigError(f'{key} = {shown(text)}: must be "package.module:name"')
    return module, name


def _check_tables(config: Config) -> None:
    for key, code in code_named(config).items():
        reference(key, code)
    if config.lane:
        if config.data:
            raise ConfigError("[lane] takes its data itself, as from jaxgd.data.load: remove [data]")
        for name in ("cost", "start", "optimizer", "optimizers"):
            if getattr(config, name) is not None:
                raise ConfigError(f"[lane] takes the place of [cost], [start] and [optimizer]: remove [{name}]")
        return
    if config.cost is None:
        raise ConfigError('table [cost] is missing: say what to descend, as in surface = "rosenbrock"')
    kinds = ("expression", "surface", "function", "network")
    given = [kind for kind in kinds if getattr(config.cost, kind) is not None]
    if len(given) != 1:
        raise ConfigError(f"cost: needs one of {', '.join(kinds)}; it has {' and '.join(given) or 'none'}")
    if config.data and given[0] in ("expression", "surface"):
        raise ConfigError(f"cost.{given[0]}: takes no data; give [cost.network] or cost.function, or remove [data]")
    if config.cost.network:
        if config.data is None:
            raise ConfigError('table [data] is missing: say what the network learns, as in name = "digits"')
        for name in ("start", "cost.constants", "cost.minima"):
            if getattr(config if name == "start" else config.cost, name.rpartition(".")[2]):
                raise ConfigError(f"{name}: a network has none, and starts from its initialisation: remove it")
    elif not config.start:
        raise ConfigError("table [start] is missing: say where the descent starts, as in x = 3.0")
    for table, names in {"start": config.start or {}, "cost.constants": config.cost.constants}.items():
        for name in names:
            if not is_word(name):
                raise ConfigError(f"{table}: {name!r} can't be a name; it must be a word of letters, digits and _")
    if config.optimizer is None and not config.optimizers:
        raise ConfigError('table [optimizer] is missing: say how to descend, as in name = "gradient_descent"')
    if config.optimizer and config.optimizers:
        raise ConfigError("there are [optimizer] and [optimizers]: remove one of them")
    tables = {f"optimizers.{n}": o for n, o in (config.optimizers or {}).items()} or {"optimizer": config.optimizer}
    for where, optimizer in tables.items():
        if optimizer.name is not None and optimizer.function is not None:
            raise ConfigError(f"{where}: has both name and function; it needs one")
        if where == "optimizer" and optimizer.name is None and optimizer.function is None:
            raise ConfigError('optimizer.name is missing, as in name = "gradient_descent"')
        if where == "optimizers.learning_rate":
            raise ConfigError(f"{where}: is the rate of all, for [sweep]; give each optimizer its own, or another name")
        if where != "optimizer" and not is_word(where.removeprefix("optimizers.")):
            raise ConfigError(f"{where}: must be called by a word of letters, digits and _; its name says what it is")


def _numbers(config: Config) -> Iterator[tuple[str, float]]:
    """The numbers that lanes get in the run's precision, each with its key; what is none is refused elsewhere."""
    run, cost = config.run, config.cost or Cost()
    said: dict[str, Any] = {"cost.minimum": cost.minimum, "cost.minima": cost.minima}
    said |= {"run.target": run.target, "run.tolerance": run.tolerance}
    said |= {f"cost.constants.{name}": value for name, value in cost.constants.items()}
    tables = {f"optimizers.{n}": o for n, o in (config.optimizers or {}).items()} | {"optimizer": config.optimizer}
    for where, table in tables.items():
        if table and table.function is None:
            said |= {f"{where}.{name}": value for name, value in table.arguments.items()}
    drawn = {f"start.{name}": start for name, start in (config.start or {}).items()}
    drawn |= {f"sweep.{a.key}": {a.word: a.numbers} for a in axes(config) if not (a.each and a.path[0] == "lane")}
    for key, value in (said | drawn).items():
        yield from ((key, number) for number in _leaves(value) if is_number(number))
    for key, value in drawn.items():
        for word in {"uniform", "linspace"} & {*(value if isinstance(value, dict) else ())}:
            low, high, *_ = [*filter(is_number, _leaves(value[word])), 0, 0]
            yield f"{key}: the width of {word}", float(high) - float(low)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        for inner in _within(value):
            yield from _leaves(inner)
    else:
        yield value


def _sentence(error: dict[str, Any]) -> str:
    """One of pydantic's errors, in this project's words."""
    path, kind, value = [str(p) for p in error["loc"]], error["type"], error.get("input")
    key = ".".join(path)
    if kind == "extra_forbidden":
        return f"{key}: unknown key{near(path[-1], _fields(path[:-1]))}"
    if kind == "missing":
        return f"table [{key}] is missing" if len(path) == 1 else f"{key} is missing"
    kinds = {
        "float_type": "a number",
        "int_type": "a whole number",
        "string_type": "a string in quotes",
        "bool_type": "true or false",
        "list_type": "a list",
        "dict_type": "a table",
        "model_type": "a table",
        "finite_number": "a finite number",
    }
    allowed = kinds.get(kind) or error["msg"].removeprefix("Input should be ")
    return f"{key} = {shown(value)}: must be {allowed}"


def _fields(path: list[str]) -> Iterable[str]:
    model: Any = Config
    for part in path:
        field = model.model_fields.get(part)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, Table)), None)
        if model is None:
            return []
    return model.model_fields
