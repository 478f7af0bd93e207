"""ReaRec: sequential recommendation with latent reasoning (arXiv 2503.22675).

``Dataset`` is made of a frame or of files, ``fit`` trains a model on it, ``load`` opens one that was trained: a
``FittedModel`` recommends, explains, and knows its metrics. ``compare`` sets models side by side, ``refit`` trains the
chosen one on all rows. Below these, ``prepare``, ``load_dataset``, ``train`` and ``evaluate`` are what the command line
is made of, ``ReaRec`` is the model and ``Recommender`` answers raw histories with one. Names are resolved on first use:
``import rearec`` does not import torch.
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
