"""What a computation by several processes needs: who they are, how they are started, and what they exchange.

torch.distributed carries it all, with gloo between CPUs and nccl between GPUs; Lightning trains (`rearec.training`).
Names are imported when first used: to start processes needs less than to be one of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
