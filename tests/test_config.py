"""Configs: defaults, settings laid over them, ranges and what they are called. What is refused is in test_cli."""
# ruff: noqa: E501, because a case is a line

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgd import config as cfg
from jaxgd.config import ConfigError

PLAIN = {
    "cost": {"expression": "x**2 + 5"},
    "start": {"x": 3.0},
    "optimizer": {"name": "gradient_descent", "learning_rate": 0.1},
    "run": {"epochs": 10},
}


def checked(**tables):
    return cfg.checked(PLAIN | tables, "test")


def test_what_is_not_said_has_a_default():
    config = checked()
    assert (config.title, config.seed, config.sweep) == ("", 0, {})
    assert (config.run.precision, config.run.select, config.run.unequal_trials) == ("float32", "final_cost", False)
    assert (config.record.history, config.record.paths, config.record.params) == (None, None, "all")


def test_whole_numbers_are_taken_as_reals():
    config = checked(cost={"expression": "a*x**2", "constants": {"a": 2}, "minimum": 0}, run={"epochs": 1, "target": 1})
    assert isinstance(config.run.target, float) and isinstance(config.cost.minimum, float)
    assert isinstance(config.cost.constants["a"], float)


def test_a_config_is_equal_to_its_own_toml():
    sweep = {"optimizer": {"learning_rate": {"geomspace": [1e-3, 1, 8]}}, "seed": {"values": [0, 1]}}
    config = checked(title='"quoted" [bold] \\ x²', sweep=sweep)
    assert cfg.checked(tomllib.loads(cfg.as_toml(config)), "again") == config


def test_settings_are_laid_over_the_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(cfg.as_toml(checked(start={"x": [1.0, 2.0]})))
    read = cfg.read(
        path,
        [
            "run.epochs=20",
            "start.x.1=7",
            "title=two words",
            "cost={expression='sum(x)'}",
            " seed = 3 ",
            "record.params=none",
        ],
    )
    assert (read.run.epochs, read.start["x"], read.title, read.seed) == (20, [1.0, 7], "two words", 3)
    assert read.cost.expression == "sum(x)" and read.record.params == "none"
    assert cfg.read(path, ["sweep.seed={values=[1]}", "sweep={}"]).sweep == {}


@pytest.mark.parametrize(
    ("sweep", "names"),
    [
        ({"optimizer": {"learning_rate": {"values": [1]}}}, ["learning_rate"]),
        ({"start": {"x": {"0": {"values": [1]}, "1": {"values": [1]}}}}, ["x_0", "x_1"]),
        ({"cost": {"constants": {"a": {"values": [1]}}}}, ["a"]),
        ({"seed": {"values": [1]}}, ["seed"]),
        ({"lane": {"width": {"values": [1]}}}, ["width"]),
        ({"optimizers": {"learning_rate": {"values": [1]}, "adam": {"b1": {"values": [1]}}}}, ["learning_rate", "b1"]),
        ({"start": {"x": {"values": [1], "name": "from"}}}, ["from"]),
        ({"lane": {"values": {"values": [1]}, "num": {"linspace": [0, 1, 2]}}}, ["values", "num"]),
    ],
)
def test_a_dimension_is_the_key_without_its_table(sweep, names):
    assert [axis.name for axis in cfg.axes(checked(sweep=sweep))] == names


def test_axes_keep_the_order_of_the_file():
    text = "start.x={values=[1]}\nseed={values=[1]}\noptimizer.learning_rate={values=[1]}"
    axes = cfg.axes(checked(sweep=tomllib.loads(text)))
    assert [axis.key for axis in axes] == ["start.x", "seed", "optimizer.learning_rate"]


def test_optimizers_may_share_the_name_of_what_varies_each():
    each = {"learning_rate": {"values": [1]}}
    axes = cfg.axes(checked(sweep={"optimizers": {"adam": each, "momentum": each}}))
    assert [(axis.optimizer, axis.name) for axis in axes] == [("adam", "learning_rate"), ("momentum", "learning_rate")]


def test_lay_goes_through_tables_and_lists():
    content = {"a": {"b": [1, [2, 3]]}}
    cfg.lay(content, ["a", "b", "1", "0"], "x")
    cfg.lay(content, ["c", "d"], 4)
    assert content == {"a": {"b": [1, ["x", 3]]}, "c": {"d": 4}}
    for path in (["a", "b", "2"], ["a", "b", "-1"], ["a", "b", "0", "c"], ["c", "d", "e"]):
        with pytest.raises(ConfigError):
            cfg.lay(content, path, 0)


def test_values_are_shown_as_toml_writes_them():
    assert [cfg.shown(v) for v in (True, 'a"b', [1, 2.5], "x²")] == ["true", '"a\\"b"', "[1, 2.5]", '"x²"']
    assert len(cfg.shown(list(range(1000)))) == 60


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("epoch", ["epochs", "target"], "; did you mean epochs?"),
        ("zzz", ["b", "a"], "; allowed: a, b"),
        ("zzz", [], ""),
    ],
)
def test_near(word, known, said):
    assert cfg.near(word, known) == said


toml = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
        if (WORDS := ["values", "linspace", "uniform", "num", "name", "x", "size", "each", "learning_rate", "0"])
        else st.nothing()
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(["title", "seed", "cost", "start", "optimizer", "optimizers", "run", "record", "sweep", "lane"]),
    toml,
)
def test_whatever_stands_in_a_table_is_taken_or_refused(table, value):
    """Never any other error than a ConfigError of one line that opens with the file's name."""
    try:
        config = cfg.checked(PLAIN | {table: value}, "any.toml")
        cfg.paired(config)
    except ConfigError as error:
        assert str(error).startswith(("any.toml: ", "sweep.paired")) and "\n" not in str(error)
