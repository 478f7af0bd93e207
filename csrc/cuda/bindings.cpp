// The CUDA launchers as Python functions; compiled without a CUDA header. The callers in rearec_kernels/cuda/ own
// shapes, dtypes, devices and lifetimes; every call releases the GIL.
#include "cuda/bindings.h"

#include <algorithm>
#include <stdexcept>

#include "attention_tuples.h"
#include "cuda/attention.h"
#include "philox.h"

namespace py = pybind11;

namespace rearec::cuda {
namespace {

// (k, v, k of the buffer, v of the buffer, row stride, token stride)
using AppendTuple = std::tuple<Address, Address, Address, Address, int64_t, int64_t>;

Segments to_segment_array(const std::vector<SegmentTuple>& from) {
  if (from.size() > kMaxSegments) throw std::invalid_argument("too many segments");
  Segments to{};
  const std::vector<TokenSegment> segments = to_segments(from);
  std::copy(segments.begin(), segments.end(), to.segment);
  to.count = static_cast<int>(segments.size());
  return to;
}

float keep_factor(double dropout_p) { return static_cast<float>(1.0 / (1.0 - dropout_p)); }

void forward(const ShapeTuple& shape, const PrefixTuple& prefix, const RowsTuple& rows, int64_t prefixes,
             const std::vector<SegmentTuple>& segments, const AppendTuple& append, double dropout_p, Address seed,
             Address q, Address out, Address prefix_probs, Address token_probs, Address stream) {
  AttentionForward a{};
  a.shape = to_shape(shape);
  a.prefix = to_prefix(prefix);
  a.rows = to_rows(rows);
  a.prefixes = prefixes;
  a.dropout = {pointer<int64_t>(seed), dropout_threshold(dropout_p), keep_factor(dropout_p)};
  a.segments = to_segment_array(segments);
  const auto& [k, v, buffer_k, buffer_v, row_stride, token_stride] = append;
  a.append = {pointer(k), pointer(v), pointer(buffer_k), pointer(buffer_v), row_stride, token_stride};
  a.q = pointer(q);
  a.out = pointer(out);
  a.prefix_probs = pointer<float>(prefix_probs);
  a.token_probs = pointer<float>(token_probs);
  py::gil_scoped_release release;
  attention_forward(a, pointer(stream));
}

void backward(const ShapeTuple& shape, const PrefixTuple& prefix, const RowsTuple& rows, int64_t prefixes,
              const std::vector<SegmentTuple>& segments, const std::vector<SegmentTuple>& grad_segments,
              double dropout_p, Address q, Address grad_out, Address prefix_probs, Address token_probs, Address grad_q,
              Address prefix_dscores, Address token_dscores, Address stream) {
  AttentionBackward a{};
  a.shape = to_shape(shape);
  a.prefix = to_prefix(prefix);
  a.rows = to_rows(rows);
  a.prefixes = prefixes;
  a.segments = to_segment_array(segments);
  a.grad_segments = to_segment_array(grad_segments);
  a.keep = keep_factor(dropout_p);
  a.q = pointer(q);
  a.grad_out = pointer(grad_out);
  a.prefix_probs = pointer<float>(prefix_probs);
  a.token_probs = pointer<float>(token_probs);
  a.grad_q = pointer(grad_q);
  a.prefix_dscores = pointer<float>(prefix_dscores);
  a.token_dscores = pointer<float>(token_dscores);
  py::gil_scoped_release release;
  attention_backward(a, pointer(stream));
}

void prefix_gradient(int dtype, const std::vector<StepTuple>& steps, const RowsTuple& rows, Address offsets,
                     int64_t prefixes, int64_t slots, int64_t heads, int64_t kv_heads, int64_t head_dim, Address grad_k,
                     Address grad_v, Address stream) {
  if (steps.size() > kMaxSteps) throw std::invalid_argument("too many steps");
  PrefixGradient a{};
  a.dtype = static_cast<DType>(dtype);
  const std::vector<StepGradient> gradients = to_steps(steps);
  std::copy(gradients.begin(), gradients.end(), a.step);
  a.step_count = static_cast<int>(gradients.size());
  a.rows = to_rows(rows);
  a.offsets = pointer<int32_t>(offsets);
  a.prefixes = prefixes;
  a.slots = slots;
  a.heads = heads;
  a.kv_heads = kv_heads;
  a.head_dim = head_dim;
  a.grad_k = pointer(grad_k);
  a.grad_v = pointer(grad_v);
  py::gil_scoped_release release;
  attention_prefix_gradient(a, pointer(stream));
}

}  // namespace

void bind(py::module_ module) {
  module.def("attention_forward", &forward);
  module.def("attention_backward", &backward);
  module.def("attention_prefix_gradient", &prefix_gradient);
  module.def("synchronize", [](Address stream) { synchronize(pointer(stream)); }, py::call_guard<py::gil_scoped_release>());
  module.attr("MAX_HEAD_DIM") = kMaxHeadDim;
  module.attr("MAX_SEGMENTS") = kMaxSegments;
  module.attr("MAX_STEPS") = kMaxSteps;
}

}  // namespace rearec::cuda
