"""One torch.library schema per op, with its fake kernel and its autograd formula beside it.

The last argument of every op names the backend; `dispatch.implementation` finds the function. Backward passes are ops
of their own, so that torch.compile sees them as opaque calls, and differentiating one of them raises.
"""

from rearec_kernels.ops import attention, layer_norm, losses, retrieval, rollout, rows

__all__ = ["attention", "layer_norm", "losses", "retrieval", "rollout", "rows"]
