# %% [markdown]
# # An attention layer, before and after
# A layer that decodes token by token over cached keys and values. The kernel replaces the concatenation, the mask, the
# softmax and both products; all else stays. The file checks that outputs and gradients are the same.

# %%
import torch
from torch import nn

from rearec_kernels import PrefixRows, ReasoningCache, cached_reason_attention


class Attention(nn.Module):
    """Multi-head attention of new tokens over a prefix and over the tokens before them."""

    def __init__(self, width=64, heads=4):
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def split(self, x):
        """[..., width] -> three times [..., heads, head width]"""
        return self.qkv(x).view(*x.shape[:-1], 3, self.heads, self.head_width).unbind(-3)


class Before(Attention):
    """In plain PyTorch: the cache is copied at every step."""

    def forward(self, prefix, first, tokens):
        _, keys, values = self.split(prefix)  # [R, C, H, D]
        slots, done = torch.arange(prefix.shape[1]), []
        mask = slots < first[:, None]  # left padding
        for token in tokens:
            q, k, v = self.split(token)  # [R, H, D]
            keys, values = torch.cat([keys, k[:, None]], 1), torch.cat([values, v[:, None]], 1)
            mask = torch.cat([mask, mask.new_zeros(len(mask), 1)], 1)
            scores = torch.einsum("rhd,rchd->rhc", q, keys) * self.head_width**-0.5
            weights = scores.masked_fill(mask[:, None], float("-inf")).softmax(-1)
            done.append(self.out(torch.einsum("rhc,rchd->rhd", weights, values).flatten(1)))
        return torch.stack(done, 1)


class After(Attention):
    """With the kernel: the prefix is kept by reference, a step writes one token."""

    def forward(self, prefix, first, tokens):
        _, keys, values = self.split(prefix)
        rows = PrefixRows(start=first.clamp(max=prefix.shape[1]))
        cache = ReasoningCache.from_prefix(keys, values, max_tokens=len(tokens), rows=rows)
        return torch.stack(
            [self.out(cached_reason_attention(*self.split(token), cache).flatten(1)) for token in tokens], 1
        )


# %%
torch.manual_seed(0)
before, after = Before(), After()
after.load_state_dict(before.state_dict())
first = torch.tensor([0, 3, 9, 10])  # the last row sees no item at all, only the tokens
results = []
for layer in (before, after):
    torch.manual_seed(1)
    prefix = torch.randn(4, 10, 64, requires_grad=True)
    tokens = torch.randn(3, 4, 64, requires_grad=True)
    out = layer(prefix, first, tokens)
    out.square().sum().backward()
    gradients = [prefix.grad, tokens.grad, *(parameter.grad for parameter in layer.parameters())]
    results.append([out.detach(), *gradients])

for old, new in zip(*results, strict=True):
    torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-5)
largest = max((new - old).abs().max().item() for old, new in zip(*results, strict=True))
print(f"outputs and {len(results[0]) - 1} gradients agree; the largest difference is {largest:.1e}")
