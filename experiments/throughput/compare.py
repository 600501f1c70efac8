"""The same work by jaxgd and by its peers: are the results equal, and how long does each take?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from experiments.throughput.peers import OURS, PEERS, Peer, able
from experiments.throughput.worker import PeerError, worker
from experiments.throughput.workloads import EPS, ROUNDINGS, Workload, nudged, sampled

Figures = Mapping[str, np.ndarray]  # cost, params, epochs, [lane, ...] each; a peer may lack some


class Agreement(NamedTuple):
    """How far a peer's results are jaxgd's.

    Some descents hang on their last bit: at chaotic rates no two programs agree, nor does jaxgd with
    itself once its start's last bit is changed. Lanes that this moves are unsettled. The results count
    as equal if no more of the settled lanes differ than lanes are unsettled; that border is blurred too.
    """

    lanes: int
    unsettled: int
    differing: int  # of the settled lanes

    @property
    def equal(self) -> bool:
        return self.differing <= self.unsettled

    def __str__(self) -> str:
        settled = self.lanes - self.unsettled
        return f"{'yes' if self.equal else 'NO'}: {settled - self.differing} of {settled}, {self.unsettled} unsettled"


class Row(NamedTuple):
    """One peer on one workload. Seconds are of all lanes, scaled where only a sample was run."""

    workload: str
    peer: str
    lanes: int  # that it ran
    more: tuple[float, float]  # seconds that its first and its second call took beyond later ones; of the lanes it ran
    programs: tuple[int, int]  # compiled in the first call, and in all later ones
    seconds: tuple[float, ...]  # one per round
    ratios: tuple[float, ...]  # to jaxgd in the same round
    agreement: Agreement


class Environment(NamedTuple):
    """Where peers run."""

    python: str
    accelerated: bool  # there is something else than CPUs


def compared(
    name: str,
    workload: Workload,
    environments: Mapping[str, Environment],
    repeats: int,
    only: Sequence[str] | None = None,
) -> tuple[list[Row], dict[str, str]]:
    """A row for every peer (of `only` those) that can do the work here, interleaved in rounds; and what failed, why.

    Each has a process of its own, and so a first call that finds nothing compiled, allocated or imported by
    another; torch.compile, past so many programs in one process, would also compile no more.
    """
    peers = {
        p: peer
        for p, peer in PEERS.items()
        if peer.environment in environments and able(peer, workload) and (not only or p in (OURS, *only))
    }
    failed: dict[str, str] = {}

    def of_each(call: Callable[[str], Any]) -> dict[str, Any]:
        """What the call comes to for every peer that has not failed yet."""
        answers = {}
        for p in (p for p in peers if p not in failed):
            try:
                answers[p] = call(p)
            except PeerError as error:
                failed[p] = str(error)
        if OURS in failed:
            raise PeerError(failed[OURS])
        return answers

    with ExitStack() as stack:
        asks = {p: stack.enter_context(worker(environments[peer.environment].python)) for p, peer in peers.items()}
        lanes = {p: lanes_run(peer, workload, environments[peer.environment].accelerated) for p, peer in peers.items()}
        firsts = of_each(lambda p: asks[p]("timing:first", peers[p].prepare, workload, lanes[p]))
        second, *timed = (of_each(lambda p: asks[p]("timing:again", peers[p].prepare)) for _ in range(repeats + 1))
        moved = asks[OURS]("timing:figures", PEERS[OURS].prepare, nudged(workload), workload.lanes)
    rows = []
    for p, first in firsts.items():
        if p in failed:
            continue
        here = sampled(workload.lanes, lanes[p])
        ours, ours_moved = ({f: values[here] for f, values in all.items()} for all in (firsts[OURS]["figures"], moved))
        theirs = first["figures"]
        scale = workload.lanes / len(theirs["cost"])
        later = [each[p] for each in timed]
        usual = median(each["seconds"] for each in later)
        seconds = tuple(scale * each["seconds"] for each in later)
        rows.append(
            Row(
                workload=name,
                peer=p,
                lanes=len(theirs["cost"]),
                more=(first["seconds"] - usual, second[p]["seconds"] - usual),
                programs=(first["programs"], sum(each["programs"] for each in (second[p], *later))),
                seconds=seconds,
                ratios=tuple(s / each[OURS]["seconds"] for s, each in zip(seconds, timed, strict=True)),
                agreement=agreement(ours, ours_moved, theirs, workload.epochs),
            )
        )
    return rows, failed


def agreement(ours: Figures, moved: Figures, theirs: Figures, epochs: int) -> Agreement:
    """`theirs` against `ours`, where `ours` and what a changed last bit made of it, `moved`, agree."""
    settled = np.all(list(_close(ours, moved, theirs.keys(), epochs)), axis=0)
    same = np.all(list(_close(ours, theirs, theirs.keys(), epochs)), axis=0)
    return Agreement(len(settled), int(np.sum(~settled)), int(np.sum(settled & ~same)))


def _close(a: Figures, b: Figures, figures, epochs: int) -> Iterator[np.ndarray]:
    """Per figure, which lanes are equal to rounding. Of lanes that diverged, only that they did."""
    tolerance = ROUNDINGS * epochs * EPS  # roundings of all updates, added up, of numbers of the values' own size
    alive = np.isfinite(a["cost"]), np.isfinite(b["cost"])
    yield alive[0] == alive[1]
    for figure in figures:
        one, two = (np.asarray(each[figure], np.float64).reshape(len(each["cost"]), -1) for each in (a, b))
        with np.errstate(invalid="ignore"):
            off = np.abs(one - two) - (figure == "epochs")  # one more epoch is the next cost that rounds to the target
        near = np.all(off <= tolerance * np.maximum(1, np.abs(one)), axis=1)
        yield near | ~(alive[0] & alive[1])


def lanes_run(peer: Peer, workload: Workload, accelerated: bool) -> int:
    """How many a peer runs."""
    if workload.lanes <= peer.most or (accelerated and not peer.on_cpu):
        return workload.lanes
    return peer.most
