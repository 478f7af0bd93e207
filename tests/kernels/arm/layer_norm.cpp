// LayerNorm over a residual sum, with both dropouts, and its gradients.
#include "cpu/layer_norm.h"

#include "check.h"
#include "philox.h"

using namespace rearec;

namespace {

// What layer_norm.h says of element i.
double kept(const ElementDropout& dropout, double probability, uint32_t stream, int64_t i) {
  const int64_t n = i % 128, counter = 16 * (i / 128) + n % 16;
  uint32_t words[4];
  uint32_t c[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), stream, 0};
  uint32_t key[2] = {static_cast<uint32_t>(dropout.seed), static_cast<uint32_t>(dropout.seed >> 32)};
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t a = uint64_t{kPhiloxFactor0} * c[0], b = uint64_t{kPhiloxFactor1} * c[2];
    words[0] = static_cast<uint32_t>(b >> 32) ^ c[1] ^ key[0];
    words[1] = static_cast<uint32_t>(b);
    words[2] = static_cast<uint32_t>(a >> 32) ^ c[3] ^ key[1];
    words[3] = static_cast<uint32_t>(a);
    for (int w = 0; w < 4; ++w) c[w] = words[w];
    key[0] += kPhiloxWeyl0;
    key[1] += kPhiloxWeyl1;
  }
  const uint32_t bits = c[n / 32] >> (n / 16 % 2 * 16) & 0xffff;
  const uint32_t threshold = static_cast<uint32_t>(probability * 65536 + 0.5);
  return bits < threshold ? 0 : 65536.0 / (65536.0 - threshold);
}

void check(int64_t rows, int64_t width, double p_x, double p_out, MaskRows mask_rows = {}) {
  const auto x = random_floats(rows * width), residual = random_floats(rows * width), weight = random_floats(width);
  const auto bias = random_floats(width), grad_out = random_floats(rows * width);
  const ElementDropout dropout{p_x, p_out, 0x123456789abcdefu, mask_rows};
  const int64_t first = mask_rows.first, run = mask_rows.rows, of = mask_rows.of;
  const double eps = 1e-5;
  std::vector<double> out(x.size()), grad_x(x.size()), grad_residual(x.size()), grad_parameters(2 * width);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t number = of * (r / run) + first + r % run;
    std::vector<double> v(width), g(width);
    double mean = 0, variance = 0, mean_g = 0, mean_gv = 0;
    for (int64_t i = 0; i < width; ++i) {
      const int64_t at = r * width + i;
      v[i] = static_cast<double>(x[at]) * kept(dropout, p_x, 0, number * width + i) + static_cast<double>(residual[at]);
      mean += v[i] / width;
    }
    for (int64_t i = 0; i < width; ++i) variance += (v[i] - mean) * (v[i] - mean) / width;
    const double inverse = 1 / std::sqrt(variance + eps);
    for (int64_t i = 0; i < width; ++i) {
      const int64_t at = r * width + i;
      const double keep = kept(dropout, p_out, 1, number * width + i), upstream = static_cast<double>(grad_out[at]) * keep;
      v[i] = (v[i] - mean) * inverse;
      g[i] = upstream * static_cast<double>(weight[i]);
      out[at] = (v[i] * static_cast<double>(weight[i]) + static_cast<double>(bias[i])) * keep;
      grad_parameters[i] += upstream * v[i];
      grad_parameters[width + i] += upstream;
      mean_g += g[i] / width;
      mean_gv += g[i] * v[i] / width;
    }
    for (int64_t i = 0; i < width; ++i) {
      const int64_t at = r * width + i;
      grad_residual[at] = (g[i] - mean_g - v[i] * mean_gv) * inverse;
      grad_x[at] = grad_residual[at] * kept(dropout, p_x, 0, number * width + i);
    }
  }

  const int threads = 2;
  std::vector<float> statistics(2 * rows), got(x.size()), got_x(x.size()), got_residual(x.size());
  std::vector<float> got_parameters(threads * 2 * width);
  const LayerNorm norm{x.data(), false, residual.data(), weight.data(), bias.data(), rows, width,
                       static_cast<float>(eps), statistics.data(), threads};
  baseline::layer_norm.forward({norm, dropout, got.data()});
  expect_close("layer norm", got, out, 1e-5);
  baseline::layer_norm.backward(
      {norm, dropout, grad_out.data(), got_x.data(), got_residual.data(), got_parameters.data()});
  expect_close("layer norm, gradient of x", got_x, grad_x, 1e-5);
  expect_close("layer norm, gradient of the residual", got_residual, grad_residual, 1e-5);
  expect_close("layer norm, gradients of weight and bias", got_parameters, grad_parameters, 1e-5);
}

}  // namespace

void check_layer_norm() {
  check(1, 5, 0, 0);
  check(7, 33, 0.3, 0.2);
  check(300, 64, 0.5, 0);
  check(11, 33, 0.3, 0.2, {2, 3, 9});
}
