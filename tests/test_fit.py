"""Data and networks in configs: seeds, layers, what is chosen on validation, and each mistake in one sentence."""
# ruff: noqa: E501, because a case is a line

import re
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import command

import jaxgd
from jaxgd import config as cfg
from jaxgd import lane, store
from jaxgd.data import load
from jaxgd.networks import MLP
from jaxgd.plan import fingerprint
from jaxgd.sweep import in_memory

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

SPIRAL = """
[data]
name = "spirals"
rows = 50
batch_size = 8
[cost.network]
hidden = [3]
[optimizer]
name = "gradient_descent"
learning_rate = 0.5
[run]
epochs = 3
"""
LINE = """
[data]
file = "line.csv"
target = "y"
labels = false
standardise = false
[cost]
function = "model:cost"
[start]
w = 0.0
b = 0.0
[optimizer]
name = "gradient_descent"
learning_rate = 0.1
[run]
epochs = 3
"""
MODEL = """
def cost(w, b, batch):
    inputs, targets = batch
    return ((w * inputs + b - targets) ** 2).mean()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, compiled_in_haste):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "line.csv").write_text("x,y\n" + "".join(f"{x},{2 * x + 1}\n" for x in np.linspace(-1, 1, 20)))
    return tmp_path


def planned(text, *settings, folder=Path()):
    path = folder / "a.toml"
    path.write_text(text)
    return lane.planned(cfg.read(path, settings), "a.toml", folder)


def carried(text, *settings):
    return in_memory(planned(text, *settings))


def test_a_run_holds_cost_and_accuracy_of_all_three_parts():
    table = carried(SPIRAL, "sweep.seed={values=[0, 1]}")
    data, network = load(name="spirals", rows=50), MLP((2, 3, 2))
    for seed in (0, 1):
        at = table.sel(seed=seed)
        params = {
            layer: {leaf: jnp.asarray(at[f"params.{layer}.{leaf}"].values) for leaf in ("kernel", "bias")}
            for layer in network.layers
        }
        for part in ("train", "validation", "test"):
            inputs, targets = getattr(data, part)
            rows = jnp.asarray(inputs, jnp.float32), jnp.asarray(targets)
            np.testing.assert_allclose(at[f"{part}_cost"], network.cost(params, rows), rtol=1e-5)
            np.testing.assert_allclose(at[f"{part}_accuracy"], network.accuracy(params, rows), rtol=1e-6)
        np.testing.assert_allclose(at["train_cost"], at["final_cost"], rtol=1e-6)
    assert table.attrs["select"] == "validation_cost"


@pytest.mark.compiled_well
def test_each_random_thing_has_its_seed():
    both = carried(SPIRAL, "sweep.seed={values=[0, 1]}")
    order = carried(SPIRAL, "sweep.data.seed={values=[0, 1]}")
    start = carried(SPIRAL, "sweep.cost.network.seed={values=[0, 1]}")
    assert (both["outcome"].dims, order["outcome"].dims, start["outcome"].dims) == (
        ("seed",),
        ("data_seed",),
        ("network_seed",),
    )
    assert order["start_cost"][0] == order["start_cost"][1] and order["final_cost"][0] != order["final_cost"][1]
    np.testing.assert_array_equal(start["start_cost"], both["start_cost"])
    alike = [float(sweep["final_cost"][0]) for sweep in (both, order, start)]  # three programs: to rounding
    updates, roundings = 3 * 4, 8
    np.testing.assert_allclose(alike, alike[0], rtol=updates * roundings * np.finfo(np.float32).eps)
    assert start["final_cost"][1] != both["final_cost"][1]  # the order of another seed
    held = carried(SPIRAL, "sweep.seed={values=[0, 1]}", "data.seed=0")
    np.testing.assert_array_equal(held["final_cost"], start["final_cost"])


@pytest.mark.compiled_well
def test_optimizers_of_one_seed_start_from_one_place():
    race = SPIRAL.replace(
        "[optimizer]\nname = ", "[optimizers.momentum]\nlearning_rate = 0.1\n[optimizers.plain]\nname = "
    )
    table = carried(race, "sweep.seed={values=[3, 4]}")
    np.testing.assert_array_equal(*table["start_cost"].transpose("optimizer", "seed"))
    assert table["start_cost"][0, 0] != table["start_cost"][0, 1]


def test_a_rate_for_each_layer():
    plain = carried(SPIRAL)
    table = carried(SPIRAL, "optimizer.learning_rate={hidden=0.5, output=0.5}")
    np.testing.assert_allclose(table["final_cost"], plain["final_cost"], rtol=1e-6)
    axes = "sweep.optimizer.learning_rate={hidden={values=[0, 0.5]}, output={values=[0.5, 1]}}"
    grid = carried(SPIRAL, axes)
    assert grid["outcome"].dims == ("learning_rate_hidden", "learning_rate_output")
    np.testing.assert_allclose(
        grid["final_cost"].sel(learning_rate_hidden=0.5, learning_rate_output=0.5), plain["final_cost"], rtol=1e-6
    )
    still = grid["params.hidden.kernel"].sel(learning_rate_hidden=0)
    start = MLP((2, 3, 2)).init(0)["hidden"]["kernel"]
    np.testing.assert_allclose(still, np.broadcast_to(start, still.shape), rtol=1e-6)
    config = cfg.checked(tomllib.loads(SPIRAL), "a")
    config = config.model_copy(update={"sweep": tomllib.loads(axes.replace("sweep.", "", 1))})
    rates = lane.at(config, jaxgd.best(grid)).optimizer.arguments["learning_rate"]
    assert set(rates) == {"hidden", "output"}


SEVERAL = SPIRAL.replace(
    "[optimizer]\nname =", "[optimizers.momentum]\nlearning_rate = 0.5\n[optimizers.plain]\nname ="
)


def test_a_rate_for_each_layer_of_one_of_several_optimizers():
    """It varies that one only, the other layer keeps the optimizer's own rate, and so do all others."""
    sweep = "unequal_trials = true\n[sweep]\noptimizers.plain.learning_rate.output = { values = [0.25, 0.5] }"
    table = carried(SEVERAL + sweep)
    assert table["outcome"].dims == ("optimizer", "trial")
    np.testing.assert_array_equal(table["learning_rate_output"], [[np.nan, np.nan], [0.25, 0.5]])
    alone = [
        carried(SPIRAL, f"optimizer.learning_rate={{hidden=0.5, output={rate}}}")["final_cost"] for rate in (0.25, 0.5)
    ]
    np.testing.assert_allclose(table["final_cost"].sel(optimizer="plain"), alone, rtol=1e-6)
    setting = lane.at(cfg.checked(tomllib.loads(SEVERAL + sweep), "a"), table.isel(optimizer=1, trial=0))
    assert setting.optimizer.arguments["learning_rate"] == {"hidden": 0.5, "output": 0.25}


def test_a_rate_for_each_layer_of_all_optimizers():
    table = carried(SEVERAL, "sweep.optimizers.learning_rate.output={values=[0.25, 0.5]}")
    assert table["outcome"].dims == ("optimizer", "learning_rate_output")
    alone = carried(SPIRAL, "optimizer.learning_rate={hidden=0.5, output=0.25}")
    np.testing.assert_allclose(table["final_cost"].sel(optimizer="plain")[0], alone["final_cost"], rtol=1e-6)


def test_words_and_sizes_have_a_program_each():
    table = carried(
        SPIRAL,
        "sweep.cost.network.activation={values=['tanh', 'relu']}",
        "sweep.data.batch_size={values=[5, 30]}",
        "sweep.paired=[['cost.network.activation', 'data.batch_size']]",
    )
    assert table["outcome"].dims == ("activation",) and table["batch_size"].dims == ("activation",)
    relu_alone = carried(SPIRAL, "cost.network.activation=relu", "data.batch_size=30")
    assert table["final_cost"].values[0] != table["final_cost"].values[1] == relu_alone["final_cost"].item()


def test_a_cost_of_one_s_own_takes_data():
    table = carried(LINE, "run.epochs=200", "run.precision=float64")
    np.testing.assert_allclose([table["params.w"], table["params.b"]], [2, 1], atol=1e-4)
    for part in ("train", "validation", "test"):
        assert table[f"{part}_cost"] < 1e-7
    assert "test_accuracy" not in table


def test_an_edit_that_changes_no_number_makes_no_new_run(folder):
    text = Path("line.csv").read_text()

    def known_as(edited, *settings):
        Path("line.csv").write_text(edited, newline="")
        return fingerprint(planned(LINE, *settings))

    tenth_digit = text.replace("1.0,3.0", "1.000000001,3.0")
    same = {
        "form": text.replace("1.0,", "1.00, ").replace("\n", "\r\n"),
        "name": text.replace("x,y", "height,y"),
        "digit": tenth_digit,
    }
    before = known_as(text)
    assert {name: known_as(edited) == before for name, edited in same.items()} == dict.fromkeys(same, True)
    assert known_as(text.replace("1.0,3.0", "1.001,3.0")) != before
    assert known_as(tenth_digit, "run.precision=float64") != known_as(text, "run.precision=float64")


def test_the_numbers_of_the_data_make_the_run(folder):
    (folder / "line.toml").write_text(LINE)
    first = command("run", "line.toml")
    assert first.code == 0, first.err
    text = (folder / "line.csv").read_text()
    again = command("check", "line.toml", "--import").out
    assert "begun already" in again
    (folder / "line.csv").write_text(text.replace("1.0,3.0", "1.0,3.5"))
    changed = command("check", "line.toml", "--import").out
    assert "(new)" in changed and re.findall("runs/line-\\w+", changed) != re.findall("runs/line-\\w+", again)
    # only a row of test differs: it is not trained on, and yet reported
    test = str(load(file="line.csv", target="y", labels=False, standardise=False).test.inputs[0, 0])
    rows = [f"{test},9" if row.split(",")[0] == test else row for row in text.splitlines()]
    (folder / "line.csv").write_text("\n".join(rows))
    assert "(new)" in command("check", "line.toml", "--import").out


def test_what_is_chosen_on_validation_is_reported_on_test(folder):
    (folder / "a.toml").write_text(
        SPIRAL + "[sweep]\noptimizer.learning_rate = { values = [0.01, 1.0] }\nseed = { values = [0, 1, 2] }"
    )
    answer = command("run", "a.toml")
    assert answer.code == 0, answer.err
    (run,) = folder.glob("runs/a-*")
    table = store.opened_table(run)
    medians = table["validation_cost"].median("seed")
    chosen = float(medians.learning_rate[medians.values.argmin()])
    said = command("best", "a.toml").out
    assert said.startswith(f"learning_rate = {chosen:g}\n") and re.search(
        r"test_accuracy +0\.\d+ \(0\.\d+ … [01]", said
    )
    assert "over 3 seeds: validation cost" in answer.out and "test accuracy" in answer.out
    assert "test accuracy" in command("compare", "a.toml").out
    config = tomllib.loads(command("best", "a.toml", "--toml").out)
    assert config["optimizer"]["learning_rate"] == chosen and config["data"]["name"] == "spirals"


def test_epoch_lines_of_a_network_say_how_well_it_does(folder):
    (folder / "a.toml").write_text(SPIRAL)
    lines = command("run", "a.toml").out.splitlines()
    assert re.fullmatch(r"EPOCH 3: Cost = \S+, validation_cost = \S+, .*test_accuracy = \S+", lines[3])


def test_a_lane_replayed_alone_equals_itself_in_the_sweep():
    plan = planned(SPIRAL, "sweep.optimizer.learning_rate={geomspace=[0.1, 1, 4]}", "sweep.seed={values=[0, 1]}")
    table, last = in_memory(plan), {"learning_rate": np.float32(1.0), "seed": np.int32(1)}
    descent = plan.lane(**last)
    history = jaxgd.descend(
        descent.cost, descent.params, descent.optimizer, epochs=3, data=descent.data, batch_size=8, key=descent.key
    )
    np.testing.assert_allclose(history.cost[-1], table["final_cost"].sel(seed=1)[-1], rtol=1e-5)


def test_data_follow_the_precision():
    table = carried(SPIRAL, "run.precision=float64")
    assert table["final_cost"].dtype == np.float64 and not jax.config.jax_enable_x64


BAD = {
    "no data": (SPIRAL[SPIRAL.index("[cost") :], (), "table [data] is missing: say what the network learns"),
    "start": (SPIRAL, ("start.x=1",), "start: a network has none, and starts from its initialisation"),
    "minima": (SPIRAL, ("cost.minima=[[1.0]]",), "cost.minima: a network has none"),
    "expression": (SPIRAL, ("cost={expression='x'}", "start.x=1"), "cost.expression: takes no data"),
    "lane": (
        '[lane]\nfunction = "model:cost"\n' + SPIRAL.split("[cost")[0] + "[run]\nepochs = 1",
        (),
        "[lane] takes its data itself",
    ),
    "unknown key": (SPIRAL, ("cost.network.layers=[3]",), "cost.network.layers: unknown key"),
    "hidden": (SPIRAL, ("cost.network.hidden=[0]",), "cost.network.hidden.0 = 0: must be greater than or equal to 1"),
    "activation": (SPIRAL, ("cost.network.activation=tahn",), "did you mean 'tanh'?"),
    "initialisation": (SPIRAL, ("cost.network.initialisation=he",), "cost.network.initialisation = 'he'"),
    "loss": (
        SPIRAL,
        ("cost.network.loss=squared_eror",),
        'cost.network.loss = "squared_eror": there is no such loss; did you mean squared_error?',
    ),
    "set": (SPIRAL, ("data.name=spiral",), "there is no such data set; did you mean spirals?"),
    "argument": (SPIRAL, ("data.turn=2",), "data.turn: spirals takes no turn; did you mean turns?"),
    "batch": (
        SPIRAL,
        ("data.batch_size=31",),
        "data.batch_size = 31: must be a whole number from 1 to 30, the rows of train",
    ),
    "batches": (SPIRAL, ("sweep.data.batch_size={values=[5, 31]}",), "sweep.data.batch_size = 31: must be"),
    "split": (SPIRAL, ("data.split=[0.5, 0.5, 0.5]",), "must be three shares"),
    "measured for labels": (
        SPIRAL.replace("rows = 50", ""),
        ("data.name=diabetes", "cost.network.loss=softmax_cross_entropy"),
        'data.name = "diabetes": holds measured numbers',
    ),
    "labels for measured": (
        SPIRAL,
        ("cost.network.loss=squared_error",),
        'data.name = "spirals": holds labels (0, 1), and not measured numbers',
    ),
    "three for two": (
        SPIRAL,
        ("data.classes=3", "cost.network.loss=hinge_loss"),
        "tells two classes apart, and the data has 3",
    ),
    "select on test": (
        SPIRAL,
        ("run.select=test_accuracy",),
        'run.select = "test_accuracy": a setting is chosen on validation, and only reported on test',
    ),
    "select without data": (
        LINE.replace("[data]", "[record]").split("[cost]")[0].split("[record]")[0]
        + '[cost]\nsurface = "sphere"\n[start]\nx = [1, 2]\n'
        + LINE[LINE.index("[optimizer]") :],
        ("run.select=validation_cost",),
        "(there is no [data])",
    ),
    "accuracy of a fit": (
        LINE,
        ("cost={network={}}", "start={}", "run.select=validation_accuracy"),
        "squared_error tells no classes apart",
    ),
    "layer": (
        SPIRAL,
        ("sweep.optimizer.learning_rate.hiden={values=[1]}",),
        "the params have no part hiden; did you mean hidden?",
    ),
    "layer of one of several": (
        SEVERAL,
        ("sweep.optimizers.plain.learning_rate.outptu={values=[1]}",),
        "sweep.optimizers.plain.learning_rate.outptu: the params have no part outptu; did you mean output?",
    ),
    "layer of none of several": (
        SEVERAL,
        ("sweep.optimizers.plian.learning_rate.output={values=[1]}",),
        "sweep.optimizers.plian.learning_rate.output: there is no optimizer plian; did you mean plain?",
    ),
    "layer of something else": (
        SEVERAL,
        ("sweep.optimizers.momentum.momentum.output={values=[1]}",),
        "sweep.optimizers.momentum.momentum.output: only a learning rate can differ from layer to layer",
    ),
    "rate of all, in no sweep": (
        SEVERAL,
        ("optimizers.learning_rate.output=1.0",),
        "optimizers.learning_rate: is the rate of all, for [sweep]",
    ),
    "layer in a table": (
        SPIRAL,
        ("optimizer.learning_rate={hidden=1, outptu=1}",),
        "optimizer.learning_rate: the params have no part outptu",
    ),
    "layer missing": (SPIRAL, ("optimizer.learning_rate={hidden=1}",), "optimizer.learning_rate.output is missing"),
    "axis": (SPIRAL, ("sweep.cost.network.hidden={values=[1]}",), "cost.network.hidden can't be swept"),
    "axis of words": (SPIRAL, ("sweep.cost.network.activation={values=['relu', 'rellu']}",), "did you mean 'relu'?"),
    "half a seed": (SPIRAL, ("sweep.data.seed={values=[0.5]}",), "seeds must be whole numbers"),
    "own cost without batch": (LINE, ("cost.function=model:nothing",), "model has no function 'nothing'"),
    "missing file": (LINE, ("data.file=no.csv",), 'data.file = "no.csv": can\'t be read: No such file'),
    "ragged": (LINE, ("data.file=ragged.csv",), 'data.file = "ragged.csv", line 3: has 3 fields, and the header has 2'),
    "text": (LINE, ("data.file=text.csv",), 'data.file = "text.csv", line 3, column x: "much" is not a finite number'),
    "NaN": (LINE, ("data.file=nan.csv",), 'data.file = "nan.csv", line 2, column x: "nan" is not a finite number'),
    "fractions as labels": (
        LINE,
        ("cost={network={loss='softmax_cross_entropy'}}", "start={}", "data.labels=true"),
        'data.target = "y": holds measured numbers',
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_sentence_and_leaves_nothing(case, folder):
    text, settings, said = BAD[case]
    (folder / "bad.toml").write_text(text)
    (folder / "ragged.csv").write_text("x,y\n1,2\n1,2,3\n")
    (folder / "text.csv").write_text("x,y\n1,2\nmuch,3\n")
    (folder / "nan.csv").write_text("x,y\nnan,2\n1,3\n")
    answer = command("run", "bad.toml", *(word for setting in settings for word in ("--set", setting)))
    assert answer.code == 2 and said in answer.err, answer
    assert answer.err.startswith("jaxgd: bad.toml: ") and answer.err.count("\n") == 1
    assert not (folder / "runs").exists()
