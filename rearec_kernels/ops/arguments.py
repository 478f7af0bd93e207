"""The arguments of every op: one record per op, of which the op's schema is made and which every backend receives.

Arguments that several ops share are a record of their own (`Rows`, `MaskRows`, `Needed`, and a loss's own arguments,
which its forms have in common); such an op takes several records, one after the other.
"""

# No `from __future__ import annotations`: the registry reads the types.
from collections.abc import Sequence
from typing import Annotated, NamedTuple, TypeVar

import torch
from torch import Tensor

Index = TypeVar("Index", int, Tensor)
Written = Annotated[Tensor, "written in place"]


class Rows(NamedTuple):
    """Which slots of which prefix each row sees, int32 [R] each (made by rows.PrefixRows)."""

    start: Tensor  # the first slot
    end: Tensor  # the slot behind the last
    row_prefix: Tensor
    order: Tensor  # the rows, sorted by prefix


class MaskRows(NamedTuple):
    """Which rows of a dropout mask the rows of a call are, where the call has a part of the rows of a larger one.

    Dropout drops by the numbers of rows: a call with some of the rows of a larger call then drops what that one drops
    of these rows, if both get the same seed. The rows of the call are, ``rows`` at a time, the rows
    [first, first + rows) of runs of ``of`` rows.

    Attributes:
        first: the number of the call's first row, 0 or more.
        rows: how many of a run's rows the call has, 1 or more.
        of: how many rows a run has, at least first + rows, below 2^31.

    Examples:
        The last two of three rows, and the last two of each of two runs of three.

        >>> MaskRows(first=1, rows=2, of=3).number(torch.arange(4))
        tensor([1, 2, 4, 5])
        >>> x, weight, bias = torch.ones(3, 4), torch.ones(4), torch.ones(4)
        >>> whole = dropout_add_layer_norm(x, None, weight, bias, dropout_p=0.5, seed=1)
        >>> part = dropout_add_layer_norm(x[1:], None, weight, bias, dropout_p=0.5, seed=1, mask_rows=MaskRows(1, 2, 3))
        >>> part.equal(whole[1:])
        True
    """

    first: int
    rows: int
    of: int

    def number(self, row: Index) -> Index:
        """The numbers of rows of the call."""
        return self.first + row + row // self.rows * (self.of - self.rows)


class Attention(NamedTuple):
    """Followed by `Rows`, as in all records of attention, and `MaskRows`.

    Gives the output, and probabilities of slots and tokens.
    """

    q: Tensor  # [R, Q, H, D], the last Q tokens
    token_k: Sequence[Tensor]  # [R, n, Hkv, D] for each call that appended n tokens, this one last
    token_v: Sequence[Tensor]
    prefix_k: Tensor  # [S, C, Hkv, D], any outer strides
    prefix_v: Tensor
    carriers: Sequence[Tensor]  # the four that bring the gradient of the prefix to where it is computed, or none
    scale: float
    dropout_p: float
    seed: Tensor | None  # int64 [1]
    keep: bool  # the probabilities, for a backward pass


class AttentionDecode(NamedTuple):
    """Appends to buffers and attends; nothing is kept for gradients. Followed by `Rows` and `MaskRows`."""

    q: Tensor  # [R, Q, H, D]
    k: Tensor  # [R, Q, Hkv, D], appended
    v: Tensor
    prefix_k: Tensor  # [S, C, Hkv, D]
    prefix_v: Tensor
    token_k: Written  # [R, max_tokens, Hkv, D]
    token_v: Written
    length: int  # tokens before these
    scale: float
    dropout_p: float
    seed: Tensor | None


class AttentionBackward(NamedTuple):
    """Gives the gradients of q and of each of token_k and token_v, and that of the scores of the prefix slots."""

    grad_out: Tensor  # [R, Q, H, D]
    q: Tensor
    token_k: Sequence[Tensor]
    token_v: Sequence[Tensor]
    prefix_k: Tensor
    prefix_v: Tensor
    prefix_probs: Tensor  # [R, H, Q, C], negative where dropped
    token_probs: Tensor  # [R, H, Q, tokens]
    scale: float
    dropout_p: float


class OpenPrefix(NamedTuple):
    """Gives the carriers of each step, four by four."""

    prefix_k: Tensor
    prefix_v: Tensor
    offsets: Tensor  # int32 [S + 1]: where the rows of each prefix begin in Rows.order
    steps: int
    queries: int
    heads: int


class PrefixGradient(NamedTuple):
    """Gives the gradients of prefix_k and prefix_v. A tensor of each kind for every step."""

    dscores: Sequence[Tensor]  # [R, H, Q, C]
    probs: Sequence[Tensor]
    q: Sequence[Tensor]  # [R, Q, H, D]
    grad_out: Sequence[Tensor]
    prefix_k: Tensor
    prefix_v: Tensor
    offsets: Tensor


class AnnealedCrossEntropy(NamedTuple):
    hidden: Tensor  # [R, T, d]
    weight: Tensor  # [N, d]
    target: Tensor  # [R]
    ignore_index: int
    temperature: Tensor  # float64 [T] on the CPU
    step_weight: Tensor  # likewise
    precision: str
    soft_items: Tensor | None  # [R, M], -1 where there is none; then `target` only says which rows are ignored
    soft_mass: Tensor | None  # [R, M] or [R, T, M], floating point
    total_mass: Tensor | None  # [R, T]: in gradients, in place of the sum of the masses, where items are elsewhere too


class EnsembleReasoning(NamedTuple):
    hidden: Tensor  # [R, T, d]
    weight: Tensor  # [N, d]
    target: Tensor  # [R]
    ignore_index: int
    temperature: float
    kl_weight: float
    kl_form: str
    precision: str


class EnsembleSums(NamedTuple):
    """What a pass over the items finds for `EnsembleReasoning`, of which the losses of the rows are made and, in the
    same order as here, what comes before its arguments in a pass of its own for gradients. Anything in ignored rows.

    For these passes a target may be -1, of an item that is not in `weight`."""

    largest: Tensor  # [R, T + 1]: the largest logit of every state and of their mean, not over the temperature
    total: Tensor  # [R, T + 1]: the sum of p = exp((z - the largest) / temperature)
    spread: Tensor  # [R, T]: the sum of p u, u_i = sum of z_i - z_j over the other states ("paper": the later ones)
    target_logit: Tensor  # [R]: of the mean, relative to the largest, over the temperature; 0 without a target


class InfoNCE(NamedTuple):
    noised: Tensor  # [R, T, d]
    clean: Tensor  # [J, T, d]
    row_group: Tensor | None  # [J]
    first_key: int  # the row of clean that is the positive of row 0 of noised
    temperature: float
    precision: str


class Needed(NamedTuple):
    """Which gradients of a loss are computed: of its first and of its second tensor."""

    first: bool
    second: bool


def needed_of(first: Tensor, second: Tensor) -> Needed:
    """Those that somebody will ask for."""
    enabled = torch.is_grad_enabled()
    return Needed(enabled and first.requires_grad, enabled and second.requires_grad)


class RowGradients(NamedTuple):
    """What the backward pass of a loss per row gets, before the loss's own arguments."""

    upstream: Tensor  # [R, T]
    statistics: Tensor  # [R, T, 2], from the forward pass


class ScaledGradients(NamedTuple):
    """`first` and `second` are there for their dtypes, and for a second differentiation to be refused."""

    upstream: Tensor  # []
    first: Tensor
    second: Tensor
    first_gradient: Tensor  # of first's shape, or [0]
    second_gradient: Tensor


class TopK(NamedTuple):
    hidden: Tensor  # [R, d]
    weight: Tensor  # [N, d]
    k: int
    exclude_offsets: Tensor | None  # [R + 1]; without them, the items are barred for all rows
    exclude_items: Tensor | None  # [M]
    precision: str
    tiles: Sequence[Tensor] | None  # what the op `catalog_tiles` made of the table for this backend and precision


class Rank(NamedTuple):
    hidden: Tensor  # [R, d]
    weight: Tensor  # [N, d]
    target: Tensor  # [R]
    exclude_offsets: Tensor | None
    exclude_items: Tensor | None
    precision: str
    target_bonus: Tensor | None  # [R], floating point: added to the target's score
    target_score: Tensor | None  # float32 [R]: what items are compared with; no item is the target then
    tiles: Sequence[Tensor] | None  # as in TopK


class CatalogTiles(NamedTuple):
    weight: Tensor  # [N, d], float32 or bfloat16, its items dense
    precision: str


class LayerNorm(NamedTuple):
    """Followed by `MaskRows`."""

    x: Tensor  # [rows, d]
    residual: Tensor | None  # [rows, d]
    weight: Tensor  # [d]
    bias: Tensor
    eps: float
    dropout_p: float
    output_dropout_p: float
    seed: Tensor | None  # int64 [1]


class LayerNormGradient(NamedTuple):
    """What the backward pass gets, before the arguments of the forward pass."""

    grad_out: Tensor  # [rows, d]
    statistics: Tensor  # float32 [rows, 2]


class Rollout(NamedTuple):
    """Followed by `Rows`."""

    hidden: Tensor  # [R, d]
    weights: Sequence[Tensor]  # those of the layers; if packed, what the backend's `pack_layers` made of them
    packed: bool
    position_embedding: Tensor | None  # [steps or more, d]
    keys: Sequence[Tensor]  # of every layer, [S, C, heads, d / heads]
    values: Sequence[Tensor]
    heads: int
    ffn: int
    steps: int
    norm_eps: float
    keep: bool  # whether K and V of the new tokens are returned
