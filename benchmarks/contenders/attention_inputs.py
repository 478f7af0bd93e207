"""Attention of reasoning tokens by several contenders, over rotating sets of inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from contenders import careful, naive
from rearec_kernels import PrefixRows, ReasoningCache, cached_reason_attention

KeysAndValues = tuple[Tensor, Tensor]
Results = Sequence[Tensor]
Calls = list[Callable[[], Results]]

FEWEST_SLOTS = 5  # that a row of a ragged batch sees


@dataclass(frozen=True)
class Shape:
    """Rows R over prefixes of C slots, each row's own or shared by some, heads H of width D.

    ragged: rows see 5 to C slots, uniformly: the last ones of a prefix of their own, the first ones of a shared prefix.
    """

    rows: int
    steps: int
    ragged: bool
    dtype: torch.dtype = torch.float32
    rows_per_prefix: int = 1
    slots: int = 50
    heads: int = 2
    width: int = 128

    @property
    def prefixes(self) -> int:
        return self.rows // self.rows_per_prefix

    @property
    def lengths(self) -> str:
        return "ragged" if self.ragged else "full"

    @property
    def token_bytes(self) -> int:
        """Of one row's q, k, v or output, or of one slot's K or V."""
        return self.heads * self.width * self.dtype.itemsize


class Inputs:
    """One set of inputs, and the forms of it that the contenders take."""

    def __init__(self, shape: Shape, device: torch.device, seed: int) -> None:
        self.shape = shape
        generator = torch.Generator(device).manual_seed(seed)

        def random(*size: int) -> Tensor:
            return torch.randn(*size, shape.heads, shape.width, dtype=shape.dtype, device=device, generator=generator)

        self.prefix: KeysAndValues = random(shape.prefixes, shape.slots), random(shape.prefixes, shape.slots)
        self.q, self.k, self.v, self.upstream = ([random(shape.rows) for _ in range(shape.steps)] for _ in range(4))

        low = min(FEWEST_SLOTS, shape.slots) if shape.ragged else shape.slots
        seen = torch.randint(low, shape.slots + 1, (shape.rows,), device=device, generator=generator)
        self.row_prefix = torch.arange(shape.rows, device=device) * shape.prefixes // shape.rows
        if self.shares_prefixes:
            self.start, self.end = torch.zeros_like(seen), seen
        else:
            self.start, self.end = shape.slots - seen, torch.full_like(seen, shape.slots)
        shared = {"row_prefix": self.row_prefix.int()} if self.shares_prefixes else {}
        self.rows = PrefixRows(start=self.start.int(), end=self.end.int(), **shared)

        slot = torch.arange(shape.slots, device=device)
        self.seen = (slot >= self.start[:, None]) & (slot < self.end[:, None])
        self.additive_mask = torch.where(self.seen, 0.0, -1e4)[:, None, None].to(shape.dtype)

    @property
    def shares_prefixes(self) -> bool:
        return self.shape.prefixes != self.shape.rows

    @cached_property
    def own_prefix(self) -> KeysAndValues:
        """K and V [R, C, H, D] with every row's own copy of its prefix, for those who cannot share one."""
        k, v = self.prefix
        return (k[self.row_prefix], v[self.row_prefix]) if self.shares_prefixes else (k, v)

    @cached_property
    def visible(self) -> Tensor | None:
        """Bool [R, 1, 1, C + steps], None when every slot is real."""
        if not self.shape.ragged:
            return None
        return F.pad(self.seen, (0, self.shape.steps), value=True)[:, None, None]

    @cached_property
    def bias(self) -> Tensor | None:
        """`visible` as what SDPA adds to the scores, its rows aligned so that no call has to copy it."""
        if self.visible is None:
            return None
        width = self.visible.shape[-1]
        aligned = self.seen.new_zeros(self.shape.rows, 1, 1, math.ceil(width / 16) * 16, dtype=self.shape.dtype)
        bias = aligned[..., :width]
        return bias.masked_fill_(~self.visible, float("-inf"))

    def step_bytes(self) -> int:
        """The fewest bytes that one step without gradients must move.

        Reads K and V of the slots that a row sees (of a shared prefix once) and q, k, v; writes the output, and k and v
        into the cache.
        """
        if self.shares_prefixes:
            slots = torch.zeros_like(self.end[: self.shape.prefixes]).scatter_reduce(
                0, self.row_prefix, self.end, "amax"
            )
        else:
            slots = self.end - self.start
        return (2 * int(slots.sum()) + 6 * self.shape.rows) * self.shape.token_bytes


def steps_without_gradients(sets: Sequence[Inputs]) -> tuple[dict[str, Calls], dict[str, str]]:
    """The contenders, and those that cannot take part, each with its reason.

    Where a prefix is shared, the others hold every row's own copy of it, made beforehand.
    """
    contenders: dict[str, Calls] = {"ours": [], "naive": [], "SDPA": []}
    for s in sets:
        steps = s.q, s.k, s.v
        cache = ReasoningCache.from_prefix(*s.prefix, max_tokens=s.shape.steps, rows=s.rows)
        contenders["ours"].append(partial(_append, cache, *steps))
        contenders["naive"].append(partial(naive.attention_steps, *s.own_prefix, s.additive_mask, *steps))
        preallocated = careful.PreallocatedCache(*s.own_prefix, steps=s.shape.steps)
        contenders["SDPA"].append(partial(preallocated.attention_steps, s.bias, *steps))
    try:
        contenders["FlashAttention"] = _flash_attention(sets)
    except LookupError as reason:
        return contenders, {"FlashAttention": str(reason)}
    return contenders, {}


def _append(cache: ReasoningCache, *steps: list[Tensor]) -> Results:
    return [
        cached_reason_attention(q, k, v, cache, step=step) for step, (q, k, v) in enumerate(zip(*steps, strict=True))
    ]


def _flash_attention(sets: Sequence[Inputs]) -> Calls:
    """Raises LookupError where FlashAttention is not installed, or has nothing for these inputs."""
    try:
        from flash_attn import flash_attn_with_kvcache as attend
    except ImportError as error:
        raise LookupError(f"not importable: {error}") from error
    if sets[0].shape.dtype == torch.float32 or sets[0].shape.steps > 1:
        raise LookupError("takes no float32, and is compared by single steps")
    calls: Calls = []
    for s in sets:
        keys, values = (F.pad(x, (0, 0, 0, 0, 0, 1)).contiguous() for x in s.own_prefix)
        options = {"cache_seqlens": s.end.int(), "causal": True}
        if s.shape.ragged and not s.shares_prefixes:
            options["cache_leftpad"] = s.start.int()
        token = {"k": s.k[0][:, None], "v": s.v[0][:, None]}
        call = partial(attend, s.q[0][:, None], keys, values, **token, **options)
        calls.append(partial(_without_query_dimension, call))
    return calls


def _without_query_dimension(call: Callable[[], Tensor]) -> Results:
    return [call().squeeze(1)]


def training_steps(sets: Sequence[Inputs]) -> dict[str, Calls]:
    """All steps over the growing cache and their gradients: of the prefix's K and V, then of every q, k and v."""
    contenders: dict[str, Calls] = {"ours": [], "naive": [], "SDPA": [], "PyTorch, split": []}
    for s in sets:
        k, v = s.prefix
        slots_first, heads_first = (k, v), (k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous())
        contenders["ours"].append(_gradients(s, slots_first, partial(_ours, s)))
        contenders["naive"].append(_gradients(s, slots_first, partial(_naive, s)))
        for who, attend in (
            ("SDPA", partial(_careful, careful.attention_steps_sdpa, s.bias)),
            ("PyTorch, split", partial(_careful, careful.attention_steps_split, s.visible)),
        ):
            contenders[who].append(_gradients(s, heads_first, attend, heads_first=True))
    return contenders


def _ours(s: Inputs, prefix: KeysAndValues, *steps: list[Tensor]) -> list[Tensor]:
    cache = ReasoningCache.from_prefix(*prefix, max_tokens=s.shape.steps, rows=s.rows)
    return [cached_reason_attention(q, k, v, cache) for q, k, v in zip(*steps, strict=True)]


def _naive(s: Inputs, prefix: KeysAndValues, *steps: list[Tensor]) -> list[Tensor]:
    return naive.attention_steps(*prefix, s.additive_mask, *steps)


def _careful(
    attend: Callable[..., list[Tensor]], mask: Tensor | None, prefix: KeysAndValues, *steps: list[Tensor]
) -> list[Tensor]:
    return attend(*prefix, mask, *steps)


def _gradients(
    s: Inputs, prefix: KeysAndValues, attend: Callable[..., list[Tensor]], heads_first: bool = False
) -> Callable[[], Results]:
    """`attend` and its gradients, on leaves of its own; the prefix's gradients with the slots first."""
    leaves = (prefix[0].detach().requires_grad_(), prefix[1].detach().requires_grad_())
    steps = [[x.detach().requires_grad_() for x in kind] for kind in (s.q, s.k, s.v)]
    flat = [*leaves, *(x for kind in steps for x in kind)]

    def call() -> Results:
        gradients = torch.autograd.grad(attend(leaves, *steps), flat, s.upstream)
        if heads_first:
            return [*(x.transpose(1, 2) for x in gradients[:2]), *gradients[2:]]
        return gradients

    return call
