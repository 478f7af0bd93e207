"""The timed calls of `before_after.py`: reads names of cases on stdin, and answers each with the seconds of one call.

Runs in both installs: only public names are used, so that these may have any layout inside.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Call = Callable[[], Any]


def training_step(method: str, dim: int, rows: int = 512) -> Call:
    """Forward, loss, gradients and Adam, on the same batch each time."""
    import torch

    from rearec import ReaRec
    from rearec.data.synthetic import paper_shaped
    from rearec.training import TrainingModule, TrainingOptions, fitting_config

    dataset = paper_shaped(5_000, 12_000, 9.0)
    steps = 0 if method == "base" else 2
    config = fitting_config(dataset, method=method, steps=steps, dim=dim, ffn={64: 128, 256: 300}[dim], warmup=0)
    torch.manual_seed(0)
    module: Any = TrainingModule(ReaRec(config).train(), dataset, TrainingOptions(batch_rows=rows))
    module.log_dict = lambda *_, **__: None  # there is no trainer to log to
    optimizer = module.configure_optimizers()
    batch = next(iter(module.train_dataloader()))

    def step() -> None:
        module.training_step(batch, 0).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def recommend(rows: int) -> Call:
    """Ids in and 20 ids out, d 256, K 2."""
    import torch

    from rearec import ReaRec, Recommender
    from rearec.data.synthetic import paper_shaped
    from rearec.training import fitting_config

    dataset = paper_shaped(5_000, 23_000, 9.0)
    torch.manual_seed(0)
    model = ReaRec(fitting_config(dataset, method="prl", steps=2, dim=256, ffn=300)).eval()
    items = SimpleNamespace(item_ids=dataset.item_ids, popularity=dataset.train_item_counts().tolist(), titles=None)
    recommender = Recommender(model, items)  # type: ignore[arg-type]  # any object that has these
    pairs = dataset.rows("test")[:rows]
    histories = [[dataset.item_ids[i] for i in dataset.history(int(s), int(p))] for s, p in pairs]
    return lambda: recommender.recommend(histories, 20)


def attention(rows: int) -> Call:
    """Three steps over prefixes of 50 slots, H 2, D 128, and the gradients of everything."""
    import torch

    from rearec_kernels import PrefixRows, ReasoningCache, cached_reason_attention

    torch.manual_seed(0)
    prefix = [torch.randn(rows, 50, 2, 128, requires_grad=True) for _ in range(2)]
    steps = [[torch.randn(rows, 2, 128, requires_grad=True) for _ in range(3)] for _ in range(3)]
    index = PrefixRows(end=torch.randint(5, 51, (rows,), dtype=torch.int32))
    upstream = [torch.randn(rows, 2, 128) for _ in range(3)]

    def call() -> Any:
        cache = ReasoningCache.from_prefix(*prefix, max_tokens=3, rows=index)
        outputs = [cached_reason_attention(*step, cache) for step in steps]
        return torch.autograd.grad(outputs, [*prefix, *(x for step in steps for x in step)], upstream)

    return call


def decode_step(rows: int = 1) -> Call:
    """One step without gradients: what a call costs besides computing."""
    import torch

    from rearec_kernels import ReasoningCache, cached_reason_attention

    torch.manual_seed(0)
    prefix = [torch.randn(rows, 8, 1, 16) for _ in range(2)]
    cache = ReasoningCache.from_prefix(*prefix, max_tokens=1)
    step = [torch.randn(rows, 1, 16) for _ in range(3)]

    def call() -> Any:
        with torch.no_grad():
            return cached_reason_attention(*step, cache, step=0)

    return call


def loss(rows: int) -> Call:
    """Annealed cross-entropy of three states over 2,000 items, d 64, and its gradients."""
    import torch

    from rearec_kernels import annealed_cross_entropy

    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, 3, 64, requires_grad=True), torch.randn(2_000, 64, requires_grad=True)
    target, temperature = torch.randint(2_000, (rows,)), [0.2, 0.1, 0.07]
    return lambda: torch.autograd.grad(
        annealed_cross_entropy(hidden, weight, target, temperature=temperature), (hidden, weight)
    )


# How a call is made, and how often it is repeated for one timing.
CASES: dict[str, tuple[Callable[[], Call], int]] = {
    **{
        f"training step, {method}, d {dim}, 512 rows": (lambda m=method, d=dim: training_step(m, d), 1)  # type: ignore[misc]
        for method in ("base", "prl")
        for dim in (64, 256)
    },
    "recommend, R 1": (lambda: recommend(1), 10),
    "recommend, R 256": (lambda: recommend(256), 1),
    "attention with gradients, R 2": (lambda: attention(2), 50),
    "attention with gradients, R 512": (lambda: attention(512), 2),
    "loss with gradients, R 32": (lambda: loss(32), 20),
    "one decode step, R 1": (decode_step, 1000),
}


def work() -> None:
    """A line for a line, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    made: dict[str, Call] = {}
    for line in sys.stdin:
        make, repeat = CASES[name := line.strip()]
        if name not in made:
            made[name] = make()
            for _ in range(3):
                made[name]()
        begin = time.perf_counter()
        for _ in range(repeat):
            made[name]()
        print((time.perf_counter() - begin) / repeat, file=answers)


if __name__ == "__main__":
    work()
