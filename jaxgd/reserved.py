"""Names that no axis of a run can have: its results, its paths and the tables made of them have such variables."""

from jaxgd import paths, store
from jaxgd.learning_rate import ANSWERS
from jaxgd.limits import LIMITS
from jaxgd.plan import TAKEN, Plan
from jaxgd.table import EDGES, METRICS

_DRAWN = "height"  # what `show.scales.with_heights` adds to the results
NAMES = frozenset((*TAKEN, *METRICS, *LIMITS, store.LEDGER, *paths.NAMES, *EDGES, *ANSWERS, _DRAWN))


def check(plan: Plan) -> None:
    """Refuses a run whose axes or metrics have such a name.

    Raises:
      ValueError: with the name, and what to do.
    """
    for name in (name for dimension in plan.dimensions for name in dimension.axes):
        if name in NAMES:
            raise ValueError(f"axis {name!r}: a run has a variable of this name; call the lane's argument otherwise")
    for name in plan.outline["metrics"]:
        if name in paths.NAMES:
            raise ValueError(f"metric {name!r}: a run has a variable of this name; call it otherwise")
