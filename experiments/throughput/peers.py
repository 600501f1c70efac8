"""Who does the work: jaxgd, and what a user would otherwise write."""

from typing import NamedTuple

from experiments.throughput.workloads import RULES, Workload

ENVIRONMENTS = ("jaxgd", "optimistix", "torch")  # the package that a peer needs beside NumPy


class Peer(NamedTuple):
    """One way to do the work, in the process of its environment."""

    prepare: str  # the function that does it
    environment: str
    keeps: str
    most: int = 1 << 30  # lanes; of more, a sample is run, and its time scaled
    rules: tuple[str, ...] = tuple(RULES)
    on_cpu: bool = False  # wherever the others are; an accelerator takes as long for a sample as for all lanes


_SLOW = 1 << 15  # an eighth of the main work
_DESCENT = ("gradient_descent",)

OURS = "jaxgd"
PEERS = {
    OURS: Peer("with_jax:jaxgd_sweep", "jaxgd", "outcome, every figure, params"),
    "jit(vmap(scan)), cost trace": Peer("with_jax:with_cost_trace", "jaxgd", "every cost", _SLOW),
    "jit(vmap(scan)), final cost": Peer("with_jax:final_cost_only", "jaxgd", "final cost, params"),
    "Optimistix": Peer("with_jax:optimistix", "optimistix", "final cost, params", rules=_DESCENT),
    "NumPy by hand": Peer("with_numpy:by_hand", "jaxgd", "final cost, params", _SLOW, on_cpu=True),
    "PyTorch eager": Peer("with_torch:eager", "torch", "final cost, params", _SLOW),
    "torch.compile, 10 steps": Peer("with_torch:compiled", "torch", "final cost, params"),
    "Python loop": Peer("with_jax:python_loop", "jaxgd", "every cost", 1, _DESCENT, on_cpu=True),
    "loop over jaxgd.descend": Peer("with_jax:descend_loop", "jaxgd", "every cost, params", 4, on_cpu=True),
}


def able(peer: Peer, workload: Workload) -> bool:
    return workload.rule in peer.rules
