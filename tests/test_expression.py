"""Costs from text: what the grammar allows agrees with NumPy, and nothing else is ever carried out.

NumPy reads the same text in float64 with Python's own evaluation, which is what the room never uses:
here it is the reference. Both sides do the same operations in the same order in float64, so they
agree to a few roundings per operation, of the largest number met on the way.
"""
# ruff: noqa: E501, because a case is a line

import ast
import builtins
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxgd.expression import (
    CONSTANTS,
    DEEPEST,
    FUNCTIONS,
    LARGEST_POWER,
    MOST_CHARACTERS,
    ExpressionError,
    meaning,
    parse,
)

EPS = np.finfo(np.float64).eps


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


REFERENCE = {  # what each function is to NumPy
    **{name: getattr(np, name) for name in FUNCTIONS if hasattr(np, name)},
    "sigmoid": sigmoid,
    "softplus": lambda x: np.logaddexp(x, 0),
    "relu": lambda x: np.maximum(x, 0),
    "len": len,
    "max": lambda *a: np.max(a[0]) if len(a) == 1 else np.max(np.broadcast_arrays(*a), axis=0),
    "min": lambda *a: np.min(a[0]) if len(a) == 1 else np.min(np.broadcast_arrays(*a), axis=0),
    "pi": np.pi,
    "e": np.e,
}


def reference(text, values):
    """The value by Python's evaluation of NumPy's functions; NaN where Python's own numbers give up."""
    try:
        with np.errstate(all="ignore"):
            return np.asarray(eval(text, {"__builtins__": {}} | REFERENCE | values), float)
    except (ZeroDivisionError, OverflowError):
        return np.nan


# --- what is allowed ---

SMOOTH = ["sin", "cos", "tanh", "arctan", "sigmoid", "softplus", "arcsinh", "square"]
ROUGH = ["abs", "sign", "floor", "ceil", "relu", "exp", "sqrt", "log1p", "cbrt"]

literals = (
    st.floats(-4, 4).map(lambda f: repr(round(f, 3))) | st.integers(-3, 9).map(str) | st.sampled_from(["pi", "e"])
)
leaves = literals | st.sampled_from(
    ["x", "y", "v[0]", "v[-1]", "sum(v)", "mean(v**2)", "prod(v[1:])", "len(v)", "dot(v, v)", "max(v)"]
)


def compound(functions):
    def grown(inner):
        return st.one_of(
            st.tuples(inner, st.sampled_from(["+", "-", "*", "/"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            st.tuples(inner, st.integers(0, 3)).map(lambda t: f"({t[0]})**{t[1]}"),
            inner.map(lambda a: f"(-{a})"),
            st.tuples(st.sampled_from(functions), inner).map(lambda t: f"{t[0]}({t[1]})"),
        )

    return grown


def choices(inner):
    return st.one_of(
        compound(SMOOTH + ROUGH)(inner),
        st.tuples(inner, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner).map(
            lambda t: f"1*({t[0]} {t[1]} {t[2]})"
        ),
        st.tuples(inner, inner, inner).map(lambda t: f"where({t[0]} > 0, {t[1]}, {t[2]})"),
        st.tuples(st.sampled_from(["min", "max", "arctan2", "hypot"]), inner, inner).map(
            lambda t: f"{t[0]}({t[1]}, {t[2]})"
        ),
        st.tuples(inner).map(lambda t: f"clip({t[0]}, -1, 1)"),
    )


numbers = st.floats(-3, 3).map(lambda f: round(f, 3))
points = st.fixed_dictionaries(
    {"x": numbers, "y": numbers, "v": st.lists(numbers, min_size=2, max_size=3).map(np.array)}
)


@settings(deadline=None, max_examples=150)
@given(st.recursive(leaves, choices, max_leaves=12), points)
def test_allowed_texts_mean_what_numpy_means(text, values):
    with jax.enable_x64(True):
        cost = parse(text)
        assert set(cost.names) <= set(values)
        ours = float(cost(**{name: jnp.asarray(value) for name, value in values.items()}))
    theirs = float(reference(text, values))
    nudged = [
        float(reference(text, {name: value * (1 + 8 * EPS * sign) for name, value in values.items()}))
        for sign in (-1, 1)
    ]
    assume(np.isfinite([theirs, *nudged]).all())
    # A step, a pole or a cancellation magnifies roundings: by how much, the nudged values say. The rest is
    # some 50 operations of a few eps each, on numbers that may be 10⁴ times the result.
    slack = 8 * max(abs(n - theirs) for n in nudged)
    assume(slack < 1e-6 * max(1, abs(theirs)))
    assert abs(ours - theirs) <= slack + 200 * EPS * 1e4 * max(1, abs(theirs))


@settings(deadline=None, max_examples=60)
@given(st.recursive(leaves, compound(SMOOTH), max_leaves=6), points)
def test_gradients_agree_with_finite_differences(text, values):
    """Central differences err by h² times the third derivative, and by eps / h times the value."""
    h = EPS ** (1 / 3)

    def along(shift):
        return float(reference(text, values | {"x": values["x"] + shift}))

    slope, coarse = ((along(s) - along(-s)) / (2 * s) for s in (h, 2 * h))
    assume(
        np.isfinite([slope, coarse]).all() and abs(slope - coarse) < 1e-6 * max(1, abs(slope)) and abs(along(0)) < 1e3
    )
    with jax.enable_x64(True):
        cost, there = parse(text), {name: jnp.asarray(value) for name, value in values.items()}
        ours = float(jax.grad(lambda x: cost(**there | {"x": x}) * 1.0)(there["x"]))
    assert abs(ours - slope) <= 10 * abs(slope - coarse) + 1e-7 * max(1, abs(slope), abs(along(0)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_numpy_s(name):
    _, least, _ = FUNCTIONS[name]
    text = {"clip": "clip(v, -0.2, 0.4)", "where": "where(v > 0.3, v, 2*v)", "len": "len(v)"}.get(
        name, f"{name}({', '.join(['v'] * least)})"
    )
    for v in (np.array([0.1, 0.25, 0.75]), np.array([1.0, 1.5, 3.0])):
        with jax.enable_x64(True):
            ours = np.asarray(parse(text)(v=jnp.asarray(v)))
        np.testing.assert_allclose(ours, reference(text, {"v": v}), rtol=64 * EPS, atol=4 * EPS, equal_nan=True)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("(a - x)**2 + b*(y - x**2)**2", ("a", "x", "b", "y")),
        ("x**2 + 5", ("x",)),
        ("sum(x[1:]) + x[0]", ("x",)),
        ("2*pi*e", ()),
        ("x\n  + y\n", ("x", "y")),
        ("  x*(y + x)  ", ("x", "y")),
        ("θ**2 + 𝐱", ("θ", "x")),  # Python reads a bold x as x
    ],
)
def test_names_in_their_order(text, names):
    assert parse(text).names == names


def test_powers_of_negative_numbers_have_gradients():
    for text in ("x**2", "x**2.0", "x**-2", "(-x)**3"):
        cost = parse(text)
        for x in (-3.0, -0.5, 2.0):
            exact = {"x**-2": -2 * x**-3, "(-x)**3": -3 * x**2}.get(text, 2 * x)
            assert float(jax.grad(lambda x, cost=cost: cost(x=x))(x)) == pytest.approx(exact, rel=1e-6)
    assert float(jax.grad(lambda x: parse("x**2")(x=x))(0.0)) == 0


def test_comparisons_are_numbers():
    assert float(parse("(x > 1) + (x > 2) - (0 < x < 9)")(x=3.0)) == 1
    assert float(parse("-(x > 1)")(x=3.0)) == -1


def test_a_name_without_value():
    with pytest.raises(ExpressionError, match="y has no value"):
        parse("x + y")(x=1.0)


# --- what is not ---

REFUSED = {
    # reaching Python
    "__import__('os').system('true')": "no such function",
    "__import__": "must not begin with _",
    "x.__class__": "attributes are not allowed",
    "().__class__.__bases__[0].__subclasses__()": "no such function",
    "x.real": "attributes are not allowed",
    "np.sin(x)": "no such function; did you mean sin?",
    "math.pi": "attributes are not allowed",
    "lambda x: x": "a lambda is not allowed",
    "(lambda: 1)()": "no such function",
    "[a for a in x]": "not allowed",
    "sum(a for a in x)": "not allowed",
    "{a: a for a in x}": "not allowed",
    "{x}": "not allowed",
    "f'{x}'": "not allowed",
    "f'{__import__(\"os\")}'": "not allowed",
    "'x'": "not a real number",
    "b'x'": "not a real number",
    "(y := x)": "an assignment is not allowed",
    "x if x > 0 else -x": "where(condition, a, b) is",
    "x and y": "and, or are not allowed",
    "not x": "this operator is not allowed",
    "~x": "this operator is not allowed",
    "x @ y": "this operator is not allowed",
    "x % 2": "this operator is not allowed",
    "x // 2": "this operator is not allowed",
    "x ^ 2": "powers are written **",
    "x << 2": "this operator is not allowed",
    "x in y": "this operator is not allowed",
    "x is y": "this operator is not allowed",
    "[x, y]": "a list is not allowed",
    "(x, y)": "a tuple is not allowed",
    "await x": "",
    "yield": "",
    "exec('1')": "no such function",
    "eval('1')": "no such function",
    "open('/etc/passwd')": "no such function",
    "print(x)": "no such function",
    "sin(*x)": "takes plain values only",
    "sin(**x)": "takes plain values only",
    "sin(x=1)": "takes plain values only",
    "sin": "sin is a function; call it",
    "x(1)": "no such function",
    "sin(x)(x)": "no such function",
    "x[y]": "elements are taken by whole numbers",
    "x[0.5]": "elements are taken by whole numbers",
    "x[0, 1]": "elements are taken by whole numbers",
    "x[::0]": "a step of 0 leads nowhere",
    "x[...]": "elements are taken by whole numbers",
    "...": "not a real number",
    "True": "not a real number",
    "None": "not a real number",
    "1j": "not a real number",
    "1e999": "larger than any number",
    "9" * 3000: "larger than any number",
    f"x**{LARGEST_POWER + 1}": f"powers go up to {LARGEST_POWER}",
    "x**-99999999999": f"powers go up to {LARGEST_POWER}",
    "ln(x)": "did you mean log?",
    "asin(x)": "did you mean arcsin?",
    "pow(x, 2)": "did you mean **?",
    "sine(x)": "did you mean sin?",
    "sin()": "sin takes 1 value, not 0",
    "clip(x)": "clip takes 3 values, not 1",
    "max(" + ", ".join(["x"] * 65) + ")": "max takes 1 to 64 values, not 65",
    # no expression at all
    "": "is empty",
    " \n ": "is empty",
    "x +": "column",
    "x²": "powers are written **",
    "2x": "column",
    "x = 3": "column",
    "import os": "import is a word of Python's",
    "lambda*x": "lambda is a word of Python's",
    "x; y": "column",
    "x # and so on": "a comment can't stand inside",
    "x # first\n + y": "a comment can't stand inside",
    "x\0y": "",
    "\\": "column",
    "'": "column",
    # too much
    "(" * 300 + "x" + ")" * 300: "",
    "-" * 3000 + "x": "",
    "x" + "+x" * 1500: f"nested more than {DEEPEST} levels",
    "sin(" * 150 + "x" + ")" * 150: "",
    "f(a=" + "-" * 900 + "x)": "",
    "lambda a=" + "-" * 900 + "x: 1": "",
    "[" + "x for x in (" * 90 + "x" + ")" * 90 + "]": "",
    "x" * (MOST_CHARACTERS + 1): f"allowed are {MOST_CHARACTERS}",
    "2**" * 500 + "2": "",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:30]))
def test_what_is_not_allowed_is_refused(text):
    """Of what would take for ever or all memory to work out, too: a text that is carried out hangs this test."""
    with pytest.raises(ExpressionError) as refusal:
        parse(text)
    assert REFUSED[text] in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("x + y.real", 5),
        ("  x + 'a'", 7),
        ("θ + µ*x.a", 7),
        ("x +\n y.a", 6),
        ("sin(x) + sun(x)", 10),
        ("x + + * y", 7),
        ("(x", 1),
    ],
)
def test_the_column_is_where_it_is_wrong(text, column):
    with pytest.raises(ExpressionError, match=rf"^column {column}[,:]"):
        parse(text)


WORDS = [
    *(
        "x",
        "y",
        "sin",
        "sum",
        "e",
        "pi",
        "0",
        "1",
        "2.5",
        "1e400",
        "9" * 400,
        "1j",
        "'a'",
        'f"{x}"',
        "b'a'",
        "None",
        "True",
        "...",
    ),
    *(
        "__import__",
        "__class__",
        "__builtins__",
        "os",
        "eval",
        "exec",
        "open",
        "getattr",
        "globals",
        "print",
        "breakpoint",
        "_x",
    ),
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        ".",
        ";",
        "=",
        ":=",
        "->",
        "@",
        "\\",
        "\n",
        "\0",
        "#",
        "`",
        "$",
        "?",
        "!",
        " ",
    ),
    *("+", "-", "*", "/", "**", "//", "%", "&", "|", "^", "~", "<", "<=", "==", "!=", "<<", ">>"),
    *(
        "lambda",
        "lambda x:",
        "for",
        "in",
        "if",
        "else",
        "and",
        "or",
        "not",
        "is",
        "await",
        "yield",
        "async",
        "import",
        "del",
        "return",
    ),
    *("π", "ﬁ", "𝐱", "x²", "\u200b", "\ufeff", "é", "\U0001f600", "\u2028"),
]
python = st.lists(st.sampled_from(WORDS), min_size=1, max_size=25).map(" ".join) | st.text(max_size=60)


def grown_python(inner):
    """Whole Python expressions, allowed and not."""
    pair = st.tuples(inner, inner)
    return st.one_of(
        inner.map(lambda a: f"({a})"),
        pair.map(lambda p: f"({p[0]} + {p[1]})"),
        pair.map(lambda p: f"({p[0]})**({p[1]})"),
        st.tuples(st.sampled_from(["sin", "eval", "__import__", "getattr", "x", "max"]), inner).map(
            lambda t: f"{t[0]}({t[1]})"
        ),
        st.tuples(inner, st.sampled_from(["real", "__class__", "__globals__", "T", "at"])).map(
            lambda t: f"({t[0]}).{t[1]}"
        ),
        pair.map(lambda p: f"({p[0]})[{p[1]}]"),
        pair.map(lambda p: f"[{p[0]} for x in ({p[1]})]"),
        inner.map(lambda a: f"(lambda x: {a})"),
        inner.map(lambda a: f"(lambda x: {a})(1)"),
        inner.map(lambda a: f"(z := {a})"),
        pair.map(lambda p: f"({p[0]} if {p[1]} else 0)"),
        pair.map(lambda p: f"max(*({p[0]}), key={p[1]})"),
        inner.map(lambda a: "f'{" + a.replace("'", '"') + "}'"),
    )


atoms = st.sampled_from(["x", "y[0]", "2", "10**9", "9**9**9", "'a'", "None", "__builtins__", "1e308", "_", "e", "os"])
ALLOWED_NODES = (
    *(ast.Constant, ast.Name, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Call, ast.Subscript, ast.Slice),
    *(ast.Load, ast.operator, ast.unaryop, ast.cmpop),
)


@settings(deadline=None, max_examples=400)
@given(python | st.recursive(atoms, grown_python, max_leaves=10))
def test_no_text_is_carried_out(text):
    """Either a refusal, or a tree of nothing but what the grammar names."""
    try:
        cost = parse(text)
    except ExpressionError:
        return
    for node in ast.walk(ast.parse(cost.text.strip(), mode="eval").body):
        assert isinstance(node, ALLOWED_NODES), ast.dump(node)
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords
        if isinstance(node, ast.Name):
            assert not node.id.startswith("_")
        if isinstance(node, ast.Constant):
            assert type(node.value) in (int, float)
    assert all(meaning(name) is None for name in cost.names)


@settings(deadline=None, max_examples=30)
@given(st.recursive(atoms, grown_python, max_leaves=10))
def test_reading_a_text_calls_nothing_of_python_s(text):
    called = []
    forbidden = ("eval", "exec", "__import__", "open", "getattr")

    def watch(frame, event, function):
        if event == "c_call" and function in watched and frame.f_globals.get("__name__") == "jaxgd.expression":
            called.append(function)

    watched = [getattr(builtins, name) for name in forbidden[:-1]]
    sys.setprofile(watch)
    try:
        parse(text)
    except ExpressionError:
        pass
    finally:
        sys.setprofile(None)
    assert not called


def test_names_with_a_meaning_of_their_own():
    assert meaning("e") == "the constant 2.71828" and meaning("sum") == "a function"
    assert meaning("lambda") == "a word of Python's" and meaning("x") is None
    assert not {*CONSTANTS} & {*FUNCTIONS}
