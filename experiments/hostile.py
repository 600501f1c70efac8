"""Configs and expressions as nobody in good faith would write them, made up at random."""

import random
from collections.abc import Callable
from typing import Any

import tomli_w

GOOD: dict[str, Any] = {
    "title": "a config that is good before it is spoilt",
    "seed": 0,
    "cost": {"expression": "a*x**2 + sum(y**2)", "constants": {"a": 2.0}, "minimum": 0.0},
    "start": {"x": 3.0, "y": [1.0, -2.0]},
    "optimizer": {"name": "momentum", "learning_rate": 0.1, "momentum": 0.9},
    "run": {"epochs": 5, "target": 1e-6, "precision": "float32"},
    "sweep": {"optimizer": {"learning_rate": {"geomspace": [1e-3, 1.0, 4]}}, "seed": {"values": [0, 1]}},
    "record": {"history": 3, "paths": 2, "params": "all"},
}
WORDS = (
    *("x", "y", "z", "a", "learning_rate", "momentum", "name", "function", "values", "linspace", "geomspace", "arange"),
    *("uniform", "normal", "num", "size", "each", "paired", "epochs", "seed", "adam", "lbfgs", "rosenbrock", "params"),
    *("../x", "a/b", "..", "", " ", "\x1b[2J", "\u202e", "é", "done", "outcome", "__class__", "n" * 300, "0", "1.5"),
)
TEXTS = (
    *("", "x", "[red]", "$\\frac{", "\x00", "\x1b[31m", "../../etc/passwd", "os:system", "no_such_module:cost"),
    *("__import__('os').system('true')", "x" * 5000, "(" * 300, "adam", "float64", "best", "é\u202e"),
)
NUMBERS = (0, -1, 1, 2, 7, 10**12, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e-320, 1e308, float("inf"), float("nan"))


def value(chance: random.Random, depth: int = 3) -> Any:
    """Anything that TOML can say."""
    kind = chance.randrange(8 if depth else 4)
    if kind < 4:
        return (chance.choice(NUMBERS), chance.choice(TEXTS), chance.random() < 0.5, chance.choice(WORDS))[kind]
    if kind < 6:
        return [value(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {chance.choice(WORDS): value(chance, depth - 1) for _ in range(chance.randrange(4))}


def config(chance: random.Random) -> str:
    """A good config, spoilt in one to three places; now and then it happens to stay good."""
    content = _copied(GOOD)
    for _ in range(chance.randint(1, 3)):
        chance.choice((_replaced, _replaced, _removed, _added))(content, chance)
    text = tomli_w.dumps(content)
    if chance.random() < 0.2:  # spoilt as text
        at = chance.randrange(len(text))
        text = chance.choice((text[:at], text[:at] + chance.choice("[]{}=\"'#\n\x00é") + text[at:], text[at:]))
    return text


def expression(chance: random.Random) -> str:
    """A cost, or what somebody would like to have carried out in place of one."""
    return chance.choice(_TEXTS_OF)(chance)


def _copied(tree: Any) -> Any:
    return {key: _copied(inner) for key, inner in tree.items()} if isinstance(tree, dict) else tree


def _some_table(content: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    while inner := [table for table in content.values() if isinstance(table, dict) and table]:
        if chance.random() < 0.25:
            break
        content = chance.choice(inner)
    return content


def _replaced(content: dict[str, Any], chance: random.Random) -> None:
    table = _some_table(content, chance)
    table[chance.choice(list(table))] = value(chance)


def _removed(content: dict[str, Any], chance: random.Random) -> None:
    table = _some_table(content, chance)
    del table[chance.choice(list(table))]


def _added(content: dict[str, Any], chance: random.Random) -> None:
    _some_table(content, chance)[chance.choice(WORDS)] = value(chance)


_TOKENS = (
    *("x", "y", "pi", "sin", "sum", "where", "len", "max", "1", "2.5", "1e400", "0x1f", "1j", "'a'", "f'{x}'", "True"),
    *("+", "-", "*", "/", "**", "//", "%", "@", "<", "==", "and", "not", "in", "is", "if", "else", "for", "lambda"),
    *("(", ")", "[", "]", "{", "}", ",", ":", ".", ":=", "=", ";", "\\", "\n", "#", "await", "yield", "import", "_"),
)
_CODE = (
    *("__import__('os').system('{}')", "().__class__.__base__.__subclasses__()", "(lambda: {})()", "open('{}').read()"),
    *("[x for x in {}]", "x.__class__", "eval('{}')", "exec('{}')", "globals()['{}']", "print({})", "x if {} else y"),
    *(
        "getattr(x, '{}')",
        "sum(x, key=lambda: {})",
        "f'{{{}}}'",
        "(y := {})",
        "sin(*{})",
        "breakpoint()",
        "x[{}]",
        "9**9**{}",
    ),
)


def _noise(chance: random.Random) -> str:
    return chance.choice(("", " ")).join(chance.choice(_TOKENS) for _ in range(chance.randint(1, 40)))


def _code(chance: random.Random) -> str:
    text = chance.choice(_TOKENS)
    for _ in range(chance.randint(1, 4)):
        text = chance.choice(_CODE).replace("{}", text)
    return text


def _towers(chance: random.Random) -> str:
    height = chance.choice((5, 99, 101, 500, 2_000, 20_000))
    before, middle, after = chance.choice(_STOREYS)
    return before * height + middle + after * height


_STOREYS = (
    *(("(", "x", ")"), ("-", "x", ""), ("sin(", "x", ")"), ("x[", "0", "]")),
    *(("2**", "2", ""), ("x+", "x", ""), ("[", "", "]")),
)


def _nearly(chance: random.Random) -> str:
    text = list("where(x > 0, (x - 1)**2 + 5*sum(y**2), abs(x)/max(1, x))")
    for _ in range(chance.randint(1, 5)):
        text[chance.randrange(len(text))] = chance.choice("()[]{}'\"=.,:;*@%^&|~!\\ é²\x00_")
    return "".join(text)


_TEXTS_OF: tuple[Callable[[random.Random], str], ...] = (_noise, _code, _towers, _nearly)
