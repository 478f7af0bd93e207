#include "amx/bindings.h"

#include <tuple>

#include "addresses.h"
#include "amx/losses.h"

namespace py = pybind11;

namespace rearec::amx {
namespace {

// (values, is bfloat16, row stride)
using MatrixTuple = std::tuple<Address, bool, int64_t>;
// (values or 0, row stride)
using GradientTuple = std::tuple<Address, int64_t>;
// (users, steps, items, width)
using SizesTuple = std::tuple<int64_t, int64_t, int64_t, int64_t>;
// (rows, table, gradient of rows, gradient of table, sizes, target, group or 0, two parts, statistics, gradient, threads)
using CatalogueTuple = std::tuple<MatrixTuple, MatrixTuple, GradientTuple, GradientTuple, SizesTuple, Address, Address,
                                  bool, bool, bool, int>;

Matrix to_matrix(const MatrixTuple& t) {
  const auto& [values, is_bfloat16, row_stride] = t;
  return {pointer<void>(values), is_bfloat16, row_stride};
}

Gradient to_gradient(const GradientTuple& t) {
  const auto& [values, row_stride] = t;
  return {pointer<float>(values), row_stride};
}

Catalogue to_catalogue(const CatalogueTuple& t, Address scratch) {
  const auto& [rows, table, grad_rows, grad_table, sizes, target, group, two_parts, statistics, gradient, threads] = t;
  const auto& [users, steps, items, width] = sizes;
  Catalogue c{};
  c.rows = to_matrix(rows);
  c.table = to_matrix(table);
  c.grad_rows = to_gradient(grad_rows);
  c.grad_table = to_gradient(grad_table);
  c.users = users;
  c.steps = steps;
  c.items = items;
  c.width = width;
  c.target = pointer<int64_t>(target);
  c.group = pointer<int32_t>(group);
  c.two_parts = two_parts;
  c.statistics = statistics;
  c.gradient = gradient;
  c.threads = threads;
  c.scratch = pointer<void>(scratch);
  return c;
}

void bound_cross_entropy(const CatalogueTuple& catalogue, Address scratch, Address inverse_temperature, Address shift,
                         Address norm, Address target_logit, Address coefficient) {
  const CrossEntropy a{to_catalogue(catalogue, scratch), pointer<float>(inverse_temperature), pointer<float>(shift),
                       pointer<float>(norm), pointer<float>(target_logit), pointer<float>(coefficient)};
  py::gil_scoped_release release;
  cross_entropy(a);
}

void bound_ensemble(const CatalogueTuple& catalogue, Address scratch, float inverse_temperature, bool paper_form,
                    Address shift, Address norm, Address spread, Address target_logit, float cross_entropy_coefficient,
                    float kl_coefficient) {
  Ensemble a{};
  a.catalogue = to_catalogue(catalogue, scratch);
  a.inverse_temperature = inverse_temperature;
  a.paper_form = paper_form;
  a.shift = pointer<float>(shift);
  a.norm = pointer<float>(norm);
  a.spread = pointer<float>(spread);
  a.target_logit = pointer<float>(target_logit);
  a.cross_entropy_coefficient = cross_entropy_coefficient;
  a.kl_coefficient = kl_coefficient;
  py::gil_scoped_release release;
  ensemble(a);
}

}  // namespace

void bind_losses(py::module_ module) {
  module.def("scratch_bytes", [](const CatalogueTuple& catalogue) { return scratch_bytes(to_catalogue(catalogue, 0)); });
  module.def("cross_entropy", &bound_cross_entropy);
  module.def("ensemble", &bound_ensemble);
}

}  // namespace rearec::amx
