"""What all tests share."""

import contextlib
import gc
import os

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # of the commands that tests run: the user's cache is left alone

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from haste import in_haste  # noqa: E402

hypothesis.settings.register_profile("jaxgd", deadline=None)  # the first example compiles
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=10_000)
hypothesis.settings.load_profile("jaxgd")


def pytest_collection_finish():
    gc.freeze()  # what is loaded by now stays: the many collections while JAX traces need not look at it


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """The test in both precisions, which it gets by name."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def compiled_in_haste(request):
    """Programs that run slowly but compile in half the time, where many are compiled; not if marked as compiled_well."""
    with contextlib.nullcontext() if request.node.get_closest_marker("compiled_well") else in_haste():
        yield
