// Losses over chunks of logits: their statistics, and gradients against differences of the loss in float64.
#include "cpu/losses.h"

#include <functional>

#include "check.h"

using namespace rearec;

namespace {

using Vector = std::vector<double>;

double log_sum_exp(const double* z, int64_t count, double inverse_temperature) {
  double total = 0;
  for (int64_t n = 0; n < count; ++n) total += std::exp(z[n] * inverse_temperature);
  return std::log(total);
}

Vector gradient_of(const std::function<double(const Vector&)>& loss, Vector z) {
  Vector gradient(z.size());
  const double step = 1e-5;
  for (size_t i = 0; i < z.size(); ++i) {
    const double middle = z[i];
    z[i] = middle + step;
    gradient[i] = loss(z);
    z[i] = middle - step;
    gradient[i] = (gradient[i] - loss(z)) / (2 * step);
    z[i] = middle;
  }
  return gradient;
}

// A chunk's [items, steps, users] as rows: [users, steps, items].
Vector rows_of(const std::vector<float>& chunk, int64_t users, int64_t steps) {
  const int64_t items = (static_cast<int64_t>(chunk.size()) - kLogitsPadding) / (users * steps);
  Vector rows(items * users * steps);
  for (int64_t n = 0; n < items; ++n)
    for (int64_t t = 0; t < steps; ++t)
      for (int64_t u = 0; u < users; ++u)
        rows[(u * steps + t) * items + n] = static_cast<double>(chunk[(n * steps + t) * users + u]);
  return rows;
}

void check_cross_entropy(int64_t columns) {
  const int64_t users = 35, steps = 2, rows = users * steps;  // a whole group, and a part of a vector
  const std::vector<float> inverse_temperature{2, 0.5};
  const auto coefficient = random_floats(rows);
  std::vector<int64_t> target(users, -1);
  for (int64_t u = 0; u < users; u += 2) target[u] = u * 7 % columns;
  target[users - 1] = columns - 1;
  auto logits = random_floats(rows * columns + kLogitsPadding, 3);
  const Vector wide = rows_of(logits, users, steps);
  const auto loss = [&](const Vector& z) {
    double total = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const double s = static_cast<double>(inverse_temperature[r % steps]);
      const double hit = target[r / steps] < 0 ? 0 : z[r * columns + target[r / steps]] * s;
      total += static_cast<double>(coefficient[r]) * (log_sum_exp(&z[r * columns], columns, s) - hit);
    }
    return total;
  };
  std::vector<float> shift(rows), norm(rows), target_logit(rows);
  baseline::losses.cross_entropy(
      {{logits.data(), columns, {users, steps, target.data()}, nullptr, false, true, true, 2},
       {inverse_temperature.data(), shift.data(), norm.data(), target_logit.data(), coefficient.data()}});
  double total = 0;
  for (int64_t r = 0; r < rows; ++r) {  // without a target the kernel's loss is relative to the largest logit
    const double s = static_cast<double>(inverse_temperature[r % steps]);
    const double largest = target[r / steps] < 0 ? static_cast<double>(shift[r]) * s : 0;
    const double hit = static_cast<double>(target_logit[r]);
    total += static_cast<double>(coefficient[r]) * (std::log(static_cast<double>(norm[r])) - hit + largest);
  }
  expect_close("cross-entropy", Vector{total}, Vector{loss(wide)}, 1e-5);
  expect_close("cross-entropy, gradient", rows_of(logits, users, steps), gradient_of(loss, wide), 1e-5);
}

void check_ensemble(int64_t columns, int64_t steps, bool paper_form) {
  const int64_t users = 5, rows = users * steps;
  const double s = 1.5, of_entropy = 0.7, of_kl = -0.2;
  const std::vector<int64_t> target{columns / 2, -1, 0, columns - 1, -1};
  auto logits = random_floats(rows * columns + kLogitsPadding, 2);
  const Vector wide = rows_of(logits, users, steps);
  const auto loss = [&](const Vector& z) {
    double total = 0;
    for (int64_t g = 0; g < users; ++g) {
      const double* of_user = &z[g * steps * columns];
      Vector mean(columns);
      for (int64_t n = 0; n < columns; ++n)
        for (int64_t t = 0; t < steps; ++t) mean[n] += of_user[t * columns + n] / steps;
      total += of_entropy * (log_sum_exp(mean.data(), columns, s) - (target[g] < 0 ? 0 : mean[target[g]] * s));
      for (int64_t i = 0; i < steps; ++i)
        for (int64_t j = paper_form ? i + 1 : 0; j < steps; ++j) {
          // The official form has no gradient by way of the other state.
          const double* a = of_user + i * columns;
          const double* b = (paper_form ? of_user : &wide[g * steps * columns]) + j * columns;
          const double of_a = log_sum_exp(a, columns, s), of_b = log_sum_exp(b, columns, s);
          for (int64_t n = 0; n < columns; ++n)
            total += of_kl * std::exp(a[n] * s - of_a) * (a[n] * s - of_a - b[n] * s + of_b);
        }
    }
    return total;
  };
  std::vector<float> shift(users * (steps + 1)), norm(users * (steps + 1)), spread(rows), target_logit(users);
  for (bool gradient : {false, true})  // the statistics, then a pass of its own from them
    baseline::losses.ensemble({{logits.data(), columns, {users, steps, target.data()}, nullptr, false, !gradient, gradient, 1},
                               {static_cast<float>(s), paper_form, shift.data(), norm.data(), spread.data(),
                                target_logit.data(), static_cast<float>(of_entropy), static_cast<float>(of_kl)}});
  expect_close(paper_form ? "ensemble as in the paper" : "ensemble", rows_of(logits, users, steps), gradient_of(loss, wide),
               1e-5);
}

}  // namespace

void check_losses() {
  for (int64_t columns : {1, 33, 70}) check_cross_entropy(columns);
  for (int64_t steps : {2, 3, 8})
    for (bool paper_form : {false, true}) check_ensemble(35, steps, paper_form);
}
