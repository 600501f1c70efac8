"""What can be known of a config without running the code that it names: whether there is such data and such code."""

import ast
import importlib.machinery
import symtable
import sys
from pathlib import Path

import jax

from jaxgd import budget, names
from jaxgd import config as cfg
from jaxgd.config import Config
from jaxgd.fit import Fit, NetworkCost
from jaxgd.ranges import ConfigError, shown

_DYNAMIC = {"__getattr__", "globals", "exec", "setattr"}  # in a module that uses these, names may come from anywhere


def check(config: Config, where: str, folder: Path) -> None:
    """Refuses a config by its sizes, its data, and the modules and functions that it names; none of these is imported.

    Args:
      config: as `config.read` gives it.
      where: what opens every message.
      folder: the one whose files come first.

    Raises:
      ConfigError: sizes beyond this machine; no such data file, or not one of numbers; no such module or function.
    """
    with jax.enable_x64(config.run.precision == "float64"):
        try:
            budget.check_config(config)
            for key, reference in cfg.code_named(config).items():
                _check_reference(key, reference, folder)
            if config.data:
                (NetworkCost if config.cost.network else Fit)(config, folder)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error.__cause__


def _check_reference(key: str, reference: str, folder: Path) -> None:
    module, name = cfg.reference(key, reference)
    file = names.file_of(module, folder) or _installed(key, reference, folder)
    if file is None or file.suffix != ".py":
        return
    try:
        source = file.read_bytes()
        tree, table = ast.parse(source, str(file)), symtable.symtable(source, str(file), "exec")
    except (SyntaxError, ValueError, OSError) as error:
        why = f"importing {module} would fail: {type(error).__name__}: {error}"
        raise ConfigError(f"{key} = {shown(reference)}: {why}") from error
    if name not in _bound(table) and not _is_dynamic(tree):
        functions = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        said = names.no_function(module, name, [function for function in functions if not function.startswith("_")])
        raise ConfigError(f"{key} = {shown(reference)}: {said}")


def _installed(key: str, reference: str, folder: Path) -> Path | None:
    """The file of a module that is no file of its own in the folder; None if it has none, as one of Python's own.

    A module within a package is sought where the package's files are, for `find_spec` would import the package.
    """
    module = reference.partition(":")[0]
    if getattr(sys.modules.get(module), "__spec__", None) is not None:
        return _file(sys.modules[module].__spec__)
    importlib.invalidate_caches()
    name, *parts = module.split(".")
    spec = importlib.machinery.PathFinder.find_spec(name, [str(folder)])
    if spec is None or spec.loader is None:  # a folder without __init__.py, which gives way to a module elsewhere
        spec = next(filter(None, (finder.find_spec(name, None) for finder in sys.meta_path)), spec)
    for part in parts:
        places = spec and spec.submodule_search_locations
        if places is None:
            break
        name = f"{name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, [*places])
    if spec is None or name != module:
        raise ConfigError(f"{key} = {shown(reference)}: {names.no_module(name if spec is None else module, folder)}")
    return _file(spec)


def _file(spec: importlib.machinery.ModuleSpec) -> Path | None:
    return Path(spec.origin) if spec.has_location and spec.origin else None


def _bound(table: symtable.SymbolTable) -> set[str]:
    """The names that a module binds: assigned or imported at its top, or declared global and assigned in a function."""
    here = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    return here.union(*(_global(child) for child in table.get_children()))


def _global(table: symtable.SymbolTable) -> set[str]:
    here = {s.get_name() for s in table.get_symbols() if s.is_declared_global() and s.is_assigned()}
    return here.union(*map(_global, table.get_children()))


def _is_dynamic(tree: ast.Module) -> bool:
    """Whether a module may have names that its text does not bind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            return True
        if (node.id if isinstance(node, ast.Name) else getattr(node, "name", None)) in _DYNAMIC:
            return True
    return False
