"""Evaluation over the full catalogue: ranks, metrics, the floors, and which items count as candidates.

Names are imported when first used: the floors and the metrics need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
