// Python module rearec_kernels._C: addresses, sizes and strides in, nothing of torch inside. The callers in
// rearec_kernels/cpu/ own shapes, dtypes and lifetimes; every call releases the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <tuple>
#include <vector>

#include "attention_tuples.h"
#include "cpu/attention.h"
#include "cpu/isa.h"
#include "cpu/layer_norm.h"
#include "cpu/losses.h"
#include "cpu/retrieval.h"
#include "cpu/rollout.h"
#include "recycled_memory.h"
#include "retrieval_tuples.h"
#include "waiting.h"
#if defined(REAREC_AMX)
#include "amx/bindings.h"
#endif
#if defined(REAREC_CUDA_ARCHS)
#include "cuda/bindings.h"
#endif

namespace py = pybind11;

namespace {

using namespace rearec;

Isa chosen = Isa::baseline;  // set when the module is imported

void attention_forward(const ShapeTuple& shape, const PrefixTuple& prefix, const RowsTuple& rows,
                       const std::vector<SegmentTuple>& segments, double dropout_p, uint64_t seed, Address q,
                       Address new_k, Address new_v, Address out, Address prefix_probs, Address token_probs,
                       int threads) {
  const std::vector<TokenSegment> token_segments = to_segments(segments);
  AttentionForward a{};
  a.shape = to_shape(shape);
  a.prefix = to_prefix(prefix);
  a.rows = to_rows(rows);
  a.dropout = {dropout_p, seed};
  a.segments = token_segments.data();
  a.segment_count = static_cast<int>(token_segments.size());
  a.q = pointer(q);
  a.new_k = pointer(new_k);
  a.new_v = pointer(new_v);
  a.out = pointer(out);
  a.prefix_probs = pointer<float>(prefix_probs);
  a.token_probs = pointer<float>(token_probs);
  a.threads = threads;
  py::gil_scoped_release release;
  REAREC_KERNELS(attention).forward(a);
}

void attention_backward(const ShapeTuple& shape, const PrefixTuple& prefix, const RowsTuple& rows,
                        const std::vector<SegmentTuple>& segments, double dropout_p, Address q, Address grad_out,
                        Address prefix_probs, Address token_probs, Address grad_q, Address prefix_dscores,
                        Address grad_token_k, Address grad_token_v, int threads) {
  const std::vector<TokenSegment> token_segments = to_segments(segments);
  AttentionBackward a{};
  a.shape = to_shape(shape);
  a.prefix = to_prefix(prefix);
  a.rows = to_rows(rows);
  a.dropout_p = dropout_p;
  a.segments = token_segments.data();
  a.segment_count = static_cast<int>(token_segments.size());
  a.q = pointer(q);
  a.grad_out = pointer(grad_out);
  a.prefix_probs = pointer<float>(prefix_probs);
  a.token_probs = pointer<float>(token_probs);
  a.grad_q = pointer(grad_q);
  a.prefix_dscores = pointer<float>(prefix_dscores);
  a.grad_token_k = pointer(grad_token_k);
  a.grad_token_v = pointer(grad_token_v);
  a.threads = threads;
  py::gil_scoped_release release;
  REAREC_KERNELS(attention).backward(a);
}

void attention_prefix_gradient(int dtype, const std::vector<StepTuple>& steps, const RowsTuple& rows, Address offsets,
                               int64_t prefixes, int64_t slots, int64_t heads, int64_t kv_heads, int64_t head_dim,
                               Address grad_k, Address grad_v, int threads) {
  const std::vector<StepGradient> gradients = to_steps(steps);
  PrefixGradient a{};
  a.dtype = static_cast<DType>(dtype);
  a.steps = gradients.data();
  a.step_count = static_cast<int64_t>(gradients.size());
  a.rows = to_rows(rows);
  a.offsets = pointer<int32_t>(offsets);
  a.prefixes = prefixes;
  a.slots = slots;
  a.heads = heads;
  a.kv_heads = kv_heads;
  a.head_dim = head_dim;
  a.grad_k = pointer(grad_k);
  a.grad_v = pointer(grad_v);
  a.threads = threads;
  py::gil_scoped_release release;
  REAREC_KERNELS(attention).prefix_gradient(a);
}

// (x, whether it is bfloat16, residual or 0, weight, bias, rows, width, eps, statistics or 0, threads)
using LayerNormTuple =
    std::tuple<Address, bool, Address, Address, Address, int64_t, int64_t, float, Address, int>;
// (probability before the norm, probability after it, seed)
using LayerNormDropoutTuple = std::tuple<double, double, uint64_t>;

ElementDropout to_element_dropout(double p, uint32_t stream) {
  const uint32_t nearest = static_cast<uint32_t>(p * 65536.0 + 0.5), threshold = nearest < 65536 ? nearest : 65535;
  return {threshold, stream, static_cast<float>(65536.0 / (65536.0 - threshold))};
}

LayerNorm to_layer_norm(const LayerNormTuple& t, const LayerNormDropoutTuple& dropout) {
  const auto& [x, x_is_bfloat16, residual, weight, bias, rows, width, eps, statistics, threads] = t;
  const auto& [before, after, seed] = dropout;
  return {pointer(x), x_is_bfloat16, pointer<float>(residual), pointer<float>(weight), pointer<float>(bias), rows, width,
          eps, seed, to_element_dropout(before, 0), to_element_dropout(after, 1), pointer<float>(statistics), threads};
}

void layer_norm_forward(const LayerNormTuple& norm, const LayerNormDropoutTuple& dropout, Address out) {
  const LayerNormForward a{to_layer_norm(norm, dropout), pointer<float>(out)};
  py::gil_scoped_release release;
  REAREC_KERNELS(layer_norm).forward(a);
}

void layer_norm_backward(const LayerNormTuple& norm, const LayerNormDropoutTuple& dropout, Address grad_out,
                         Address grad_x, Address grad_residual, Address grad_parameters) {
  const LayerNormBackward a{to_layer_norm(norm, dropout), pointer<float>(grad_out), pointer(grad_x),
                            pointer<float>(grad_residual), pointer<float>(grad_parameters)};
  py::gil_scoped_release release;
  REAREC_KERNELS(layer_norm).backward(a);
}

// (values, rows, columns, row stride, steps, target, threads)
using LogitsTuple = std::tuple<Address, int64_t, int64_t, int64_t, int64_t, Address, int>;
// (values, rows, columns, row stride, first item, threads)
using ScoresTuple = std::tuple<Address, int64_t, int64_t, int64_t, int64_t, int>;

Logits to_logits(const LogitsTuple& t) {
  const auto& [values, rows, columns, row_stride, steps, target, threads] = t;
  return {pointer<float>(values), rows, columns, row_stride, steps, pointer<int64_t>(target), threads};
}

Scores to_scores(const ScoresTuple& t) {
  const auto& [values, rows, columns, row_stride, first_item, threads] = t;
  return {pointer<float>(values), rows, columns, row_stride, first_item, threads};
}

template <auto kKernel>
void cross_entropy(const LogitsTuple& logits, Address inverse_temperature, Address shift, Address norm,
                   Address target_logit, Address coefficient, bool round_to_bfloat16) {
  CrossEntropy a{};
  a.logits = to_logits(logits);
  a.inverse_temperature = pointer<float>(inverse_temperature);
  a.shift = pointer<float>(shift);
  a.norm = pointer<float>(norm);
  a.target_logit = pointer<float>(target_logit);
  a.coefficient = pointer<float>(coefficient);
  a.round_to_bfloat16 = round_to_bfloat16;
  py::gil_scoped_release release;
  (REAREC_KERNELS(losses).*kKernel)(a);
}

template <auto kKernel>
void ensemble(const LogitsTuple& logits, float inverse_temperature, bool paper_form, Address shift, Address norm,
              Address spread, Address target_logit, float cross_entropy_coefficient, float kl_coefficient,
              bool round_to_bfloat16) {
  Ensemble a{};
  a.logits = to_logits(logits);
  a.inverse_temperature = inverse_temperature;
  a.paper_form = paper_form;
  a.shift = pointer<float>(shift);
  a.norm = pointer<float>(norm);
  a.spread = pointer<float>(spread);
  a.target_logit = pointer<float>(target_logit);
  a.cross_entropy_coefficient = cross_entropy_coefficient;
  a.kl_coefficient = kl_coefficient;
  a.round_to_bfloat16 = round_to_bfloat16;
  py::gil_scoped_release release;
  (REAREC_KERNELS(losses).*kKernel)(a);
}

void mask_groups(const LogitsTuple& logits, Address group) {
  const GroupMask a{to_logits(logits), pointer<int32_t>(group)};
  py::gil_scoped_release release;
  REAREC_KERNELS(losses).mask_groups(a);
}

void topk(const ScoresTuple& scores, const BestTuple& best, const ExclusionTuple& exclusion) {
  const TopK a{to_scores(scores), to_best(best), to_exclusion(exclusion)};
  py::gil_scoped_release release;
  REAREC_KERNELS(retrieval).topk(a);
}

void topk_direct(Address hidden, Address table, bool table_is_bfloat16, int64_t items, int64_t width,
                 int64_t row_stride, const BestTuple& best, int parts, const ExclusionTuple& exclusion) {
  DirectTopK a{};
  a.hidden = pointer<float>(hidden);
  a.table = pointer(table);
  a.table_is_bfloat16 = table_is_bfloat16;
  a.items = items;
  a.width = width;
  a.row_stride = row_stride;
  a.best = to_best(best);
  a.parts = parts;
  a.exclusion = to_exclusion(exclusion);
  py::gil_scoped_release release;
  REAREC_KERNELS(retrieval).topk_direct(a);
}

void topk_sort(const BestTuple& best) {
  const Best a = to_best(best);
  py::gil_scoped_release release;
  REAREC_KERNELS(retrieval).topk_sort(a);
}

void rank(const ScoresTuple& scores, Address target, Address target_score, Address half_counts,
          const ExclusionTuple& exclusion) {
  const Rank a{to_scores(scores), pointer<int64_t>(target), pointer<float>(target_score),
               pointer<int64_t>(half_counts), to_exclusion(exclusion)};
  py::gil_scoped_release release;
  REAREC_KERNELS(retrieval).rank(a);
}

// Never destroyed: tensors may outlive the module's static objects.
RecycledMemory& recycled_memory() {
  static RecycledMemory* const memory = new RecycledMemory;
  return *memory;
}

struct RecycledBlock {
  RecycledMemory::Block block;
  explicit RecycledBlock(size_t bytes) : block(recycled_memory().take(bytes)) {}
  ~RecycledBlock() { recycled_memory().give_back(block); }
  RecycledBlock(const RecycledBlock&) = delete;
  RecycledBlock& operator=(const RecycledBlock&) = delete;
};

// (layers, heads, head_dim, ffn, eps of the LayerNorms)
using StackTuple = std::tuple<int64_t, int64_t, int64_t, int64_t, float>;

LayerStack to_stack(const StackTuple& t) {
  const auto& [layers, heads, head_dim, ffn, norm_eps] = t;
  return {layers, heads, head_dim, ffn, norm_eps};
}

int64_t packed_layers_floats(const StackTuple& stack) { return REAREC_KERNELS(rollout).packed_floats(to_stack(stack)); }

void pack_layers(const StackTuple& stack, const std::vector<Address>& tensors, Address packed) {
  const LayerStack layers = to_stack(stack);
  if (static_cast<int64_t>(tensors.size()) != kInputTensors + kLayerTensors * layers.layers)
    throw std::invalid_argument("pack_layers: as many tensors as kInputTensors + layers * kLayerTensors");
  std::vector<const float*> pointers;
  for (Address address : tensors) pointers.push_back(pointer<float>(address));
  py::gil_scoped_release release;
  REAREC_KERNELS(rollout).pack_layers(layers, pointers.data(), pointer<float>(packed));
}

void rollout(const StackTuple& stack, Address packed, Address positions, const std::vector<PrefixTuple>& prefixes,
             const RowsTuple& rows, int64_t steps, Address hidden, Address states, int threads) {
  std::vector<Prefix> layer_prefixes;
  for (const PrefixTuple& prefix : prefixes) layer_prefixes.push_back(to_prefix(prefix));
  Rollout a{};
  a.stack = to_stack(stack);
  a.packed = pointer<float>(packed);
  a.positions = pointer<float>(positions);
  a.prefixes = layer_prefixes.data();
  a.rows = to_rows(rows);
  a.steps = steps;
  a.hidden = pointer<float>(hidden);
  a.states = pointer<float>(states);
  a.threads = threads;
  py::gil_scoped_release release;
  const RecycledBlock scratch(sizeof(float) * static_cast<size_t>(REAREC_KERNELS(rollout).scratch_floats(a)));
  a.scratch = static_cast<float*>(scratch.block.data);
  REAREC_KERNELS(rollout).rollout(a);
}

py::dict build_info() {
  std::vector<std::string> isas;
  for (Isa isa : usable_isas()) isas.push_back(isa_name(isa));
  py::dict info;
  info["compiler"] = __VERSION__;
  info["isas"] = isas;
  info["isa"] = isa_name(chosen);
#if defined(_OPENMP)
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
#if defined(REAREC_CUDA_ARCHS)
  info["cuda_archs"] = REAREC_CUDA_ARCHS;
#else
  info["cuda_archs"] = "";
#endif
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  chosen = chosen_isa();  // throws, as an ImportError, when REAREC_CPU_ISA names one that is not there
  module.def("build_info", &build_info);
  py::class_<RecycledBlock>(module, "RecycledBlock", py::buffer_protocol())
      .def(py::init<size_t>())
      .def_buffer([](RecycledBlock& self) {
        return py::buffer_info(static_cast<uint8_t*>(self.block.data), static_cast<py::ssize_t>(self.block.bytes));
      });
  module.def("set_recycling_limit", [](size_t bytes) { recycled_memory().set_limit(bytes); });
  module.def("waits_asleep", &waits_asleep);
  module.def("recycled_bytes", [] { return recycled_memory().kept_bytes(); });
  module.def("attention_forward", &attention_forward);
  module.def("attention_backward", &attention_backward);
  module.def("attention_prefix_gradient", &attention_prefix_gradient);
  module.def("layer_norm_forward", &layer_norm_forward);
  module.def("layer_norm_backward", &layer_norm_backward);
  module.def("cross_entropy_statistics", &cross_entropy<&LossKernels::cross_entropy_statistics>);
  module.def("cross_entropy_gradient", &cross_entropy<&LossKernels::cross_entropy_gradient>);
  module.def("cross_entropy", &cross_entropy<&LossKernels::cross_entropy>);
  module.def("ensemble_statistics", &ensemble<&LossKernels::ensemble_statistics>);
  module.def("ensemble_gradient", &ensemble<&LossKernels::ensemble_gradient>);
  module.def("ensemble", &ensemble<&LossKernels::ensemble>);
  module.def("mask_groups", &mask_groups);
  module.def("topk", &topk);
  module.def("topk_direct", &topk_direct);
  module.def("topk_sort", &topk_sort);
  module.def("rank", &rank);
  module.def("packed_layers_floats", &packed_layers_floats);
  module.def("pack_layers", &pack_layers);
  module.def("rollout", &rollout);
#if defined(REAREC_AMX)
  if (chosen == Isa::amx) amx::bind(module.def_submodule("amx"));
#endif
#if defined(REAREC_CUDA_ARCHS)
  cuda::bind(module.def_submodule("cuda"));
#endif
  module.attr("LOGITS_PADDING") = kPadding;
  module.attr("MAX_DIRECT_ROWS") = kMaxDirectRows;
}
