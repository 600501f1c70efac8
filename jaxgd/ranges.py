"""What varies: the ranges and draws of a config, as TOML says them, and the numbers they stand for."""

import difflib
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.keys import key_of

RANGES = ("linspace", "geomspace", "arange", "values")
DRAWS = ("uniform", "loguniform", "normal")
_RANGE_WORDS = {*RANGES, *DRAWS, "num", "name", "each"}
_LONGEST_WORD = 100  # bytes; it becomes part of a file's name
_LARGEST = float(2**63)  # of whole numbers; reals have their own limits


class ConfigError(ValueError):
    """A config that can't be carried out; its text is all that a user needs."""


@dataclass(frozen=True)
class Axis:
    """One entry of [sweep]: the key that varies, and how."""

    key: str
    word: str
    numbers: list[Any]
    name: str
    num: int | None = None
    each: bool = False  # one program per value

    @property
    def size(self) -> int:
        """How many values there are along it."""
        if self.word == "values":
            return len(self.numbers)
        if self.word == "arange":
            start, stop, step = _stepped(self.numbers)
            return max(1, math.ceil((stop - start) / step))
        return self.numbers[2] if self.num is None else self.num

    @property
    def path(self) -> list[str]:
        return self.key.split(".")

    @property
    def entry(self) -> dict[str, Any]:
        """It as [sweep] says it."""
        further = {"num": self.num, "name": self.name if self.name != _dimension(self.key) else None}
        said = {self.word: self.numbers} | {name: value for name, value in further.items() if value is not None}
        return said | ({"each": True} if self.each else {})

    @property
    def optimizer(self) -> str | None:
        """The one of several optimizers that alone varies along it, if so: optimizers.adam.learning_rate."""
        of_all = self.path[0] != "optimizers" or len(self.path) < 3 or self.path[1] == "learning_rate"
        return None if of_all else self.path[1]

    @property
    def hyperparameter(self) -> str:
        """What of an optimizer varies along it: learning_rate; learning_rate.output, if of one layer only."""
        return ".".join(self.path[1 if self.optimizer is None else 2 :])

    @property
    def is_of_layer(self) -> bool:
        """Whether it is the learning rate of one layer: optimizer.learning_rate.hidden."""
        return self.path[0] in ("optimizer", "optimizers") and self.hyperparameter.startswith("learning_rate.")


# --- as TOML says it ---


def ranges_of(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[Axis]:
    """The entries of [sweep], in the order of the file.

    Raises:
      ConfigError: one that isn't a range.
    """
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
            yield from ranges_of(value, here)
        else:
            word = next(iter(value))
            raise ConfigError(f"sweep.{'.'.join(here)}: {word} is not a range{near(word, (*RANGES, *DRAWS))}")


def _is_range(value: dict[str, Any]) -> bool:
    return any(word in (*RANGES, *DRAWS) and not isinstance(inner, dict) for word, inner in value.items())


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
    if not is_word(name):
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
        start, stop, step = _stepped(numbers)
        if step == 0 or (stop - start) / step <= 0:
            raise ConfigError(f"{where}: arange = {numbers} is empty: it needs at least one value")
        if (stop - start) / step > 1e8:
            raise ConfigError(f"{where}: arange = {numbers} has over 100 000 000 values")
        return
    if len(numbers) != 3 or not _counts(numbers[2]):
        raise ConfigError(f"{where}: {word} = {shown(numbers)} must be [first, last, how many (1 to 100 000 000)]")
    if word == "geomspace" and not (min(numbers[:2]) > 0 or max(numbers[:2]) < 0):
        raise ConfigError(f"{where}: geomspace = {numbers}: first and last must both be above 0, or both below")


def _stepped(numbers: list[Any]) -> tuple[Any, Any, Any]:
    """(start, stop, step) of an arange."""
    return {1: (0, *numbers, 1), 2: (*numbers, 1), 3: tuple(numbers)}[len(numbers)]


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000_000


def _dimension(key: str) -> str:
    """A dimension is the key without its table: learning_rate; x_0 for start.x.0."""
    parts = key.split(".")
    if key in ("cost.network.seed", "data.seed"):  # beside the one that all things share
        return "_".join(parts[-2:])
    of_one = len(parts) > 2 and parts[0] in ("optimizers", "cost") and parts[1] != "learning_rate"
    inner = parts[2:] if of_one else parts[1:]
    return "_".join(inner) or key


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


# --- what it stands for ---


def draw(seed: Any, role: str, word: str, numbers: list[float], shape: tuple[int, ...]) -> jax.Array:
    """One random thing; its key comes from the seed and its role alone."""
    key, (a, b) = key_of(seed, role), numbers
    if word == "normal":
        return a + b * jax.random.normal(key, shape, float)
    if word == "loguniform":
        return jnp.exp(jax.random.uniform(key, shape, float, math.log(a), math.log(b)))
    return jax.random.uniform(key, shape, float, a, b)


def numbers(axis: Axis, seed: int) -> list[Any] | np.ndarray:
    """The values along one axis: an array of reals, or, of `values`, what the config holds."""
    if axis.word == "values":
        return axis.numbers
    if axis.word in DRAWS:
        numbers = draw(seed, f"sweep.{axis.key}", axis.word, list(map(float, axis.numbers)), (axis.num,))
    else:
        numbers = (np.arange if axis.word == "arange" else getattr(np, axis.word))(*axis.numbers)
    return np.asarray(numbers, float)


def seeds(where: str, numbers: list[Any] | np.ndarray) -> np.ndarray:
    """Whole numbers as seeds; `where` opens the message of what is refused."""
    seeds = reals(where, numbers)
    if not ((seeds >= 0) & (seeds < 2**31) & (seeds % 1 == 0)).all():
        raise ConfigError(f"{where}: seeds must be whole numbers from 0 to 2 147 483 647")
    return seeds.astype(np.int32)


# --- words and numbers ---


def shown(value: Any) -> str:
    """A value much as TOML writes it, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits
        return "(too long to show)"
    return text if len(text) <= 60 else text[:57] + "..."


def visible(text: Any) -> str:
    """Text in which all that would move a terminal's cursor, or turn its letters round, is written out."""
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode() for c in str(text))


def _is_shown(character: str) -> bool:
    return character.isprintable() or character == "\n" or unicodedata.category(character) == "Zs"


def near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """ "; did you mean …?" for a word that isn't known, or what is allowed."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, 1, cutoff)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; allowed: {', '.join(known)}" if known else ""


def is_word(name: Any) -> bool:
    """Whether a text can name a variable, and an array among the results."""
    return isinstance(name, str) and name.isidentifier() and len(name.encode()) <= _LONGEST_WORD


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that 64 bits hold; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < (_LARGEST if isinstance(value, int) else float("inf"))


def check_held(where: str, value: float, precision: str) -> None:
    """Refuses a finite number that a precision has no room for, and which a lane would get as infinite or as 0."""
    least, most = float(np.finfo(precision).tiny), float(np.finfo(precision).max)
    if abs(value) <= most and not 0 < abs(value) < least:
        return
    advice = '; set run.precision = "float64"' if precision == "float32" else ""
    raise ConfigError(
        f"{where} = {shown(value)}: {precision} holds 0 and numbers of size {least:.4g} to {most:.4g}{advice}"
    )


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
