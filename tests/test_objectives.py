"""The objectives against their formulas written out, on shared and on separate encodings, and at their edges."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rearec.data.batch import Batch
from rearec.data.batches import PairBatches
from rearec.data.dataset import SequenceDataset
from rearec.models import ReaRecConfig
from rearec.models.config import METHODS
from rearec.objectives import OBJECTIVES, loss, step_weights
from rearec.reasoning import ReaRec, Rollout

pytestmark = pytest.mark.filterwarnings("ignore:.*does not serve torch.float64")

Pairing = Literal["shared", "separate"]

NUM_ITEMS, DIM, MAX_LEN = 13, 8, 6
SEQUENCES = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3, 5, 8, 9, 7, 9], [12, 11], [0, 0, 7, 10]]


def config_of(method: str, steps: int = 2, **settings: Any) -> ReaRecConfig:
    settings = {"temperature": 0.75, "alpha": 1.5, "kl_weight": 0.3, "pl_weight": 0.8, "cl_weight": 0.6} | settings
    return ReaRecConfig(
        num_items=NUM_ITEMS,
        method=method,
        steps=steps,
        dim=DIM,
        ffn=12,
        max_len=MAX_LEN,
        **settings,
    )


def model_of(config: ReaRecConfig, dtype: torch.dtype = torch.float64) -> ReaRec:
    """A model in evaluation mode (no dropout), with weights large enough for attention to matter."""
    torch.manual_seed(0)
    model = ReaRec(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return model


def batch_of(pairing: Pairing) -> Batch:
    """All (prefix, next item) pairs in one batch; the first and the last sequence are of one user."""
    rows = [(s, position) for s, items in enumerate(SEQUENCES) for position in range(1, len(items))]
    none = np.empty((0, 2), dtype=np.int32)
    dataset = SequenceDataset(
        items=np.concatenate(SEQUENCES).astype(np.int32),
        offsets=np.cumsum([0, *map(len, SEQUENCES)]),
        sequence_user=np.array([0, 1, 2, 0], dtype=np.int32),
        split_rows={"train": np.array(rows, dtype=np.int32), "valid": none, "test": none},
        item_ids=[str(item) for item in range(NUM_ITEMS)],
        user_ids=["a", "b", "c"],
        statistics={},
    )
    (batch,) = PairBatches(dataset, "train", batch_rows=1000, max_len=MAX_LEN, pairing=pairing)
    return batch


def random_case(config: ReaRecConfig, rows: int = 7) -> tuple[Rollout, Tensor, Tensor]:
    """Random leaves: states, noised states and item table; targets of which one is ignored; groups with repeats."""
    torch.manual_seed(rows)
    states = torch.randn(rows, config.steps + 1, DIM, dtype=torch.float64, requires_grad=True)
    noised = torch.randn(rows, config.steps, DIM, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(NUM_ITEMS, DIM, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, NUM_ITEMS, (rows,))
    if rows > 1:
        target[rows // 2] = -100
    return Rollout(states, weight, noised), target, torch.arange(rows) // 2


def written_out(config: ReaRecConfig, rollout: Rollout, target: Tensor, group: Tensor) -> dict[str, Tensor]:
    """The objectives as the paper and the official code define them, with every logit in memory."""
    kept = target != -100
    states, target, group, tau = rollout.states[kept], target[kept], group[kept], config.temperature
    steps = states.shape[1] - 1
    weight = rollout.weight
    logits = states @ weight.T
    if config.method == "erl":
        log_p = (logits / tau).log_softmax(-1)
        cross_entropy = F.cross_entropy(states.mean(1) @ weight.T / tau, target)
        pairs = [(i, j) for i in range(steps + 1) for j in range(steps + 1) if i != j]
        kl = torch.zeros((), dtype=torch.float64)
        for i, j in pairs:
            if config.kl_form == "official":
                kl = kl + (log_p[:, j].exp() * (log_p[:, j] - log_p[:, i].detach())).sum(-1).mean() / len(pairs)
            elif i < j:
                kl = kl + (log_p[:, i].exp() * (log_p[:, i] - log_p[:, j])).sum(-1).mean()
        return {"loss": cross_entropy - config.kl_weight * kl, "cross_entropy": cross_entropy, "kl": kl}
    if config.method != "prl":
        cross_entropy = F.cross_entropy(logits[:, -1] / tau, target)
        return {"loss": cross_entropy, "cross_entropy": cross_entropy}
    per_step = [F.cross_entropy(logits[:, t] / (tau * config.alpha ** (steps - t)), target) for t in range(steps + 1)]
    if config.step_weights == "paper" or steps == 0:
        cross_entropy = torch.stack(per_step).sum()
    else:
        cross_entropy = per_step[-1] + config.pl_weight * torch.stack(per_step[:-1]).mean()
    contrastive = torch.zeros((), dtype=torch.float64)
    if steps > 0 and config.cl_weight > 0:
        assert rollout.noised is not None
        others_of_the_user = (group[:, None] == group) & ~torch.eye(len(group), dtype=torch.bool)
        for k in range(1, steps + 1):
            similarity = rollout.noised[kept][:, k - 1] @ states[:, k].T / tau
            similarity = similarity.masked_fill(others_of_the_user, -math.inf)
            contrastive = contrastive + F.cross_entropy(similarity, torch.arange(len(group))) / steps
    total = cross_entropy + config.cl_weight * contrastive
    return {"loss": total, "cross_entropy": cross_entropy, "contrastive": contrastive}


def gradients(total: Tensor, *inputs: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if grad is None else grad for x, grad in zip(inputs, found, strict=True)]


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("base", {}),
        ("naive", {}),
        ("rpe", {}),
        ("erl", {}),
        ("erl", {"kl_form": "paper"}),
        ("erl", {"kl_weight": 0.0}),
        ("prl", {}),
        ("prl", {"step_weights": "paper"}),
        ("prl", {"cl_weight": 0.0}),
        ("prl", {"pl_weight": 0.0}),
    ],
)
def test_values_and_gradients_equal_the_formulas_written_out(method: str, settings: dict[str, Any], steps: int) -> None:
    config = config_of(method, steps, **settings)
    rollout, target, group = random_case(config)
    got = loss(config, rollout, target, group)
    expected = written_out(config, rollout, target, group)
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name].detach(), expected[name].detach(), rtol=1e-11, atol=1e-12)
    assert rollout.noised is not None
    inputs = (rollout.states, rollout.noised, rollout.weight)
    for mine, reference in zip(gradients(got["loss"], *inputs), gradients(expected["loss"], *inputs), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_loss_can_be_differentiated(method: str) -> None:
    config = config_of(method)
    terms = loss(config, *random_case(config))
    assert terms.pop("loss").requires_grad
    assert not any(term.requires_grad for term in terms.values())


def loss_and_gradients(
    config: ReaRecConfig, batch: Batch, dtype: torch.dtype = torch.float64
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model = model_of(config, dtype)
    rollout = model(batch, noise=0.0, return_noised=config.method == "prl")
    terms = loss(config, rollout, batch.target, batch.group)
    terms["loss"].backward()
    zero = torch.zeros((), dtype=dtype)
    return terms, {name: zero if p.grad is None else p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_one_encoding_per_user_gives_the_losses_and_gradients_of_one_encoding_per_pair(method: str, steps: int) -> None:
    config = config_of(method, steps)
    shared, separate = batch_of("shared"), batch_of("separate")
    assert shared.num_windows < separate.num_windows == shared.num_rows == separate.num_rows
    assert max(map(len, SEQUENCES)) - 1 > MAX_LEN  # some rows have windows of their own
    terms, grads = loss_and_gradients(config, shared)
    expected_terms, expected_grads = loss_and_gradients(config, separate)
    for name, term in expected_terms.items():
        torch.testing.assert_close(terms[name], term, rtol=1e-10, atol=1e-12)
    for name, grad in expected_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_shared_and_separate_encodings_agree_to_1e_5_in_float32(method: str) -> None:
    config = config_of(method)
    terms, grads = loss_and_gradients(config, batch_of("shared"), torch.float32)
    expected_terms, expected_grads = loss_and_gradients(config, batch_of("separate"), torch.float32)
    torch.testing.assert_close(terms["loss"], expected_terms["loss"], rtol=1e-5, atol=0.0)
    largest = max(grad.abs().max().item() for grad in expected_grads.values())
    for name, grad in expected_grads.items():
        assert (grads[name] - grad).abs().max().item() <= 1e-5 * largest, name


@pytest.mark.parametrize("method", METHODS)
def test_ignored_rows_leave_every_term(method: str) -> None:
    config = config_of(method)
    rollout, target, group = random_case(config)
    assert rollout.noised is not None
    kept = target != -100
    all_rows = loss(config, rollout, target, group)
    fewer = Rollout(rollout.states[kept], rollout.weight, rollout.noised[kept])
    kept_rows = loss(config, fewer, target[kept], group[kept])
    for name, term in kept_rows.items():
        torch.testing.assert_close(all_rows[name], term, rtol=1e-12, atol=1e-12)
    grad_states, grad_noised = gradients(all_rows["loss"], rollout.states, rollout.noised)
    assert (grad_states[~kept] == 0).all()
    assert (grad_noised[~kept] == 0).all()
    assert grad_states[kept].flatten(1).any(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_if_all_rows_are_ignored_everything_is_zero(method: str, steps: int, dtype: torch.dtype) -> None:
    config = config_of(method, steps)
    batch = batch_of("shared")
    batch = dataclasses.replace(batch, target=torch.full_like(batch.target, -100))
    terms, grads = loss_and_gradients(config, batch, dtype)
    assert terms["loss"].requires_grad
    assert all(term.item() == 0 for term in terms.values())
    assert all((grad == 0).all() for grad in grads.values())


@pytest.mark.parametrize("method", METHODS)
def test_one_row_has_a_loss_and_no_negatives(method: str) -> None:
    config = config_of(method)
    rollout, target, group = random_case(config, rows=1)
    terms = loss(config, rollout, target, group)
    expected = written_out(config, rollout, target, group)
    torch.testing.assert_close(terms["loss"].detach(), expected["loss"].detach(), rtol=1e-11, atol=1e-12)
    if method == "prl":
        assert terms["contrastive"].item() == pytest.approx(0.0, abs=1e-12)


def test_rows_of_one_user_are_not_each_others_negatives() -> None:
    config = config_of("prl")
    rollout, target, _ = random_case(config)
    one_user = loss(config, rollout, target, torch.zeros(7, dtype=torch.int64))
    assert one_user["contrastive"].item() == pytest.approx(0.0, abs=1e-12)
    all_users = loss(config, rollout, target, torch.arange(7))
    assert all_users["contrastive"] > 1


def test_the_contrastive_term_is_off_without_a_noised_branch_or_a_weight() -> None:
    config, weightless = config_of("prl"), config_of("prl", cl_weight=0.0)
    rollout, target, group = random_case(config)
    for terms in (
        loss(config, Rollout(rollout.states, rollout.weight), target, group),
        loss(weightless, rollout, target, group),
    ):
        assert terms["contrastive"].item() == 0
        assert terms["loss"].item() == terms["cross_entropy"].item()


@pytest.mark.parametrize(
    ("settings", "epoch", "expected"),
    [
        ({}, 0, False),
        ({}, 1, False),
        ({}, 2, True),
        ({"warmup": 0}, 0, True),
        ({"cl_weight": 0.0}, 5, False),
        ({"steps": 0}, 5, False),
        ({"method": "erl"}, 5, False),
    ],
)
def test_the_contrastive_term_starts_after_the_warmup_epochs(
    settings: dict[str, Any], epoch: int, expected: bool
) -> None:
    config = config_of(**({"method": "prl"} | settings))
    assert OBJECTIVES[config.method].noised(config, epoch) is expected


def test_step_weights_of_the_official_code_and_of_the_paper() -> None:
    official, paper = config_of("prl", pl_weight=0.6), config_of("prl", step_weights="paper")
    assert step_weights(official, 3) == pytest.approx([0.2, 0.2, 0.2, 1.0])
    assert step_weights(official, 0) == [1.0]
    assert step_weights(paper, 3) == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_reaches_every_parameter(method: str) -> None:
    _, grads = loss_and_gradients(config_of(method), batch_of("shared"))
    for name, grad in grads.items():
        assert name.endswith("key.bias") or grad.any(), name  # a key bias shifts all scores of a query alike


@pytest.mark.parametrize("method", METHODS)
def test_a_training_step_under_bfloat16_autocast_lowers_the_loss(method: str) -> None:
    config, batch = config_of(method, dropout=0.0, input_dropout=0.0), batch_of("shared")
    model = model_of(config, torch.float32).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rollout = model(batch, noise=0.01, return_noised=method == "prl")
            terms = loss(config, rollout, batch.target, batch.group)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
