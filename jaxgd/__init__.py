"""jaxgd: which learning rate? Thousands to millions of gradient descents in one program, each with a verdict.

What it offers is listed in `jaxgd/public.py` and loads, JAX included, when the first of it is used:
so the command can answer a question about itself at once.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgd.public import *  # noqa: F403

__version__ = "0.1.0"
_BOTH = ("sweep",)  # rooms called like a function of theirs, which is what the name means


def __getattr__(name: str) -> Any:
    if name == "show":  # a room that is used by its name: jaxgd.show.overview(table)
        return import_module("jaxgd.show")
    if name in _BOTH or name == "__all__" or not (name.startswith("__") or find_spec(f"jaxgd.{name}")):
        public = import_module("jaxgd.public")
        if name in ("__all__", *public.__all__):
            return getattr(public, name)
    raise AttributeError(f"module 'jaxgd' has no attribute {name!r}")  # if it is a room, Python goes on to import it


def __dir__() -> list[str]:
    return ["__version__", "show", *import_module("jaxgd.public").__all__]


class _Package(ModuleType):
    """Importing a room sets an attribute of its name; not so where that is a function's."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _BOTH and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self):  # cloudpickle knows modules by their exact class
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package
