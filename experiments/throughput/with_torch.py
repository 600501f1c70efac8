"""The peers in PyTorch: one lane's step by torch.func.grad, vmapped; eager, or 10 steps compiled into one.

By default torch.compile runs eagerly, with no more than a warning, what it cannot compile and what it has
compiled too often (`torch._dynamo.config.recompile_limit`). `fullgraph=True` makes errors of both.
"""

import torch
from torch._dynamo.utils import counters

from experiments.throughput.workloads import COSTS, EPOCHS_AT_ONCE, RULES, Workload, first_state, flat, lanes_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_default_device(DEVICE)


def eager(workload: Workload, most: int):
    return _prepared(workload, most, _step(workload), 1)


def compiled(workload: Workload, most: int):
    step = _step(workload)

    def steps(params, state, epoch, lanes):
        for _ in range(EPOCHS_AT_ONCE):
            params, state = step(params, state, epoch, lanes)
            epoch = epoch + 1
        return params, state

    run, read = _prepared(workload, most, torch.compile(steps, fullgraph=True), EPOCHS_AT_ONCE)

    def checked():
        raw = run()
        if not counters["stats"]["unique_graphs"]:
            raise RuntimeError("torch.compile compiled nothing: is TORCHDYNAMO_DISABLE set?")
        return raw

    return checked, read


def _step(workload: Workload):
    cost, rule = COSTS[workload.cost](torch), RULES[workload.rule]

    def one_lane(params, state, epoch, lane):
        grads, value = torch.func.grad_and_value(cost)(params)
        updates, state = rule(torch, grads, state, epoch, **lane)
        moved = tuple(p + u for p, u in zip(params, updates, strict=True))
        if workload.target is not None:  # a lane that has met it stands still
            moved = tuple(torch.where(value > workload.target, m, p) for m, p in zip(moved, params, strict=True))
        return moved, state

    return torch.func.vmap(one_lane, in_dims=(0, 0, None, 0))


def _prepared(workload: Workload, most: int, steps, at_once: int):
    cost = torch.func.vmap(COSTS[workload.cost](torch))
    lanes = {name: torch.asarray(values, device=DEVICE) for name, values in lanes_of(workload, most).items()}
    many = len(lanes["learning_rate"])
    start = tuple(torch.asarray(leaf, device=DEVICE).expand(many, *leaf.shape).clone() for leaf in workload.start)
    epochs = torch.arange(workload.epochs, dtype=torch.float32)  # a tensor each, or every epoch would compile anew

    @torch.no_grad()
    def run():
        params, state = start, first_state(workload.rule, lambda: tuple(map(torch.zeros_like, start)))
        for first in range(0, workload.epochs, at_once):
            params, state = steps(params, state, epochs[first], lanes)
        return tuple(leaf.cpu() for leaf in params), cost(params).cpu()

    def read(raw):
        params, last = raw
        return {"params": flat(tuple(leaf.numpy() for leaf in params)), "cost": last.numpy()}

    return run, read
