#include "cuda/attention_prefix_gradient.cuh"

#include "cuda/launch.h"

namespace rearec::cuda {

void attention_prefix_gradient(const PrefixGradient& a) {
  WordAccess access(a.dtype, a.head_dim);
  access.addresses({a.grad_k, a.grad_v});
  for (int s = 0; s < a.steps.count; ++s) access.addresses({a.steps.items[s].q, a.steps.items[s].grad_out});
  with_layout(a.dtype, a.head_dim, access, [&](auto layout) {
    using L = decltype(layout);
    const int64_t tiles = a.prefixes * a.kv_heads * ceil_divide(a.slots, kKeysAtOnce<L>);
    const int64_t rows_per_prefix = a.rows.count / (a.prefixes > 0 ? a.prefixes : 1);
    const Schedule schedule{count32(tiles, "tiles"), rows_per_prefix >= 2 * kWarpsPerBlock ? kWarpsPerBlock : 1};
    launch("attention_prefix_gradient", attention_prefix_gradient_kernel<L>, tiles * schedule.parts, a.stream, a,
           schedule);
  });
}

}  // namespace rearec::cuda
