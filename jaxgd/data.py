"""Data to fit: scikit-learn's bundled sets, generated ones, CSV and NPZ files; split, shuffled, standardised.

Nothing is downloaded. Whatever is random (the rows of a generated set, the split) follows from the seed alone.
"""

import csv
import inspect
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Shaped

from jaxgd.ranges import ConfigError, is_number, near, shown


class Part(NamedTuple):
    """Rows to learn from, to choose by, or to report on: a batch as a cost takes it."""

    inputs: Float[np.ndarray, "row feature"]
    targets: Shaped[np.ndarray, "row ..."]  # labels as whole numbers [row], or measured numbers [row, output]


class Data(NamedTuple):
    """A data set in three parts. A setting is chosen on validation, and reported on test."""

    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...] | None  # what the labels stand for, in their order; None: targets are measured


class Rows(NamedTuple):
    """A data set as it was found."""

    inputs: np.ndarray  # [row, feature]
    targets: np.ndarray  # labels by number [row], or numbers [row, output]
    classes: tuple[str, ...] | None = None
    either: bool = False  # whether these numbers may be labels as well


def load(
    *,
    name: str | None = None,
    file: str | None = None,
    target: str | None = None,
    split: Sequence[float] = (0.6, 0.2, 0.2),
    standardise: bool = True,
    labels: bool | None = None,
    seed: int = 0,
    folder: str | Path = ".",
    **arguments: Any,
) -> Data:
    """A data set, shuffled by its seed and split into train, validation and test.

    Args:
      name: one of `SETS`; or else file: a CSV with a header, or an NPZ of two arrays.
      target: the column, or the array, that is to be predicted.
      split: shares of train, validation and test. Where there are labels, each part gets its share of
        every one of them.
      standardise: whether every feature is given mean 0 and standard deviation 1, over the rows of
        train alone; so are measured targets, whose mean squared error then is 1 for who says the mean.
      labels: whether numbers in a file's target are labels; words always are.
      seed: of the split, and of what is generated.
      folder: where a relative file lies.
      **arguments: of a generated set.

    Raises:
      ConfigError: no such set or file, or what it holds is not a table of finite numbers; a split that
        is none; scikit-learn is not installed.
    """
    if (name is None) == (file is None):
        raise ConfigError(f"data: needs one of name and file; it has {'none' if name is None else 'both'}")
    if name is not None:
        if target is not None:
            raise ConfigError(f"data.target: goes with a file; {name} has its own")
        rows = _named(name, seed, arguments)
    else:
        if arguments:
            raise ConfigError(f"data.{min(arguments)}: goes with a generated set, not with a file")
        rows = _from_file(file, Path(folder) / file, target)
    what = f"data.name = {shown(name)}" if name else f"data.target = {shown(target)}"
    if labels and rows.classes is None:
        rows = _as_labels(rows, what)
    elif labels is False and rows.classes is not None:
        raise ConfigError(f"{what}: holds labels ({_few(rows.classes)}), and not measured numbers")
    elif rows.either and labels is None:
        raise ConfigError(
            f"data.labels is missing: {target} holds numbers; say labels = true if they stand for classes, "
            "or labels = false if they are measured"
        )
    if rows.classes is not None and len(set(rows.targets.tolist())) < 2:
        raise ConfigError(f"data: every row has the same label, {rows.classes[rows.targets[0]]}: nothing to tell apart")
    _check_held("inputs", rows.inputs, standardise)
    if rows.classes is None:
        _check_held("targets", rows.targets, standardise)
    train, validation, test = (Part(rows.inputs[i], rows.targets[i]) for i in _parts(rows, split, seed))
    if standardise:
        inputs, targets = _to_unit(train.inputs), _to_unit(train.targets) if rows.classes is None else _as_is
        train, validation, test = (Part(inputs(p.inputs), targets(p.targets)) for p in (train, validation, test))
    return Data(train, validation, test, rows.classes)


def _check_held(what: str, found: np.ndarray, standardised: bool) -> None:
    """Refuses columns of numbers that the run's precision has no room for; or, where they are squared, that float64 has
    none for."""
    real, largest = np.finfo(jax.dtypes.canonicalize_dtype(float)), abs(found).max(0)
    least, most = (1e-150, 1e150) if standardised else (float(real.tiny), float(real.max))
    for column in np.flatnonzero((largest > most) | ((largest > 0) & (largest < least)))[:1]:
        advice = "" if standardised or real.bits == 64 else ', or set run.precision = "float64"'
        raise ConfigError(
            f"data: column {column} of the {what} holds numbers of size {largest[column]:.6g}, and there is room for 0 "
            f"and {least:.4g} to {most:.4g}; scale them{advice}"
        )


def _as_labels(rows: Rows, where: str) -> Rows:
    """Numbers taken as labels, whichever they are: 1, 2, 5 as 0, 1, 2."""
    values = rows.targets.squeeze(1) if rows.targets.shape[1] == 1 else np.array([np.nan])
    if not rows.either or (values % 1 != 0).any():
        such = next((f", such as {v:.6g}" for v in values if v % 1), "")
        raise ConfigError(f"{where}: holds measured numbers{such}, and not labels")
    if (large := abs(values) >= 2**53).any():
        raise ConfigError(
            f"{where}: holds the label {values[large][0]:.0f}, and numbers from 2**53 on can't all be told apart: "
            "write labels as words"
        )
    classes, codes = np.unique(values, return_inverse=True)
    return rows._replace(targets=codes, classes=tuple(f"{value:.0f}" for value in classes))


# --- three parts ---


def _parts(rows: Rows, split: Sequence[float], seed: int) -> list[np.ndarray]:
    """Which rows are in train, validation and test."""
    where, count = f"data.split = {shown(list(split))}", len(rows.inputs)
    if len(split) != 3 or not all(map(is_number, split)) or min(split) < 0 or abs(sum(split) - 1) > 1e-6:
        raise ConfigError(f"{where}: must be three shares, of train, validation and test, that add up to 1")
    order = _random(seed, "data.split").permutation(count)
    if rows.classes is not None:  # each label's rows evenly from first to last, so that every part gets its share
        codes, place = rows.targets[order], np.empty(count)
        for code in range(len(rows.classes)):
            alike = codes == code
            place[alike] = (np.arange(alike.sum()) + 0.5) / max(1, alike.sum())
        order = order[np.argsort(place, kind="stable")]
    parts = np.split(order, np.round(np.cumsum(split[:2]) * count).astype(int))
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        if not len(part):
            raise ConfigError(f"{where}: leaves no row for {name}, of {count} in all")
    return parts


def _to_unit(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What gives every column of these values mean 0 and standard deviation 1; one that never varies, mean 0 alone."""
    mean, deviation = values.mean(0), values.std(0)
    constant = deviation <= 8 * np.finfo(float).eps * np.abs(mean)
    return lambda some: (some - mean) / np.where(constant, 1, deviation)


def _as_is(values: np.ndarray) -> np.ndarray:
    return values


def _random(seed: int, role: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(role.encode())])


# --- by name ---


def _named(name: str, seed: int, arguments: dict[str, Any]) -> Rows:
    if name not in SETS:
        raise ConfigError(f"data.name = {shown(name)}: there is no such data set{near(name, SETS)}")
    known = parameters(name)
    for key, value in arguments.items():
        where = f"data.{key}"
        if key not in known:
            raise ConfigError(f"{where}: {name} takes no {key}{near(key, known)}")
        if isinstance(known[key], int) and not (is_number(value) and value == int(value) and value >= 1):
            raise ConfigError(f"{where} = {shown(value)}: must be a whole number, 1 or more")
        if not is_number(value) or value < 0:
            raise ConfigError(f"{where} = {shown(value)}: must be a number, 0 or more")
    arguments = {key: type(known[key])(value) for key, value in arguments.items()}
    try:
        return SETS[name](_random(seed, f"data.{name}"), **arguments)
    except ModuleNotFoundError as error:
        raise ConfigError(f'data.name = {shown(name)}: needs scikit-learn: pip install "jaxgd[data]"') from error


def parameters(name: str) -> dict[str, int | float]:
    """What a generated set takes, with its defaults; a bundled one takes nothing."""
    known = inspect.signature(SETS[name]).parameters.values()
    return {p.name: p.default for p in known if isinstance(p.default, (int, float))}


def _bundled(loader: str, _: np.random.Generator) -> Rows:
    from sklearn import datasets

    found = getattr(datasets, loader)()
    names = getattr(found, "target_names", None)  # diabetes has none: its target is measured
    if names is None:
        return Rows(found.data, found.target[:, None].astype(float))
    return Rows(found.data, found.target, tuple(map(str, names)))


def moons(rng: np.random.Generator, *, rows: int = 500, noise: float = 0.2) -> Rows:
    """Two half-moons that reach into each other."""
    from sklearn.datasets import make_moons

    return Rows(*make_moons(rows, noise=noise, random_state=_state(rng)), ("upper", "lower"))


def circles(rng: np.random.Generator, *, rows: int = 500, noise: float = 0.1, factor: float = 0.5) -> Rows:
    """A circle within a circle, `factor` times as wide."""
    from sklearn.datasets import make_circles

    if factor >= 1:
        raise ConfigError(f"data.factor = {factor}: must be below 1")
    return Rows(*make_circles(rows, noise=noise, factor=factor, random_state=_state(rng)), ("outer", "inner"))


def spirals(
    rng: np.random.Generator, *, rows: int = 500, classes: int = 2, turns: float = 1.5, noise: float = 0.02
) -> Rows:
    """Arms that wind around each other from the middle out, a label each."""
    labels = np.arange(rows) % classes
    radius = np.sqrt(rng.uniform(0.01, 1, rows))  # evenly along the arm
    angle = 2 * np.pi * (turns * radius + labels / classes)
    inputs = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return Rows(inputs + noise * rng.normal(size=inputs.shape), labels, tuple(map(str, range(classes))))


def teacher(
    rng: np.random.Generator,
    *,
    rows: int = 1000,
    features: int = 8,
    hidden: int = 4,
    outputs: int = 1,
    noise: float = 0.0,
) -> Rows:
    """y = W₂ᵀ tanh(W₁ᵀ x) + noise: what a network with random weights says of normal inputs."""
    inputs = rng.normal(size=(rows, features))
    first, second = (rng.normal(size=(a, b)) / np.sqrt(a) for a, b in ((features, hidden), (hidden, outputs)))
    targets = np.tanh(inputs @ first) @ second
    return Rows(inputs, targets + noise * rng.normal(size=targets.shape))


def _state(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


SETS: dict[str, Callable[..., Rows]] = {
    name: partial(_bundled, f"load_{name}") for name in ("iris", "wine", "breast_cancer", "digits", "diabetes")
} | {made.__name__: made for made in (moons, circles, spirals, teacher)}


# --- from files ---


def _from_file(file: str, path: Path, target: str | None) -> Rows:
    where = f"data.file = {shown(file)}"
    reader = {".csv": _csv, ".npz": _npz}.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{where}: must end in .csv or .npz")
    try:
        return reader(where, path, target)
    except OSError as error:
        raise ConfigError(f"{where}: can't be read: {error.strerror or error}") from error


def _csv(where: str, path: Path, target: str | None) -> Rows:
    """Numbers in columns under a header; the target's may hold words."""
    header, lines, rows = _lines(where, path)
    if all(map(_is_real, header)):
        raise ConfigError(f"{where}: its first line holds numbers; it must name the columns")
    if twice := [name for name in header if header.count(name) > 1]:
        raise ConfigError(f"{where}: there are two columns called {shown(twice[0])}")
    _check_target(where, target, header)
    if len(header) < 2:
        raise ConfigError(f"{where}: has one column; it needs a target and something to tell it from")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    words = columns.pop(target)
    inputs = np.stack([_column(where, name, lines, column) for name, column in columns.items()], 1)
    if sum(map(_is_real, words)) > len(words) / 2:  # numbers, then, and whatever else is there is a mistake
        return Rows(inputs, _column(where, target, lines, words)[:, None], either=True)
    if "" in words:
        raise ConfigError(f"{where}, line {lines[words.index('')]}, column {target}: is empty")
    return _labelled(inputs, np.array(words))


def _lines(where: str, path: Path) -> tuple[list[str], list[int], list[list[str]]]:
    """The header; then the rows, and the line on which each ends."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            delimiter = max(",;\t", key=text.readline().count)
            text.seek(0)
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            found = [(reader.line_num, [field.strip() for field in row]) for row in reader if row]
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: is not UTF-8 text") from error
    except csv.Error as error:
        raise ConfigError(f"{where}, line {reader.line_num}: {error}") from error
    if len(found) < 2:
        raise ConfigError(f"{where}: has no rows under its header" if found else f"{where}: is empty")
    (_, header), *rows = found
    for line, row in rows:
        if len(row) != len(header):
            raise ConfigError(f"{where}, line {line}: has {len(row)} fields, and the header has {len(header)}")
    return header, [line for line, _ in rows], [row for _, row in rows]


def _column(where: str, name: str, lines: list[int], fields: Sequence[str]) -> np.ndarray:
    try:
        values = np.array(fields, float)
        values[[place for place, field in enumerate(fields) if "_" in field]] = np.nan
    except ValueError:
        values = np.array([float(field) if _is_real(field) else np.nan for field in fields])
    if bad := np.flatnonzero(~np.isfinite(values)).tolist():
        said = f"{shown(fields[bad[0]])} is not a finite number" if fields[bad[0]] else "is empty"
        raise ConfigError(f"{where}, line {lines[bad[0]]}, column {name}: {said}")
    return values


def _npz(where: str, path: Path, target: str | None) -> Rows:
    """Two arrays: the target's, and the inputs' [row, ...], whose further dimensions are laid end to end."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive.items())
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{where}: is not an NPZ file of plain arrays, as numpy.savez writes them") from error
    _check_target(where, target, arrays)
    if len(arrays) != 2:
        raise ConfigError(f"{where}: holds {', '.join(arrays)}; it must hold two arrays, the inputs and the target")
    (name, inputs), targets = next(item for item in arrays.items() if item[0] != target), arrays[target]
    if inputs.ndim < 1 or targets.ndim not in (1, 2) or len(inputs) != len(targets) or not inputs.size:
        raise ConfigError(
            f"{where}: {name} has shape {inputs.shape} and {target} has shape {targets.shape}; "
            "they must be [row, feature] and [row] or [row, output], of as many rows"
        )
    _check_array(where, name, inputs)
    inputs = inputs.reshape(len(inputs), -1).astype(float)
    if targets.dtype.kind == "U" and targets.ndim == 1:
        return _labelled(inputs, targets)
    _check_array(where, target, targets)
    return Rows(inputs, targets.reshape(len(targets), -1).astype(float), either=True)


def _check_target(where: str, target: str | None, known: Sequence[str] | dict[str, Any]) -> None:
    if target is None:
        raise ConfigError(f"data.target is missing: say what to predict; {where.partition('= ')[2]} has {_few(known)}")
    if target not in known:
        raise ConfigError(f"data.target = {shown(target)}: {where.partition('= ')[2]} has none{near(target, known)}")


def _check_array(where: str, name: str, values: np.ndarray) -> None:
    if values.dtype.kind not in "biuf":
        raise ConfigError(f"{where}: {name} holds {values.dtype}; it must hold real numbers")
    if len(bad := np.argwhere(~np.isfinite(values))):
        place = ", ".join(map(str, bad[0]))
        raise ConfigError(f"{where}: {name}[{place}] is {values[tuple(bad[0])]}; it must be a finite number")


def _labelled(inputs: np.ndarray, words: np.ndarray) -> Rows:
    classes, codes = np.unique(words, return_inverse=True)
    return Rows(inputs, codes, tuple(map(str, classes)))


def _few(names: Sequence[str] | dict[str, Any]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _is_real(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field  # Python reads 1_000 as a number
