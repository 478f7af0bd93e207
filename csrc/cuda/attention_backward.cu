#include "cuda/attention_backward.cuh"

#include "cuda/launch.h"

namespace rearec::cuda {

void attention_backward(const AttentionBackward& a) {
  const AttentionShape& shape = a.shape;
  WordAccess access(shape.dtype, shape.head_dim);
  access.addresses({a.q, a.grad_out, a.grad_q}).prefix(a.prefix).segments(a.segments).segments(a.grad_segments);
  with_layout(shape.dtype, shape.head_dim, access, [&](auto layout) {
    using L = decltype(layout);
    TileKernel<AttentionBackward> shared{};
    if constexpr (L::kWidth > 1)
      shared = {attention_backward_kernel<L, kSharedQueries>, kSharedQueries, kBackwardBlocks<kSharedQueries>};
    launch_tiles<L>("attention_backward", {attention_backward_kernel<L, 1>, 1, kBackwardBlocks<1>}, shared, a);
    const int64_t tokens = count32(a.rows.count * shape.tokens * shape.kv_heads, "tokens");
    launch("token_gradient", token_gradient_kernel<L>, ceil_divide(tokens, L::kVectors), a.stream, a);
  });
}

}  // namespace rearec::cuda
