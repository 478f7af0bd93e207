"""From titles to features: batch by batch, continued where a kill has left it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.features.encoders import TextEncoder
from rearec.data.storage import PARTIAL_FEATURES, PARTIAL_NOTE
from rearec.errors import UserError
from rearec.files import read_json, write_json

__all__ = ["drop_partial", "embed_titles"]

# Batches between two notes of how far it is: what a kill costs at most.
BATCHES_PER_NOTE = 16


def embed_titles(
    directory: Path,
    dataset: SequenceDataset,
    encoder: TextEncoder,
    batch_items: int,
    progress: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """float32 [items, width], the vector of each item's title; of an empty text where it has none.

    What is done is kept in hidden files of ``directory`` until `drop_partial`.

    Raises:
        UserError: an encoder gives a value that is no finite number.
    """
    texts = [title or "" for title in dataset.item_titles or []]
    # Batches of similar length need little padding, and the longest come first: too little memory shows at once.
    order = sorted(range(len(texts)), key=lambda item: -len(texts[item]))
    key = {"dataset": dataset.fingerprint, "encoder": encoder.description, "items": len(texts)}
    done, vectors = _resume(directory, key)
    while done < len(texts):
        for _ in range(BATCHES_PER_NOTE):
            batch = order[done : done + batch_items]
            if not batch:
                break
            encoded = encoder.encode([texts[item] for item in batch])
            finite = np.isfinite(encoded).all(axis=1)
            if not finite.all():
                item = batch[int(finite.argmin())]
                raise UserError(f"the encoder gives a value that is no finite number for item {item}: {texts[item]!r}")
            if vectors is None:
                shape = (len(texts), encoded.shape[1])
                vectors = np.lib.format.open_memmap(directory / PARTIAL_FEATURES, "w+", np.float32, shape)
            vectors[batch] = encoded
            done += len(batch)
            progress(done, len(texts))
        assert isinstance(vectors, np.memmap)
        vectors.flush()
        write_json(directory / PARTIAL_NOTE, {**key, "done": done})
    assert vectors is not None
    return vectors


def _resume(directory: Path, key: dict[str, Any]) -> tuple[int, NDArray[np.float32] | None]:
    """How many items of the order are done, and their vectors; none of another dataset or encoder."""
    try:
        note = read_json(directory / PARTIAL_NOTE)
        if {name: note[name] for name in key} != key:
            return 0, None
        vectors = np.lib.format.open_memmap(directory / PARTIAL_FEATURES, "r+")
        return int(note["done"]), vectors
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return 0, None


def drop_partial(directory: Path) -> None:
    """Remove what `embed_titles` keeps."""
    for name in (PARTIAL_NOTE, PARTIAL_FEATURES):
        (directory / name).unlink(missing_ok=True)
