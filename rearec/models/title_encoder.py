"""A transformers model that makes vectors of the items' titles and is trained with all the rest (MoRec end to end)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rearec.data.features.hub import is_local
from rearec.data.features.tokens import load_tokenizer, mean_over_tokens, need, tokenize
from rearec.errors import UserError, in_one_line
from rearec.files import read_json
from rearec.models.config import ReaRecConfig

__all__ = ["TitleEncoder", "encoder_width"]

# Titles encoded at a time: what activations the memory has to hold.
CHUNK_ITEMS = 256


class TitleEncoder(nn.Module):
    """Item n's vector: the mean of the encoder's last layer over the real tokens of title n (0 for a title of none).

    Args:
        encoder: a transformers model that returns ``last_hidden_state``.
        tokens: int [N, L], right padded. They become part of the model, which needs no tokenizer.
        lengths: int [N], real tokens of each title.
    """

    def __init__(self, encoder: nn.Module, tokens: Tensor, lengths: Tensor) -> None:
        super().__init__()
        # nothing reads what a pooler makes, and it would not be trained
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # type: ignore[assignment]
        self.encoder = encoder
        self.tokens: Tensor
        self.lengths: Tensor
        self.register_buffer("tokens", tokens.int())
        self.register_buffer("lengths", lengths.int())

    @classmethod
    def pretrained(cls, name: str, titles: Sequence[str | None], max_tokens: int) -> TitleEncoder:
        """The model of that name or in that folder, and its tokens of the titles; only safetensors are read.

        Raises UserError: transformers is not installed, there is no such model, or it brings code of its own.
        """
        transformers = need("transformers")
        local = _is_local(name)
        try:
            tokenizer = load_tokenizer(name, local=local)
            tokens, mask = tokenize(tokenizer, [title or "" for title in titles], max_tokens)
            encoder = transformers.AutoModel.from_pretrained(
                name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=local
            )
        except (OSError, ValueError) as error:
            raise _not_loaded(name, error) from error
        padding = max_tokens - tokens.shape[1]
        return cls(encoder.train(), nn.functional.pad(tokens, (0, padding)), mask.sum(1))

    @classmethod
    def untrained(cls, architecture: Path, config: ReaRecConfig) -> TitleEncoder:
        """One whose weights and tokens are about to be replaced; no network is asked and no code of a model is run.

        architecture: the json file that `architecture` was written to. Raises UserError where it is none.
        """
        transformers = need("transformers")
        values = read_json(architecture, "not the configuration of a transformers model ({})")
        try:
            values.pop("auto_map", None)
            encoder = transformers.AutoModel.from_config(
                transformers.AutoConfig.for_model(**values), trust_remote_code=False
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{architecture}: not the configuration of a transformers model ({in_one_line(error)})"
            ) from error
        tokens = torch.zeros(config.num_items, config.text_tokens)
        return cls(encoder, tokens, torch.zeros(config.num_items))

    @property
    def architecture(self) -> str:
        """The encoder's configuration, JSON."""
        text: str = self.encoder.config.to_json_string(use_diff=False)  # type: ignore[operator, union-attr]
        return text

    def forward(self) -> Tensor:
        """[N, width]. With gradients, the activations of a chunk of titles are computed again in the backward pass."""
        # titles of similar length share a chunk, so that little of it is padding
        order = self.lengths.argsort(stable=True)
        chunks = [self._encode(items) for items in order.split(CHUNK_ITEMS)]
        return torch.cat(chunks).index_select(0, order.argsort())

    def _encode(self, items: Tensor) -> Tensor:
        lengths = self.lengths[items].long()
        # a title of no token still shows the encoder one, which the mean leaves out
        longest = max(int(lengths[-1]), 1)
        tokens = self.tokens[items, :longest].long()
        if torch.is_grad_enabled():
            vectors: Tensor = checkpoint(self._means, tokens, lengths, use_reentrant=False)
            return vectors
        return self._means(tokens, lengths)

    def _means(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        slots = torch.arange(tokens.shape[1], device=tokens.device)
        seen = slots < lengths.clamp_min(1)[:, None]
        hidden = self.encoder(input_ids=tokens, attention_mask=seen.long()).last_hidden_state
        return mean_over_tokens(hidden, slots < lengths[:, None])


def encoder_width(name: str) -> int:
    """Width of the vectors that the model of that name or in that folder makes; UserError where there is none."""
    transformers = need("transformers")
    local = _is_local(name)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=local)
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from error
    if getattr(config, "is_encoder_decoder", False) or not isinstance(getattr(config, "hidden_size", None), int):
        raise UserError(
            f"text encoder {name}: is a {config.model_type}, expected a model of an encoder or decoder alone"
        )
    width: int = config.hidden_size
    return width


def _is_local(name: str) -> bool:
    try:
        return is_local(name)
    except UserError as error:
        raise UserError(f"text encoder {error}") from None


def _not_loaded(name: str, error: Exception) -> UserError:
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    return UserError(f"text encoder {name}: cannot be loaded: {reason}")
