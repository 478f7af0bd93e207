"""The ReaRec model: encode the prefix once, then let every row reason for K steps over it (paper, section 3.2)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from rearec.engine.native import FusedRollout
from rearec.errors import UserError
from rearec.models.backbone import Backbone
from rearec.models.build import build_backbone
from rearec.models.config import OWN_BACKBONE, ReaRecConfig
from rearec.models.encoder import init_weights
from rearec.models.official import load_official_state_dict
from rearec.models.saved import (
    CONFIG_FILE,
    ENCODER_FILE,
    WEIGHTS_FILE,
    load_weights,
    locate_model,
    read_config,
    read_weights,
)
from rearec.models.text import TextBackbone
from rearec.models.title_encoder import TitleEncoder

if TYPE_CHECKING:
    from rearec.data.batch import Batch

__all__ = ["ReaRec", "Rollout"]

MODEL_CARD = """---
{{ card_data }}
---

A sequential recommender with latent reasoning (ReaRec, arXiv 2503.22675), trained with the `rearec` library.
`config.json` holds its settings, `model.safetensors` its weights:

```python
from rearec import ReaRec

model = ReaRec.from_pretrained("path or name of this folder")
```
"""


@dataclass(frozen=True)
class Rollout:
    """The states of R rows, as they are scored.

    states: [R, T, d], T = steps + 1: h_0, the state of the last item, then one state per reasoning step.
    weight: [N, d], the table that they are scored with.
    noised: [R, steps, d], the states of the noised branch at steps 1..K (PRL's contrastive term), or None.
    """

    states: Tensor
    weight: Tensor
    noised: Tensor | None = None


class ReaRec(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="rearec",
    tags=["recommendation", "sequential-recommendation"],
    paper_url="https://arxiv.org/abs/2503.22675",
    model_card_template=MODEL_CARD,
):
    """A sequential recommender that reasons in latent space before it answers.

    Windows of items are encoded once; every row of the batch (one prediction: a window and how much of it is seen)
    then computes ONE token per reasoning step, which attends to the row's part of the window and to the row's earlier
    reasoning tokens. Step k feeds back LayerNorm(h_{k-1} + RPE_k), with RPE absent in ``naive``.

    Args:
        config: settings.
        features: [num_items, feature_dim], for the backbones that read features, or the `TitleEncoder` that makes them
            where config names a text encoder.
        backbone: an encoder of one's own, for a config whose backbone is ``own``.

    Raises ValueError where features are missing or of another shape, for an encoder without such a config and such a
    config without an encoder.
    """

    def __init__(
        self,
        config: ReaRecConfig,
        features: Tensor | TitleEncoder | None = None,
        *,
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        if backbone is not None and config.backbone != OWN_BACKBONE:
            raise ValueError(
                f"backbone: got one beside a config of {config.backbone!r}, expected {OWN_BACKBONE!r} there"
            )
        self.config = config
        self.backbone = build_backbone(config, features) if backbone is None else backbone
        self.reasoning_position_embedding: nn.Embedding | None = None
        # created last: with one seed, all methods start from the same backbone
        if config.has_reasoning_positions:
            self.reasoning_position_embedding = nn.Embedding(config.steps, config.dim)
            self.reasoning_position_embedding.apply(init_weights)
        self._fused_rollout = FusedRollout()

    @property
    def weight(self) -> Tensor:
        """The table [N, d] that states are scored with: a row's score for item n is its final state times weight[n]."""
        return self.backbone.weight

    def forward(
        self, batch: Batch, *, steps: int | None = None, noise: float = 0.0, return_noised: bool = False
    ) -> Rollout:
        """Encode the batch's windows and reason for `steps` steps (None: as many as the model was trained for).

        batch: on the model's device, windows of at most config.max_len slots, every row with at least one item.
        noise: standard deviation γ of the Gaussian noise added to the inputs of the noised branch, which is computed
        only with return_noised. The branch follows its own chain of K/V; at every step its input is the clean state,
        plus RPE, plus noise, before the LayerNorm (paper, section 3.4). Both branches share the prefix, unless
        config.noised_prefix gives it one of its own.

        Raises ValueError for steps outside 0..config.steps and for a batch that does not fit the model.
        """
        steps = self.config.steps if steps is None else steps
        if not 0 <= steps <= self.config.steps:
            raise ValueError(f"steps: got {steps}, expected 0..{self.config.steps} (trained steps)")
        batch = self.backbone.arrange(batch)
        own_prefix = return_noised and self.config.noised_prefix == "own"
        encoded = _twice(batch) if own_prefix else batch
        table, weight = self.backbone.item_tables()
        if weight.shape != (self.config.num_items, self.config.dim):
            raise ValueError(
                f"backbone: its item table has shape {list(weight.shape)}, expected num_items and dim of the config, "
                f"{[self.config.num_items, self.config.dim]}"
            )
        prefix = self.backbone.encode_batch(encoded, table)
        row_prefix, end = encoded.row_prefix, encoded.end
        if return_noised and not own_prefix:
            row_prefix, end = row_prefix.repeat(2), end.repeat(2)
        states = [prefix.states[: batch.num_rows]]
        noised: list[Tensor] = []
        if not return_noised and steps > 0:
            fused = self._fused_rollout.states(self, prefix, row_prefix, end, steps)
            if fused is not None:
                return Rollout(self.backbone.scored(fused), weight)
        reason = self.backbone.reason(prefix, row_prefix, end, steps) if steps > 0 else None
        for step in range(steps):
            assert reason is not None
            token = states[-1]
            if self.reasoning_position_embedding is not None:
                token = token + self.reasoning_position_embedding.weight[step]
            if return_noised:
                token = torch.cat([token, token + noise * torch.randn_like(token)])
            clean, *noisy = reason(token).split(batch.num_rows)
            states.append(clean)
            noised.extend(noisy)
        scored = self.backbone.scored
        return Rollout(
            scored(torch.stack(states, dim=1)),
            weight,
            scored(_stack(noised, prefix.states)) if return_noised else None,
        )

    def train(self, mode: bool = True) -> ReaRec:
        """As every module's; what inference has derived from the weights is derived anew after training."""
        if mode:
            self._fused_rollout.forget()
        return super().train(mode)

    def frozen_state(self) -> dict[str, Tensor]:
        """The part of the state dict that training does not change: the items' features or titles, if any."""
        return {f"backbone.{name}": value for name, value in self.backbone.frozen_state().items()}

    def final_state(self, states: Tensor) -> Tensor:
        """The state that ranks items: [R, T, d] -> [R, d]. ERL averages all states, other methods take the last."""
        return states.mean(dim=1) if self.config.method == "erl" else states[:, -1]

    @classmethod
    def _untrained(
        cls, config: ReaRecConfig, backbone: Backbone | None = None, text_encoder: Path | None = None
    ) -> ReaRec:
        """A model whose weights are about to be replaced; the random state of the caller is left alone.

        text_encoder: the file with its architecture, where config names one.
        """
        features = torch.zeros(config.num_items, config.feature_dim) if config.reads_features else None
        with torch.random.fork_rng(devices=[]):
            encoder = None if text_encoder is None else TitleEncoder.untrained(text_encoder, config)
            return cls(config, features if encoder is None else encoder, backbone=backbone)

    @classmethod
    def from_official(cls, source: str | Path | Mapping[str, Tensor], *, method: str, **settings: Any) -> ReaRec:
        """A model with the weights of the official code's checkpoint, in evaluation mode.

        source, method, settings: as in `rearec.models.official.load_official_state_dict`.
        """
        config, weights = load_official_state_dict(source, method=method, **settings)
        model = cls._untrained(config)
        load_weights(model, weights, "state dict" if isinstance(source, Mapping) else source)
        return model.eval()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        map_location: str | torch.device = "cpu",
        backbone: Backbone | None = None,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> ReaRec:
        """The model saved in a folder, or published on the Hugging Face Hub as ``owner/name``, in evaluation mode.

        map_location: the device to put it on. backbone: for a model with an encoder of one's own, that encoder; its
        weights are replaced. The other options concern the Hub. Only safetensors and JSON are read.
        Raises UserError if there is no such model or its files are damaged or do not fit together.
        """
        locate = partial(
            locate_model,
            pretrained_model_name_or_path,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )
        config_file, weights_file = locate()
        config = read_config(config_file)
        if (config.backbone == OWN_BACKBONE) != (backbone is not None):
            has = f"its backbone is {config.backbone!r}"
            raise UserError(
                f"{config_file}: {has}, expected {'the encoder as' if backbone is None else 'no'} backbone="
            )
        text_encoder = None if config.text_encoder is None else locate([ENCODER_FILE])[0]
        model = cls._untrained(config, backbone, text_encoder)
        load_weights(model, read_weights(weights_file), weights_file)
        return model.to(map_location).eval()

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write config.json and model.safetensors, text_encoder.json where there is one, and a README.md if missing.

        With push_to_hub, then publish it as repo_id (default: the folder's name) and return the commit's address; the
        other options are those of `huggingface_hub.ModelHubMixin.save_pretrained`. Every file is written aside and
        renamed when it is complete, config.json last: an interrupted save leaves nothing that looks like a model but
        is none.
        """
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory) as aside:
            super().save_pretrained(aside, config=config or self.config, model_card_kwargs=model_card_kwargs)
            # safetensors makes its file private; it shall be as readable as its neighbours
            shutil.copymode(Path(aside, CONFIG_FILE), Path(aside, WEIGHTS_FILE))
            if not (directory / "README.md").exists():
                Path(aside, "README.md").rename(directory / "README.md")
            files = [WEIGHTS_FILE, CONFIG_FILE]
            if isinstance(self.backbone, TextBackbone) and self.backbone.text_encoder is not None:
                Path(aside, ENCODER_FILE).write_text(self.backbone.text_encoder.architecture, encoding="utf-8")
                files.insert(0, ENCODER_FILE)
            for file in files:
                Path(aside, file).replace(directory / file)
        if push_to_hub:
            return self.push_to_hub(
                repo_id or directory.name, config=config, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs
            )
        return None


def _twice(batch: Batch) -> Batch:
    """The windows and rows once for each branch."""
    return replace(
        batch,
        items=batch.items.repeat(2, 1),
        lengths=batch.lengths.repeat(2),
        row_prefix=torch.cat([batch.row_prefix, batch.row_prefix + batch.num_windows]),
        end=batch.end.repeat(2),
        target=batch.target.repeat(2),
        group=batch.group.repeat(2),
        row=None,
        slot=None if batch.slot is None else batch.slot.repeat(2),
    )


def _stack(steps: list[Tensor], like: Tensor) -> Tensor:
    """[R, d] per step -> [R, steps, d], also for no step at all."""
    return torch.stack(steps, dim=1) if steps else like.new_empty(like.shape[0], 0, like.shape[1])
