"""Texts as tokens and vectors of their tokens, for features that stay as they are and encoders that are trained."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rearec.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_tokenizer", "mean_over_tokens", "need", "tokenize"]


def need(module: str) -> Any:
    """The optional library; UserError that names the extra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module:
            raise
        package = {"sklearn": "scikit-learn"}.get(module, module.replace("_", "-"))
        raise UserError(f"{package} is not installed: pip install 'rearec[text]'") from None


def load_tokenizer(name: str, *, local: bool = False) -> Any:
    """The tokenizer of the transformers model of that name or in that folder; it pads on the right.

    local: whether the Hub is not asked (`rearec.data.features.hub`).
    """
    load = need("transformers").AutoTokenizer.from_pretrained
    tokenizer = load(name, trust_remote_code=False, local_files_only=local)
    if tokenizer.pad_token is None:
        # Padding is masked: any token will do.
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def tokenize(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask of real tokens, int64 [texts, longest] each; longest may be 0."""
    batch = tokenizer(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    # of empty texts alone it makes tensors of numbers with a fraction
    return batch["input_ids"].long(), batch["attention_mask"].long()


def mean_over_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over real tokens: hidden [B, L, width], mask [B, L] -> [B, width]; 0 where there is none."""
    weight = mask[..., None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)
