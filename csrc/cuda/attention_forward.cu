#include "cuda/attention_forward.cuh"

#include "cuda/launch.h"

namespace rearec::cuda {

void attention_forward(const AttentionForward& a) {
  const AttentionShape& shape = a.shape;
  WordAccess access(shape.dtype, shape.head_dim);
  access.addresses({a.q, a.out}).prefix(a.prefix).segments(a.segments);
  access.addresses({a.append.k, a.append.v, a.append.buffer_k, a.append.buffer_v})
      .strides({a.append.row_stride, a.append.token_stride});
  with_layout(shape.dtype, shape.head_dim, access, [&](auto layout) {
    using L = decltype(layout);
    TileKernel<AttentionForward> shared{};
    if constexpr (L::kWidth > 1)
      shared = {attention_forward_kernel<L, kSharedQueries>, kSharedQueries, kForwardBlocks<kSharedQueries>};
    launch_tiles<L>("attention_forward", {attention_forward_kernel<L, 1>, 1, kForwardBlocks<1>}, shared, a);
  });
}

}  // namespace rearec::cuda
