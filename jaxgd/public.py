"""What `import jaxgd` offers, from every room."""

import jaxgd.show  # noqa: F401  (a notebook learns to show what the others make)
from jaxgd.descent import Descent, History, descend
from jaxgd.learning_rate import best_rates, critical_learning_rate, find_learning_rate
from jaxgd.outcome import OUTCOMES, verdict
from jaxgd.plan import each
from jaxgd.stability import known_limit, preconditioner, sharpness
from jaxgd.sweep import replay, sweep
from jaxgd.table import best, edges
from jaxgd.update import (
    gradient_ascent,
    gradient_ascent_update,
    gradient_descent,
    gradient_descent_update,
    momentum,
    momentum_update,
    nesterov,
    nesterov_update,
)

__all__ = [
    "OUTCOMES",
    "Descent",
    "History",
    "best",
    "best_rates",
    "critical_learning_rate",
    "descend",
    "each",
    "edges",
    "find_learning_rate",
    "gradient_ascent",
    "gradient_ascent_update",
    "gradient_descent",
    "gradient_descent_update",
    "known_limit",
    "momentum",
    "momentum_update",
    "nesterov",
    "nesterov_update",
    "preconditioner",
    "replay",
    "sharpness",
    "sweep",
    "verdict",
]
