"""A history that items are added to, each of which is encoded once: no item changes the states before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from rearec.data.batch import Batch
from rearec.data.batches import collate_histories
from rearec.engine.passes import Pass
from rearec.models.encoder import EncodedPrefix, TransformerEncoder, TransformerLayer
from rearec.models.item_table import held
from rearec.models.transformer import TransformerBackbone

__all__ = ["GrowingHistory"]

# So many new items are encoded one after the other; more are less work together, with those before them.
ONE_BY_ONE = 4
# The methods that a backbone encodes by.
_METHODS = ("encode", "encode_batch", "arrange", "placed", "append")


class GrowingHistory:
    """One history and its encoding, by `rearec.engine.Engine.growing`; for one thread at a time.

    States are those of the whole history up to rounding. Items are encoded anew where that is what a new item changes:
    all of them, once there are more than the model's window has slots, since every position then moves on; and those of
    a model whose items see later ones (BERT4Rec) or whose encoder is its user's own. It keeps what the engine was made
    of: after `Engine.refresh`, make another.

    Attributes:
        items: the numbers of all items, oldest first.
        encoded: how many items have been encoded one by one, or for the first time.
        encoded_anew: how many times the window has been encoded anew.

    Examples:
        >>> import rearec
        >>> from rearec.engine import Engine
        >>> from rearec.models import ReaRecConfig
        >>> engine = Engine(rearec.ReaRec(ReaRecConfig(num_items=50, method="prl", steps=2, dim=8)))
        >>> history = engine.growing()
        >>> history.extend([3, 1, 4])
        >>> history.extend([15])
        >>> history.states().shape, history.encoded, history.encoded_anew
        (torch.Size([1, 3, 8]), 4, 0)
    """

    def __init__(self, run: Pass, ready: Callable[[], AbstractContextManager[None]]) -> None:
        self._run = run
        self._ready = ready
        self._slots = run.model.config.max_len
        self._can_grow = _can_grow(run)
        self._prefix: EncodedPrefix | None = None
        self.items: list[int] = []
        self.encoded = 0
        self.encoded_anew = 0

    @property
    def nbytes(self) -> int:
        """The memory of the encoding, in bytes."""
        if self._prefix is None:
            return 0
        return sum(x.nbytes for x in (self._prefix.states, *self._prefix.keys, *self._prefix.values))

    def extend(self, items: Sequence[int]) -> None:
        """Adds items, by their numbers, and encodes them.

        Raises ValueError for a number that is no item's.
        """
        numbers = [int(item) for item in items]
        if not numbers:
            return
        count = self._run.model.config.num_items
        if wrong := [number for number in numbers if not 0 <= number < count]:
            raise ValueError(f"items: got {wrong[0]}, expected numbers in [0, {count})")
        known = len(self.items)
        self.items += numbers
        if not self._can_grow:
            self.encoded_anew += known > 0
            self.encoded += len(numbers)
            return
        with self._ready():
            if self._prefix is None or len(numbers) > ONE_BY_ONE or len(self.items) > self._slots:
                self.encoded_anew += known > 0
                self._encode()
            else:
                for slot, number in enumerate(numbers, start=known):
                    self._prefix = self._run.append(number, self._prefix, slot)
        self.encoded += len(numbers)

    def states(self, steps: int | None = None) -> Tensor:
        """[1, T, d], the states of the history as they are scored, h_0 and those of the reasoning steps.

        steps: None for as many as the model was trained for.

        Raises ValueError for steps outside 0..config.steps, a history without items, and a model that was moved since.
        """
        steps = self._run.model.number_of_steps(steps)
        if not self.items:
            raise ValueError("the history has no items yet")
        with self._ready():
            batch, prefix = self._batch(), self._prefix
            states = self._run(batch, steps) if prefix is None else self._run.reasoned(batch, prefix, steps)
        return states.to(held(self._run.tables[1]).dtype)

    def _batch(self) -> Batch:
        return collate_histories([self.items[-self._slots :]], self._slots).to(self._run.model.device)

    def _encode(self) -> None:
        """The window, anew; its keys and values are moved to where there is room for those of later items."""
        batch = self._batch()
        prefix = self._run.model.backbone.encode_batch(batch, self._run.tables[0])
        if batch.items.shape[1] == self._slots:
            self._prefix = prefix
            return
        self._prefix = EncodedPrefix(prefix.states, *(tuple(map(self._roomy, x)) for x in (prefix.keys, prefix.values)))

    def _roomy(self, x: Tensor) -> Tensor:
        """[1, C, H, D] -> the same in the first slots of as many as the window has."""
        room = x.new_zeros((1, self._slots, *x.shape[2:]))
        room[:, : x.shape[1]] = x
        return room


def _can_grow(run: Pass) -> bool:
    """Whether an item's state depends on nothing behind it, and is computed as `TransformerBackbone.append` does."""
    backbone = run.model.backbone
    if not isinstance(backbone, TransformerBackbone) or backbone.encoder.bidirectional or not backbone.shares_windows:
        return False
    is_known = type(backbone.encoder) is TransformerEncoder and all(
        type(layer) is TransformerLayer for layer in backbone.encoder.layers
    )
    return is_known and all(getattr(type(backbone), name) is getattr(TransformerBackbone, name) for name in _METHODS)
