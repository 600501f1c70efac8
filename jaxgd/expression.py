"""Costs from text: arithmetic over named values, by an allowed grammar, never by evaluation.

>>> rosenbrock = parse("(a - x)**2 + b*(y - x**2)**2")
>>> rosenbrock.names
('a', 'x', 'b', 'y')
>>> float(rosenbrock(x=1.0, y=2.0, a=1.0, b=100.0))
100.0

Python's parser reads the text into a tree, and that is all Python does with it. Every node of the
tree must be one that this room knows, and becomes one call of `jax.numpy`; whatever else is in it
(attributes, lambdas, comprehensions, strings, calls of anything but `FUNCTIONS`) is refused.
"""

import ast
import difflib
import functools
import itertools
import keyword
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

Value = Callable[[Mapping[str, Any]], Array]  # of the named values

MOST_CHARACTERS = 4_000
MOST_NODES = 2_000
DEEPEST = 100  # so that neither building nor tracing comes near Python's own limit
LARGEST_POWER = 1_000  # a whole power becomes that many doublings and products


class ExpressionError(ValueError):
    """A text that is no cost; its text says where, what is wrong, and what is allowed."""


@dataclass(frozen=True)
class Expression:
    """A cost as a function of named values: `expression(x=1.0, y=jnp.ones(3))`."""

    text: str
    names: tuple[str, ...]  # in the order in which they appear
    numbers: tuple[float, ...]  # all that it holds
    _value: Value = field(repr=False, compare=False)

    def __call__(self, **values: Any) -> Array:
        """The value of the expression.

        Raises:
          ExpressionError: a name has no value, or an element is taken that a vector doesn't have.
          TypeError, ValueError: JAX can't combine the shapes.
        """
        if missing := [name for name in self.names if name not in values]:
            raise ExpressionError(f"{missing[0]} has no value")
        return self._value(values)


def parse(text: str) -> Expression:
    """The cost that a text describes.

    Numbers, names, `+ - * / **`, comparisons, `x[0]`, `x[1:]`, and the functions in `FUNCTIONS`;
    `pi` and `e` are what they are.

    Raises:
      ExpressionError: the text is too long, is no expression, or holds what is not allowed.
    """
    text = " ".join(text.splitlines()).rstrip()
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(f"the text has {len(text)} characters; allowed are {MOST_CHARACTERS}")
    if not text.strip():
        raise ExpressionError('is empty; write a cost, as in "x**2 + 5"')
    if "#" in text:  # Python would read no further, and drop the lines below without a word
        raise ExpressionError(f"column {text.index('#') + 1}, '#': a comment can't stand inside an expression")
    tree = _tree(text)
    value = _Reader(text).value(tree)
    names = sorted((n for n in ast.walk(tree) if isinstance(n, ast.Name)), key=lambda n: n.col_offset)
    numbers = tuple(float(n.value) for n in ast.walk(tree) if isinstance(n, ast.Constant))
    return Expression(text, tuple(dict.fromkeys(n.id for n in names if meaning(n.id) is None)), numbers, value)


def meaning(name: str) -> str | None:
    """What a name means in every expression, so that it can't name anything else; None if it is free."""
    if name in CONSTANTS:
        return f"the constant {CONSTANTS[name]:.6g}"
    if name in FUNCTIONS:
        return "a function"
    return "a word of Python's" if keyword.iskeyword(name) else None


def _tree(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on style is not ours to give
            tree = ast.parse(text.lstrip(), mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(_no_expression(text, error)) from None
    except (ValueError, RecursionError, MemoryError):
        raise ExpressionError(
            f"is nested too deeply, or holds what can't be read; allowed are {DEEPEST} levels"
        ) from None
    nodes, level, depth = 0, [tree], 0
    while level:  # level by level, so that a deep tree is refused without going deep
        nodes, depth = nodes + sum(isinstance(node, ast.expr) for node in level), depth + 1
        if depth > DEEPEST:
            raise ExpressionError(
                f"is nested more than {DEEPEST} levels deep; a long sum is a chain of levels: use vectors and sum()"
            )
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if nodes > MOST_NODES:
        raise ExpressionError(f"has {nodes} parts; allowed are {MOST_NODES}")
    return tree


def _no_expression(text: str, error: SyntaxError) -> str:
    column = (error.offset or 1) + len(text) - len(text.lstrip())
    rest = text[column - 1 : column + 19]
    words = [word for word in re.findall(r"[^\W\d]\w*", text) if keyword.iskeyword(word)]
    hint = f"; {words[0]} is a word of Python's: call it otherwise" if words else f"; allowed are {_ALLOWED}"
    if set("²³⁴") & set(text):
        hint = "; powers are written **, as in x**2"
    return f"column {column}: {error.msg}{f', at {rest!r}' if rest else ''}{hint}"


# --- the grammar ---


def _extreme(whole: Callable, pair: Callable) -> Callable:
    """`max(x)` over a vector, `max(a, b, …)` of several values."""
    return lambda *values: whole(values[0]) if len(values) == 1 else functools.reduce(pair, values)


def _length(vector: Any) -> float:
    if jnp.ndim(vector) == 0:
        raise ExpressionError("len() of a single number; it takes a vector")
    return float(jnp.shape(vector)[0])


ANY = 64  # arguments

CONSTANTS = {"pi": jnp.pi, "e": jnp.e}

FUNCTIONS: dict[str, tuple[Callable, int, int]] = {  # what it is, how many arguments it takes at least and at most
    **{
        name: (getattr(jnp, name), 1, 1)
        for name in (
            *("sqrt", "cbrt", "exp", "expm1", "log", "log2", "log10", "log1p", "sign", "floor", "ceil"),
            *("sin", "cos", "tan", "arcsin", "arccos", "arctan"),
            *("sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh"),
            *("sum", "mean", "prod", "sinc", "square"),
        )
    },
    **{name: (getattr(jax.nn, name), 1, 1) for name in ("sigmoid", "softplus", "relu")},
    "abs": (jnp.abs, 1, 1),
    "len": (_length, 1, 1),
    "max": (_extreme(jnp.max, jnp.maximum), 1, ANY),
    "min": (_extreme(jnp.min, jnp.minimum), 1, ANY),
    "arctan2": (jnp.arctan2, 2, 2),
    "hypot": (jnp.hypot, 2, 2),
    "dot": (jnp.dot, 2, 2),
    "clip": (jnp.clip, 3, 3),
    "where": (jnp.where, 3, 3),
}

# What other languages call them.
_ELSEWHERE = {
    **{"ln": "log", "fabs": "abs", "pow": "**", "asin": "arcsin", "acos": "arccos", "atan": "arctan"},
    **{"atan2": "arctan2", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"},
    **{"maximum": "max", "minimum": "min"},
}

_OPERATORS = {
    **{ast.Add: jnp.add, ast.Sub: jnp.subtract, ast.Mult: jnp.multiply, ast.Div: jnp.divide, ast.Pow: jnp.power},
    **{ast.USub: jnp.negative, ast.UAdd: jnp.positive},
    **{ast.Lt: jnp.less, ast.LtE: jnp.less_equal, ast.Gt: jnp.greater, ast.GtE: jnp.greater_equal},
    **{ast.Eq: jnp.equal, ast.NotEq: jnp.not_equal},
}

_ALLOWED = f"numbers, names, + - * / **, comparisons, x[0], x[1:], and the functions {', '.join(sorted(FUNCTIONS))}"


class _Reader:
    """Reads a tree node by node; each becomes a function of the named values."""

    def __init__(self, text: str):
        self.text = text.lstrip()
        self.indent = len(text) - len(self.text)

    def value(self, node: ast.expr) -> Value:
        for kind, read in self._KINDS.items():
            if isinstance(node, kind):
                return read(self, node)
        raise self._refusal(node, f"{_called(node)} not allowed; allowed are {_ALLOWED}")

    def _number(self, node: ast.Constant) -> Value:
        if type(node.value) not in (int, float):
            raise self._refusal(node, f"not a real number; allowed are {_ALLOWED}")
        try:
            number = float(node.value)
        except OverflowError:
            number = float("inf")
        if number == float("inf"):
            raise self._refusal(node, "larger than any number that fits 64 bits")
        return lambda values: number

    def _name(self, node: ast.Name) -> Value:
        name = node.id
        if name in FUNCTIONS:
            raise self._refusal(node, f"{name} is a function; call it, as in {name}(x)")
        if name.startswith("_"):
            raise self._refusal(node, "names must not begin with _")
        if name in CONSTANTS:
            return lambda values: CONSTANTS[name]
        return lambda values: values[name]

    def _unary(self, node: ast.UnaryOp) -> Value:
        operate, operand = self._operator(node, node.op), self.value(node.operand)
        return lambda values: operate(operand(values))

    def _binary(self, node: ast.BinOp) -> Value:
        operate, left = self._operator(node, node.op), self.value(node.left)
        if isinstance(node.op, ast.Pow) and (power := _whole(node.right)) is not None:
            if abs(power) > LARGEST_POWER:
                raise self._refusal(node.right, f"powers go up to {LARGEST_POWER}")
            return lambda values: operate(left(values), power)  # a product, so its gradient is fine below 0 too
        right = self.value(node.right)
        return lambda values: operate(left(values), right(values))

    def _comparison(self, node: ast.Compare) -> Value:
        compare = [self._operator(node, op) for op in node.ops]
        sides = [self.value(side) for side in (node.left, *node.comparators)]

        def holds(values):
            each = [side(values) for side in sides]
            truths = (c(a, b) for c, (a, b) in zip(compare, itertools.pairwise(each), strict=True))
            return jnp.where(functools.reduce(jnp.logical_and, truths), 1.0, 0.0)  # a number, with which one can reckon

        return holds

    def _call(self, node: ast.Call) -> Value:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name not in FUNCTIONS or not isinstance(node.func, ast.Name):
            near = [_ELSEWHERE[name]] if name in _ELSEWHERE else difflib.get_close_matches(name, FUNCTIONS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise self._refusal(node, f"no such function{hint}; allowed are {', '.join(sorted(FUNCTIONS))}")
        function, least, most = FUNCTIONS[name]
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise self._refusal(node, f"{name} takes plain values only, as in {name}(x)")
        if not least <= len(node.args) <= most:
            takes = f"{least}" if least == most else f"{least} to {most}"
            raise self._refusal(node, f"{name} takes {takes} value{'s' * (most > 1)}, not {len(node.args)}")
        arguments = [self.value(argument) for argument in node.args]
        return lambda values: function(*(argument(values) for argument in arguments))

    def _element(self, node: ast.Subscript) -> Value:
        vector, where = self.value(node.value), node.slice
        said = ast.get_source_segment(self.text, node)
        if isinstance(where, ast.Slice):
            bounds = [None if b is None else self._index(b) for b in (where.lower, where.upper, where.step)]
            if bounds[2] == 0:
                raise self._refusal(node, "a step of 0 leads nowhere")
            return lambda values: _sized(vector(values), said)[slice(*bounds)]
        index = self._index(where)

        def element(values):
            whole = _sized(vector(values), said)
            if not -len(whole) <= index < len(whole):  # JAX would take the nearest element there is
                raise ExpressionError(f"{said}: there are {len(whole)} elements, [0] to [{len(whole) - 1}]")
            return whole[index]

        return element

    def _index(self, node: ast.expr) -> int:
        index = _whole(node)
        if index is None:
            raise self._refusal(node, "elements are taken by whole numbers, as in x[0], x[-1], x[1:]")
        return index

    def _operator(self, node: ast.expr, operator: ast.AST) -> Callable:
        if type(operator) not in _OPERATORS:
            hint = "powers are written **" if isinstance(operator, ast.BitXor) else f"allowed are {_ALLOWED}"
            raise self._refusal(node, f"this operator is not allowed; {hint}")
        return _OPERATORS[type(operator)]

    def _refusal(self, node: ast.expr, why: str) -> ExpressionError:
        before = self.text.encode()[: node.col_offset].decode(errors="replace")
        said = ast.get_source_segment(self.text, node) or ""
        said = said if len(said) <= 40 else said[:37] + "..."
        return ExpressionError(f"column {self.indent + len(before) + 1}, {said!r}: {why}")

    _KINDS = {
        ast.Constant: _number,
        ast.Name: _name,
        ast.UnaryOp: _unary,
        ast.BinOp: _binary,
        ast.Compare: _comparison,
        ast.Call: _call,
        ast.Subscript: _element,
    }


def _whole(node: ast.expr) -> int | None:
    """The whole number that a literal such as 2, -2 or 2.0 stands for."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _whole(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value == node.value // 1:
        return int(node.value) if abs(node.value) < 2**62 else None
    return None


def _sized(value: Any, said: str) -> Array:
    if jnp.ndim(value) == 0:
        raise ExpressionError(f"{said}: this is a single number, and has no elements")
    return jnp.asarray(value)


def _called(node: ast.expr) -> str:
    names = {
        ast.Attribute: "attributes are",
        ast.Lambda: "a lambda is",
        ast.IfExp: "if … else is (where(condition, a, b) is)",
        ast.BoolOp: "and, or are",
        ast.List: "a list is",
        ast.Tuple: "a tuple is",
        ast.NamedExpr: "an assignment is",
    }
    return names.get(type(node), "this is")
