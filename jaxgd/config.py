"""TOML to a checked config. Every error names the file, the key, what is wrong, and what is allowed."""

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import tomli_w
from pydantic import ConfigDict, Field

RANGES = ("linspace", "geomspace", "arange", "values")
DRAWS = ("uniform", "loguniform", "normal")
_RANGE_WORDS = {*RANGES, *DRAWS, "num", "name", "each"}
_LARGEST = float(2**63)  # of whole numbers; reals have their own limits

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
    each: bool = False  # one program per value

    @property
    def path(self) -> list[str]:
        return self.key.split(".")

    @property
    def optimizer(self) -> str | None:
        """The one of several optimizers that alone varies along it, if so: optimizers.adam.learning_rate."""
        return self.path[1] if self.path[0] == "optimizers" and len(self.path) == 3 else None


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
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a typo explains what is missing
        raise ConfigError(f"{where}: {_sentence(first)}") from error
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
    found = list(_ranges(config.sweep, ()))
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


def shown(value: Any) -> str:
    """A value much as TOML writes it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


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


def near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """"; did you mean …?" for a word that isn't known, or what is allowed."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, 1, cutoff)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; allowed: {', '.join(known)}" if known else ""


def draw_of(key: str, value: dict[str, Any]) -> tuple[str, list[float], int | None]:
    """(distribution, its two numbers, size) of a random draw such as { uniform = [0, 1], size = 3 }.

    Raises:
      ConfigError: it isn't one.
    """
    words = [word for word in value if word in DRAWS]
    if len(words) != 1 or set(value) - {words[0], "size"}:
        raise ConfigError(
            f"{key} = {shown(value)}: must be a number, a list of numbers, or a draw such as {{ uniform = [0, 1] }}, "
            f"with size for a vector; draws: {', '.join(DRAWS)}"
        )
    size = value.get("size")
    if size is not None and not _counts(size):
        raise ConfigError(f"{key}: size = {shown(size)} must be a whole number from 1 to 100 000 000")
    return words[0], _checked_draw(key, words[0], value[words[0]]), size


def _checked_draw(key: str, word: str, numbers: Any) -> list[float]:
    what = "mean, standard deviation" if word == "normal" else "low, high"
    if not (isinstance(numbers, list) and len(numbers) == 2 and all(map(is_number, numbers))):
        raise ConfigError(f"{key}: {word} = {shown(numbers)} must be [{what}]")
    low, high = map(float, numbers)
    if word == "normal" and high < 0:
        raise ConfigError(f"{key}: normal = {numbers}: the standard deviation must not be negative")
    if word != "normal" and not low < high:
        raise ConfigError(f"{key}: {word} = {numbers}: low must lie below high")
    if word == "loguniform" and low <= 0:
        raise ConfigError(f"{key}: loguniform = {numbers}: low must be above 0")
    return [low, high]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that 64 bits hold; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < (_LARGEST if isinstance(value, int) else float("inf"))


def _lay_over(content: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    path = [part.strip() for part in key.split(".")]
    where = f"--set {' '.join(setting.split())}"
    if not equals or not all(path):
        raise ConfigError(f"{where}: must be KEY=VALUE, as in --set run.epochs=200")
    try:
        parsed = tomllib.loads(f"value = {text}")
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


def _check_tables(config: Config) -> None:
    if config.lane:
        for name in ("cost", "start", "optimizer", "optimizers"):
            if getattr(config, name) is not None:
                raise ConfigError(f"[lane] takes the place of [cost], [start] and [optimizer]: remove [{name}]")
        return
    if config.cost is None:
        raise ConfigError('table [cost] is missing: say what to descend, as in surface = "rosenbrock"')
    given = [w for w in ("expression", "surface", "function") if getattr(config.cost, w) is not None]
    if len(given) != 1:
        raise ConfigError(f"cost: needs one of expression, surface, function; it has {' and '.join(given) or 'none'}")
    if not config.start:
        raise ConfigError("table [start] is missing: say where the descent starts, as in x = 3.0")
    for table, names in {"start": config.start, "cost.constants": config.cost.constants}.items():
        for name in names:
            if not _is_word(name):
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
        if where != "optimizer" and not _is_word(where.removeprefix("optimizers.")):
            raise ConfigError(f"{where}: must be called by a word of letters, digits and _; its name says what it is")


def reals(where: str, numbers: Any) -> np.ndarray:
    """Numbers, or evenly nested lists of them, as an array of reals.

    Raises:
      ConfigError: they aren't; `where` opens the message.
    """
    if isinstance(numbers, np.ndarray):
        return numbers.astype(float)
    try:
        if not all(map(is_number, _flat(numbers))):
            raise ValueError
        array = np.asarray(numbers, float)
    except ValueError:
        raise ConfigError(
            f"{where} = {shown(numbers)}: must be a finite number, or a list of them of even shape"
        ) from None
    if not array.size:
        raise ConfigError(f"{where} is empty: it needs at least one number")
    return array


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for inner in value:
            yield from _flat(inner)
    else:
        yield value


def _is_word(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier()


def _is_range(value: dict[str, Any]) -> bool:
    return any(word in (*RANGES, *DRAWS) and not isinstance(inner, dict) for word, inner in value.items())


def _ranges(tree: dict[str, Any], path: tuple[str, ...]) -> Iterable[Axis]:
    for part, value in tree.items():
        here = (*path, part)
        if here == ("paired",):
            continue
        if not isinstance(value, dict) or not value:
            raise ConfigError(
                f"sweep.{'.'.join(here)}: must be a range such as {{ geomspace = [1e-4, 1, 64] }}, not {shown(value)}; "
                f"ranges: {', '.join(RANGES)}; draws with num: {', '.join(DRAWS)}"
            )
        if _is_range(value):
            yield _axis(".".join(here), value)
        elif any(isinstance(inner, dict) for inner in value.values()):
            yield from _ranges(value, here)
        else:
            word = next(iter(value))
            raise ConfigError(f"sweep.{'.'.join(here)}: {word} is not a range{near(word, (*RANGES, *DRAWS))}")


def _axis(key: str, value: dict[str, Any]) -> Axis:
    where = f"sweep.{key}"
    words = [word for word in value if word in (*RANGES, *DRAWS)]
    if len(words) != 1:
        raise ConfigError(f"{where}: needs one of {', '.join((*RANGES, *DRAWS))}; it has {' and '.join(words)}")
    if unknown := [word for word in value if word not in _RANGE_WORDS]:
        raise ConfigError(f"{where}.{unknown[0]}: unknown key{near(unknown[0], _RANGE_WORDS)}")
    (word,), numbers, num = words, value[words[0]], value.get("num")
    name, each = value.get("name", _dimension(key)), value.get("each", False)
    if not isinstance(numbers, list):
        raise ConfigError(f"{where}: {word} = {shown(numbers)} must be a list")
    if not numbers:
        raise ConfigError(f"{where}: {word} is empty: it needs at least one value")
    if not _is_word(name):
        raise ConfigError(f"{where}: name = {shown(name)} must be a word of letters, digits and _")
    if not isinstance(each, bool):
        raise ConfigError(f"{where}: each = {shown(each)} must be true or false")
    if (word in DRAWS) != (num is not None):
        raise ConfigError(f"{where}: num goes with a draw ({', '.join(DRAWS)}), and a draw in [sweep] needs it")
    if num is not None and not _counts(num):
        raise ConfigError(f"{where}: num = {shown(num)} must be a whole number from 1 to 100 000 000")
    if word in DRAWS:
        _checked_draw(where, word, numbers)
    elif word != "values":
        _check_range(where, word, numbers)
    return Axis(key=key, word=word, numbers=numbers, num=num, name=name, each=each)


def _check_range(where: str, word: str, numbers: list[Any]) -> None:
    if not all(map(is_number, numbers)):
        raise ConfigError(f"{where}: {word} = {shown(numbers)} must hold finite numbers only")
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
        raise ConfigError(f"{where}: {word} = {shown(numbers)} must be [first, last, how many (1 to 100 000 000)]")
    if word == "geomspace" and not (min(numbers[:2]) > 0 or max(numbers[:2]) < 0):
        raise ConfigError(f"{where}: geomspace = {numbers}: first and last must both be above 0, or both below")


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000_000


def _dimension(key: str) -> str:
    """A dimension is the key without its table: learning_rate; x_0 for start.x.0."""
    parts = key.split(".")
    inner = parts[2:] if len(parts) > 2 and parts[0] in ("optimizers", "cost") else parts[1:]
    return "_".join(inner) or key


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
