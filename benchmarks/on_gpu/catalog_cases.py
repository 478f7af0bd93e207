"""Cases of losses and retrieval: sizes, contenders and targets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from compare import verdict

from on_gpu import losses, retrieval
from on_gpu.comparison import Calls, Case, Targets, bandwidth_share, compare_contenders, median_ms
from on_gpu.losses import LossShape
from on_gpu.retrieval import CatalogShape
from on_gpu.sizes import Sizes
from on_gpu.timing import Clock, read_bandwidth
from rearec_kernels import available_backends, use_backend

# (must, aim): how many times as much as ours the contender takes. "memory" has no aim beyond what it must.
CROSS_ENTROPY_TARGETS: Targets = {
    ("time", "naive"): (2.5, 5), ("memory", "naive"): (20, 20), ("time", "torch.compile"): (1, 1.3),
}  # fmt: skip
# The same of ours in products of its operands, at most.
Most = tuple[float, float]
CROSS_ENTROPY_PRODUCTS: Most = (9, 5.5)
PLAIN_CROSS_ENTROPY_TARGETS: Targets = {("time", who): (1, 1.3) for who in ("torch.compile", *losses.FUSED)}
ENSEMBLE_TARGETS: Targets = {("time", "naive"): (5, 12), ("memory", "naive"): (60, 60)}
ENSEMBLE_PRODUCTS: Most = (12, 7)
CONTRAST_TARGETS: Targets = {("time", "naive"): (1.5, 3)}
TOPK_TARGETS: Targets = {("time", "mm + topk"): (3, 8)}

# Largest distance to ours, as a part of ours. The operands of products are the same, but in bfloat16 plain PyTorch also
# rounds logits and their gradients (0.006; three times that is allowed), and for TF32 some cut off what others round.
AGREEMENT = {"fp32": 3e-5, "tf32": 1e-2, "bf16": 2e-2}

OPERATION_RATE = 8e14  # per second: no product is faster, which tells how many calls a replay needs


def loss_cases(clock: Clock, sizes: Sizes) -> Iterator[Case]:
    few, many = sizes.catalogs
    loss_shape = partial(LossShape, rows=sizes.loss_rows, width=sizes.loss_width)
    cross_entropy, ensemble = partial(_cross_entropy, clock, sizes), partial(_ensemble, clock, sizes)
    for items in (few, many):
        shape, size = loss_shape(states=sizes.steps, items=items, precision="bf16"), f"T {sizes.steps} N {items} bf16"
        yield Case(
            f"cross-entropy {size}", partial(cross_entropy, shape, CROSS_ENTROPY_TARGETS, CROSS_ENTROPY_PRODUCTS)
        )
        yield Case(f"ensemble {size}", partial(ensemble, shape, ENSEMBLE_TARGETS, ENSEMBLE_PRODUCTS))
    shape = loss_shape(states=1, items=many, precision="bf16")
    yield Case(f"cross-entropy T 1 N {many} bf16", partial(cross_entropy, shape, PLAIN_CROSS_ENTROPY_TARGETS, None))
    shape = loss_shape(states=sizes.contrast_steps, items=0, precision="bf16")
    yield Case(f"InfoNCE T {sizes.contrast_steps} bf16", partial(_contrast, clock, sizes, shape))
    for precision in ("fp32", "tf32"):
        shape = loss_shape(states=sizes.steps, items=few, precision=_precision_there(precision, clock))
        size = f"T {sizes.steps} N {few} {precision}"
        yield Case(f"cross-entropy {size}", partial(cross_entropy, shape, {}, None))
        yield Case(f"ensemble {size}", partial(ensemble, shape, {}, None))


def retrieval_cases(clock: Clock, sizes: Sizes) -> Iterator[Case]:
    for precision in ("bf16", "fp32"):
        rows, items, k = sizes.topk
        shape = CatalogShape(rows, items, sizes.loss_width, precision)
        yield Case(f"top-{k} R {rows} N {items} {precision}", partial(_topk, clock, sizes, shape, k))
    for precision in ("bf16", "fp32"):
        rows, items = sizes.rank
        shape = CatalogShape(rows, items, sizes.loss_width, precision)
        yield Case(f"rank R {rows} N {items} {precision}", partial(_rank, clock, sizes, shape))


def _precision_there(precision: str, clock: Clock) -> str:
    """In a dry run fp32 stands in for tf32, which only GPUs have."""
    return "fp32" if precision == "tf32" and clock.device.type == "cpu" else precision


def _catalog_backend(clock: Clock) -> str:
    """Of losses and retrieval; the fastest one there serves attention only."""
    return "triton" if clock.device.type == "cuda" else available_backends(clock.device)[0]


def _cross_entropy(
    clock: Clock, sizes: Sizes, shape: LossShape, targets: Targets, most: Most | None, seconds: float
) -> dict[str, Any]:
    sets = losses.input_sets(shape, clock.device, clock.rotated_bytes)
    contenders, absent = losses.cross_entropy(sets, compiled=shape.precision == "bf16")
    return _catalog_loss(clock, sizes, sets, contenders, targets, most, seconds) | {"absent": absent}


def _ensemble(
    clock: Clock, sizes: Sizes, shape: LossShape, targets: Targets, most: Most | None, seconds: float
) -> dict[str, Any]:
    sets = losses.input_sets(shape, clock.device, clock.rotated_bytes)
    found = _catalog_loss(clock, sizes, sets, losses.ensemble(sets), targets, most, seconds)
    return found | {"absent": {}}


def _contrast(clock: Clock, sizes: Sizes, shape: LossShape, seconds: float) -> dict[str, Any]:
    sets = losses.input_sets(shape, clock.device, clock.rotated_bytes)
    found = _loss(clock, sizes, sets, losses.contrast(sets), CONTRAST_TARGETS, seconds)
    return found | {"absent": {}}


def _catalog_loss(
    clock: Clock,
    sizes: Sizes,
    sets: list[losses.Inputs],
    contenders: dict[str, Calls],
    targets: Targets,
    most: Most | None,
    seconds: float,
) -> dict[str, Any]:
    """In bf16 also in products: how many of one take as long."""
    shape = sets[0].shape
    if shape.precision != "bf16":
        return _loss(clock, sizes, sets, contenders, targets, seconds)
    found = _loss(clock, sizes, sets, contenders, targets, seconds, {"product": losses.products(sets)})
    median = median_ms(found, "product")
    count = median["ours"] / median["product"]
    tflops = shape.product_operations / median["product"] / 1e9
    products: dict[str, Any] = {"count": count, "product_ms": median["product"], "tflops": tflops}
    if most is not None:
        must, aim = most
        products |= {"must": must, "aim": aim, "verdict": verdict(-count, -must, -aim)}
    return found | {"products": products}


def _loss(
    clock: Clock,
    sizes: Sizes,
    sets: list[losses.Inputs],
    contenders: dict[str, Calls],
    targets: Targets,
    seconds: float,
    yardsticks: dict[str, Calls] | None = None,
) -> dict[str, Any]:
    """A loss and its gradients; launched one by one, as in training, and replayed."""
    shape = sets[0].shape
    timed = {key: value for key, value in targets.items() if key[0] == "time"}
    with use_backend(_catalog_backend(clock)):
        return compare_contenders(
            clock, sizes, contenders, AGREEMENT[shape.precision], seconds,
            3 * shape.product_operations / OPERATION_RATE, {"calls": targets, "replays": timed},
            memory=True, yardsticks=yardsticks, capture_may_fail=True,
        )  # fmt: skip


def _topk(clock: Clock, sizes: Sizes, shape: CatalogShape, k: int, seconds: float) -> dict[str, Any]:
    sets = retrieval.input_sets(shape, clock.device, clock.rotated_bytes)
    compared = partial(retrieval.topk_compared, sets[0])
    return _retrieval(clock, sizes, sets, retrieval.topk(sets, k), TOPK_TARGETS, seconds, compared=compared)


def _rank(clock: Clock, sizes: Sizes, shape: CatalogShape, seconds: float) -> dict[str, Any]:
    sets = retrieval.input_sets(shape, clock.device, clock.rotated_bytes)
    return _retrieval(clock, sizes, sets, retrieval.rank(sets), {}, seconds)


def _retrieval(
    clock: Clock,
    sizes: Sizes,
    sets: list[retrieval.Inputs],
    contenders: dict[str, Calls],
    targets: Targets,
    seconds: float,
    **options: Any,
) -> dict[str, Any]:
    shape = sets[0].shape
    with torch.no_grad(), use_backend(_catalog_backend(clock)):
        found = compare_contenders(
            clock, sizes, contenders, AGREEMENT[shape.precision], seconds,
            shape.product_operations / OPERATION_RATE, {"calls": targets, "replays": targets},
            memory=True, capture_may_fail=True, **options,
        )  # fmt: skip
        read_gb_per_s = read_bandwidth(clock, sizes.copied_bytes) / 1e9
    return found | {"bandwidth": bandwidth_share(found, sets[0].table.nbytes, "read", read_gb_per_s), "absent": {}}
