"""TOML to a checked config. Every error names the file, the key, what is wrong, and what is allowed."""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tomli_w
from pydantic import ConfigDict, Field

RANGES = ("linspace", "geomspace", "arange", "values")
DRAWS = ("uniform", "loguniform", "normal")
_RANGE_WORDS = {*RANGES, *DRAWS, "num", "name"}

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class ConfigError(ValueError):
    """A config that can't be carried out; its text is all that a user needs."""


class Table(pydantic.BaseModel):
    """A table of the config: strict types, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Open(Table):
    """A table whose further keys are the arguments of what it names."""

    model_config = ConfigDict(extra="allow")

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Cost(Table):
    expression: str | None = None
    surface: str | None = None
    function: str | None = None
    constants: dict[str, Finite] = {}
    minimum: Finite | None = None
    minima: list[list[Finite]] | None = None


class Optimizer(Open):
    name: str | None = None
    function: str | None = None


class Lane(Open):
    function: str


class Run(Table):
    epochs: Annotated[int, Field(ge=1, le=2**31 - 1)]
    target: Finite | None = None
    ceiling: Finite | None = None
    tolerance: Positive | None = None
    precision: Literal["float32", "float64"] = "float32"
    select: Literal["final_cost", "best_cost", "target_epoch"] = "final_cost"
    unequal_trials: bool = False


class Record(Table):
    history: Annotated[int, Field(ge=2, le=100_000)] | None = None
    paths: Annotated[int, Field(ge=0, le=100_000)] = 0
    params: Literal["all", "best", "none"] = "all"


class Config(Table):
    """What a run is asked to do; `start` and `sweep` are read further where they are used."""

    title: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    cost: Cost | None = None
    start: dict[str, Any] | None = None
    optimizer: Optimizer | None = None
    optimizers: dict[str, Optimizer] | None = None
    lane: Lane | None = None
    run: Run
    sweep: dict[str, Any] = {}
    record: Record = Record()


class Axis(Table):
    """One entry of [sweep]: the key that varies, and how."""

    key: str
    word: str
    numbers: list[Any]
    num: int | None = None
    name: str


def read(path: Path, settings: Iterable[str] = ()) -> Config:
    """The config in a TOML file, with `KEY=VALUE` settings laid over it.

    Raises:
      ConfigError: the file can't be read, isn't TOML, or isn't a config.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    for setting in settings:
        _lay_over(content, setting)
    return checked(content, str(path))


def checked(content: dict[str, Any], where: str) -> Config:
    """A config from the tables of a TOML file; `where` opens every message.

    Raises:
      ConfigError: as `read`.
    """
    try:
        config = Config.model_validate(content)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(error.errors()[0])}") from error
    try:
        _check_tables(config)
        axes(config)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return config


def as_toml(config: Config) -> str:
    """The config with its defaults filled in, as TOML."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))


def axes(config: Config) -> list[Axis]:
    """The entries of [sweep], in the order of the file.

    Raises:
      ConfigError: an entry that isn't a range, or two that would share a name.
    """
    found = [axis for axis in _ranges(config.sweep, ()) if axis]
    names: dict[str, str] = {}
    for axis in found:
        if axis.name in names and not _private(axis.key):
            raise ConfigError(
                f"sweep: {names[axis.name]} and {axis.key} would both be called {axis.name!r}; rename one, as in "
                f'{axis.key} = {{ {axis.word} = [...], name = "{axis.key.split(".")[0]}_{axis.name}" }}'
            )
        names[axis.name] = axis.key
    return found


def paired(config: Config) -> list[list[str]]:
    """Groups of swept keys that walk together."""
    groups = config.sweep.get("paired", [])
    keys = [axis.key for axis in axes(config)]
    if not (isinstance(groups, list) and all(isinstance(g, list) and len(g) > 1 for g in groups)):
        raise ConfigError('sweep.paired: must be a list of lists of swept keys, as [["optimizer.learning_rate", "start.x"]]')
    for key in (key for group in groups for key in group):
        if key not in keys:
            raise ConfigError(f"sweep.paired: {key!r} is not swept{near(str(key), keys)}")
    return groups


def near(word: str, known: Iterable[str]) -> str:
    """"; did you mean …?" for a word that isn't known, or what is allowed."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, 1, 0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; allowed: {', '.join(known)}" if known else ""


def is_range(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and set(value) <= _RANGE_WORDS


def draw_of(key: str, value: dict[str, Any]) -> tuple[str, list[float], int | None]:
    """(distribution, its two numbers, size) of a random draw such as { uniform = [0, 1], size = 3 }.

    Raises:
      ConfigError: it isn't one.
    """
    words = [word for word in value if word in DRAWS]
    if len(words) != 1 or set(value) - {words[0], "size"}:
        raise ConfigError(f"{key}: must be a number, a list of numbers, or a draw such as {{ uniform = [0, 1] }}; draws: {', '.join(DRAWS)}")
    size = value.get("size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 10_000_000):
        raise ConfigError(f"{key}: size = {size!r} must be a whole number from 1 to 10 000 000")
    return words[0], check_draw(key, words[0], value[words[0]]), size


def check_draw(key: str, word: str, numbers: Any) -> list[float]:
    what = "mean, standard deviation" if word == "normal" else "low, high"
    if not (isinstance(numbers, list) and len(numbers) == 2 and all(map(is_number, numbers))):
        raise ConfigError(f"{key}: {word} = {numbers!r} must be [{what}]")
    low, high = map(float, numbers)
    if word == "normal" and high < 0:
        raise ConfigError(f"{key}: normal = {numbers}: the standard deviation must not be negative")
    if word != "normal" and not low < high:
        raise ConfigError(f"{key}: {word} = {numbers}: low must lie below high")
    if word == "loguniform" and low <= 0:
        raise ConfigError(f"{key}: loguniform = {numbers}: low must be above 0")
    return [low, high]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _private(key: str) -> bool:
    """Whether a key varies one of several optimizers only: they may share a name."""
    return key.startswith("optimizers.") and key.count(".") == 2


def _lay_over(content: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise ConfigError(f"--set {setting}: must be KEY=VALUE, as in --set run.epochs=200")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    table = content
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {setting}: {part} is not a table")
    table[path[-1]] = value


def _check_tables(config: Config) -> None:
    if config.lane:
        for name in ("cost", "start", "optimizer", "optimizers"):
            if getattr(config, name) is not None:
                raise ConfigError(f"[lane] takes the place of [cost], [start] and [optimizer]: remove [{name}]")
        return
    if config.cost is None:
        raise ConfigError('table [cost] is missing: give it expression, surface or function, as in surface = "rosenbrock"')
    given = [w for w in ("expression", "surface", "function") if getattr(config.cost, w) is not None]
    if len(given) != 1:
        raise ConfigError(f"cost: needs one of expression, surface and function; it has {' and '.join(given) or 'none'}")
    if not config.start:
        raise ConfigError("table [start] is missing: say where the descent starts, as in x = 3.0")
    if (config.optimizer is None) == (not config.optimizers):
        raise ConfigError('needs either [optimizer] or tables [optimizers.NAME]; as in [optimizer] name = "gradient_descent"')
    tables = {"optimizer": config.optimizer} if config.optimizer else {f"optimizers.{n}": o for n, o in config.optimizers.items()}
    for where, optimizer in tables.items():
        if optimizer.name and optimizer.function:
            raise ConfigError(f"{where}: has both name and function; it needs one")


def _ranges(tree: dict[str, Any], path: tuple[str, ...]) -> Iterable[Axis]:
    for part, value in tree.items():
        here = (*path, part)
        if here == ("paired",):
            continue
        if is_range(value):
            yield _axis(".".join(here), value)
        elif isinstance(value, dict) and value:
            if path and not any(isinstance(v, dict) for v in value.values()):
                word = next(iter(value))
                raise ConfigError(f"sweep.{'.'.join(here)}: {word} is not a range{near(word, _RANGE_WORDS)}")
            yield from _ranges(value, here)
        else:
            raise ConfigError(
                f"sweep.{'.'.join(here)}: must be a range such as {{ geomspace = [1e-4, 1, 64] }}, not {value!r}; "
                f"ranges: {', '.join(RANGES)}; draws with num: {', '.join(DRAWS)}"
            )


def _axis(key: str, value: dict[str, Any]) -> Axis:
    where = f"sweep.{key}"
    words = [word for word in value if word in (*RANGES, *DRAWS)]
    if len(words) != 1:
        raise ConfigError(f"{where}: needs one of {', '.join((*RANGES, *DRAWS))}; it has {' and '.join(words) or 'none'}")
    (word,), numbers, num, name = words, value[words[0]], value.get("num"), value.get("name")
    if not isinstance(numbers, list):
        raise ConfigError(f"{where}: {word} = {numbers!r} must be a list")
    if not numbers:
        raise ConfigError(f"{where}: {word} is empty: it needs at least one value")
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise ConfigError(f"{where}: name = {name!r} must be a word of letters, digits and _")
    if (word in DRAWS) != (num is not None):
        raise ConfigError(f"{where}: num goes with a draw ({', '.join(DRAWS)}), and a draw in [sweep] needs it")
    if num is not None and not _counts(num):
        raise ConfigError(f"{where}: num = {num!r} must be a whole number from 1 to 100 000 000")
    if word in DRAWS:
        check_draw(where, word, numbers)
    elif word != "values":
        _check_range(where, word, numbers)
    return Axis(key=key, word=word, numbers=numbers, num=num, name=name or _dimension(key))


def _check_range(where: str, word: str, numbers: list[Any]) -> None:
    if not all(map(is_number, numbers)):
        raise ConfigError(f"{where}: {word} = {numbers!r} must hold finite numbers only")
    if word == "arange":
        if not 1 <= len(numbers) <= 3:
            raise ConfigError(f"{where}: arange = {numbers} must be [stop], [start, stop] or [start, stop, step]")
        start, stop, step = {1: (0, *numbers, 1), 2: (*numbers, 1), 3: tuple(numbers)}[len(numbers)]
        if step == 0 or (stop - start) / step <= 0:
            raise ConfigError(f"{where}: arange = {numbers} is empty: it needs at least one value")
        if (stop - start) / step > 1e8:
            raise ConfigError(f"{where}: arange = {numbers} has over 100 000 000 values")
        return
    if len(numbers) != 3 or not _counts(numbers[2]):
        raise ConfigError(f"{where}: {word} = {numbers} must be [first, last, how many], how many from 1 to 100 000 000")
    if word == "geomspace" and not numbers[0] * numbers[1] > 0:
        raise ConfigError(f"{where}: geomspace = {numbers}: first and last must both be above 0, or both below")


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000_000


def _dimension(key: str) -> str:
    """A dimension is the key without its table: learning_rate; x_0 for start.x.0."""
    parts = key.split(".")
    if _private(key) or key.startswith("cost.constants."):
        return "_".join(parts[2:])
    return "_".join(parts[1:]) or parts[0]


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
    return f"{key} = {value!r}: must be {allowed}"


def _fields(path: list[str]) -> Iterable[str]:
    model: Any = Config
    for part in path:
        field = model.model_fields.get(part)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, Table)), None)
        if model is None:
            return []
    return model.model_fields
