"""Text encoders: a pre-trained model turns titles into vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rearec.data.features.hub import is_local
from rearec.data.features.tokens import load_tokenizer, mean_over_tokens, need, tokenize
from rearec.errors import UserError

__all__ = ["DEFAULT_ENCODER", "TextEncoder", "load_encoder"]

# Small, free and quick. The paper's is meta-llama/Llama-3.1-8B: 16 GB, for those to whom its licence was granted.
DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


class TextEncoder(Protocol):
    """Turns texts into vectors; ``description`` says what it is, equal if and only if its vectors are."""

    description: dict[str, Any]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, width]."""
        ...


def load_encoder(name: str, device: Any, max_tokens: int) -> TextEncoder:
    """The model of that name or in that folder, of sentence-transformers where it says so (``modules.json``).

    Raises:
        UserError: a library is not installed, or there is no such model.
    """
    sentences = (Path(name) / "modules.json").is_file() or name.startswith("sentence-transformers/")
    need("transformers")
    if sentences:
        need("sentence_transformers")
    try:
        local = is_local(name)
    except UserError as error:
        raise UserError(f"--encoder {error}") from None
    try:
        if sentences:
            return _SentenceEncoder(name, device, max_tokens, local)
        return _MeanEncoder(name, device, max_tokens, local)
    except (OSError, ValueError) as error:
        raise UserError(f"--encoder {name}: cannot be loaded: {str(error).splitlines()[0]}") from error


def _description(name: str, kind: str, max_tokens: int, revision: str | None) -> dict[str, Any]:
    described: dict[str, Any] = {"name": Path(name).name if Path(name).is_dir() else name, "kind": kind}
    if Path(name).is_dir():
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(path for path in Path(name).rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(name)} {path.stat().st_size}\n".encode())
            if path.suffix == ".json":
                digest.update(path.read_bytes())
        revision = digest.hexdigest()
    return described | {"revision": revision, "max_tokens": max_tokens}


class _MeanEncoder:
    """The mean of the last layer's hidden states over real tokens, padding left out (section 5 of the paper)."""

    def __init__(self, name: str, device: Any, max_tokens: int, local: bool) -> None:
        import torch
        from transformers import AutoModel

        self._tokenizer = load_tokenizer(name, local=local)
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        model = AutoModel.from_pretrained(name, dtype=dtype, trust_remote_code=False, local_files_only=local)
        self._model = model.to(device).eval()
        self._device, self._max_tokens = device, max_tokens
        revision = getattr(self._model.config, "_commit_hash", None)
        self.description = _description(name, "transformers", max_tokens, revision)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch

        tokens, mask = (x.to(self._device) for x in tokenize(self._tokenizer, texts, self._max_tokens))
        if tokens.shape[1] == 0:
            # Empty texts, of which the tokenizer makes no token: there is no mean.
            return np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        with torch.inference_mode():
            hidden = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        mean: NDArray[np.float32] = mean_over_tokens(hidden, mask).cpu().numpy()
        return mean


class _SentenceEncoder:
    """A model of sentence-transformers, with the pooling that it was trained with."""

    def __init__(self, name: str, device: Any, max_tokens: int, local: bool) -> None:
        load = need("sentence_transformers").SentenceTransformer
        model = load(name, device=str(device), local_files_only=local)
        model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
        self._model = model
        self.description = _description(name, "sentence-transformers", max_tokens, None)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = self._model.encode(list(texts), batch_size=len(texts), show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)
