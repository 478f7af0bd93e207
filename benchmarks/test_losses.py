"""Full-catalogue losses, and the contrastive one within a batch: loss and gradients, T = 3 states, d = 256."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from contenders import careful, naive
from contenders.fused_losses import FUSED, FusedLoss
from contenders.loss_inputs import KL_WEIGHT, TEMPERATURE, Gradients, Inputs, Shape
from measure.compare import Target
from measure.contest import Contest
from torch import Tensor

from rearec_kernels import annealed_cross_entropy, ensemble_reasoning_loss, reasoning_info_nce

# Largest distance to ours, as a part of it. In bfloat16 plain PyTorch also rounds logits and their gradients (0.006;
# three times that is allowed, and more where the logits are large), and for TF32 some cut off what others round.
AGREEMENT = {"fp32": 1e-4, "bf16x3": 1e-4, "tf32": 1e-2, "autocast bf16": 6e-2, "bf16": 2e-2}
OPERATION_RATE = 8e14  # per second: no product on a GPU is faster, which tells how many calls a replay needs
PRODUCT = "one product in bf16"
HARD = "ours, hard targets"
SOFT_ITEMS = 11  # of a row: its target and ten others
# On a CPU the logits of the last state have a std of 14; on a GPU of 4, with which no probability underflows and the
# naive ensemble loss has gradients that can be compared.
GPU_SCALE = 4 * TEMPERATURE


@dataclass(frozen=True)
class Case:
    """precision: of "ours"; on a CPU the other precisions take part as contenders."""

    device: str
    shape: Shape
    targets: Sequence[Target] = ()
    precision: str = "fp32"
    large: bool = False

    @property
    def name(self) -> str:
        shape = self.shape
        items = f", N {shape.items}" if shape.items else ""
        precision = f", {self.precision}" if self.precision != "fp32" else ""
        return f"loss + gradients, R {shape.rows}, T {shape.states}{items}, d {shape.width}{precision}"


def _most_memory(least: float, aim: float, of: str = "ours") -> Target:
    return Target("naive", least, aim, kind="memory", of=of)


def _on_a_gpu(items: int, targets: Sequence[Target] = (), precision: str = "bf16", states: int = 3) -> Case:
    # of plain cross-entropy, whose temperature is 1, the same logits
    scale = GPU_SCALE / (TEMPERATURE if states == 1 else 1)
    return Case("cuda", Shape(2048, items, states, scale=scale), targets, precision)


LARGE = [Case("cpu", Shape(512, 87_969), large=True), Case("cpu", Shape(2048, 22_933), large=True)]
CROSS_ENTROPY_ON_A_GPU = [
    Target("naive", 2.5, 5), _most_memory(20, 20), Target("torch.compile(naive)", 1, 1.3),
    Target(PRODUCT, 9, 5.5, kind="products"),
]  # fmt: skip
CROSS_ENTROPY = [
    Case(
        "cpu",
        Shape(512, 22_933),
        [
            Target("naive", 1.15, 1.8),
            _most_memory(6.0, 12.0),
            Target("naive", 4.0, 8.0, of="ours, bf16"),
            Target("naive", 2.0, 4.0, of="ours, bf16x3"),
        ],
    ),
    *LARGE,
    *(_on_a_gpu(items, CROSS_ENTROPY_ON_A_GPU) for items in (22_933, 87_969)),
    _on_a_gpu(87_969, [Target(who, 1, 1.3) for who in ("torch.compile(naive)", *FUSED)], states=1),
    *(_on_a_gpu(22_933, precision=precision) for precision in ("fp32", "tf32")),
]
ENSEMBLE_ON_A_GPU = [Target("naive", 5, 12), _most_memory(60, 60), Target(PRODUCT, 12, 7, kind="products")]
ENSEMBLE = [
    Case(
        "cpu",
        Shape(512, 22_933),
        [Target("naive", 4.0, 8.0), _most_memory(15.0, 25.0), Target("naive", 10.0, 35.0, of="ours, bf16")],
    ),
    *LARGE,
    *(_on_a_gpu(items, ENSEMBLE_ON_A_GPU) for items in (22_933, 87_969)),
    *(_on_a_gpu(22_933, precision=precision) for precision in ("fp32", "tf32")),
]
SOFT_TARGETS = [
    Case("cpu", Shape(512, 22_933), [Target(HARD, 10, 5, kind="extra")]),
    _on_a_gpu(22_933),
]
INFO_NCE = [
    Case("cpu", Shape(512, 0, states=2)),
    Case("cpu", Shape(2048, 0, states=2), [Target("naive", 2.5, 3.5)]),
    Case("cuda", Shape(2048, 0, states=2), [Target("naive", 1.5, 3)], "bf16"),
]
parametrize = partial(pytest.mark.parametrize, "case", ids=lambda case: f"{case.device}, {case.name}")


def _prepared(case: Case, contest: Contest, paper_scale: bool) -> tuple[Case, list[Inputs]]:
    """The case as it is measured here, and its sets of inputs."""
    if case.large and not (paper_scale or contest.tiny):
        pytest.skip("runs with --paper-scale")
    if case.precision == "tf32" and contest.device.type == "cpu":
        case = replace(case, precision="fp32")
    case = replace(case, shape=contest.size(case.shape))
    return case, contest.sets(partial(Inputs, case.shape, contest.device), lambda s: s.bytes_used)


def _contest(
    contest: Contest,
    case: Case,
    name: str,
    sets: Sequence[Inputs],
    ours: Callable[[Inputs, str], Gradients],
    others: Callable[[Inputs], dict[str, Gradients]],
    **how: Any,
) -> None:
    """ours: of a set of inputs in a precision."""
    absent = how.pop("absent", {})
    with contest.backend("triton"):
        named = {"ours": case.precision}
        if case.device == "cpu":
            named |= {f"ours, {precision}": precision for precision in ("bf16", "bf16x3")}
        for who, precision in list(named.items()):
            try:
                ours(sets[0], precision)()
            except ValueError as error:
                if who == "ours":
                    raise
                absent[who] = str(error)
                del named[who]
        each = [{who: ours(s, precision) for who, precision in named.items()} | others(s) for s in sets]
        if case.precision == "bf16" and case.shape.items:
            how["yardsticks"] = how.get("yardsticks", {}) | {PRODUCT: [s.product for s in sets]}
        contest(
            f"{name}, {case.name}",
            {who: [calls[who] for calls in each] for who in each[0]},
            bound=partial(_bound, case.precision),
            targets=case.targets,
            absent=absent,
            call_seconds=3 * case.shape.product_operations / OPERATION_RATE,
            **how,
        )


def _bound(precision: str, who: str) -> float:
    return AGREEMENT[precision] if precision != "fp32" else next((b for p, b in AGREEMENT.items() if p in who), 1e-4)


def _plain(case: Case, s: Inputs, loss: Callable[..., Tensor], *arguments: Any) -> dict[str, Gradients]:
    """Naive PyTorch in the precision of the case and, beside ours in several, under autocast."""
    found = {"naive": s.plain(loss, *arguments, precision=case.precision)}
    if case.device == "cpu":
        found["naive, autocast bf16"] = s.plain(loss, *arguments, precision="bf16")
    return found


def _compiled(contest: Contest, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    torch.compiler.reset()  # what was compiled for other shapes counts against a limit
    return torch.compile(loss, backend="eager" if contest.tiny else "inductor", dynamic=False)


def _fused(case: Case) -> tuple[dict[str, FusedLoss], dict[str, str]]:
    """The losses of other libraries that are there, and why the others are not."""
    found: dict[str, FusedLoss] = {}
    absent: dict[str, str] = {}
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    for who, find in FUSED.items():
        try:
            loss = find()
            probe = torch.ones(8, 16, dtype=dtype, device=case.device, requires_grad=True)
            loss(probe, probe.detach(), torch.zeros(8, dtype=torch.int64, device=case.device)).sum().backward()
        except Exception as error:  # theirs: not installed, not for this torch, or for GPUs only
            absent[who] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            found[who] = lambda hidden, weight, target, loss=loss: loss(hidden.to(dtype), weight.to(dtype), target)
    return found, absent


@parametrize(CROSS_ENTROPY)
def test_annealed_cross_entropy(case: Case, contest: Contest, paper_scale: bool) -> None:
    case, sets = _prepared(replace(case, device=contest.device.type), contest, paper_scale)
    compiled = _compiled(contest, naive.annealed_cross_entropy)
    fused, absent = _fused(case)

    def ours(s: Inputs, precision: str) -> Gradients:
        options = {"temperature": s.host_temperature, "step_weight": s.host_step_weight, "precision": precision}
        return s.gradients(lambda: annealed_cross_entropy(s.hidden, s.table, s.target, **options))

    def others(s: Inputs) -> dict[str, Gradients]:
        found = _plain(case, s, naive.annealed_cross_entropy, *s.arguments)
        if case.precision in ("fp32", "bf16"):
            found["torch.compile(naive)"] = s.plain(compiled, *s.arguments, precision=case.precision)
        if case.precision == "fp32":
            found["careful (chunked)"] = s.plain(careful.annealed_cross_entropy, *s.arguments)
        steps = {who: partial(careful.step_by_step, loss, *s.arguments) for who, loss in fused.items()}
        return found | {who: s.gradients(loss) for who, loss in steps.items()}

    _contest(contest, case, "annealed cross-entropy", sets, ours, others, absent=absent, seconds=10, least_runs=3)


@parametrize(SOFT_TARGETS)
def test_soft_targets(case: Case, contest: Contest, paper_scale: bool) -> None:
    """What M items of a row cost more than one, and than a distribution over the whole catalogue."""
    case, sets = _prepared(replace(case, device=contest.device.type), contest, paper_scale)

    def soft_target(s: Inputs) -> tuple[Tensor, Tensor]:
        apart = torch.arange(SOFT_ITEMS, device=s.target.device)
        items = (s.target[:, None] + apart) % s.table.shape[0]
        return items, (-apart / 3.0).softmax(0).expand(items.shape).contiguous()

    def ours(s: Inputs, precision: str, soft: bool = True) -> Gradients:
        options = {"temperature": s.host_temperature, "step_weight": s.host_step_weight, "precision": precision}
        options["soft_target"] = soft_target(s) if soft else None
        return s.gradients(lambda: annealed_cross_entropy(s.hidden, s.table, s.target, **options))

    def others(s: Inputs) -> dict[str, Gradients]:
        items, mass = soft_target(s)
        dense = torch.zeros(s.target.shape[0], s.table.shape[0], device=mass.device).scatter_(1, items, mass)
        return _plain(case, s, _soft_cross_entropy, s.hidden, s.table, dense, s.temperature, s.step_weight)

    yardsticks = {HARD: [ours(s, case.precision, soft=False) for s in sets]}
    _contest(contest, case, "soft targets", sets, ours, others, yardsticks=yardsticks, seconds=10, least_runs=5)


def _soft_cross_entropy(
    hidden: Tensor, weight: Tensor, distribution: Tensor, temperature: Tensor, step_weight: Tensor
) -> Tensor:
    """Plain PyTorch with the distribution [R, N] and the logits [R, T, N] materialised."""
    logits = hidden @ weight.T / temperature[:, None]
    targets = distribution.repeat_interleave(hidden.shape[1], 0)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
    return (losses.view(hidden.shape[:2]).mean(0) * step_weight).sum()


@parametrize(ENSEMBLE)
def test_ensemble_reasoning_loss(case: Case, contest: Contest, paper_scale: bool) -> None:
    case, sets = _prepared(replace(case, device=contest.device.type), contest, paper_scale)

    def ours(s: Inputs, precision: str) -> Gradients:
        options = {"temperature": TEMPERATURE, "kl_weight": KL_WEIGHT, "precision": precision}
        return s.gradients(lambda: ensemble_reasoning_loss(s.hidden, s.table, s.target, **options).loss)

    def plain(loss: Callable[..., Tensor], s: Inputs) -> Gradients:
        return s.plain(loss, s.hidden, s.table, s.target, TEMPERATURE, KL_WEIGHT, precision=case.precision)

    def others(s: Inputs) -> dict[str, Gradients]:
        if case.device == "cuda":
            return {"naive": plain(naive.ensemble_loss, s)}
        return {"careful (chunked)": plain(careful.ensemble_loss, s)}

    # with logits as large as on a CPU its gradients may be NaN
    yardsticks = {"naive": [plain(naive.ensemble_loss, s) for s in sets]} if case.device == "cpu" else {}
    _contest(
        contest, case, "ensemble reasoning loss", sets, ours, others, yardsticks=yardsticks, seconds=10, least_runs=3
    )


@parametrize(INFO_NCE)
def test_reasoning_info_nce(case: Case, contest: Contest, paper_scale: bool) -> None:
    case, sets = _prepared(replace(case, device=contest.device.type), contest, paper_scale)
    compiled = _compiled(contest, naive.info_nce)

    def ours(s: Inputs, precision: str) -> Gradients:
        options = {"temperature": TEMPERATURE, "precision": precision}
        return s.gradients(lambda: reasoning_info_nce(s.hidden, s.table, **options))

    def others(s: Inputs) -> dict[str, Gradients]:
        arguments = s.hidden, s.table, TEMPERATURE
        found = _plain(case, s, naive.info_nce, *arguments)
        found["torch.compile(naive)"] = s.plain(compiled, *arguments, precision=case.precision)
        if case.precision == "fp32":
            found["careful (bmm)"] = s.plain(careful.info_nce, *arguments)
        return found

    _contest(contest, case, "reasoning InfoNCE", sets, ours, others)
