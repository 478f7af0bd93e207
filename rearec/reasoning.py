"""The ReaRec model: encode the prefix once, then let every row reason for K steps over it (paper, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rearec.models.backbone import Backbone
from rearec.models.build import build_backbone
from rearec.models.config import OWN_BACKBONE, ReaRecConfig
from rearec.models.encoder import init_weights
from rearec.models.item_table import ItemTable, held, split_embedding
from rearec.models.saved import SavedModel
from rearec.models.title_encoder import TitleEncoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from rearec.data.batch import Batch, Part

__all__ = ["ReaRec", "Rollout"]


@dataclass(frozen=True)
class Rollout:
    """The states of R rows, as they are scored.

    states: [R, T, d], T = steps + 1: h_0, the state of the last item, then one state per reasoning step.
    weight: [N, d], the table that they are scored with; where several processes hold it, a `CatalogShard` of it.
    noised: [R, steps, d], the states of the noised branch at steps 1..K (PRL's contrastive term), or None.
    neighbors: int64 [R, m], the items that the graph knows to follow each row's last one, the likeliest first, -1 where
        there are fewer; None without a teacher. The model does not read them: they are for the objective.
    gather: where several processes train together: gives the rows [R', ...] of all of them for this one's [R, ...], of
        any number of tensors, and where its own begin, differentiably (`rearec.distributed.gather_rows`); all of them
        have to call it. None: an objective sees the rows of one process.
    of_all: where several processes hold the table, whose losses are those of the rows of all: makes the mean over one's
        own rows such a loss, of the same value on all of them (`rearec.distributed.mean_of_all`).
    log_inclusion: [N], where ``weight`` is a sample of the catalogue (`rearec.training.candidates`): the logarithm of
        the probability with which each item is in it. Targets and neighbours are then numbers of the sample's items.

    Examples:
        >>> import torch
        >>> from rearec.reasoning import Rollout
        >>> rollout = Rollout(states=torch.randn(2, 3, 8), weight=torch.randn(50, 8))
        >>> (rollout.states[:, -1] @ rollout.weight.T).shape  # every item's score by the last state
        torch.Size([2, 50])
    """

    states: Tensor
    weight: ItemTable
    noised: Tensor | None = None
    neighbors: Tensor | None = None
    log_inclusion: Tensor | None = None
    gather: Callable[..., tuple[tuple[Tensor, ...], int]] | None = None
    of_all: Callable[[Tensor], Tensor] | None = None

    def __repr__(self) -> str:
        tensors = {name: value for name, value in vars(self).items() if name not in ("gather", "of_all")}
        tensors["weight"] = held(self.weight)
        shapes = {name: None if value is None else list(value.shape) for name, value in tensors.items()}
        return f"Rollout({', '.join(f'{name}={shape}' for name, shape in shapes.items())})"


class ReaRec(SavedModel):
    """A sequential recommender that reasons in latent space before it answers.

    Windows of items are encoded once; every row of the batch (one prediction: a window and how much of it is seen)
    then computes ONE token per reasoning step, which attends to the row's part of the window and to the row's earlier
    reasoning tokens. Step k feeds back LayerNorm(h_{k-1} + RPE_k), with RPE absent in ``naive``.

    The model is its modules and keeps nothing derived from their weights; `rearec.engine.Engine` does, for inference.

    Args:
        config: settings.
        features: [num_items, feature_dim], for the backbones that read features, or the `TitleEncoder` that makes them
            where config names a text encoder.
        backbone: an encoder of one's own, for a config whose backbone is ``own`` or the name of code; of the latter,
            `rearec.models.code.load_backbone` makes it.
        rows: which rows of the item table this process is to hold, where several hold it together and make every pass
            of the model at the same time (`rearec.distributed.held_rows`); None: all.

    Raises:
        ValueError: features are missing or of another shape, there is an encoder without such a config, or such a
            config without an encoder, or rows of a table that the backbone has not.

    Examples:
        >>> import rearec
        >>> from rearec.data import collate_histories
        >>> from rearec.models import ReaRecConfig
        >>> model = rearec.ReaRec(ReaRecConfig(num_items=50, method="prl", steps=2, dim=8))
        >>> batch = collate_histories([[3, 1, 4], [15]], max_len=model.config.max_len)
        >>> model(batch).states.shape
        torch.Size([2, 3, 8])
    """

    def __init__(
        self,
        config: ReaRecConfig,
        features: Tensor | TitleEncoder | None = None,
        *,
        backbone: Backbone | None = None,
        rows: range | None = None,
    ) -> None:
        super().__init__()
        if backbone is not None and not config.has_own_backbone:
            raise ValueError(
                f"backbone: got one beside a config of {config.backbone!r}, expected {OWN_BACKBONE!r} there"
            )
        self.config = config
        self.backbone = build_backbone(config, features, rows) if backbone is None else backbone
        self.reasoning_position_embedding: nn.Embedding | None = None
        # created last: with one seed, all methods start from the same backbone
        if config.has_reasoning_positions:
            self.reasoning_position_embedding = nn.Embedding(config.steps, config.dim)
            self.reasoning_position_embedding.apply(init_weights)

    @property
    def device(self) -> torch.device:
        """Where the model is: the device of its first parameter."""
        first = next(chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def weight(self) -> Tensor:
        """The table [N, d] that states are scored with: a row's score for item n is its final state times weight[n].

        Every access computes it, of the items' texts where the backbone reads them; `forward` returns it too. Where
        several processes hold the table, those of its rows that are here.
        """
        return held(self.item_tables()[1])

    def item_tables(self) -> tuple[ItemTable, ItemTable]:
        """[N, d] each: the items as histories show them, and as they are scored (`Backbone.item_tables`).

        Raises ValueError where the backbone makes another number of them, or of another width, than config says.
        """
        table, weight = self.backbone.item_tables()
        if isinstance(weight, Tensor) and weight.shape != (self.config.num_items, self.config.dim):
            raise ValueError(
                f"backbone: its item table has shape {list(weight.shape)}, expected num_items and dim of the config, "
                f"{[self.config.num_items, self.config.dim]}"
            )
        return table, weight

    def number_of_steps(self, steps: int | None) -> int:
        """`steps`, or as many as the model was trained for where it is None; ValueError outside 0..config.steps."""
        steps = self.config.steps if steps is None else steps
        if not 0 <= steps <= self.config.steps:
            raise ValueError(f"steps: got {steps}, expected 0..{self.config.steps} (trained steps)")
        return steps

    def forward(
        self,
        batch: Batch,
        *,
        steps: int | None = None,
        noise: float = 0.0,
        return_noised: bool = False,
        tables: tuple[ItemTable, ItemTable] | None = None,
        prefix: Any = None,
    ) -> Rollout:
        """Encode the batch's windows and reason for `steps` steps (None: as many as the model was trained for).

        batch: on the model's device, windows of at most config.max_len slots, every row with at least one item.
        noise: standard deviation γ of the Gaussian noise added to the inputs of the noised branch, which is computed
        only with return_noised. The branch follows its own chain of K/V; at every step its input is the clean state,
        plus RPE, plus noise, before the LayerNorm (paper, section 3.4). Both branches share the prefix, unless
        config.noised_prefix gives it one of its own.
        tables: what `item_tables` returned, where the caller has it already.
        prefix: what `Backbone.encode_batch` returned for this batch, likewise; not with a noised branch.

        Raises ValueError for steps outside 0..config.steps and for a batch that does not fit the model.
        """
        steps = self.number_of_steps(steps)
        batch = self.backbone.arrange(batch)
        encoded = reasoned = batch
        if return_noised:
            own_prefix = self.config.noised_prefix == "own"
            reasoned = _with_noised_rows(batch, own_prefix)
            encoded = reasoned if own_prefix else batch
        table, weight = self.item_tables() if tables is None else tables
        prefix = self.backbone.encode_batch(encoded, table) if prefix is None else prefix
        states = [prefix.states[: batch.num_rows]]
        noised: list[Tensor] = []
        reason = self.backbone.reason_batch(prefix, reasoned, steps) if steps > 0 else None
        for step in range(steps):
            assert reason is not None
            token = states[-1]
            if self.reasoning_position_embedding is not None:
                token = token + self.reasoning_position_embedding.weight[step]
            if return_noised:
                token = torch.cat([token, token + noise * _drawn_like(token, batch.part)])
            clean, *noisy = reason(token).split(batch.num_rows)
            states.append(clean)
            noised.extend(noisy)
        scored = self.backbone.scored
        return Rollout(
            scored(torch.stack(states, dim=1)),
            weight,
            scored(_stack(noised, prefix.states)) if return_noised else None,
        )

    def num_parameters(self) -> int:
        """How many numbers are trained, those that other processes hold included."""
        split = split_embedding(self)
        here = sum(parameter.numel() for parameter in self.parameters())
        return here + (0 if split is None else split.elsewhere)

    def frozen_state(self) -> dict[str, Tensor]:
        """The part of the state dict that training does not change: the items' features or titles, if any."""
        return {f"backbone.{name}": value for name, value in self.backbone.frozen_state().items()}

    def final_state(self, states: Tensor) -> Tensor:
        """The state that ranks items: [R, T, d] -> [R, d]. ERL averages all states, the paper's others take the last.

        An objective of one's own says which.
        """
        return states.mean(dim=1) if self.config.traits.readout == "mean" else states[:, -1]


def _drawn_like(token: Tensor, part: Part | None) -> Tensor:
    """Normal numbers [R, d]; for a part of a batch those that its rows would have got in the whole of it."""
    if part is None:
        return torch.randn_like(token)
    first, rows, of = part.rows
    return torch.randn(of, token.shape[1], dtype=token.dtype, device=token.device)[first : first + rows]


def _with_noised_rows(batch: Batch, own_prefix: bool) -> Batch:
    """The rows once for each branch, over the same windows or, with `own_prefix`, over a copy of them."""
    copies = 2 if own_prefix else 1
    first_window = batch.num_windows * (copies - 1)
    return replace(
        batch,
        items=batch.items.repeat(copies, 1),
        lengths=batch.lengths.repeat(copies),
        row_prefix=torch.cat([batch.row_prefix, batch.row_prefix + first_window]),
        end=batch.end.repeat(2),
        target=batch.target.repeat(2),
        group=batch.group.repeat(2),
        row=None,
        slot=None if batch.slot is None else batch.slot.repeat(2),
    )


def _stack(steps: list[Tensor], like: Tensor) -> Tensor:
    """[R, d] per step -> [R, steps, d], also for no step at all."""
    return torch.stack(steps, dim=1) if steps else like.new_empty(like.shape[0], 0, like.shape[1])
