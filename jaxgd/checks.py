"""What comes in from outside: numbers, arrays and objects that a caller gives, checked before anything is traced.

JAX converts silently: without x64, whole numbers past int32 wrap and real numbers past float32 become infinite.
XLA on the CPU also flushes float32 numbers below 1.18e-38 to zero. A number that would change so is refused here,
where it enters; rounding to the nearest number of the dtype is not a change in this sense.
"""

import math
import numbers
import operator
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

# The engine counts epochs in int32. Its rounds grow to twice the epochs made so far, plus a segment of 50:
# 2 · 10⁹ + 50 is still below 2³¹.
MOST_EPOCHS = 1_000_000_000
MOST_VALUES = 100_000_000  # of what is given by its count alone, as in a config
MOST_RECORDS = 100_000  # of a history, as in a config

_LARGEST = float(np.finfo(np.float64).max)
_SLICE = 1 << 16  # values that are compared at a time, so that temporaries stay in the cache
_X64 = 'enable x64 (jax.config.update("jax_enable_x64", True), or precision = "float64" in a config)'


# --- numbers ---


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """`value` as an int; a ValueError unless it is a whole number of at least `least` (and at most `most`)."""
    number = index_of(value)
    if number is None or number < least or (most is not None and number > most):
        bounds = f"{least} or more{'' if most is None else f', at most {_spaced(most)}'}"
        raise ValueError(f"{name} = {shown(value)}: must be a whole number, {bounds}")
    return number


def index_of(value: Any) -> int | None:
    """A whole number as an int; None for anything else."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def real(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    finite: bool = True,
    allowed: str = "a finite number",
) -> float:
    """`value` as a float.

    Args:
      name: what the message calls it.
      value: a number of Python or NumPy, or an array of shape [].
      least, most: bounds, included.
      finite: whether infinities are refused.
      allowed: what is allowed, in the words of the message.

    Raises:
      ValueError: no real number, NaN, or one outside the bounds.
    """
    number = value
    if isinstance(value, (np.ndarray, np.generic, jax.Array)) and np.ndim(value) == 0 and not np.ma.is_masked(value):
        number = value.item()
        number = float(number) if isinstance(number, np.longdouble) else number
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise ValueError(f"{name} = {shown(value)}: must be {allowed}")
    try:
        number = float(number)
    except OverflowError:
        raise ValueError(f"{name} = {shown(value)}: must be {allowed}, within what float64 can hold") from None
    if math.isnan(number) or not least <= number <= most or (finite and math.isinf(number)):
        raise ValueError(f"{name} = {shown(value)}: must be {allowed}")
    return number


def within_dtype(name: str, number: float, dtype: Any, *, vanishes: bool = False) -> None:
    """Refuses a finite number that becomes infinite in `dtype`; also one that becomes zero, unless it may vanish."""
    smallest, infinite = _range(dtype)
    size = abs(number)
    if infinite <= size < math.inf or (0 < size < smallest and not vanishes):
        raise ValueError(f"{name} = {number!r}: {_cannot_hold(dtype)}")


def _range(dtype: Any) -> tuple[float, float]:
    """The smallest size that a dtype holds without loss, and the smallest that becomes infinite, to rounding."""
    limits = jnp.finfo(dtype)
    eps = float(limits.eps)
    return float(limits.tiny) * (1 - eps / 2), float(limits.max) * (1 + eps / 4)


def _cannot_hold(dtype: Any) -> str:
    limits = jnp.finfo(dtype)
    span = f"{limits.dtype} holds sizes from {float(limits.tiny):.3g} to {float(limits.max):.3g}"
    return f"{span}; give a number within that range{'' if jax.config.jax_enable_x64 else f', or {_X64}'}"


def limits(
    target: Any = None, ceiling: Any = None, minimum: Any = None, tolerance: Any = None
) -> tuple[float | None, float | None, float | None, float | None]:
    """What lanes are judged by, as floats; None, and infinities that limit nothing, as None.

    Raises:
      ValueError: no real numbers, NaN, an infinite minimum or tolerance, a tolerance below 0, or an infinity that
        every lane passes.
    """
    if target is not None:
        allowed = "a number below infinity; None, or -inf, for no target"
        target = real("target", target, most=_LARGEST, finite=False, allowed=allowed)
    if ceiling is not None:
        allowed = "a number above -infinity; None, or inf, for no ceiling"
        ceiling = real("ceiling", ceiling, least=-_LARGEST, finite=False, allowed=allowed)
    target, ceiling = None if target == -math.inf else target, None if ceiling == math.inf else ceiling
    return target, ceiling, *goal(minimum, tolerance)


def goal(minimum: Any, tolerance: Any) -> tuple[float | None, float | None]:
    """The last two of them."""
    if minimum is not None:
        minimum = real("minimum", minimum, allowed="a finite number, the lowest cost, or None")
    if tolerance is not None:
        tolerance = real("tolerance", tolerance, least=0, allowed="a finite number, 0 or more, or None")
    return minimum, tolerance


def minima(points: Any) -> np.ndarray | None:
    """Known minima as an array [minimum, params]; a plain list of numbers holds minima of a single param.

    Raises:
      ValueError: no finite numbers, or of another shape.
    """
    if points is None:
        return None
    wanted = "must be finite numbers [minimum, params], such as [[0.0, 0.0], [1.0, 2.0]]"
    try:
        array = np.asarray(points)
    except ValueError:
        raise ValueError(f"minima = {shown(points)}: {wanted}; its rows differ in length") from None
    if not array.size:
        return None
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2) or np.ma.is_masked(points):
        raise ValueError(f"minima = {shown(points)}: {wanted}")
    if not np.isfinite(array).all():
        raise ValueError(f"minima = {shown(points)}: {wanted}; it holds NaN or infinity")
    return array[:, None] if array.ndim == 1 else array


# --- arrays ---


def held(where: str, array: np.ndarray, *, every: bool = True) -> None:
    """Refuses numbers that would change as JAX takes the array over in its canonical dtype.

    Args:
      where: what the message calls the array.
      array: of any dtype; one that is canonical already costs nothing.
      every: whether each single number counts. Else an array beside whose larger numbers some are too small
        for the dtype is taken as rounded; only one that would become zero as a whole is refused.

    Raises:
      ValueError: whole numbers that would wrap, finite numbers that would become infinite, or zero.
      TypeError: a dtype that JAX doesn't have, or masked entries.
    """
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise TypeError(
            f"{where} is a masked array, and JAX knows no masks: leave out what is masked (values.compressed())"
        )
    if array.dtype.char in "gG" or array.dtype.kind == "O":
        kind = "objects" if array.dtype.kind == "O" else f"{array.dtype}"
        if array.dtype.kind == "O" and all(index_of(v) is not None for v in array.flat):
            kind = f"whole numbers past int64 ({shown(max(array.flat, key=abs))})"
        cure = "complex128 (values.astype(complex))" if array.dtype.char == "G" else "floats (values.astype(float))"
        raise TypeError(f"{where} holds {kind}, which JAX can't hold: give {cure}")
    canonical = jax.dtypes.canonicalize_dtype(array.dtype)
    if canonical == array.dtype or not array.size:
        return
    if array.dtype.kind in "iu":
        limits = np.iinfo(canonical)
        low, high = array.min(), array.max()
        if low < limits.min or high > limits.max:
            wrong = int(high if high > limits.max else low)
            raise ValueError(
                f"{where} holds {wrong}, which {canonical} can't hold: give floats ({float(wrong):g}), or {_X64}"
            )
    elif array.dtype.kind == "f":
        _held_reals(where, array, canonical, every)
    elif array.dtype.kind == "c":
        parts = np.ascontiguousarray(array).view(array.real.dtype)
        _held_reals(f"{where} (real and imaginary parts)", parts, canonical, every)


def _of_numbers(where: str, array: np.ndarray) -> None:
    """A TypeError unless this is an array of numbers, flags or objects."""
    if array.dtype.kind in "MmUST":
        give = "give numbers, such as days for dates and indices for words"
        raise TypeError(f"{where} holds {array.dtype}, which JAX can't hold: {give}")
    if array.dtype.kind == "V" and not jnp.issubdtype(array.dtype, jnp.number):  # bfloat16 and its kin are V, too
        raise TypeError(f"{where} holds records ({array.dtype}): give a dict of arrays")


def there(where: str, array: Any) -> None:
    """A ValueError if this is an array of JAX that has been deleted."""
    if isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer) and array.is_deleted():
        raise ValueError(
            f"{where} is a jax.Array that has been deleted, by .delete() or as a donated argument of a jitted "
            "function: give one that is still there, or a NumPy array"
        )


def _held_reals(where: str, array: np.ndarray, dtype: Any, every: bool) -> None:
    smallest, infinite = _range(dtype)
    low, high = float(np.fmin.reduce(array, None)), float(np.fmax.reduce(array, None))
    kept = low >= smallest or high <= -smallest if every else max(-low, high) >= smallest or low == high == 0
    if -infinite < low and high < infinite and kept:
        return  # the usual case, and the fast one
    flat, largest = array.reshape(-1), 0.0
    for start in range(0, flat.size, _SLICE):
        size = np.abs(flat[start : start + _SLICE])
        over = (size >= infinite) & (size < math.inf)
        under = (size < smallest) & (size > 0)
        wrong = over | under if every else over
        if wrong.any():
            value = float(flat[start + int(np.argmax(wrong))])
            raise ValueError(f"{where} holds {value!r}: {_cannot_hold(dtype)}")
        largest = max(largest, float(np.fmax.reduce(size)))
    if not every and 0 < largest < smallest:
        raise ValueError(f"{where} holds {largest!r}, and nothing larger: {_cannot_hold(dtype)}")


def held_leaves(where: str, tree: PyTree) -> None:
    """As `held`, for the leaves of a tree that are outside JAX; the message names the leaf. No array may be deleted."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = f"{where}{jax.tree_util.keystr(path)}"
        if isinstance(leaf, int) and not isinstance(leaf, bool):
            limits = np.iinfo(jax.dtypes.canonicalize_dtype(int))
            if not limits.min <= leaf <= limits.max:
                raise ValueError(f"{name} = {shown(leaf)}: {limits.dtype} can't hold it: give a float, or {_X64}")
        elif isinstance(leaf, jax.Array):
            there(name, leaf)
        elif not isinstance(leaf, bool) and not hasattr(leaf, "__jax_array__"):  # a table of pandas, say, is an array
            array = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
            _of_numbers(name, array)
            held(name, array, every=False)


def held_as_real(where: str, leaf: Any) -> Any:
    """A leaf of params that is about to become floats: whole numbers outside JAX as float64, checked for their range.

    JAX would have whole numbers pass through int32.
    """
    if isinstance(leaf, jax.Array):
        there(where, leaf)
        return leaf
    if isinstance(leaf, np.ma.MaskedArray):
        held(where, leaf)
    try:
        array = np.asarray(leaf, float) if np.asarray(leaf).dtype.kind in "iuO" else np.asarray(leaf)
    except OverflowError:
        raise ValueError(f"{where} = {shown(leaf)}: {_cannot_hold(float)}") from None
    held(where, array, every=False)
    return array


def axis(name: str, values: Any) -> PyTree:
    """The values along an axis as a tree of arrays [size, ...], each of which JAX can hold as it is.

    Raises:
      ValueError, TypeError: values that can't be traced, differ in shape, or would change on their way in.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(values, is_leaf=_is_list)
    return tree.unflatten([_axis_leaf(f"axis {name!r}", jax.tree_util.keystr(p), leaf) for p, leaf in leaves])


def _is_list(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and not hasattr(values, "_fields")


_EACH = "wrap its values in jaxgd.each([...]) to have one program for each"


def _axis_leaf(where: str, path: str, values: Any) -> np.ndarray:
    where = f"{where}{f', leaf {path},' if path else ''}"
    there(where, values)
    dtype = getattr(values, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(f"{where} holds keys of jax.random: give seeds, or jax.random.key_data(keys)")
    kinds = _kinds(values) if isinstance(values, (list, tuple)) else set()
    if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
        raise TypeError(f"{where} holds masked values, and JAX knows no masks: leave them out")
    if any(issubclass(kind, jax.Array) for kind in kinds):
        for value in jax.tree.leaves(values):
            there(f"{where}: one of its values", value)
    try:
        array = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    except ValueError:
        raise ValueError(f"{where}: its values differ in shape; a tree is given as a dict of arrays") from None
    of_flags = bool in kinds or np.bool_ in kinds
    if array.dtype.kind not in "iufVO" or of_flags or (array.dtype.kind == "O" and not _are_whole(array)):
        cure = "give their real and imaginary parts as two axes" if array.dtype.kind == "c" else _EACH
        holds = "bool" if of_flags else array.dtype
        raise TypeError(f"{where} holds {holds}, which can't be traced; {cure}")
    _of_numbers(where, array)
    if array.dtype.kind == "f" and kinds == {int}:  # NumPy's answer to whole numbers on both sides of int64
        raise TypeError(f"{where} holds whole numbers past int64, which JAX can't hold: give floats")
    held(where, array)
    return np.asarray(array)


def _kinds(values: Iterable[Any]) -> set[type]:
    """The types of what a list holds, at any depth of lists; those of arrays are the arrays'."""
    kinds = set(map(type, values))
    if kinds & {list, tuple}:
        kinds = kinds.union(*(_kinds(v) for v in values if isinstance(v, (list, tuple)))) - {list, tuple}
    return kinds


def _are_whole(array: np.ndarray) -> bool:
    return bool(array.size) and all(index_of(value) is not None for value in array.flat)


def seed(value: Any) -> None:
    """Refuses a seed of which jax.random would drop bits; keys of jax.random and traced seeds pass.

    Raises:
      ValueError: without x64, a whole number outside −2³¹ … 2³² − 1, the range of 32 bits.
    """
    if isinstance(value, jax.Array) or (number := index_of(value)) is None:
        return
    x64 = jax.config.jax_enable_x64
    low, high = (-(2**63), 2**63 - 1) if x64 else (-(2**31), 2**32 - 1)
    if not low <= number <= high:
        cure = "" if x64 else f", or {_X64}"
        raise ValueError(f"seed {number}: jax.random takes whole numbers from {low} to {high} as they are{cure}")


def too_large(error: OverflowError, fixed: Mapping[str, Any]) -> str | None:
    """What to say where a lane gives JAX a Python number past its integers; None if this is another error.

    Args:
      error: what JAX raised.
      fixed: the values of the lane's static axes by name.
    """
    found, limits = _TOO_LARGE.search(str(error)), np.iinfo(jax.dtypes.canonicalize_dtype(int))
    if found is None or found["dtype"] not in (None, f"{limits.dtype}"):
        return None
    at = f"at {', '.join(f'{name} = {shown(value)}' for name, value in fixed.items())} " if fixed else ""
    cure = "" if limits.bits == 64 else f", or {_X64}"
    allowed = f"{limits.dtype} holds whole numbers from {limits.min} to {limits.max}"
    number = found["number"] or found["other"]
    return f"{at}the lane gives JAX the Python number {number}, but {allowed}: make it a float{cure}"


_TOO_LARGE = re.compile(
    r"jitted computation.* with value (?P<number>-?\d+)|"
    r"Python int(eger)? (?P<other>-?\d+) (too large to convert to|out of bounds for) (?P<dtype>\w+)",
    re.DOTALL,
)


# --- what a sweep is given beside numbers ---


def paired(groups: Any) -> list[tuple[str, ...]]:
    """Groups of names, as `sweep` takes them.

    Raises:
      TypeError: anything else.
    """
    is_list = isinstance(groups, Sequence) and not isinstance(groups, (str, bytes))
    if not (is_list and all(map(_are_names, groups))):
        raise TypeError(
            f'paired = {shown(groups)}: must be a list of groups of names, such as [["learning_rate", "x"]]'
        )
    return [tuple(group) for group in groups]


def _are_names(group: Any) -> bool:
    is_list = isinstance(group, Sequence) and not isinstance(group, (str, bytes))
    return is_list and all(isinstance(name, str) for name in group)


def axes_by_name(axes: Any) -> Mapping[str, Any]:
    """`axes` itself; a TypeError unless it is a mapping from names."""
    if not isinstance(axes, Mapping) or not all(isinstance(name, str) for name in axes):
        raise TypeError(
            f"axes = {shown(axes)}: must be a dict from the names of the lane's arguments to their values, "
            'such as {"learning_rate": [0.01, 0.1]}'
        )
    return axes


def lane(function: Any) -> Callable:
    """The lane function itself; a TypeError unless it can be called."""
    if not callable(function):
        raise TypeError(
            f"lane is {kind_of(function)}; it must be a function that returns a jaxgd.Descent, and whose arguments "
            "name the axes"
        )
    return function


def executor(value: Any) -> None:
    """A TypeError unless it takes work as a `concurrent.futures.Executor` does."""
    if value is not None and (isinstance(value, type) or not callable(getattr(value, "submit", None))):
        raise TypeError(
            f"executor = {shown(value)}: must be a concurrent.futures.Executor, such as ThreadPoolExecutor(4)"
        )


def run_folder(run: Any) -> Path:
    """Where a run's folder is, or can be made; files beside it can be written.

    Raises:
      TypeError, ValueError: no path, or one at which there can't be a run folder.
    """
    if not isinstance(run, (str, os.PathLike)) or isinstance(os.fspath(run), bytes):
        raise TypeError(f'run = {shown(run)}: must be the path of a folder, such as "runs/mine"')
    name = os.fspath(run)
    if not name or "\0" in name or not Path(name).absolute().name:
        raise ValueError(f'run = {name!r}: no folder can be made there; name one, such as "runs/mine"')
    path = Path(name).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"):
            pass  # what is written beside a run's folder has names as long
    except OSError as error:
        raise ValueError(f"run = {shown(name)}: no folder can be made there: {error.strerror}; name another") from None
    return path


def table(where: str, value: Any, *names: str) -> None:
    """Refuses what is not the result of a sweep, or lacks one of the variables `names`.

    Raises:
      TypeError: no Dataset with `outcome`.
      ValueError: a Dataset without one of the names.
    """
    if not hasattr(value, "data_vars") or "outcome" not in value.data_vars:
        raise TypeError(f"{where} takes the result of a sweep, an xarray.Dataset with outcome; it got {kind_of(value)}")
    if missing := [name for name in names if name not in value.data_vars]:
        known = ", ".join(map(str, value.data_vars))
        raise ValueError(f"{where}: the table has no {' and no '.join(missing)}; it has {known}")


# --- memory ---


def over_memory(where: str, *factors: tuple[int, str], most: float | None = None) -> str | None:
    """One sentence if the product of the factors, in bytes, is more than `most`: by default, than this machine has."""
    product, most = math.prod(count for count, _ in factors), memory() if most is None else most
    if product <= most:
        return None
    said = " × ".join(f"{count_of(count)} {of}" for count, of in factors)
    return f"{where}: {said} = {in_bytes(product)}, and this machine has {in_bytes(most)} of memory: fewer will do"


def memory() -> float:
    """Bytes of memory that this process may have; infinity where the system doesn't say."""
    most = math.inf
    with suppress(AttributeError, ValueError, OSError):
        most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(ValueError, OSError):  # within a container
        most = min(most, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return most


def in_bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def count_of(number: float) -> str:
    return _spaced(number) if number < 1e12 else f"{number:.3g}"


def _spaced(number: float) -> str:
    return f"{number:,}".replace(",", " ")


# --- in messages ---


def shown(value: Any) -> str:
    """A value on one line, shortened."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return f"a whole number of {value.bit_length()} bits"
    return text if len(text) <= 80 else f"{text[:70]} … {text[-8:]}"


def kind_of(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
