"""A frozen view of a model for inference: what is derived from its weights is taken once and refreshed when told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.data.batch import Batch
from rearec.data.item_graph import RowScores
from rearec.engine.evaluation_mode import evaluation_mode
from rearec.engine.graphed import Capture, GraphedPasses
from rearec.engine.growing import GrowingHistory
from rearec.engine.native import native_rollout
from rearec.engine.passes import Pass
from rearec.engine.precision import check_precision, in_precision, warn_where_slow
from rearec.engine.words import StatePrecision
from rearec.models.item_table import ItemTable, detached, held
from rearec.reasoning import ReaRec, Rollout
from rearec_kernels import CatalogShard, PreparedCatalog, prepare_catalog

__all__ = ["Engine"]


class Engine:
    """Computes the states of batches with a model's weights as they were when the engine was made or refreshed.

    **An engine is frozen: whoever changes the model afterwards calls `refresh()`; until then its answers may mix old
    and new weights.** Nothing is watched. Training, ``load_state_dict``, writes to a weight, another layer and a hook
    are such changes; only a model that was moved to another device or dtype is noticed, and refused.

    Taken once are the item table (of a backbone that reads texts, all texts go through it), the prepared catalogue,
    whether the reasoning steps run as one native call, with the layers' weights packed for it, the graph prior, and on
    a GPU the CUDA graphs (`GraphedPasses`). The rest of the model is used as it is, by reference.

    Passes run without gradients and in evaluation mode; a model in training mode is put back into it by the last call
    to end; nobody else may set its mode meanwhile. Any number of threads may call one engine, or several of one model;
    `refresh` is for one thread while no other calls. A copy takes a view of its own, of the copy of the model. Autocast
    of the caller holds for a pass; the table is as exact as where the engine was made.

    With ``precision="bf16"`` the pass multiplies numbers of bfloat16 (8 bits) and sums them in float32: every linear
    layer of the encoder and of the reasoning steps, by PyTorch's autocast. It pays on a GPU and on CPUs with products
    of bfloat16 (AMX, AVX512-BF16, Arm from Armv8.6 on); elsewhere the numbers are the same, take longer than "fp32",
    and a warning says so. The item table, and the search in it, stay as exact as with "fp32".

    Args:
        model: on the device to compute on.
        precision: of the states, "fp32" (as the model's weights are) or "bf16".
        max_graphs, capture: as for `GraphedPasses`.

    Attributes:
        model, precision: as given.
        device: of the model.
        weight: [N, d], the table that states are scored with.
        catalog: what `rearec_kernels.prepare_catalog` made of it, for `catalog_topk` and `catalog_rank`, and with
            `bonus` for `rearec.engine.retrieval`.
        is_collective: whether several processes hold the table: all of them make every pass, and every search in the
            catalogue, at the same time. `weight` has the rows that are here, `catalog` stands for all.
        prior: the model's graph prior, None without one.

    Raises:
        ValueError: the backbone's item table is of another shape than the config says, or max_graphs is below 1.
        UserError: the graph prior is for another model, or an unknown precision.

    Examples:
        >>> import rearec
        >>> from rearec.data import collate_histories
        >>> from rearec.engine import Engine
        >>> from rearec.models import ReaRecConfig
        >>> from rearec_kernels import catalog_topk
        >>> model = rearec.ReaRec(ReaRecConfig(num_items=50, method="prl", steps=2, dim=8))
        >>> engine = Engine(model)
        >>> states = engine(collate_histories([[3, 1, 4], [15]], max_len=50)).states
        >>> scores, items = catalog_topk(model.final_state(states), engine.catalog, 5)
        >>> items.shape
        torch.Size([2, 5])
        >>> _ = model.backbone.item_embedding.weight.data.mul_(2)  # training, for example
        >>> engine.refresh()
    """

    def __init__(
        self,
        model: ReaRec,
        *,
        precision: StatePrecision = "fp32",
        max_graphs: int = 64,
        capture: Capture | None = None,
    ) -> None:
        check_precision(precision)
        self.model = model
        self.precision = precision
        self._max_graphs = max_graphs
        self._capture = capture
        self.refresh()
        warn_where_slow(precision, self.device)

    def __reduce__(self) -> tuple[Callable[..., Engine], tuple[ReaRec]]:
        make = partial(Engine, precision=self.precision, max_graphs=self._max_graphs, capture=self._capture)
        return make, (self.model,)

    def refresh(self) -> None:
        """Takes the model as it is now; graphs that were captured are dropped."""
        if self.model.prior is not None:
            self.model.prior.check(self.model.config)
        # tensors made in inference mode could not be used outside of it
        with evaluation_mode(self.model), torch.inference_mode(False), torch.no_grad():
            tables = self.model.item_tables()
            self._tables = detached(tables[0]), detached(tables[1])
            self.weight = held(self._tables[1])
            self.catalog = _prepared(self._tables[1])
            native = native_rollout(self.model)
        self.prior = self.model.prior
        self.device = self.weight.device
        self.is_collective = isinstance(self.catalog, CatalogShard)
        # the first parameter tells where the model is; it may become another tensor when the model is moved
        name = next((name for name, _ in self.model.named_parameters()), "")
        owner, _, self._first = name.rpartition(".")
        self._owner = self.model.get_submodule(owner)
        self._place = self._place_now()
        self._run = Pass(self.model, self._tables, native)
        self._passes = GraphedPasses(
            self._run, self.model, self.weight, max_graphs=self._max_graphs, capture=self._capture,
            exchanges=self.is_collective,
        )  # fmt: skip

    @property
    def num_graphs(self) -> int:
        """How many CUDA graphs are kept."""
        return self._passes.num_graphs

    def __call__(self, batch: Batch, steps: int | None = None) -> Rollout:
        """The rollout of a batch on any device, without a noised branch; its states are the caller's own.

        steps: reasoning steps, None for as many as the model was trained for.

        Raises ValueError for steps outside 0..config.steps, for a batch that does not fit the model, and for a model
        that was moved to another device or dtype since.
        """
        steps = self.model.number_of_steps(steps)
        with self._ready():
            states = self._passes(batch, steps)
        return Rollout(states if self.precision == "fp32" else states.to(self.weight.dtype), self._tables[1])

    def growing(self) -> GrowingHistory:
        """A history without items yet, each of which is to be encoded once (`rearec.engine.growing`)."""
        return GrowingHistory(self._run, self._ready)

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """What a pass runs in; ValueError for a model that was moved since the engine was made."""
        if (place := self._place_now()) != self._place:
            now, then = (f"{dtype} on {device}" for dtype, device in (place, self._place))
            raise ValueError(f"model: is {now}, but was {then} when the engine was made; call refresh()")
        with evaluation_mode(self.model), torch.no_grad(), in_precision(self.precision, self.device):
            yield

    def bonus(self, offsets: NDArray[np.int64], items: NDArray[np.int64], steps: int | None = None) -> RowScores | None:
        """What the graph prior adds to the scores of the final state; None without one, and after other steps.

        offsets: int64 [R + 1]; items: the histories one after the other, oldest first, all of each, as many as offsets
        say. steps: as for the pass; where the prior was fitted for others, `GraphPrior.left_out` is what to say.

        Raises ValueError for steps outside 0..config.steps.

        Examples:
            >>> import numpy as np
            >>> import rearec
            >>> from rearec.engine import Engine
            >>> from rearec.models import ReaRecConfig
            >>> engine = Engine(rearec.ReaRec(ReaRecConfig(num_items=50, dim=8)))
            >>> engine.bonus(np.array([0, 2]), np.array([3, 1])) is None  # the model has no prior
            True
        """
        if self.prior is None or not self.prior.serves(self.model.number_of_steps(steps)):
            return None
        return self.prior.bonus(offsets, items)

    def _place_now(self) -> tuple[torch.dtype | None, torch.device | None]:
        first = getattr(self._owner, self._first, None)
        return (None, None) if first is None else (first.dtype, first.device)


def _prepared(table: ItemTable) -> PreparedCatalog | CatalogShard:
    catalog = prepare_catalog(held(table))
    return replace(table, weight=catalog) if isinstance(table, CatalogShard) else catalog
