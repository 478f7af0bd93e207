"""The library in a few lines: `fit` a dataset, `load` a finished run; both give a `FittedModel`.

Names are imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
