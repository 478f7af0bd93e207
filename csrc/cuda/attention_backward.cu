#include "cuda/attention_backward.cuh"

#include "cuda/launch.h"

namespace rearec::cuda {

void attention_backward(const AttentionBackward& a, void* stream) {
  const AttentionShape& shape = a.shape;
  WordAccess access(shape.dtype, shape.head_dim);
  access.addresses({a.q, a.grad_out, a.grad_q}).prefix(a.prefix).segments(a.segments).segments(a.grad_segments);
  const int64_t queries = count32(queries_per_kv_head(shape, a.rows), "queries");
  with_layout(shape.dtype, shape.head_dim, access, [&](auto layout) {
    using L = decltype(layout);
    const auto run = [&](auto kernel, int queries_per_tile, int blocks) {
      const int64_t tiles = ceil_divide(queries, queries_per_tile) * shape.kv_heads;
      const Schedule schedule = schedule_tiles(tiles, ceil_divide(a.prefix.slots, kKeysAtOnce<L>), blocks);
      launch("attention_backward", kernel, tiles * schedule.parts, stream, a, schedule);
    };
    if constexpr (L::kWidth > 1) {
      if (shares_prefixes(queries, a.prefixes)) run(attention_backward_kernel<L, kSharedQueries>, kSharedQueries, kBackwardBlocks<kSharedQueries>);
      else run(attention_backward_kernel<L, 1>, 1, kBackwardBlocks<1>);
    } else {
      run(attention_backward_kernel<L, 1>, 1, kBackwardBlocks<1>);
    }
    const int64_t token_warps = ceil_divide(count32(a.rows.count * shape.tokens * shape.kv_heads, "tokens"), L::kVectors);
    launch("token_gradient", token_gradient_kernel<L>, token_warps, stream, a);
  });
}

}  // namespace rearec::cuda
