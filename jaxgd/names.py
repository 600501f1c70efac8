"""What the names in a config stand for: optimizers and their hyperparameters, costs, functions of the user's own."""

import contextlib
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optax
from jaxtyping import PyTree

from jaxgd import budget, expression, update
from jaxgd import config as cfg
from jaxgd.ranges import ConfigError, is_number, near, reals, shown
from jaxgd.surfaces import SURFACES, Surface

_MOST = 1 << 31  # of whole numbers, which are 32 bits long
Factory = Callable[..., optax.GradientTransformation]
Parameters = dict[str, inspect.Parameter]


@functools.cache
def optimizers() -> dict[str, Factory]:
    """Every optimizer that a config can name: jaxgd's rules, and what optax offers with a learning rate."""
    found = {name: factory for name, factory in _with_a_rate().items() if not _unsayable(factory)}
    return dict(sorted(found.items())) | update.RULES


def parameters(function: Callable) -> Parameters:
    """The parameters of a function by name; none where Python can't tell."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def takes_anything(known: Parameters) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())


def needed(known: Parameters) -> list[str]:
    """Names of the parameters that have no default."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, p in known.items() if p.default is p.empty and p.kind in named]


def cost_of(cost: cfg.Cost, folder: Path) -> tuple[Surface | None, Callable]:
    """The cost of a config, called with its variables and constants by name; and the surface, if it is one."""
    if cost.surface is not None:
        if cost.surface not in SURFACES:
            raise ConfigError(
                f"cost.surface = {shown(cost.surface)}: there is no such surface{near(cost.surface, SURFACES)}"
            )
        return SURFACES[cost.surface], SURFACES[cost.surface].cost
    if cost.function is not None:
        return None, imported("cost.function", cost.function, folder)
    try:
        return None, expression.parse(cost.expression)
    except expression.ExpressionError as error:
        raise ConfigError(f"cost.expression: {error}") from error


def factory_of(where: str, table: cfg.Optimizer, folder: Path) -> Factory:
    """What makes the optimizer of a table, its hyperparameters checked."""
    if table.function is not None:
        factory = imported(f"{where}.function", table.function, folder)
    else:
        factory = _named(where, table)
    known = parameters(factory)
    for name, value in table.arguments.items():
        check_hyperparameter(f"{where}.{name}", name, factory)
        rates_or_one(f"{where}.{name}", known.get(name), value)
    if missing := [name for name in needed(known) if name not in table.arguments]:
        raise ConfigError(f"{where}.{missing[0]} is missing: {_called(factory)} needs it")
    return factory


def hyperparameters(factory: Factory) -> dict[str, Any]:
    """What a config can say of an optimizer: names and defaults, None where there is none or none that TOML can say."""
    known = parameters(factory)
    sayable = {name: p.default for name, p in known.items() if _kind(p) is not None and p.kind is not p.VAR_KEYWORD}
    return {name: v if isinstance(v, (bool, int, float, str, tuple)) else None for name, v in sayable.items()}


def check_hyperparameter(where: str, name: str, factory: Factory) -> None:
    """Raises a ConfigError if the optimizer has no such hyperparameter."""
    known = parameters(factory)
    if name not in known and not takes_anything(known):
        raise ConfigError(f"{where}: {_called(factory)} has no hyperparameter {name}{near(name, known)}")


def argument(where: str, parameter: inspect.Parameter | None, value: Any) -> Any:
    """A hyperparameter from TOML as its function takes it.

    Raises:
      ConfigError: it is of another kind, or one that TOML can't say.
    """
    kind = _kind(parameter)
    if kind is None:
        raise ConfigError(f"{where}: TOML can't say this one; write a function that returns the optimizer, and name it")
    wanted, fits = _KINDS[kind]
    if not fits(value):
        raise ConfigError(f"{where} = {shown(value)}: must be {wanted}")
    if (kind == "whole" or _counts(parameter)) and not isinstance(value, list) and abs(value) >= _MOST:
        raise ConfigError(f"{where} = {shown(value)}: must be {wanted} below {_MOST} in size")
    if isinstance(value, list):
        return tuple(value) if kind == "pair" else np.asarray(value, float)
    if kind == "whole":
        return int(value)
    return float(value) if kind == "number" and not _counts(parameter) else value


def rates_or_one(where: str, parameter: inspect.Parameter | None, value: Any) -> Any:
    """As `argument`; of a learning rate also a table, of one for each layer."""
    if isinstance(value, dict) and where.endswith("learning_rate"):
        return {layer: argument(f"{where}.{layer}", parameter, rate) for layer, rate in value.items()}
    return argument(where, parameter, value)


def along(where: str, parameter: inspect.Parameter | None, numbers: list[Any] | np.ndarray) -> list[Any] | np.ndarray:
    """Values of a hyperparameter along an axis: an array if they can be traced; a list if each needs its own program.

    Flags, words, and whole numbers where whole numbers are expected choose code or shapes, and can't be traced.

    Raises:
      ConfigError: as `argument`.
    """
    kind = _kind(parameter)
    if isinstance(numbers, np.ndarray) and kind != "whole" and not _counts(parameter):
        argument(where, parameter, numbers[0].item())
        return numbers
    if kind in ("flag", "whole", "word") or _counts(parameter):
        budget.check_programs(len(numbers))
    values = [argument(where, parameter, value) for value in list(numbers)]
    if kind in ("flag", "whole", "word") or any(isinstance(value, (bool, str)) for value in values):
        return values
    if _counts(parameter) and all(np.ndim(value) == 0 and value == int(value) for value in values):
        return list(map(int, values))
    return reals(where, numbers)


def imported(key: str, reference: str, folder: Path) -> Callable:
    """The function that "package.module:name" refers to, in the config's folder first."""
    module_name, name = cfg.reference(key, reference)
    with _first_on_path(folder):
        try:
            module = _module(module_name, folder)
        except (Exception, SystemExit) as error:
            if isinstance(error, ModuleNotFoundError):
                why = no_module(error.name, folder)
            else:
                why = f"importing {module_name} failed: {type(error).__name__}: {error}"
            raise ConfigError(f"{key} = {shown(reference)}: {why}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ConfigError(f"{key} = {shown(reference)}: {no_function(module_name, name, known)}")
    return function


def no_module(name: str | None, folder: Path) -> str:
    return f"no module {name!r}, neither in {folder} nor installed"


def no_function(module: str, name: str, known: list[str]) -> str:
    return f"{module} has no function {name!r}{near(name, known)}"


def file_of(module: str, folder: Path) -> Path | None:
    """The file in a config's folder that a module is read from; None if it is sought among what is installed."""
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.is_file() else None


def _module(name: str, folder: Path) -> Any:
    path = file_of(name, folder)
    if path is None:
        return importlib.import_module(name)
    # Two folders may each hold a model.py: a module is known by its path, not by its name alone.
    unique = f"{name}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(unique, path, loader=_Source(unique, str(path)))
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


@contextlib.contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    """Modules in the folder are imported from their files as they are now, and Python does not remember them."""
    before = {name: module for name, module in sys.modules.items() if _lies_in(folder, name, module)}
    for name in before:
        del sys.modules[name]
    known, finder = set(sys.modules), _Finder(folder)
    sys.path.insert(0, str(folder))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name not in known and name not in before]:
            if _lies_in(folder, name, sys.modules[name]):
                del sys.modules[name]
        sys.modules.update(before)


def _lies_in(folder: Path, name: str, module: Any) -> bool:
    """Whether a module is one of a config's folder, such as a helper of the config's own code."""
    file = getattr(module, "__file__", None)
    if not file or name == "__main__" or name.partition(".")[0] == "jaxgd" or not file.endswith(".py"):
        return False
    if _UNIQUE.search(name):
        return False
    return Path(file).is_relative_to(folder.resolve()) and "site-packages" not in Path(file).parts


class _Source(importlib.machinery.SourceFileLoader):
    """Compiles a file as it is now: Python's own cache knows it by size and second, and an edit may change neither."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


class _Finder:
    """Finds the modules in a folder, and within packages there."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        del target
        for place in [self.folder] if path is None else path:
            if Path(place).is_relative_to(self.folder):
                spec = importlib.machinery.FileFinder(str(place), (_Source, [".py"])).find_spec(name)
                if spec is not None and spec.loader is not None:
                    return spec
        return None


_UNIQUE = re.compile(r"_[0-9a-f]{12}$")  # ends the names that `_module` gives


# --- optimizers ---


def _with_a_rate() -> dict[str, Factory]:
    return {
        prefix + name: factory
        for prefix, module in (("", optax), ("contrib.", optax.contrib))
        for name, factory in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith(("_", "scale_by_")) and {"learning_rate", "max_learning_rate"} & {*parameters(factory)}
    }


def _named(where: str, table: cfg.Optimizer) -> Factory:
    name, known = table.name or where.rpartition(".")[2], optimizers()
    if factory := known.get(name) or known.get(f"contrib.{name}"):
        return factory
    every = _with_a_rate()
    if factory := every.get(name) or every.get(f"contrib.{name}"):
        raise ConfigError(
            f"{where}: {name} takes another optimizer or a function as its {_unsayable(factory)[0]}, which TOML can't "
            'say; write a function that returns the optimizer, and give function = "module:name"'
        )
    given = f"{where}.name = {shown(name)}" if table.name else f"{where}: name is missing, and {shown(name)}"
    raise ConfigError(f"{given}: there is no such optimizer{near(name, known)}")


def _unsayable(factory: Factory) -> list[str]:
    known = parameters(factory)
    return [name for name in needed(known) if _kind(known[name]) is None]


def _kind(parameter: inspect.Parameter | None) -> str | None:
    """What a hyperparameter takes, by its default or else its annotation; None if TOML can't say it."""
    if parameter is None:
        return "anything"
    by_default = {bool: "flag", str: "word", tuple: "pair", float: "number"}
    if kind := by_default.get(type(parameter.default)):
        return kind
    annotation = parameter.annotation
    allowed = [annotation, *typing.get_args(annotation)]
    if float in allowed or PyTree in allowed:
        return "number"
    if int in allowed:
        return "whole"
    if "dtype" in parameter.name:
        return "word"
    return "anything" if annotation is parameter.empty or isinstance(annotation, str) else None


def _counts(parameter: inspect.Parameter | None) -> bool:
    """Whether a number is a whole one by default, and so may count something."""
    return parameter is not None and type(parameter.default) is int


def _is_single(value: Any) -> bool:
    return is_number(value) or isinstance(value, str)


def _is_numbers(value: Any) -> bool:
    return is_number(value) or (isinstance(value, list) and bool(value) and all(map(is_number, value)))


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "flag": ("true or false", lambda value: isinstance(value, bool)),
    "word": ("a string in quotes", lambda value: isinstance(value, str)),
    "whole": ("a whole number", lambda value: is_number(value) and value == int(value)),
    "number": ("a finite number", _is_numbers),
    "pair": ("a list of numbers or words", lambda value: isinstance(value, list) and all(map(_is_single, value))),
    "anything": (
        "a finite number, a string, true or false, or a list of numbers",
        lambda value: isinstance(value, (bool, str)) or _is_numbers(value),
    ),
}


def _called(factory: Factory) -> str:
    return getattr(factory, "__name__", "the optimizer")
