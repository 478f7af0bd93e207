#include "cuda/attention_forward.cuh"

#include "cuda/launch.h"

namespace rearec::cuda {

void attention_forward(const AttentionForward& a, void* stream) {
  const AttentionShape& shape = a.shape;
  WordAccess access(shape.dtype, shape.head_dim);
  access.addresses({a.q, a.out}).prefix(a.prefix).segments(a.segments);
  access.addresses({a.append.k, a.append.v, a.append.buffer_k, a.append.buffer_v})
      .strides({a.append.row_stride, a.append.token_stride});
  const int64_t queries = count32(queries_per_kv_head(shape, a.rows), "queries");
  with_layout(shape.dtype, shape.head_dim, access, [&](auto layout) {
    using L = decltype(layout);
    const auto run = [&](auto kernel, int queries_per_tile, int blocks) {
      const int64_t tiles = ceil_divide(queries, queries_per_tile) * shape.kv_heads;
      const Schedule schedule = schedule_tiles(tiles, ceil_divide(a.prefix.slots, kKeysAtOnce<L>), blocks);
      launch("attention_forward", kernel, tiles * schedule.parts, stream, a, schedule);
    };
    if constexpr (L::kWidth > 1) {
      if (shares_prefixes(queries, a.prefixes))
        return run(attention_forward_kernel<L, kSharedQueries>, kSharedQueries, kForwardBlocks<kSharedQueries>);
    }
    run(attention_forward_kernel<L, 1>, 1, kForwardBlocks<1>);
  });
}

}  // namespace rearec::cuda
