"""Data: every named set, the split, the scale, and each way in which a file can be wrong."""
# ruff: noqa: E501, because a case is a line

import sys

import numpy as np
import pytest

from jaxgd.data import SETS, load, parameters
from jaxgd.ranges import ConfigError

MEASURED = ("diabetes", "teacher")


@pytest.mark.parametrize("name", SETS)
def test_a_named_set_is_three_parts_of_finite_numbers(name):
    data = load(name=name)
    counts = np.array([len(part.inputs) for part in data[:3]])
    assert np.abs(counts / counts.sum() - (0.6, 0.2, 0.2)).max() < 1 / counts.sum()
    assert (data.classes is None) == (name in MEASURED)
    for part in data[:3]:
        assert part.inputs.ndim == 2 and len(part.inputs) == len(part.targets)
        assert np.isfinite(part.inputs).all() and np.isfinite(part.targets).all()
        if data.classes:
            assert set(part.targets) == set(range(len(data.classes)))
        else:
            assert part.targets.ndim == 2


@pytest.mark.parametrize("name", ["digits", "diabetes"])
def test_the_parts_together_are_the_whole_set(name):
    from sklearn import datasets

    whole = getattr(datasets, f"load_{name}")()
    data = load(name=name, standardise=False)
    rows = np.concatenate([np.column_stack([part.inputs, part.targets]) for part in data[:3]])
    expected = np.column_stack([whole.data, whole.target])
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])


@pytest.mark.parametrize("name", ["wine", "spirals", "teacher", "moons"])
def test_the_seed_alone_decides(name):
    one, again, other = (load(name=name, seed=seed) for seed in (0, 0, 1))
    for a, b, c in zip(one[:3], again[:3], other[:3], strict=True):
        np.testing.assert_array_equal(a.inputs, b.inputs)
        np.testing.assert_array_equal(a.targets, b.targets)
        assert (a.inputs != c.inputs).any()


def test_every_part_has_its_share_of_every_label():
    data = load(name="breast_cancer", split=[0.5, 0.25, 0.25])
    shares = [part.targets.mean() for part in data[:3]]
    assert np.ptp(shares) < 1 / len(data.test.targets) + 1 / len(data.validation.targets)


def test_only_train_decides_the_scale():
    raw, data = load(name="diabetes", standardise=False), load(name="diabetes")
    for before, after in zip(raw.train, data.train, strict=True):
        np.testing.assert_allclose(after.mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(after.std(0), 1)
        scale = before.mean(0), before.std(0)
    np.testing.assert_allclose(data.test.targets, (raw.test.targets - scale[0]) / scale[1])
    assert load(name="digits").train.inputs.std(0).min() == 0  # a pixel that is always blank stays so, and no NaN


def test_generated_sets_take_what_they_say(tmp_path):
    assert parameters("digits") == {} and set(parameters("spirals")) == {"rows", "classes", "turns", "noise"}
    data = load(name="spirals", rows=90, classes=3, noise=0, standardise=False)
    assert len(data.train.inputs) == 54 and data.classes == ("0", "1", "2")
    radius, angle = np.hypot(*data.train.inputs.T), np.arctan2(*data.train.inputs.T[::-1])
    turned = (angle / (2 * np.pi) - 1.5 * radius - data.train.targets / 3) % 1
    np.testing.assert_allclose(np.minimum(turned, 1 - turned), 0, atol=1e-12)
    inputs, targets = load(name="teacher", features=3, outputs=2, noise=0.0).train
    assert inputs.shape == (600, 3) and targets.shape == (600, 2)


def test_csv(tmp_path):
    text = '\ufeff"height, cm";mass;species\n1;2;"cat"\n\n3;4.5;dog\n' + "5;6e-1;cat\n" * 8
    (tmp_path / "a.csv").write_text(text, "utf-8")
    data = load(file="a.csv", target="species", folder=tmp_path, standardise=False)
    assert data.classes == ("cat", "dog")
    rows = np.concatenate([np.column_stack(part) for part in data[:3]])
    assert sorted(map(tuple, rows.tolist())) == sorted([(1, 2, 0), (3, 4.5, 1)] + [(5, 0.6, 0)] * 8)


def test_numbers_of_a_file_are_labels_or_measured_as_one_says(tmp_path):
    (tmp_path / "a.csv").write_text("a,y\n" + "1,2\n2,5\n3,2\n4,7\n" * 5)
    labels = load(file="a.csv", target="y", labels=True, folder=tmp_path)
    assert labels.classes == ("2", "5", "7") and set(labels.train.targets) == {0, 1, 2}
    measured = load(file="a.csv", target="y", labels=False, folder=tmp_path, standardise=False)
    assert measured.classes is None and set(measured.train.targets.ravel()) <= {2.0, 5.0, 7.0}


def test_npz(tmp_path):
    images, words = np.arange(40.0).reshape(10, 2, 2), np.array(["a", "b"] * 5)
    np.savez(tmp_path / "a.npz", images=images, y=words)
    data = load(file="a.npz", target="y", folder=tmp_path, standardise=False)
    assert data.train.inputs.shape == (6, 4) and data.classes == ("a", "b")
    assert set(np.concatenate([part.inputs for part in data[:3]]).ravel()) == set(range(40))


GOOD = "a,b,y\n" + "1,2,0.5\n3,4,1.5\n" * 5


def npz(**arrays):
    return lambda path: np.savez(path.with_suffix(".npz"), **arrays)


def one_array(path):
    np.save(path.with_suffix(".npy"), X)
    path.with_suffix(".npy").rename(path.with_suffix(".npz"))


X, Y = np.ones((10, 2)), np.arange(10.0)
BAD = {
    "nothing": ({}, "needs one of name and file; it has none"),
    "both": ({"name": "iris", "file": "a.csv"}, "needs one of name and file; it has both"),
    "name": ({"name": "digit"}, 'data.name = "digit": there is no such data set; did you mean digits?'),
    "target of a name": ({"name": "iris", "target": "y"}, "data.target: goes with a file; iris has its own"),
    "argument of a bundled set": ({"name": "iris", "rows": 3}, "data.rows: iris takes no rows"),
    "argument": ({"name": "spirals", "turn": 3}, "data.turn: spirals takes no turn; did you mean turns?"),
    "argument of a file": ({"rows": 3}, "data.rows: goes with a generated set"),
    "half a row": ({"name": "spirals", "rows": 2.5}, "data.rows = 2.5: must be a whole number"),
    "negative noise": ({"name": "moons", "noise": -1}, "data.noise = -1: must be a number, 0 or more"),
    "factor": ({"name": "circles", "factor": 1}, "data.factor = 1.0: must be below 1"),
    "labels of measured": ({"name": "diabetes", "labels": True}, "holds measured numbers, and not labels"),
    "measured of labels": ({"name": "iris", "labels": False}, "holds labels (setosa, versicolor, virginica), and not"),
    "one label": ({"name": "spirals", "classes": 1}, "every row has the same label, 0"),
    "split": ({"name": "iris", "split": [0.6, 0.2, 0.3]}, "data.split = [0.6, 0.2, 0.3]: must be three shares"),
    "split of two": ({"name": "iris", "split": [0.6, 0.4]}, "must be three shares"),
    "split below 0": ({"name": "iris", "split": [1.2, -0.4, 0.2]}, "must be three shares"),
    "empty part": ({"name": "iris", "split": [0.5, 0.5, 0]}, "leaves no row for test, of 150 in all"),
    "missing file": ({"file": "b.csv"}, 'data.file = "b.csv": can\'t be read: No such file'),
    "kind of file": ({"file": "a.parquet"}, "must end in .csv or .npz"),
    "no target": ({"target": None}, 'data.target is missing: say what to predict; "a.csv" has a, b, y'),
    "target": ({"target": "z"}, 'data.target = "z": "a.csv" has none; allowed: a, b, y'),
    "undecided": ({"labels": None}, "data.labels is missing: y holds numbers; say labels = true if"),
    "fractions as labels": ({"labels": True}, 'data.target = "y": holds measured numbers, such as 0.5, and not labels'),
}
BAD_FILES = {
    "empty": ("", "is empty"),
    "header alone": ("a,b,y\n", "has no rows under its header"),
    "no header": ("1,2,3\n4,5,6\n", "its first line holds numbers; it must name the columns"),
    "one column": ("y\n1\n", "has one column"),
    "two of a name": ("a,a,y\n1,2,3\n", 'there are two columns called "a"'),
    "ragged": (GOOD + "1,2\n", 'data.file = "a.csv", line 12: has 2 fields, and the header has 3'),
    "too long": (GOOD + "\n1,2,3,4\n", "line 13: has 4 fields"),
    "text": (GOOD + "1,much,3\n", 'data.file = "a.csv", line 12, column b: "much" is not a finite number'),
    "NaN": (GOOD + "1,nan,3\n", 'line 12, column b: "nan" is not a finite number'),
    "infinite": (GOOD + "-inf,2,3\n", 'line 12, column a: "-inf" is not'),
    "missing value": (GOOD + ",2,3\n", "line 12, column a: is empty"),
    "text in the target": (GOOD + "1,2,three\n", 'line 12, column y: "three" is not a finite number'),
    "word missing": ("a,y\n1,cat\n2,\n", "line 3, column y: is empty"),
    "open quote": (GOOD + '1,"2,3\n', "line 12: unexpected end of data"),
    "not text": (b"a,y\n\xff,1\n", "is not UTF-8 text"),
    "no archive": (lambda path: path.with_suffix(".npz").write_bytes(b"hello"), "is not an NPZ file of plain arrays"),
    "torn archive": (lambda path: path.with_suffix(".npz").write_bytes(b"PK\x03\x04hello"), "is not an NPZ file"),
    "single array": (one_array, "is not an NPZ file"),
    "objects": (npz(x=np.array([{}, {}]), y=Y[:2]), "is not an NPZ file of plain arrays"),
    "three arrays": (npz(x=X, y=Y, z=Y), "holds x, y, z; it must hold two arrays"),
    "no array": (npz(x=X, z=Y), 'data.target = "y": "a.npz" has none; allowed: x, z'),
    "lengths": (npz(x=X, y=Y[:5]), "x has shape (10, 2) and y has shape (5,)"),
    "NaN in an array": (npz(x=np.where(X * Y[:, None] == 3, np.nan, X), y=Y), "x[3, 0] is nan; it must be a finite"),
    "NaN in the target": (npz(x=X, y=np.where(Y == 3, np.inf, Y)), "y[3] is inf"),
    "complex": (npz(x=X * 1j, y=Y), "x holds complex128; it must hold real numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_refused_in_one_sentence(case, tmp_path):
    settings, said = BAD[case]
    (tmp_path / "a.csv").write_text(GOOD)
    settings = settings if {"name", "file"} & {*settings} or not settings else {"file": "a.csv"} | settings
    if settings.get("file") and "name" not in settings:
        settings = {"target": "y", "labels": False} | settings
    with pytest.raises(ConfigError) as refused:
        load(folder=tmp_path, **settings)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused_in_one_sentence(case, tmp_path):
    content, said = BAD_FILES[case]
    path = tmp_path / "a.csv"
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as refused:
        load(file="a.csv" if path.exists() else "a.npz", target="y", labels=False, folder=tmp_path)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["iris", "moons"])
def test_without_scikit_learn_it_says_how_to_get_it(name, monkeypatch):
    for module in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match='needs scikit-learn: pip install "jaxgd\\[data\\]"'):
        load(name=name)
    assert load(name="spirals").classes  # needs none
