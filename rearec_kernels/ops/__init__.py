"""One torch.library op per kernel: its arguments as a record, its fake kernel and its autograd formula beside it.

The last argument of every op names the backend; `registry.implementation` finds the function, by the family of ops
that a file here declares: `ops/losses.py`, `reference/losses.py`, `cpu/losses.py`. Backward passes are ops of their
own, so that torch.compile sees them as opaque calls, and differentiating one of them raises.
"""

from rearec_kernels.ops import attention, layer_norm, losses, retrieval, rollout, rows

__all__ = ["attention", "layer_norm", "losses", "retrieval", "rollout", "rows"]
