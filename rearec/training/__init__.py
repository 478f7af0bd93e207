"""Training: its options, the LightningModule, the loop, and the record it leaves in a RUN folder.

Names are imported when first used: the options need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
