"""The losses against other ways to the same numbers: the published expressions, attention, and closed forms.

Everything is computed in float64 from the same inputs; the reference backend must agree to rounding, the cpu backend
to float32's.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from backends import catalog_backends
from torch import Tensor

from rearec_kernels import (
    annealed_cross_entropy,
    annealed_temperatures,
    ensemble_reasoning_loss,
    reasoning_info_nce,
    use_backend,
)

ROWS, WIDTH, ITEMS, TAU = 5, 6, 37, 0.3
BACKENDS = catalog_backends()
pytestmark = pytest.mark.usefixtures("tensors_on_device")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random(*shape: int) -> Tensor:
    """Of float64 that is exact in float32."""
    return torch.randn(shape).double().requires_grad_()


def inputs(steps: int) -> tuple[Tensor, Tensor, Tensor]:
    return random(ROWS, steps, WIDTH), random(ITEMS, WIDTH), torch.randint(0, ITEMS, (ROWS,))


def as_backend(backend: str, *tensors: Tensor) -> list[Tensor]:
    dtype = torch.float64 if backend == "reference" else torch.float32
    return [x.detach().to(dtype).requires_grad_() for x in tensors]


def assert_same(backend: str, got: list[Tensor], expected: list[Tensor]) -> None:
    tolerance = 1e-11 if backend == "reference" else 1e-5
    for a, b in zip(got, expected, strict=True):
        difference, magnitude = (x.detach().abs().max() for x in (a - b, b))
        assert difference <= tolerance * magnitude


def value_and_gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_progressive_loss_as_published(backend: str) -> None:
    steps, pl_weight = 3, 0.8
    hidden, weight, target = inputs(steps + 1)
    target[1] = -100
    temperature = annealed_temperatures(TAU, 1.5, steps)
    z = torch.einsum("btd,nd->btn", hidden, weight) / temperature.to(hidden.device)[:, None]
    published = F.cross_entropy(z[:, -1], target) + pl_weight * F.cross_entropy(
        z[:, :-1].reshape(-1, ITEMS), target.repeat_interleave(steps)
    )
    got = as_backend(backend, hidden, weight)
    with use_backend(backend):
        loss = annealed_cross_entropy(
            *got, target, temperature=temperature, step_weight=[pl_weight / steps] * steps + [1.0]
        )
    assert_same(backend, value_and_gradients(loss, *got), value_and_gradients(published, hidden, weight))


@pytest.mark.parametrize("steps", [2, 3, 4, 6])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ensemble_loss_as_published(backend: str, steps: int) -> None:
    hidden, weight, target = inputs(steps)
    z = torch.einsum("btd,nd->btn", hidden, weight) / TAU
    kl = F.kl_div(z.detach().log_softmax(-1).unsqueeze(2), z.softmax(-1).unsqueeze(1), reduction="none").sum(-1)
    kl = kl[:, ~torch.eye(steps, dtype=torch.bool)].mean()
    cross_entropy = F.cross_entropy(hidden.mean(1) @ weight.T / TAU, target)
    published = cross_entropy - 0.37 * kl
    got = as_backend(backend, hidden, weight)
    with use_backend(backend):
        result = ensemble_reasoning_loss(*got, target, temperature=TAU, kl_weight=0.37)
    assert_same(backend, [result.cross_entropy, result.kl], [cross_entropy, kl])
    assert_same(backend, value_and_gradients(result.loss, *got), value_and_gradients(published, hidden, weight))


@pytest.mark.parametrize("backend", BACKENDS)
def test_contrastive_loss_as_published(backend: str) -> None:
    noised, clean = random(ROWS, 4, WIDTH), random(ROWS, 4, WIDTH)
    similarity = torch.einsum("btd,ktd->btk", noised, clean) / TAU
    published = F.cross_entropy(similarity.permute(0, 2, 1), torch.arange(ROWS).unsqueeze(1).expand(-1, 4))
    got = as_backend(backend, noised, clean)
    with use_backend(backend):
        loss = reasoning_info_nce(*got, temperature=TAU)
    assert_same(backend, value_and_gradients(loss, *got), value_and_gradients(published, noised, clean))


@pytest.mark.parametrize("backend", BACKENDS)
def test_contrastive_loss_is_cross_entropy_with_the_clean_states_as_catalogue(backend: str) -> None:
    noised, clean = random(ROWS, 1, WIDTH), random(ROWS, 1, WIDTH)
    got = as_backend(backend, noised, clean)
    with use_backend(backend):
        contrastive = reasoning_info_nce(*got, temperature=TAU)
        cross_entropy = annealed_cross_entropy(got[0], got[1][:, 0], torch.arange(ROWS), temperature=TAU)
        results = [value_and_gradients(loss, *got) for loss in (contrastive, cross_entropy)]
    assert_same(backend, results[0], [x.double() for x in results[1]])


@pytest.mark.parametrize("form", ["official", "paper"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ensemble_loss_without_divergence_is_cross_entropy_of_the_mean_state(backend: str, form: str) -> None:
    hidden, weight, target = inputs(4)
    got = as_backend(backend, hidden, weight)
    with use_backend(backend):
        ensemble = ensemble_reasoning_loss(*got, target, temperature=TAU, kl_weight=0.0, kl_form=form).loss
        mean_state = annealed_cross_entropy(got[0].mean(1, keepdim=True), got[1], target, temperature=TAU)
        results = [value_and_gradients(loss, *got) for loss in (ensemble, mean_state)]
    assert_same(backend, results[0], [x.double() for x in results[1]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_cross_entropy_over_the_catalogue_is_attention_to_it(backend: str) -> None:
    """With queries h, keys and values e, attention's output is the mean item: dh = c / tau (mean item - e_y), and
    attention's own gradient of the values, for the output gradient c h / tau, is dE but for the targets' part."""
    hidden, weight, target = inputs(1)
    h, coefficient = hidden[:, 0], torch.rand(ROWS, dtype=torch.float64)
    values = weight.detach().clone().requires_grad_()
    mean_item = F.scaled_dot_product_attention(h[None, None], weight[None, None], values[None, None], scale=1 / TAU)[
        0, 0
    ]
    scaled = (coefficient[:, None] * h / TAU).detach()
    (through_values,) = torch.autograd.grad((mean_item * scaled).sum(), values)
    expected_weight = through_values.index_add(0, target, -scaled)
    expected_hidden = coefficient[:, None] / TAU * (mean_item - weight[target])
    got = as_backend(backend, hidden, weight)
    with use_backend(backend):
        losses = annealed_cross_entropy(*got, target, temperature=TAU, reduction="none")
        loss = (losses[:, 0] * coefficient.to(losses.dtype)).sum()
        assert_same(backend, list(torch.autograd.grad(loss, got)), [expected_hidden[:, None].detach(), expected_weight])


def two_states(backend: str) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Two states h [R, 2, d] and the items; KL(p_0 || p_1), and its gradient in h, of the paper's form alone."""
    hidden, weight, target = inputs(2)
    got = as_backend(backend, hidden, weight)
    with use_backend(backend):
        with_kl, without = (
            ensemble_reasoning_loss(*got, target, temperature=TAU, kl_weight=weight_of_kl, kl_form="paper")
            for weight_of_kl in (1.0, 0.0)
        )
        gradients = [torch.autograd.grad(x.loss, got[0])[0].double() for x in (with_kl, without)]
    return hidden.detach(), weight.detach(), with_kl.kl, [gradients[1] - gradients[0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_divergence_from_log_normalisers_and_the_mean_item(backend: str) -> None:
    """KL(p_0 || p_1) = (h_0 - h_1) . mean item of p_0 / tau - lse_0 + lse_1."""
    h, e, kl, _ = two_states(backend)
    z = h @ e.T / TAU
    lse = z.logsumexp(-1)
    mean_item = z[:, 0].softmax(-1) @ e
    expected = ((h[:, 0] - h[:, 1]) * mean_item).sum(-1) / TAU - lse[:, 0] + lse[:, 1]
    assert_same(backend, [kl], [expected.mean()])


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_the_divergence_is_a_covariance_and_a_difference_of_means(backend: str) -> None:
    """dKL/dh_0 = Cov_0(e) (h_0 - h_1) / tau^2 and dKL/dh_1 = (mean_1 - mean_0) / tau."""
    h, e, _, (gradient,) = two_states(backend)
    p = (h @ e.T / TAU).softmax(-1)
    mean = p @ e
    covariance = torch.einsum("bn,nd,ne->bde", p[:, 0], e, e) - mean[:, 0, :, None] * mean[:, 0, None]
    first = torch.einsum("bde,be->bd", covariance, h[:, 0] - h[:, 1]) / TAU**2
    second = (mean[:, 1] - mean[:, 0]) / TAU
    assert_same(backend, [gradient], [torch.stack([first, second], 1) / ROWS])


@pytest.mark.parametrize("backend", BACKENDS)
def test_divergence_in_both_orders_has_the_symmetric_gradient(backend: str) -> None:
    """Of KL_01 + KL_10: dz_i = p_i (u_i - E_i[u_i]) + 2 (p_i - mean p), u_i = 2 (z_i - mean z)."""
    hidden, weight, target = inputs(2)
    got = as_backend(backend, hidden, weight)

    def divergence(states: Tensor, kl_weight: float) -> Tensor:
        return ensemble_reasoning_loss(
            states, got[1], target, temperature=TAU, kl_weight=kl_weight, kl_form="paper"
        ).loss

    with use_backend(backend):
        both = sum(divergence(x, 0.0) - divergence(x, 1.0) for x in (got[0], got[0].flip(1)))
        assert isinstance(both, Tensor)
        gradients = torch.autograd.grad(both, got)
    z = hidden.detach() @ weight.detach().T / TAU
    p = z.softmax(-1)
    u = 2 * (z - z.mean(1, keepdim=True))
    dz = (p * (u - (p * u).sum(-1, keepdim=True)) + 2 * (p - p.mean(1, keepdim=True))) / (ROWS * TAU)
    expected = [dz @ weight.detach(), torch.einsum("btn,btd->nd", dz, hidden.detach())]
    assert_same(backend, list(gradients), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_vector_added_to_every_item_changes_no_loss(backend: str) -> None:
    """It adds the same to all logits of a state, whose softmax does not see it."""
    hidden, weight, target = inputs(3)
    shift = random(WIDTH).detach()
    h, e, moved = (x.detach() for x in as_backend(backend, hidden, weight, weight + shift))
    with use_backend(backend):
        for table in (e, moved):
            losses = [
                annealed_cross_entropy(h, table, target, temperature=TAU),
                *ensemble_reasoning_loss(h, table, target, temperature=TAU, kl_weight=0.3),
                *ensemble_reasoning_loss(h, table, target, temperature=TAU, kl_weight=0.3, kl_form="paper"),
            ]
            if table is e:
                expected = [x.double() for x in losses]
    assert_same(backend, losses, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_official_ensemble_loss_does_not_see_the_order_of_the_states(backend: str) -> None:
    hidden, weight, target = inputs(4)
    order = torch.tensor([2, 0, 3, 1])
    got = as_backend(backend, hidden, weight)
    with use_backend(backend):
        plain, permuted = (
            ensemble_reasoning_loss(x, got[1], target, temperature=TAU, kl_weight=0.3)
            for x in (got[0], got[0][:, order])
        )
        assert_same(backend, list(permuted), [x.double() for x in plain])
        gradients = [value_and_gradients(x.loss, *got) for x in (plain, permuted)]
    assert_same(backend, gradients[1], [x.double() for x in gradients[0]])
