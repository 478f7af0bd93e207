// Functions of vectors, conversions, and products with packed weights.
#include "check.h"
#include "cpu/packed_linear.h"
#include "cpu/loss.h"

using namespace rearec;

static void check_functions() {
  double worst = 0;
  for (double x = -87; x < 88; x += 0.37) {
    const float argument = static_cast<float>(x);
    const double want = std::exp(static_cast<double>(argument));
    worst = std::fmax(worst, std::fabs(static_cast<double>(exp(argument)) / want - 1));
  }
  expect("exp is off by more than 3e-7", worst <= 3e-7);
  worst = 0;
  for (double x = -13; x < 13; x += 0.29) {
    const float argument = static_cast<float>(x);
    const double wide = static_cast<double>(argument), want = 0.5 * std::erfc(-wide / std::sqrt(2.0));
    const double error = std::fabs(static_cast<double>(normal_cdf(broadcast(argument))[1]) / want - 1);
    worst = std::fmax(worst, error - wide * wide / 2 * 0x1p-24);
  }
  expect("normal_cdf is off by more than 1e-6 and what rounding x^2 / 2 makes of its exponential", worst <= 1e-6);
  expect("exp of NaN, 89 and -88", exp(NAN) != exp(NAN) && exp(89.0f) == kInfinity && exp(-88.0f) == 0);
  expect("exp_or_zero of 0 and -65", exp_or_zero(0.0f) == 1 && exp_or_zero(-65.0f) == 0);
}

static void check_conversions() {
  bool same = true;
  for (int round = 0; round < 1000; ++round) {
    float values[kLanes], back[kLanes];
    bfloat16 stored[kLanes];
    for (float& value : values) value = static_cast<float>(std::ldexp(random_number(), round % 60 - 30));
    if (round % 10 == 0) values[1] = NAN, values[2] = kInfinity;
    store(stored, load(values));
    store(back, load(stored));
    for (int i = 0; i < kLanes; ++i) {
      bfloat16 one;
      from_float(values[i], &one);
      const float wide = to_float(one);
      same = same && one.bits == stored[i].bits && std::memcmp(&wide, &back[i], sizeof wide) == 0;
    }
  }
  expect("bfloat16 of vectors and of numbers differ", same);
  const float three[] = {1, 2, 3};
  const vfloat part = load_part(three, 3), first = load_first(three, 3);
  expect("partial vectors", part[2] == 3 && part[3] == 0 && first[0] == 1 && first[3] == 0);
  expect("sum and max", sum(part) == 6 && max(part) == 3);
}

static void check_packed_linear() {
  const int64_t inputs = 130, outputs = 37;
  const PackedLinear linear{inputs, outputs, 0};
  const auto weight = random_floats(outputs * inputs), bias = random_floats(outputs);
  std::vector<float> packed(static_cast<size_t>(linear.floats()));
  pack(linear, weight.data(), bias.data(), packed.data());
  const int64_t stride = whole_panels(outputs);
  for (int64_t rows : {1, 2, kTileRows, kTileRows + 1, 3 * kTileRows}) {
    const auto x = random_floats(rows * inputs);
    std::vector<float> y(static_cast<size_t>(rows * stride), 7);
    multiply(linear, packed.data(), 0, stride / kPanel, rows, x.data(), inputs, y.data(), stride);
    std::vector<double> want(y.size());
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < outputs; ++j) {
        double total = static_cast<double>(bias[j]);
        for (int64_t k = 0; k < inputs; ++k)
          total += static_cast<double>(x[r * inputs + k]) * static_cast<double>(weight[j * inputs + k]);
        want[r * stride + j] = total;
      }
    expect_close("packed linear", y, want, 1e-6);
  }
}

void check_vectors() {
  check_functions();
  check_conversions();
  check_packed_linear();
}
