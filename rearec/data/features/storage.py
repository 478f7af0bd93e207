"""Features of the items of a prepared dataset, stored beside it: ``features.npy`` and what it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.storage import FEATURES_FILE, FEATURES_NOTE, FEATURES_VERSION
from rearec.files import open_aside, write_json

__all__ = ["has_features", "project", "save_features"]


def has_features(directory: Path) -> bool:
    """Whether the dataset in ``directory`` has features."""
    return (directory / FEATURES_NOTE).exists()


def project(features: NDArray[np.floating[Any]], width: int) -> NDArray[np.float32]:
    """float32 [items, components], the principal components: ``width``, or as many as features or items if fewer."""
    from sklearn.decomposition import PCA

    components = min(width, *features.shape)
    projected = PCA(components, random_state=0).fit_transform(np.asarray(features, dtype=np.float32))
    return np.ascontiguousarray(projected, dtype=np.float32)


def save_features(
    directory: Path, features: NDArray[np.floating[Any]], fingerprint: str, encoder: Mapping[str, Any]
) -> None:
    """Store the features of the dataset in ``directory``; a kill leaves all of them or none.

    Args:
        features: [items, width], stored as float32; row i belongs to item i.
        fingerprint: that of the dataset.
        encoder: what the features were made of.

    Raises:
        UserError: they cannot be written.
    """
    # In this order there never is a note beside features that it is not about.
    (directory / FEATURES_NOTE).unlink(missing_ok=True)
    with open_aside(directory / FEATURES_FILE, "wb") as file:
        np.save(file, np.ascontiguousarray(features, dtype=np.float32))
    note = {
        "version": FEATURES_VERSION,
        "dataset": fingerprint,
        "shape": list(features.shape),
        "encoder": dict(encoder),
    }
    write_json(directory / FEATURES_NOTE, note)
