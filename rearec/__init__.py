"""ReaRec: sequential recommendation with latent reasoning (arXiv 2503.22675).

``ReaRec`` is the model, ``Recommender`` answers raw histories with a trained one, ``load_dataset`` opens a prepared
dataset. The names are resolved on first use, so that ``import rearec`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rearec.data import load_dataset
    from rearec.errors import UserError
    from rearec.inference import Recommender
    from rearec.reasoning import ReaRec

__all__ = ["ReaRec", "Recommender", "UserError", "__version__", "load_dataset"]

_HOMES = {
    "ReaRec": "rearec.reasoning",
    "Recommender": "rearec.inference",
    "UserError": "rearec.errors",
    "load_dataset": "rearec.data",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("rearec")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
