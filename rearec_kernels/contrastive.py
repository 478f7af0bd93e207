"""The loss within the batch: InfoNCE between two runs of the reasoning steps."""

from __future__ import annotations

import torch
from torch import Tensor

from rearec_kernels.arguments import as_int, as_number, check_floating, check_index, check_same_device
from rearec_kernels.dispatch import check_precision, resolve_backend
from rearec_kernels.losses import REDUCTIONS
from rearec_kernels.ops.arguments import needed_of
from rearec_kernels.precision import operand_dtype


def reasoning_info_nce(
    noised: Tensor,
    clean: Tensor,
    *,
    temperature: float,
    row_group: Tensor | None = None,
    first_key: int | None = None,
    reduction: str = "mean",
    precision: str = "fp32",
) -> Tensor:
    """Contrastive loss between two runs of the reasoning steps, within the batch and per step.

    With s_t[r, j] = noised[r, t] . clean[j, t] / temperature: the mean over rows r and steps t of
    logsumexp_j s_t[r, j] - s_t[r, r]. Reasoning-aware contrastive learning of ReaRec (arXiv 2503.22675, section 3.4).
    Differentiable once, in both; rows without a target are the caller's to leave out.

    Args:
        noised: [R, T, d], floating point: the anchors.
        clean: [R, T, d], floating point: the keys; row r is the positive of anchor r. With `first_key` [J, T, d].
        temperature: above 0.
        row_group: int32 or int64 [R], or [J]; rows of one group (a user's positions) are not each other's negatives.
        first_key: where the keys are of more rows than the anchors (those of other processes, for one): the row of
            clean that is the positive of anchor 0. Those of the other anchors follow it.
        reduction: "mean", or "none" for the terms of every row and step.
        precision: "fp32", "bf16", "tf32" on a GPU or "bf16x3" on a CPU; see `rearec_kernels.precision`.

    Returns:
        A scalar (0 for no rows or no steps, and for a single row), or [R, T] under "none"; float32, or float64 if
        noised or clean is.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value.

    Examples:
        >>> noised, clean = torch.zeros(4, 2, 3), torch.ones(4, 2, 3)  # all keys alike: log 4
        >>> round(reasoning_info_nce(noised, clean, temperature=0.1).item(), 4)
        1.3863
        >>> one_user = torch.zeros(4, dtype=torch.int64)  # no negatives are left
        >>> abs(reasoning_info_nce(noised, clean, temperature=0.1, row_group=one_user).item())
        0.0
        >>> reasoning_info_nce(noised[1:3], clean, temperature=0.1, first_key=1, reduction="none").shape
        torch.Size([2, 2])
    """
    op = "reasoning_info_nce"
    for name, x in (("noised", noised), ("clean", clean)):
        check_floating(op, name, x, "[R, T, d]")
    if first_key is None:
        if noised.shape != clean.shape:
            raise ValueError(f"{op}: clean must have noised's shape {list(noised.shape)}, got {list(clean.shape)}")
        first_key = 0
    elif noised.shape[1:] != clean.shape[1:]:
        wanted = ", ".join(map(str, noised.shape[1:]))
        raise ValueError(f"{op}: clean must have shape [J, {wanted}], got {list(clean.shape)}")
    first_key = as_int(op, "first_key", first_key, least=0)
    tensors = {"noised": noised, "clean": clean}
    if row_group is not None:
        check_index(op, "row_group", row_group, clean.shape[0])
        tensors["row_group"] = row_group
    check_same_device(op, tensors)
    temperature = as_number(op, "temperature", temperature)
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    backend = resolve_backend(
        op, noised.device, operand_dtype(noised, clean), precision=precision, states=noised.shape[1]
    )
    check_precision(op, precision, backend)
    options = (first_key, float(temperature), precision)
    if reduction == "none":
        kept = None if row_group is None else row_group.clone()  # for the backward pass, as above
        losses, _ = torch.ops.rearec.reasoning_info_nce_rows(noised, clean, kept, *options, backend)
        return losses
    needed = needed_of(noised, clean)
    loss, _, _ = torch.ops.rearec.reasoning_info_nce(noised, clean, row_group, *options, *needed, backend)
    return loss
