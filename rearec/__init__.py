"""ReaRec: sequential recommendation with latent reasoning (arXiv 2503.22675).

``ReaRec`` is the model, ``Recommender`` answers raw histories with a trained one, ``load_dataset`` opens a prepared
dataset. The names are resolved on first use, so that ``import rearec`` does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_lazy = __getattr__
__all__ += ["__version__"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("rearec")
    return _lazy(name)
