"""The dropout stream: Philox4x32-10 with counter (key slot, query token, head, row), the same on every backend."""

from __future__ import annotations

import pytest
import torch
from backends import Backend

from rearec_kernels import MaskRows, PrefixRows, ReasoningCache, cached_reason_attention, use_backend
from rearec_kernels.reference.philox import philox_word


@pytest.mark.parametrize(
    "counter, key, word",
    [  # the known answers published with Random123
        ((0, 0, 0, 0), (0, 0), 0x6627E8D5),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, 0x408F276D),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), 0xD16CFE09),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], word: int) -> None:
    seed = key[0] | key[1] << 32
    seed -= (seed >> 63) << 64
    assert int(philox_word(torch.tensor([seed]), *(torch.tensor([c]) for c in counter))) == word


def dropped(
    backend: Backend, dropout_p: float, seed: int, rows: int = 6, slots: int = 70, mask_rows: MaskRows | None = None
) -> torch.Tensor:
    """bool [2 steps, R, H, slots + own tokens], read off the output: V is the identity and all scores are equal."""
    width, device = slots + 2, backend.device
    k = torch.zeros(1, slots, 2, width, device=device)
    v = torch.eye(width, device=device)[:slots, None].expand(slots, 2, width)[None].contiguous()
    which = torch.zeros(rows, dtype=torch.int32, device=device)
    with use_backend(backend.name):
        cache = ReasoningCache.from_prefix(k, v, max_tokens=2, rows=PrefixRows(row_prefix=which))
        zero = torch.zeros(rows, 2, width, device=device)
        masks = []
        for step in range(2):
            own = torch.zeros(rows, 2, width, device=device)
            own[..., slots + step] = 1
            out = cached_reason_attention(zero, zero, own, cache, dropout_p=dropout_p, seed=seed, mask_rows=mask_rows)
            out[..., slots + step + 1 :] = float("nan")
            masks.append(out == 0)
    return torch.stack(masks).cpu()


@pytest.mark.parametrize("seed", [0, 1, -1, 2**62 + 12345])
@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("mask_rows", "numbers"),
    [
        (None, [0, 1, 2, 3, 4, 5]),
        (MaskRows(2, 4, 9), [2, 3, 4, 5, 11, 12]),
        (MaskRows(2**31 - 5, 3, 2**31 - 1), [2**31 - 5 + i for i in range(3)] + [2**32 - 6 + i for i in range(3)]),
    ],
)
def test_every_backend_drops_the_same(
    backend: Backend, dropout_p: float, seed: int, mask_rows: MaskRows | None, numbers: list[int]
) -> None:
    slot, row = torch.arange(72), torch.tensor(numbers)[:, None, None]
    word = torch.stack(
        [philox_word(torch.tensor([seed]), slot, torch.tensor(t), torch.arange(2)[:, None], row) for t in range(2)]
    )
    expected = word < dropout_p * 2**32
    expected[0, ..., 71] = False  # step 0 has no second token
    assert torch.equal(dropped(backend, dropout_p, seed, mask_rows=mask_rows), expected)


def test_rate_and_scale(backend: Backend) -> None:
    mask = dropped(backend, 0.3, seed=5, rows=200)[..., :70]
    rate, n = mask.float().mean().item(), mask.numel()
    assert abs(rate - 0.3) < 5 * (0.3 * 0.7 / n) ** 0.5
    v = torch.ones(400, 30, 1, 1, device=backend.device)
    q, k, own = (torch.full((400, 1, 1), x, device=backend.device) for x in (0.0, 0.0, 1.0))
    with use_backend(backend.name):
        cache = ReasoningCache.from_prefix(torch.zeros_like(v), v, max_tokens=1)
        out = cached_reason_attention(q, k, own, cache, dropout_p=0.3, seed=9)
    assert abs(out.mean().item() - 1) < 5 * (0.3 / 0.7 / (400 * 31)) ** 0.5


def test_seed_none_draws_from_the_generator(backend: Backend) -> None:
    k, v = torch.randn(2, 3, 9, 1, 8, device=backend.device).unbind()
    q = torch.randn(3, 1, 8, device=backend.device)

    def run() -> torch.Tensor:
        cache = ReasoningCache.from_prefix(k, v, max_tokens=1)
        return cached_reason_attention(q, q, q, cache, dropout_p=0.5)

    with use_backend(backend.name):
        torch.manual_seed(1)
        first = run()
        assert not torch.equal(first, run())
        torch.manual_seed(1)
        assert torch.equal(first, run())
