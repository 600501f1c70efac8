"""Numbers in configs and data: what a lane could not have as it is written is refused, with its key."""

import copy
from pathlib import Path

import numpy as np
import pytest

from jaxgd import config as cfg
from jaxgd import data, lane
from jaxgd.config import ConfigError

PLAIN = {
    "cost": {"expression": "a*x**2 + 5", "constants": {"a": 1}},
    "start": {"x": 3.0},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
    "run": {"epochs": 10},
}


def planned(*settings):
    return lane.planned(cfg.overlaid(copy.deepcopy(PLAIN), settings, "test"), "test", Path("."))


@pytest.mark.parametrize(
    "setting",
    [
        "start.x = 1e300",
        "start.x = 1e-60",
        "start.x = [1.0, -1e39]",
        "start.x = { normal = [0, 1e300] }",
        "start.x = { loguniform = [1e-60, 1] }",
        "cost.constants.a = 1e300",
        "cost.minimum = -1e300",
        "cost.minima = [[1e300]]",
        "run.target = -1e300",
        "run.tolerance = 1e-60",
        "optimizer.learning_rate = 1e-60",
        "optimizer.momentum = 1e300",
        "sweep.start.x = { values = [1, 1e300] }",
        "sweep.start.x = { linspace = [0, 1e300, 3] }",
        "sweep.start.x = { arange = [0, 1e-40, 1e-42] }",
        "sweep.start.x = { uniform = [0, 1e300], num = 3 }",
        "sweep.cost.constants.a = { values = [1e-60] }",
        "sweep.optimizer.learning_rate = { geomspace = [1e-60, 1, 3] }",
    ],
)
def test_a_number_that_float32_has_no_room_for_is_refused_and_float64_takes_it(setting):
    key, _, value = setting.partition(" = ")
    with pytest.raises(ConfigError, match=rf'^test: {key} = .*: float32 holds 0 .*; set run.precision = "float64"$'):
        cfg.overlaid(copy.deepcopy(PLAIN), [f"{key}={value}"], "test")
    cfg.overlaid(copy.deepcopy(PLAIN), [f"{key}={value}", "run.precision=float64"], "test")


@pytest.mark.parametrize(
    "settings, said",
    [
        (["start.x={uniform=[-3e38,3e38]}"], "start.x: the width of uniform = 6e+38: float32 holds"),
        (
            ["sweep.start.x={linspace=[-1e308,1e308,3]}", "run.precision=float64"],
            "start.x: the width of linspace = Inf",
        ),
        (["cost.expression='a*x**2 + 1e-60'"], "cost.expression: the number = 1e-60: float32 holds"),
        (["seed=5_000_000_000"], "seed = 5000000000: must be less than 2147483648"),
        (["sweep.seed={values=[5_000_000_000]}"], "seeds must be whole numbers from 0 to 2 147 483 647"),
        (["sweep.seed={values=[0, 1, 0]}"], "sweep.seed: the seed 0 is there twice"),
        (
            ["optimizer.name=noisy_sgd", "optimizer.seed=5_000_000_000"],
            "must be a whole number below 2147483648 in size",
        ),
        (
            ["optimizer.name=noisy_sgd", "optimizer.seed=0", "sweep.optimizer.seed={values=[0, 5_000_000_000]}"],
            "sweep.optimizer.seed = 5000000000: must be a whole number below 2147483648 in size",
        ),
        (["optimizer.name=lbfgs", "optimizer.memory_size=3e9"], "must be a whole number below 2147483648 in size"),
    ],
)
def test_a_number_that_would_become_another_is_refused(settings, said):
    with pytest.raises(ConfigError) as refused:
        planned(*settings)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_what_a_lane_can_have_is_left_as_it_is():
    large = planned("start.x=5_000_000_000", "sweep.start.x={values=[5_000_000_000, 0]}", "run.ceiling=1e300")
    assert large.dimensions[0].axes["x"].tolist() == [5e9, 0] and large.ceiling == 1e300
    walking = planned(
        "sweep.seed={values=[0, 0]}",
        "sweep.optimizer.learning_rate={values=[0.1, 0.2]}",
        'sweep.paired=[["optimizer.learning_rate", "seed"]]',
    )
    assert walking.shape == (2,)


# --- data ---


def csv(folder, column, labels=("a", "b")):
    rows = [f"{value},{labels[i % 2]}" for i, value in enumerate(column)]
    (folder / "mine.csv").write_text("\n".join(["one,label", *rows]))
    return {"file": "mine.csv", "target": "label", "folder": folder}


def test_data_that_float32_has_no_room_for_are_refused(tmp_path):
    for value in (1e300, 1e39):
        given = csv(tmp_path, [value, 2 * value] * 10)
        with pytest.raises(
            ConfigError, match=r"data: column 0 of the inputs holds numbers of size .* room for 0 and 1.175e-38 to"
        ):
            data.load(**given, standardise=False)
    with pytest.raises(ConfigError, match="column 0 of the inputs holds numbers of size 2e\\+300"):
        data.load(**csv(tmp_path, [1e300, 2e300] * 10))  # nor float64, when it is squared
    with pytest.raises(ConfigError, match="column 0 of the inputs holds numbers of size 2e-60"):
        data.load(**csv(tmp_path, [1e-60, 2e-60] * 10), standardise=False)
    fits = data.load(**csv(tmp_path, [1e100, 2e100] * 10))
    np.testing.assert_allclose(abs(fits.train.inputs).max(), 1, rtol=0.5)
    data.load(**csv(tmp_path, [1e-40] * 20))  # never varies: 0 once it is standardised


def test_labels_that_are_one_number_are_refused(tmp_path):
    given = csv(tmp_path, range(20), labels=("9007199254740992", "9007199254740993"))
    with pytest.raises(
        ConfigError, match="holds the label 9007199254740992, and numbers from 2.*write labels as words"
    ):
        data.load(**given, labels=True)


def test_what_python_alone_reads_as_a_number_is_none(tmp_path):
    with pytest.raises(ConfigError, match='line 3, column one: "1_000" is not a finite number'):
        data.load(**csv(tmp_path, [1, "1_000", *range(18)]))
