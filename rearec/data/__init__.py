"""Data: readers, filters and splits, the prepared dataset, batches and the synthetic generator.

Names are imported when first used, so that ``import rearec.data`` costs nothing (no torch, no polars).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
