"""Configs from strangers: refused in one line before anything is allocated, carried out or written."""

import os
import sys

import numpy as np
import pytest
from command import command
from small import PARABOLA

import jaxgd
from jaxgd import budget, lane, store
from jaxgd import config as cfg
from jaxgd.config import ConfigError
from jaxgd.outcome import named
from jaxgd.ranges import visible


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(budget, "memory", lambda: 24e9)
    return tmp_path


def asked(text, *words, name="hostile.toml"):
    """What `check` says of a config, and that it wrote nothing."""
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)
    before = sorted(os.listdir())
    answer = command("check", name, *words)
    assert sorted(os.listdir()) == before
    return answer


SETTINGS = {
    "lanes": (
        ["sweep.start.x.linspace=[0,1,1_000_000]", "sweep.optimizer.learning_rate.geomspace=[0.1,1,1_000_000]"],
        "sweep: 1e+12 lanes (x 1 000 000 × learning_rate 1 000 000) × 104 bytes, and more with params = 104 TB, "
        "and this machine has 24 GB of memory",
    ),
    "one axis": (["sweep.start.x.linspace=[0,1,1_000_000_000_000]"], "how many (1 to 100 000 000)"),
    "a long arange": (["sweep.start.x.arange=[0,1,1e-300]"], "has over 100 000 000 values"),
    "values of the cost": (
        ["run.epochs=200_000", "record.history=100_000", "sweep.start.x.linspace=[0,1,1_000_000]"],
        "sweep: 1 000 000 lanes × 400 105 bytes, with params and records of the cost = 400 GB",
    ),
    "time": (
        ["run.epochs=1_000_000_000", "sweep.start.x.linspace=[0,1,100_000_000]", "sweep.seed.arange=[12]"],
        "run.epochs: 1 200 000 000 lanes × 1 000 000 000 epochs are 1.2e+18 updates; at a thousand million a second, 38 years",
    ),
    "programs": (
        ["sweep.start.x={ linspace=[0,1,100_000], each=true }"],
        "sweep: 100 000 programs, one for each value that can't be traced, each compiled by itself; allowed are 4 096",
    ),
    "flags": (
        ["optimizer.name=lbfgs", "sweep.optimizer.memory_size.arange=[1, 1e7]"],
        "sweep: 9 999 999 programs",
    ),
    "a drawn start": (
        ["start.x={uniform=[0,1], size=100_000_000}"],
        "start.x: 64 lanes side by side × 100 000 000 numbers × 12 bytes = 76.8 GB",
    ),
    "a long name": ([f"sweep.start.x={{values=[1], name='{'n' * 101}'}}"], "must be a word"),
    "a path for a name": (["sweep.start.x={values=[1], name='../x'}"], "must be a word"),
    "a variable called by a path": (["start={'../x'=1}"], "'../x' can't be a name"),
    "the ledger's name": (["sweep.start.x={values=[1], name='done'}"], "the result has a variable named done"),
    "a module by its path": (["cost={function='../../etc/model:f'}"], 'must be "package.module:name"'),
    "lists without end": (["start.x=" + "[" * 10_000], "the value is not valid TOML: it is nested more than 32 levels"),
    "a number without end": (["seed=" + "9" * 10_000], "seed"),
    "a long hexadecimal": (["seed=0x" + "f" * 50_000], "seed = (too long to show): must be less than 2147483648"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_what_would_exhaust_the_machine_or_leave_the_folder_is_refused(case, monkeypatch):
    settings, said = SETTINGS[case]
    if case == "time":
        monkeypatch.setattr(budget, "memory", lambda: 1e12)
    answer = asked(PARABOLA, *(word for setting in settings for word in ("--set", setting)))
    assert answer.code == 2 and said in answer.err, answer
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    "text, said",
    [
        ("a = " + "9" * 5000, "is not valid TOML: "),
        ("a = " + "[" * 5000, "nested more than 32 levels deep"),
        ("a = " + "{a=" * 200, "is not valid TOML: "),
        ("a = " + "[" * 40 + "]" * 40, "nested more than 32 levels deep"),
        (PARABOLA + '[x]\n"\\u001b[2J\\u009b\\u202e" = 1', "unknown key"),
        (PARABOLA.replace("[start]", '[start]\n"\\u001b[2J" = 1'), "can't be a name"),
    ],
)
def test_a_text_to_no_good_is_one_visible_line(text, said):
    answer = asked(text)
    assert answer.code == 2 and said in answer.err and answer.err.count("\n") == 1
    assert answer.err.rstrip("\n").isprintable()


def test_a_file_without_end_is_not_read_to_it(folder):
    answer = command("check", "/dev/zero")
    assert answer == (2, "", "jaxgd: /dev/zero: is longer than the 67108864 bytes that a config may have\n")


EVIL = "import pathlib\npathlib.Path('was_here').touch()\ndef cost(x): return x**2\n"


def test_check_imports_nothing_unless_told(folder):
    (folder / "evil.py").write_text(EVIL)
    text = PARABOLA.replace('expression = "x**2 + 5"', 'function = "evil:cost"')
    answer = asked(text)
    assert answer.code == 0 and not (folder / "was_here").exists()
    assert f"cost.function = evil:cost, from {folder / 'evil.py'}" in answer.out.replace("\n", "")
    assert "--import" in answer.out and "lanes" not in answer.out
    told = command("check", "hostile.toml", "--import")
    assert told.code == 0 and (folder / "was_here").exists() and "lanes" in told.out


@pytest.mark.parametrize("where", ["optimizer", "optimizers.mine", "lane"])
def test_every_place_of_code_is_named(folder, where):
    (folder / "evil.py").write_text(EVIL)
    text = f'[run]\nepochs = 3\n[{where}]\nfunction = "evil:cost"\n'
    text += "" if where == "lane" else '[cost]\nexpression = "x"\n[start]\nx = 1\n'
    answer = asked(text)
    assert answer.code == 0 and f"{where}.function = evil:cost" in answer.out
    assert not (folder / "was_here").exists() and "evil" not in sys.modules


NAMED = PARABOLA.replace('expression = "x**2 + 5"', 'function = "{}"')
PACKAGE = {
    "kit/__init__.py": EVIL,
    "kit/costs.py": EVIL,
    "kit/odd.py": "def __getattr__(name): ...",
    "bad.py": "def f(:",
}
MODULE = """from math import cos
if True:
    cost = lambda x: x**2
try:
    from fast import quick
except ImportError:
    quick = None
def make():
    global late
    late = cost
def square(x): inner = x; return x**2
"""


def written_code(folder):
    (folder / "kit").mkdir()
    for name, text in PACKAGE.items():
        (folder / name).write_text(text)
    (folder / "mine.py").write_text(MODULE)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("gone:cost", "no module 'gone', neither in {} nor installed"),
        ("kit.gone:cost", "no module 'kit.gone', neither in {} nor installed"),
        ("mine.gone:cost", "no module 'mine.gone', neither in {} nor installed"),
        ("optax.gone.more:cost", "no module 'optax.gone', neither in {} nor installed"),
        ("mine:sqare", "mine has no function 'sqare'; did you mean square?"),
        ("mine:inner", "mine has no function 'inner'; allowed: make, square"),
        ("kit.costs:cst", "kit.costs has no function 'cst'; did you mean cost?"),
        ("optax.losses:squared", "optax.losses has no function 'squared'"),
        ("bad:f", "importing bad would fail: SyntaxError: "),
    ],
)
def test_check_names_code_that_is_missing_without_importing_any(folder, reference, says):
    written_code(folder)
    answer = asked(NAMED.format(reference))
    assert answer.code == 2 and not answer.out and not (folder / "was_here").exists()
    assert f'hostile.toml: cost.function = "{reference}": {says.format(folder)}' in answer.err.replace("\n", "")


@pytest.mark.parametrize(
    "reference",
    ["mine:cost", "mine:quick", "mine:late", "mine:cos", "kit:cost", "kit.costs:cost", "kit.odd:any", "optax:sgd"]
    + ["optax.losses:l2_loss", "math:cos", "os.path:join", "numpy.linalg:norm", "jax.numpy:sum"],
)
def test_check_finds_code_without_importing_any(folder, reference):
    written_code(folder)
    answer = asked(NAMED.format(reference))
    assert answer.code == 0 and f"cost.function = {reference}, from " in answer.out
    assert not (folder / "was_here").exists()


def test_check_names_data_that_is_missing(folder):
    (folder / "evil.py").write_text(EVIL)
    text = NAMED.format("evil:cost") + '\n[data]\nfile = "rows.csv"\ntarget = "y"\nlabels = false\n'
    answer = asked(text)
    assert answer.code == 2
    gone = 'hostile.toml: data.file = "rows.csv": can\'t be read: No such file or directory'
    assert gone in answer.err
    (folder / "rows.csv").write_text("x,y\n" + "1,2\n" * 9 + "nan,3\n")
    assert 'line 11, column x: "nan" is not a finite number' in asked(text).err
    (folder / "rows.csv").write_text("x,y\n" + "1,2\n2,3\n" * 5)
    assert asked(text).code == 0 and not (folder / "was_here").exists()
    (folder / "rows.csv").unlink()
    rule = '[optimizer]\nfunction = "evil:cost"\n[cost.network]\nhidden = []\n[run]\nepochs = 2\n'
    assert gone in asked(rule + '[data]\nfile = "rows.csv"\ntarget = "y"\n').err


def test_nothing_is_imported_that_no_function_names(folder):
    for name in ("numpy", "x", "expression", "gradient_descent", "rosenbrock"):
        (folder / f"{name}.py").write_text(EVIL)
    answer = asked(PARABOLA)
    assert answer.code == 0 and not (folder / "was_here").exists()


def test_titles_and_names_move_no_cursor_and_mean_nothing(folder):
    name = "[red]\x1b[31m" + "n" * 200
    text = 'title = "\\u001b[31mred $\\\\frac{ $ [bold] \\u202eturned"\n' + PARABOLA
    (folder / f"{name}.toml").write_text(text, "utf-8")
    answer = command("run", f"{name}.toml")
    assert answer.code == 0 and "\x1b" not in answer.out + answer.err
    assert "\\x1b[31mred $\\frac{ $ [bold] \\u202eturned" in answer.out
    (run,) = (entry for entry in (folder / "runs").iterdir() if not entry.name.startswith("."))
    assert run.name.startswith("[red]\\x1b[31mnnn") and len(run.name) < 120
    assert (run / "figures" / "overview.png").is_file()


def test_visible():
    assert visible("ünï\u00a0x² \x1b[0m\r\u202e\x9b") == "ünï\u00a0x² \\x1b[0m\\r\\u202e\\x9b"


@pytest.mark.parametrize("name", ["a\x1b[0m", "..", "../x", "my rate", "n" * 300])
def test_names_that_can_be_no_array_are_refused_before_anything_is_written(folder, name):
    def lane(**given):
        return jaxgd.Descent(lambda x: x**2, given[name], jaxgd.gradient_descent(0.1))

    with pytest.raises(store.StoreError, match="can't be the name of an array"):
        jaxgd.sweep(lane, {name: np.ones(2)}, epochs=2, run=folder / "runs" / "mine")
    assert not list((folder / "runs").glob("*mine*/*"))


TAKEN = ("best", "cost", "position", "low", "score", "height", "sharpness", "done")


@pytest.mark.parametrize("name", TAKEN)
def test_an_axis_that_a_run_has_a_variable_of_is_refused_before_anything_is_written(folder, name):
    def lane(**given):
        return jaxgd.Descent(lambda x: x**2, given[name], jaxgd.gradient_descent(0.1))

    with pytest.raises(ValueError, match=f"axis '{name}': a run has a variable of this name"):
        jaxgd.sweep(lane, {name: np.ones(2)}, epochs=2, run=folder / "runs" / "mine")
    assert not (folder / "runs").exists()
    for start, axis in ((name, f"start.{name}={{values=[1]}}"), ("x", f"start.x={{values=[1], name='{name}'}}")):
        answer = asked(called(start), "--set", f"sweep.{axis}")
        assert answer.code == 2 and f"the result has a variable named {name}; rename the axis, as in" in answer.err


def called(name):
    """The parabola, its variable by another name."""
    return PARABOLA.replace("x**2", f"{name}**2").replace("x = 3", f"{name} = 3")


def test_a_metric_that_a_run_has_a_variable_of_is_refused_before_anything_is_written(folder):
    def lane(rate):
        return jaxgd.Descent(lambda x: x**2, 1.0, jaxgd.gradient_descent(rate), metrics={"best": lambda x: x})

    with pytest.raises(ValueError, match="metric 'best': a run has a variable of this name"):
        jaxgd.sweep(lane, {"rate": np.ones(2)}, epochs=2, run=folder / "runs" / "mine")
    assert not (folder / "runs").exists()
    assert "best" in jaxgd.sweep(lane, {"rate": np.ones(2)}, epochs=2)


@pytest.mark.parametrize(
    "key, said",
    [
        ("start.optimizer", 'has a variable named optimizer; rename the axis, as in { ..., name = "start_optimizer" }'),
        ("start.trial", 'has a variable named trial; rename the axis, as in { ..., name = "start_trial" }'),
        ("start.seed", "seed is the name of an axis of seeds, over which medians are taken; rename the axis"),
    ],
)
def test_an_axis_that_would_be_taken_for_another_kind_is_refused(key, said):
    name = key.partition(".")[2]
    answer = asked(called(name), "--set", f"sweep.{key}={{values=[1, 2]}}")
    assert answer.code == 2 and f"sweep.{key}: " in answer.err and said in answer.err
    renamed = asked(called(name), "--set", f"sweep.{key}={{values=[1, 2], name='mine'}}")
    assert renamed.code == 0 and "(mine 2)" in renamed.out


ALLOWED = """
[cost]
expression = "a*x**2 + y**2 + path**2 + axis**2 + best**2 + position**2"
constants = { a = 1 }
[start]
x = 1.0
y = 1.0
path = 1.0
axis = 1.0
best = 1.0
position = 1.0
[optimizer]
name = "gradient_descent"
learning_rate = 0.1
[run]
epochs = 3
[record]
paths = 2
[sweep]
start.x = { values = [1, 2], name = "param" }
start.path = { values = [1, 2] }
start.axis = { values = [1, 2], name = "origin" }
start.best = { values = [1, 2], name = "minima" }
cost.constants.a = { values = [1, 2], name = "x" }
optimizer.learning_rate = { values = [0.1, 0.2], name = "trials" }
"""


@pytest.mark.usefixtures("compiled_in_haste")
def test_names_that_only_seem_to_be_taken_reach_the_report(folder):
    (folder / "mine.toml").write_text(ALLOWED)
    for words in (("run", "mine.toml"), ("compare", "mine")):
        answer = command(*words)
        assert (answer.code, answer.err) == (0, "")
    assert list(folder.glob("runs/*/report.html"))


def test_leaves_that_other_libraries_call_by_paths_stay_in_the_folder(folder):
    def lane(rate):
        start = {"../../net/~/linear": {"w": 1.0}}
        return jaxgd.Descent(lambda p: p["../../net/~/linear"]["w"] ** 2, start, jaxgd.gradient_descent(rate))

    table = jaxgd.sweep(lane, {"rate": [0.1, 0.2]}, epochs=2, run=folder / "runs" / "mine")
    assert "params.......net.~.linear.w" in table
    assert sorted(entry.name for entry in folder.iterdir()) == ["runs"]
    with pytest.raises(ValueError, match=r"both be called params\.a\.b: rename one"):
        named("params", {"a/b": 1.0, "a": {"b": 2.0}})


def test_memory_is_what_the_machine_has(monkeypatch):
    monkeypatch.undo()
    assert 1e8 < budget.memory() < 1e16
    with pytest.raises(ConfigError, match="4 097 programs"):
        budget.check_programs(4097)


ODD = """
import jax.numpy as jnp

def leaving(x):
    raise SystemExit(3)

def failing(x):
    assert isinstance(x, float)

def text(x):
    return "low"

def both(x):
    return x**2, {"more": x}

def cost_nowhere(x):
    return jnp.where(x < 2, jnp.where(x < 1, jnp.inf, jnp.nan), x**2)

def gradient_nowhere(x):
    return jnp.where(x < 1, 3.5, jnp.sqrt(jnp.abs(x - 3)))
"""


@pytest.mark.parametrize(
    "name, code, said",
    [
        ("leaving", 2, "model.py, line 5: SystemExit: 3"),
        ("failing", 2, "model.py, line 8: AssertionError"),
        ("text", 2, "cost returns a str; it must return one real number"),
        ("both", 2, "cost returns a tuple; it must return one real number"),
        ("cost_nowhere", 0, "2 where the cost is not finite"),
        ("gradient_nowhere", 0, "1 where the gradient is not finite and 1 where the gradient is 0"),
    ],
)
def test_odd_costs_are_said_plainly(folder, name, code, said):
    (folder / "model.py").write_text(ODD)
    text = PARABOLA.replace('expression = "x**2 + 5"', f'function = "model:{name}"')
    (folder / "odd.toml").write_text(text + "[sweep]\nstart.x = { values = [0.0, 1.0, 3.0] }\n")
    answer = command("run", "odd.toml")
    assert answer.code == code and said in " ".join((answer.out + answer.err).split())


def test_a_cost_that_prints_is_told_what_that_means(tmp_path):
    (tmp_path / "loud.py").write_text("def cost(x):\n    print('here', x)\n    return x**2\n")
    content = {
        "cost": {"function": "loud:cost"},
        "start": {"x": 1.0},
        "optimizer": {"name": "gradient_descent", "learning_rate": 0.1},
        "run": {"epochs": 3},
    }
    with pytest.warns(UserWarning, match="prints: that happens while JAX traces it.*jax.debug.print"):
        lane.planned(cfg.checked(content, "loud"), "loud", tmp_path)
