"""The command: what it says, what it leaves behind, how it ends. Bad input costs one message and leaves nothing."""
# ruff: noqa: E501, because a case is a line

import re
import signal
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command import command
from processes import started
from small import PARABOLA, RACE, written

import jaxgd
from jaxgd import cli, files, run, store
from jaxgd.names import optimizers
from jaxgd.surfaces import SURFACES

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

OWN_COST = PARABOLA.replace('expression = "x**2 + 5"', 'function = "model:cost"')
OWN_LANE = """
[lane]
function = "model:lane"
learning_rate = 0.1
[run]
epochs = 3
"""
MODULE = """
import jax.numpy as jnp
import numpy as np
import jaxgd

def cost(x):
    return x**2

def vector(x):
    return jnp.array([1.0, 2.0]) * x

def numpy_cost(x):
    return np.sin(np.asarray(x))

def branching(x):
    return x if x > 0 else -x

def undifferentiable(x):
    return x.astype(int)

def unlucky(x):
    return {}["y"] + x

def integer(x):
    return jnp.int32(3)

def optimizer(learning_rate):
    return jaxgd.gradient_descent(learning_rate) if learning_rate > 0 else None

def no_optimizer(learning_rate):
    return 3.0

def lane(learning_rate):
    return jaxgd.Descent(lambda x: x**2, 3.0, jaxgd.gradient_descent(learning_rate))

def no_lane(learning_rate):
    return learning_rate

not_callable = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_(text, *settings):
    """A config's text, and the settings that make of it what is tested."""
    return text, settings


BAD = {
    # the file
    "missing file": (None, "no.toml: can't be read: No such file"),
    "folder as config": (Path.mkdir, "bad.toml: can't be read: Is a directory"),
    "not UTF-8": (lambda path: path.write_bytes(b"title = '\xff'"), "bad.toml: is not UTF-8 text (byte 9)"),
    "invalid TOML": ("[cost\n", "bad.toml: is not valid TOML: "),
    "null byte": ("title = 'a\0b'", "bad.toml: is not valid TOML: "),
    "empty": ("", "bad.toml: table [run] is missing"),
    # keys and tables
    "unknown table": (PARABOLA + "[recrod]\nhistory = 3", "recrod: unknown key; did you mean record?"),
    "unknown key": (PARABOLA.replace("epochs", "epoch"), "run.epoch: unknown key; did you mean epochs?"),
    "key far from any": (PARABOLA + "zzz = 1", "run.zzz: unknown key; allowed: ceiling, epochs"),
    "no cost": (
        PARABOLA.replace("[cost]", "[sweep]").split("[start]")[0].split("[sweep]")[0]
        + PARABOLA[PARABOLA.index("[start]") :],
        "table [cost] is missing",
    ),
    "no start": (PARABOLA.replace("[start]\nx = 3.0", ""), "table [start] is missing"),
    "no optimizer": (PARABOLA[: PARABOLA.index("[optimizer]")] + "[run]\nepochs = 3", "table [optimizer] is missing"),
    "two kinds of optimizers": (
        PARABOLA + "[optimizers.adam]\nlearning_rate = 0.1",
        "[optimizer] and [optimizers]: remove one",
    ),
    "no epochs": (PARABOLA.replace("epochs = 3", ""), "run.epochs is missing"),
    "no cost in cost": (
        PARABOLA.replace('expression = "x**2 + 5"', ""),
        "cost: needs one of expression, surface, function",
    ),
    "two costs": (PARABOLA.replace("minimum = 5", 'surface = "sphere"'), "it has expression and surface"),
    "lane and cost": (PARABOLA + '[lane]\nfunction = "model:lane"', "[lane] takes the place of [cost]"),
    "name and function": (with_(PARABOLA, "optimizer.function=model:optimizer"), "has both name and function"),
    # types and limits
    "text for a number": (with_(PARABOLA, "run.epochs='many'"), 'run.epochs = "many": must be a whole number'),
    "fraction for a count": (with_(PARABOLA, "run.epochs=2.5"), "run.epochs = 2.5: must be a whole number"),
    "true for a number": (with_(PARABOLA, "run.target=true"), "run.target = true: must be a number"),
    "number for a table": (with_(PARABOLA, "run=3"), "run = 3: must be a table"),
    "no epochs at all": (with_(PARABOLA, "run.epochs=0"), "run.epochs = 0: must be greater than or equal to 1"),
    "infinite target": (with_(PARABOLA, "run.target=inf"), "run.target = Infinity: must be a finite number"),
    "tolerance of 0": (with_(PARABOLA, "run.tolerance=0"), "run.tolerance = 0: must be greater than 0"),
    "negative seed": (with_(PARABOLA, "seed=-1"), "seed = -1: must be greater than or equal to 0"),
    "precision": (
        with_(PARABOLA, "run.precision=float16"),
        "run.precision = \"float16\": must be 'float32' or 'float64'",
    ),
    "select": (with_(PARABOLA, "run.select=luckiest"), "must be one of final_cost, best_cost, target_epoch"),
    "one record": (with_(PARABOLA, "record.history=1"), "record.history = 1: must be greater than or equal to 2"),
    "params": (with_(PARABOLA, "record.params=some"), "must be 'all', 'best' or 'none'"),
    "minima of another size": (
        with_(PARABOLA, "cost.minima=[[1.0, 2.0]]"),
        "cost.minima: [1.0, 2.0] must have 1 numbers",
    ),
    # --set
    "setting without =": (with_(PARABOLA, "run.epochs"), "--set run.epochs: must be KEY=VALUE"),
    "setting without key": (with_(PARABOLA, "=3"), "--set =3: must be KEY=VALUE"),
    "setting with broken TOML": (with_(PARABOLA, "start.x=[1,"), "--set start.x=[1,: the value is not valid TOML"),
    "setting through a value": (with_(PARABOLA, "run.epochs.x=3"), "--set run.epochs.x=3: run.epochs is not a table"),
    "setting of no element": (with_(RACE, "start.x.7=3"), "start.x has 2 elements, and none called 7"),
    "two settings in one": (with_(PARABOLA, "run.epochs=3\nrun.target=2"), "must be one value"),
    # names
    "surface": (with_(RACE, "cost.surface=rosenbrok"), "there is no such surface; did you mean rosenbrock?"),
    "optimizer": (
        with_(PARABOLA, "optimizer.name=gradient_decent"),
        "there is no such optimizer; did you mean gradient_descent?",
    ),
    "optimizer by table": (RACE.replace("optimizers.adam", "optimizers.adm"), "no such optimizer; did you mean adam?"),
    "optimizer of optimizers": (
        with_(PARABOLA, "optimizer.name=schedule_free"),
        "takes another optimizer or a function as its base_optimizer",
    ),
    "hyperparameter": (
        with_(PARABOLA, "optimizer.learning_rat=1"),
        "has no hyperparameter learning_rat; did you mean learning_rate?",
    ),
    "hyperparameter missing": (PARABOLA.replace("learning_rate = 0.1", ""), "optimizer.learning_rate is missing"),
    "hyperparameter of text": (
        with_(PARABOLA, "optimizer.learning_rate='fast'"),
        'optimizer.learning_rate = "fast": must be a finite number',
    ),
    "hyperparameter of functions": (
        with_(PARABOLA, "optimizer.name=adamw", "optimizer.mask=true"),
        "optimizer.mask: TOML can't say this one",
    ),
    "flag of numbers": (
        with_(PARABOLA, "optimizer.name=adam", "optimizer.nesterov=1"),
        "optimizer.nesterov = 1: must be true or false",
    ),
    "table as rate": (with_(PARABOLA, "optimizer.learning_rate={a=1}"), "the params have no part a; allowed: x"),
    "constant of a surface": (with_(RACE, "cost.constants.c=1"), "rosenbrock has no such constant"),
    "start of a surface": (with_(RACE, "start.y=1"), "rosenbrock starts from x alone"),
    # expressions
    "empty expression": (with_(PARABOLA, "cost.expression=''"), "cost.expression: is empty"),
    "no expression": (with_(PARABOLA, "cost.expression='x +'"), "cost.expression: column "),
    "forbidden": (
        with_(PARABOLA, "cost.expression='__import__(\"os\")'"),
        "column 1, '__import__(\"os\")': no such function",
    ),
    "variable without value": (with_(PARABOLA, "cost.expression='x + y'"), "y has no value: give it a start"),
    "start without variable": (with_(PARABOLA, "start.y=1"), "start.y: the expression has no y"),
    "constant e": (
        with_(PARABOLA, "cost.constants.e=1"),
        "cost.constants.e: in an expression, e is the constant 2.71828; call it otherwise",
    ),
    "variable called sum": (with_(PARABOLA, "start.sum=1"), "start.sum: in an expression, sum is a function"),
    "variable called lambda": (with_(PARABOLA, "start.lambda=1"), "in an expression, lambda is a word of Python's"),
    "name with a dash": (with_(PARABOLA, "start.x-1=1"), "'x-1' can't be a name"),
    "variable and constant": (with_(PARABOLA, "cost.constants.x=1"), "x is in [start] and in [cost.constants]"),
    "element of a number": (with_(PARABOLA, "cost.expression='x[0]'"), "x[0]: this is a single number"),
    "element too far": (
        with_(PARABOLA, "cost.expression='sum(x) + x[3]'", "start.x=[1, 2]"),
        "x[3]: there are 2 elements",
    ),
    "vector cost": (with_(PARABOLA, "start.x=[1, 2]"), "cost returns an array of shape (2,)"),
    "vectors that don't fit": (
        with_(PARABOLA, "cost.expression='sum(x * y)'", "start.x=[1, 2]", "start.y=[1, 2, 3]"),
        "bad.toml: ",
    ),
    # starts
    "start of another shape": (
        with_(RACE, "start.x=1"),
        "start.x: rosenbrock needs a list of 2 or more numbers; x has shape ()",
    ),
    "start too long": (
        with_(RACE, "cost.surface=himmelblau", "start.x=[1, 2, 3]"),
        "needs a list of 2 numbers; x has shape (3,)",
    ),
    "ragged start": (
        with_(PARABOLA, "start.x=[[1], [1, 2]]"),
        "start.x = [[1], [1, 2]]: must be a finite number, or a list",
    ),
    "start of text": (with_(PARABOLA, "start.x='left'"), 'start.x = "left": must be a finite number'),
    "start of flags": (with_(PARABOLA, "start.x=[1, true]"), "start.x = [1, true]: must be a finite number"),
    "infinite start": (with_(PARABOLA, "start.x=inf"), "start.x = Infinity: must be a finite number"),
    "huge start": (with_(PARABOLA, f"start.x={10**400}"), "must be a finite number"),
    "empty start": (with_(PARABOLA, "start.x=[]"), "start.x is empty"),
    "unknown draw": (with_(PARABOLA, "start.x={unifrom=[0, 1]}"), "or a draw such as { uniform = [0, 1] }"),
    "draw upside down": (with_(PARABOLA, "start.x={uniform=[1, 0]}"), "low must lie below high"),
    "draw of one": (with_(PARABOLA, "start.x={normal=[0]}"), "must be [mean, standard deviation]"),
    "negative deviation": (with_(PARABOLA, "start.x={normal=[0, -1]}"), "the standard deviation must not be negative"),
    "logarithm of 0": (with_(PARABOLA, "start.x={loguniform=[0, 1]}"), "low must be above 0"),
    "size of a half": (with_(PARABOLA, "start.x={normal=[0, 1], size=0.5}"), "size = 0.5 must be a whole number"),
    # sweeps
    "axis that names nothing": (
        with_(PARABOLA, "sweep.optimzer.learning_rate={values=[1]}"),
        "optimzer.learning_rate can't be swept; did you mean optimizer?",
    ),
    "axis of no hyperparameter": (with_(PARABOLA, "sweep.optimizer.rate={values=[1]}"), "has no hyperparameter rate"),
    "axis of no variable": (with_(PARABOLA, "sweep.start.y={values=[1]}"), "[start] has no y; allowed: x"),
    "axis of no element": (with_(RACE, "sweep.start.x.5={values=[1]}"), "start.x has shape (2,), and no element 5"),
    "axis of no constant": (with_(RACE, "sweep.cost.constants.q={values=[1]}"), "there is no constant q"),
    "axis of no optimizer": (
        with_(RACE, "sweep.optimizers.adm.learning_rate={values=[1]}"),
        "there is no optimizer adm; did you mean adam?",
    ),
    "axis of names": (with_(PARABOLA, "sweep.optimizer.name={values=['adam']}"), "give each a table [optimizers.NAME]"),
    "axis that can't vary": (with_(PARABOLA, "sweep.run.epochs={values=[1]}"), "run.epochs can't be swept"),
    "axis without range": (with_(PARABOLA, "sweep.seed=3"), "sweep.seed: must be a range such as"),
    "empty table": (with_(PARABOLA, "sweep.seed={}"), "sweep.seed: must be a range such as"),
    "empty range": (with_(PARABOLA, "sweep.seed={values=[]}"), "sweep.seed: values is empty"),
    "empty arange": (with_(PARABOLA, "sweep.seed={arange=[3, 1]}"), "arange = [3, 1] is empty"),
    "unknown range": (
        with_(PARABOLA, "sweep.seed={linspce=[0, 1, 2]}"),
        "linspce is not a range; did you mean linspace?",
    ),
    "two ranges": (with_(PARABOLA, "sweep.start.x={linspace=[0, 1, 2], values=[1]}"), "it has linspace and values"),
    "range and more": (
        with_(PARABOLA, "sweep.start.x={values=[1], nmae='a'}"),
        "sweep.start.x.nmae: unknown key; did you mean name?",
    ),
    "range of text": (with_(PARABOLA, "sweep.start.x={linspace='abc'}"), 'linspace = "abc" must be a list'),
    "range of two": (with_(PARABOLA, "sweep.start.x={linspace=[0, 1]}"), "must be [first, last, how many"),
    "geomspace through 0": (
        with_(PARABOLA, "sweep.start.x={geomspace=[-1, 1, 3]}"),
        "must both be above 0, or both below",
    ),
    "no values of a kind": (with_(PARABOLA, "sweep.start.x={values=[1, 'a']}"), "must be a finite number"),
    "values of a shape": (with_(RACE, "sweep.start.x={values=[[1, 2], [3]]}"), "must have the shape of start.x, (2,)"),
    "range for a vector": (with_(RACE, "sweep.start.x={linspace=[1, 2, 3]}"), "sweep start.x.0 and so on"),
    "half a seed": (with_(PARABOLA, "sweep.seed={values=[0.5]}"), "seeds must be whole numbers"),
    "text as rate": (with_(PARABOLA, "sweep.optimizer.learning_rate={values=['a']}"), "must be a finite number"),
    "numbers as flag": (
        with_(PARABOLA, "optimizer.name=adam", "sweep.optimizer.nesterov={linspace=[0, 1, 2]}"),
        "must be true or false",
    ),
    "draw without num": (with_(PARABOLA, "sweep.start.x={uniform=[0, 1]}"), "a draw in [sweep] needs it"),
    "name of two words": (
        with_(PARABOLA, "sweep.start.x={values=[1], name='a b'}"),
        "must be a word of letters, digits and _",
    ),
    "name of a figure": (
        with_(PARABOLA, "sweep.start.x={values=[1], name='outcome'}"),
        "the result has a variable named outcome",
    ),
    "clash": (
        with_(RACE, "sweep.start.x.0={values=[1]}", "sweep.cost.constants.a={values=[1], name='x_0'}"),
        "would both be called 'x_0'; rename one",
    ),
    "clash of trials": (
        with_(RACE, "sweep.optimizers.adam.learning_rate={values=[1]}", "sweep.optimizers.learning_rate={values=[1]}"),
        "would both be called 'learning_rate'",
    ),
    "clash with optimizer": (
        with_(RACE, "sweep.start.x.0={values=[1], name='optimizer'}"),
        "the result has a variable named optimizer",
    ),
    "unequal trials": (with_(RACE, "sweep.optimizers.adam.learning_rate={values=[1, 2]}"), "(adam 2, momentum 1)"),
    "paired of one": (with_(PARABOLA, "sweep.paired=[['seed']]"), "sweep.paired: must be a list of lists"),
    "paired of nothing": (
        with_(PARABOLA, "sweep.seed={values=[1]}", "sweep.paired=[['seed', 'sed']]"),
        '"sed" is not swept; did you mean seed?',
    ),
    "paired twice": (
        with_(
            PARABOLA,
            "sweep.seed={values=[1]}",
            "sweep.start.x={values=[1]}",
            "sweep.paired=[['seed', 'start.x', 'seed']]",
        ),
        "seed is there twice",
    ),
    "paired of two lengths": (
        with_(
            PARABOLA, "sweep.seed={values=[1]}", "sweep.start.x={values=[1, 2]}", "sweep.paired=[['seed', 'start.x']]"
        ),
        "paired axes differ in length",
    ),
    "paired across optimizers": (
        with_(
            RACE,
            "sweep.seed={values=[1]}",
            "sweep.optimizers.adam.b1={values=[1]}",
            "sweep.paired=[['seed', 'optimizers.adam.b1']]",
        ),
        "can't walk together",
    ),
    # functions of the user's own
    "reference": (with_(OWN_COST, "cost.function=model"), 'must be "package.module:name"'),
    "module": (with_(OWN_COST, "cost.function=nowhere.to.be:cost"), "no module 'nowhere'"),
    "module that raises": (with_(OWN_COST, "cost.function=broken:cost"), "importing broken failed: ZeroDivisionError"),
    "module that leaves": (with_(OWN_COST, "cost.function=leaving:cost"), "importing leaving failed: SystemExit"),
    "module with an error": (
        with_(OWN_COST, "cost.function=unreadable:cost"),
        "importing unreadable failed: SyntaxError",
    ),
    "function": (with_(OWN_COST, "cost.function=model:cots"), "model has no function 'cots'; did you mean cost?"),
    "no function": (with_(OWN_COST, "cost.function=model:not_callable"), "model has no function 'not_callable'"),
    "arguments of a cost": (with_(OWN_COST, "start.y=1"), "model:cost(x) is called with the names of [start]"),
    "vector of a function": (with_(OWN_COST, "cost.function=model:vector"), "cost returns an array of shape (2,)"),
    "NumPy": (with_(OWN_COST, "cost.function=model:numpy_cost"), "cost cannot be traced by JAX"),
    "Python branch": (with_(OWN_COST, "cost.function=model:branching"), "cost cannot be traced by JAX"),
    "no gradient": (with_(OWN_COST, "cost.function=model:undifferentiable"), "cost returns int32"),
    "error within": (with_(OWN_COST, "cost.function=model:unlucky"), "model.py, line 22: KeyError: 'y'"),
    "optimizer that is none": (
        with_(
            PARABOLA[: PARABOLA.index("name = ")]
            + 'function = "model:no_optimizer"\nlearning_rate = 1\n[run]\nepochs = 3'
        ),
        "optimizer is a float; it must be an optax GradientTransformation",
    ),
    "optimizer that branches": (
        with_(
            PARABOLA[: PARABOLA.index("name = ")]
            + 'function = "model:optimizer"\nlearning_rate = 1\n[run]\nepochs = 3',
            "sweep.optimizer.learning_rate={values=[1, 2]}",
        ),
        "sweep.optimizer.learning_rate: Python needs the value itself",
    ),
    "lane that is none": (with_(OWN_LANE, "lane.function=model:no_lane"), "it must return a jaxgd.Descent"),
    "argument of a lane": (with_(OWN_LANE, "lane.rate=1"), "model:lane has no argument rate"),
    "argument missing": (OWN_LANE.replace("learning_rate = 0.1", ""), "lane.learning_rate is missing"),
    "axis of no argument": (with_(OWN_LANE, "sweep.lane.rate={values=[1]}"), "model:lane has no argument rate"),
    "axis beside the lane": (
        with_(OWN_LANE, "sweep.start.x={values=[1]}"),
        "with [lane], what varies is lane.NAME or seed",
    ),
    "seed that nobody takes": (with_(OWN_LANE, "sweep.seed={values=[1]}"), "model:lane has no argument seed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_leaves_nothing(case, folder):
    what, fragment = BAD[case]
    text, settings = what if isinstance(what, tuple) else (what, ())
    config = folder / ("no.toml" if what is None else "bad.toml")
    if callable(text):
        text(config)
    elif text is not None:
        config.write_text(text, "utf-8")
    (folder / "model.py").write_text(MODULE)
    (folder / "broken.py").write_text("1 / 0")
    (folder / "leaving.py").write_text("raise SystemExit(0)")
    (folder / "unreadable.py").write_text("def cost(x:")
    before = sorted(folder.iterdir())
    answer = command("run", config.name, *(word for setting in settings for word in ("--set", setting)))
    assert answer.code == 2, answer
    assert fragment in answer.err
    assert answer.err.startswith("jaxgd: ") and answer.err.count("\n") == 1 and "Traceback" not in answer.err
    assert answer.out == ""
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_there_are_many_cases():
    assert len(BAD) >= 40


def write(folder, text, name="good.toml"):
    written(folder, text, name)
    return name


def folder_of(answer):
    return Path(re.search(r"results\s+(\S+)", answer.out)[1])


def test_run_prints_the_lesson_and_says_where_it_is(folder):
    answer = command("run", write(folder, PARABOLA))
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0] == "EPOCH 0: Cost = 14.000, x = 3.000"
    assert lines[1] == "EPOCH 1: Cost = 10.760, x = 2.400"
    assert [line.split(":")[0] for line in lines[:4]] == [f"EPOCH {k}" for k in range(4)]
    run = folder_of(answer)
    assert run.parent == Path("runs") and (folder / run / "run.toml").is_file()
    assert (folder / re.search(r"picture\s+(\S+)", answer.out)[1]).stat().st_size > 1000
    written = (folder / run / "results.zarr" / "final_cost").stat().st_mtime_ns
    again = command("run", "good.toml")
    assert again.code == 0 and folder_of(again) == run
    assert (folder / run / "results.zarr" / "final_cost").stat().st_mtime_ns == written


def test_titles_are_printed_as_they_are(folder):
    title = "[bold]x[/bold] and [/nothing] in [red]"
    for name in ("good.toml", "[red]good.toml"):
        assert title in command("run", write(folder, f'title = "{title}"\n{PARABOLA}', name)).out
    assert "[red]good.toml: good" in command("check", "[red]good.toml").out


def test_settings_reach_every_table_and_take_the_sweep_away(folder):
    name = write(folder, PARABOLA + "[sweep]\noptimizer.learning_rate = { values = [0.1, 0.2] }")
    assert "(learning_rate 2)" in command("check", name).out
    wider = "sweep.optimizer.learning_rate={geomspace=[1e-3,1,8]}"
    assert "(learning_rate 8)" in command("check", name, "--set", wider).out
    assert "(learning_rate 2 × x 3)" in command("check", name, "--set", "sweep.start.x={values=[1,2,3]}").out
    assert "(a single descent)" in command("check", name, "--set", "sweep={}").out
    changed = command(
        "run", name, "--set", "sweep={}", "--set", "run.epochs=1", "--set", "start.x=5", "--set", "cost.expression=x**2"
    )
    assert changed.out.startswith("EPOCH 0: Cost = 25.000, x = 5.000\nEPOCH 1: Cost = 16.000, x = 4.000\n\n")


def test_check_writes_nothing(folder):
    answer = command("check", write(folder, PARABOLA))
    assert answer.code == 0 and "good.toml: good" in answer.out and "(new)" in answer.out
    assert [path.name for path in folder.iterdir()] == ["good.toml"]
    command("run", "good.toml")
    assert "begun already" in command("check", "good.toml").out


def test_divergence_is_a_result_and_no_failure(folder):
    answer = command("run", write(folder, PARABOLA), "--set", "optimizer.learning_rate=100", "--set", "run.epochs=100")
    assert answer.code == 0 and "diverged" in answer.out


def test_best_by_folder_config_and_prefix(folder):
    grid = PARABOLA + "[sweep]\noptimizer.learning_rate = { values = [0.1, 0.5, 2.0] }"
    run = folder_of(command("run", write(folder, grid)))
    assert command("best", "good.toml").out.startswith("learning_rate = 0.5\n")
    assert command("best", run).out == command("best", "good.toml").out == command("best", run.name[:6]).out
    config = tomllib.loads(command("best", "good", "--toml").out)
    assert config["optimizer"]["learning_rate"] == 0.5 and not config.get("sweep")
    unknown = command("best", "godo")
    assert unknown.code == 2 and "godo is no run" in unknown.err and run.name in unknown.err
    command("run", "good.toml", "--set", "run.epochs=5")
    several = command("best", "good")
    assert several.code == 2 and "good could be good-" in several.err
    write(folder, grid + "\n[record]\nhistory = 2", "other.toml")
    never = command("best", "other.toml")
    assert never.code == 2 and never.err == "jaxgd: other.toml has not been run yet: jaxgd run other.toml\n"
    assert not list(folder.glob("runs/other*"))


def test_the_config_of_the_best_runs(folder):
    sweep = "[sweep]\noptimizer.learning_rate = { geomspace = [0.001, 10, 5] }\nstart.x = { uniform = [1, 2], num = 3 }"
    command("run", write(folder, PARABOLA + sweep))
    best = command("best", "good")
    write(folder, command("best", "good", "--toml").out, "best.toml")
    alone = command("run", "best.toml")
    assert alone.code == 0
    final = float(re.search(r"final_cost\s+(\S+)", best.out)[1])
    assert f"final cost {final:.6g}, lowest" in " ".join(alone.out.split())


def test_params_of_the_best_alone(folder):
    grid = "\n[sweep]\noptimizer.learning_rate = { values = [0.1, 0.4, 2.0] }\nseed = { values = [0, 1] }"
    text = PARABOLA.replace("x = 3.0", "x = { uniform = [1, 2], size = 3 }").replace("x**2 + 5", "sum(x**2) + 5") + grid
    kept = {}
    for params in ("all", "best", "none"):
        run = folder_of(command("run", write(folder, text), "--set", f"record.params={params}"))
        results, best = store.opened_table(run), store.opened_best(run)
        assert ("params.x" in results) == (params == "all")
        kept[params] = best if best is not None else results
    alone, every = kept["best"], kept["all"].sel(learning_rate=0.4)
    assert alone["learning_rate"].item() == 0.4 and alone["params.x"].dims == ("seed", "params.x.0")
    np.testing.assert_array_equal(alone["params.x"], every["params.x"].transpose("seed", ...))
    single = command("run", write(folder, PARABOLA), "--set", "record.params=best")
    assert "params.x       1.536" in command("best", folder_of(single)).out


def test_a_run_is_filmed_and_several_in_turn(folder):
    command("run", write(folder, PARABOLA), "--set", "optimizer.learning_rate=0.4")
    film = command("animate", "good")
    assert film.code == 0 and Path(film.out.strip()).read_bytes()[:3] == b"GIF"
    command("run", write(folder, RACE, "race.toml"))
    series = command("animate", "good", "race", "--to", folder / "both.gif")
    assert series.code == 0 and (folder / "both.gif").read_bytes()[:3] == b"GIF"
    swept = write(folder, PARABOLA, "none.toml"), "--set", "record.paths=0"
    command("run", *swept, "--set", "sweep.optimizer.learning_rate={values=[0.1, 0.2]}")
    nothing = command("animate", "none")
    assert nothing.code == 2 and "keeps no paths to film" in nothing.err


def test_no_best_where_all_diverged(folder):
    command("run", write(folder, PARABOLA), "--set", "run.ceiling=1")
    answer = command("best", "good")
    assert answer.code == 2 and "every lane diverged" in answer.err


def test_lists():
    surfaces = command("list", "surfaces")
    assert surfaces.code == 0
    for name, surface in SURFACES.items():
        assert f"\n{name}, " in "\n" + surfaces.out
        assert surface.equation in surfaces.out and surface.about in surfaces.out
    assert "himmelblau, 2 variables" in surfaces.out and "parabola, 1 variable\n" in surfaces.out
    listed = command("list", "optimizers").out.splitlines()
    assert {line for line in listed if not line.startswith(" ")} == set(optimizers())
    assert "    learning_rate, momentum = 0.9" in listed
    assert command("list", "planets") == (2, "", "jaxgd: list planets: can list surfaces or optimizers\n")


def test_init(folder):
    answer = command("init", "mine")
    assert answer == (0, "mine.toml: like lesson; now: jaxgd run mine.toml\n", "")
    assert command("check", "mine.toml").code == 0
    assert command("init", "my.model", "--like", "race").code == 0 and (folder / "my.model.toml").is_file()
    there = command("init", "mine.toml")
    assert there.code == 2 and "is there already" in there.err
    assert (
        command("init", "other", "--like", "rase").err
        == "jaxgd: --like rase: there is no such template; did you mean race?\n"
    )
    for bad in ("", ".toml", "no/folder/mine", "a/"):
        assert command("init", bad).code == 2
    assert sorted(path.name for path in folder.iterdir()) == ["mine.toml", "my.model.toml"]


def test_help_and_version():
    assert command("--version") == (0, f"jaxgd {jaxgd.__version__}\n", "")
    assert command().out == command("--help").out
    for word in (one.name for one in cli.app.registered_commands):
        answer = command(word, "--help")
        assert answer.code == 0 and "Usage:" in answer.out and answer.err == ""
        shown = command("--help").out
        assert re.search(rf"^  {word} .*\w\.$", shown, re.MULTILINE), "the one line of help is cut short"


@pytest.mark.parametrize(
    "words", [["bogus"], ["run"], ["run", "a", "b"], ["run", "a", "--bogus"], ["best"], ["run", "a", "--set"]]
)
def test_a_wrong_command_line_is_bad_input(words):
    answer = command(*words)
    assert answer.code == 2 and answer.err.startswith("jaxgd: ") and "Traceback" not in answer.err


def test_a_failure_names_its_reason(folder, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied", "runs")

    monkeypatch.setattr("jaxgd.run.carry_out", denied)
    answer = command("run", write(folder, PARABOLA))
    assert answer.code == 1 and "PermissionError: [Errno 13] Permission denied: 'runs'" in answer.err
    assert "Traceback" not in answer.err
    monkeypatch.setenv("JAXGD_TRACEBACK", "1")
    with pytest.raises(OSError, match="denied"):
        command("run", "good.toml")


def test_warnings_of_its_own_are_messages_and_others_are_python_s():
    said = "what\x1b[2J it means"
    assert cli._as_a_message(UserWarning(said), UserWarning, run.__file__, 3) == "jaxgd: what\\x1b[2J it means\n"
    assert "other.py:3: UserWarning: what" in cli._as_a_message(UserWarning(said), UserWarning, "/a/other.py", 3)


def test_a_full_disk_is_said_plainly_and_the_run_goes_on_when_there_is_room(folder, monkeypatch):
    write(folder, PARABOLA)
    written, write_bytes = [], files.write_bytes

    def full(path, content):
        if len(written) == 40:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        write_bytes(path, content)

    for room in (files, store):
        monkeypatch.setattr(room, "write_bytes", full)
    answer = command("run", "good.toml")
    assert answer.code == 1 and re.match(
        "jaxgd: the disk is full, at .*; what is finished is kept: make room, and the same command goes on from there\n$",
        answer.err,
    )
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert command("run", "good.toml").code == 0


def test_a_run_begun_anew_keeps_the_earlier_one(folder):
    write(folder, PARABOLA)
    assert command("run", "good.toml", "--fresh").err == ""
    (name,) = [path.name for path in folder.glob("runs/good-*")]
    first = store.read_manifest(folder / "runs" / name)
    answer = command("run", "good.toml", "--fresh")
    assert (answer.code, answer.err) == (0, f"the earlier run is kept as runs/{name}-1\n")
    assert store.read_manifest(folder / "runs" / f"{name}-1") == first
    assert command("best", name).code == 0


_HEEDS_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background would ignore
from jaxgd.cli import main
main()
"""


def test_interrupted_it_says_how_to_go_on(folder):
    write(folder, PARABOLA + "[sweep]\noptimizer.learning_rate = { geomspace = [1e-6, 0.1, 4_000_000] }")
    running = started("-c", _HEEDS_CTRL_C, "run", "good.toml", "--set", "run.epochs=10000")
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/*/results.zarr/final_cost/c/*")) and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, (out, err)
    said = r"jaxgd: interrupted; (\d+) of 4000000 lanes are kept in runs/good-\w+, and the same command goes on from there\n$"
    assert int(re.search(said, err)[1]) >= 0, err
    assert "Traceback" not in err
