// An engine of csrc/cpu/tiles, and the passes over chunks of logits, against sums in double: losses, top-k and rank in
// ragged shapes, with one thread and two, on scratch full of NaN. Prints "right", or what was wrong.
//
// Operands are multiples of 1/8 that bfloat16 holds, so that logits are right but for the order of their sums; what a
// gradient may be off follows from the parts into which its factors are rounded.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "cpu/tiles/losses.h"
#include "cpu/tiles/retrieval.h"

namespace {

using namespace rearec;
using namespace rearec::tiles;

std::mt19937 random_numbers(1);
int64_t below(int64_t end) { return static_cast<int64_t>(random_numbers() % static_cast<uint64_t>(end)); }
std::vector<float> eighths(int64_t count, int64_t most) {
  std::vector<float> x(count);
  for (float& value : x) value = static_cast<float>(below(2 * most + 1) - most) / 8;
  return x;
}

void wrong(const char* what, int64_t place, double got, double right) {
  std::printf("%s, place %lld: %.9g in place of %.9g\n", what, static_cast<long long>(place), got, right);
  std::exit(1);
}
void check(const char* what, int64_t place, double got, double right, double allowed) {
  if (!(std::fabs(got - right) <= allowed)) wrong(what, place, got, right);
}

// Memory of so many bytes, aligned to 64, NaN all over; whoever writes beyond its end is found.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : bytes_(bytes), memory_(static_cast<char*>(std::aligned_alloc(64, (bytes + 191) / 64 * 64))) {
    std::memset(memory_.get(), 0xff, (bytes + 191) / 64 * 64);
  }
  ~Scratch() {
    for (size_t i = bytes_; i < bytes_ + 64; ++i)
      if (memory_.get()[i] != static_cast<char>(0xff)) wrong("written beyond the scratch", static_cast<int64_t>(i), 0, 0);
  }
  void* get() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  size_t bytes_;
  std::unique_ptr<char, Free> memory_;
};

struct Shape {
  int64_t users, steps, items, width;
};

struct Problem {
  Shape shape;
  bool two_parts, grouped;
  int threads;
  std::vector<float> rows, table;
  std::vector<int64_t> target;
  std::vector<int32_t> group;

  Problem(const Shape& s, bool parts, bool groups, int count) : shape(s), two_parts(parts), grouped(groups), threads(count) {
    rows = eighths(s.users * s.steps * s.width, 8);
    table = eighths(s.items * s.width, 8);
    target.resize(s.users);
    for (int64_t u = 0; u < s.users; ++u) target[u] = u < s.users / 5 ? -1 : below(s.items);
    std::sort(target.begin(), target.end());
    group.resize(s.items);
    for (int32_t& each : group) each = static_cast<int32_t>(below(4));
  }

  double logit(int64_t row, int64_t item) const {
    const int64_t of = target[row / shape.steps];
    if (grouped && of >= 0 && item != of && group[item] == group[of]) return -INFINITY;
    double total = 0;
    for (int64_t n = 0; n < shape.width; ++n)
      total += double{rows[row * shape.width + n]} * table[item * shape.width + n];
    return total;
  }
};

// Whether sums over one operand by the gradient of the logits [row, item] are as near as its rounding lets them.
void check_gradients(const Problem& p, const std::vector<double>& dz, const std::vector<float>& grad_rows,
                     const std::vector<float>& grad_table, double of_logits) {
  const Shape& s = p.shape;
  const double rounding = p.two_parts ? 0x1p-15 : 0x1p-8;
  for (int both = 0; both < 2; ++both) {
    const int64_t outer = both ? s.items : s.users * s.steps, inner = both ? s.users * s.steps : s.items;
    const std::vector<float>&factor = both ? p.rows : p.table, &got = both ? grad_table : grad_rows;
    for (int64_t i = 0; i < outer; ++i)
      for (int64_t n = 0; n < s.width; ++n) {
        double right = 0, size = 0;
        for (int64_t j = 0; j < inner; ++j) {
          const double z = both ? dz[j * s.items + i] : dz[i * s.items + j];
          right += z * factor[j * s.width + n];
          size += std::fabs(z * factor[j * s.width + n]);
        }
        check(both ? "gradient of the table" : "gradient of the rows", i * s.width + n, got[i * s.width + n], right,
              (rounding + of_logits) * size + 1e-9);
      }
  }
}

SoftmaxOverItems softmax_of(const Problem& p, std::vector<float>& grad_rows, std::vector<float>& grad_table) {
  const Shape& s = p.shape;
  return {{p.rows.data(), false, s.width}, {p.table.data(), false, s.width}, {grad_rows.data(), s.width},
          {grad_table.data(), s.width}, {s.users, s.steps, p.target.data()}, s.items, s.width,
          p.grouped ? p.group.data() : nullptr, p.two_parts, true, true, p.threads};
}

// What a cross-entropy takes and leaves, and what it should have left.
struct EntropyOf {
  const Problem& p;
  int64_t rows;
  std::vector<float> inverse, coefficient, shift, norm, target_logit;

  explicit EntropyOf(const Problem& problem)
      : p(problem), rows(p.shape.users * p.shape.steps), inverse(p.shape.steps), coefficient(rows), shift(rows), norm(rows),
        target_logit(rows) {
    for (int64_t t = 0; t < p.shape.steps; ++t) inverse[t] = 1.0f / (1 + t);
    for (float& c : coefficient) c = static_cast<float>(below(3));
  }
  CrossEntropy arguments() {
    return {inverse.data(), shift.data(), norm.data(), target_logit.data(), coefficient.data()};
  }

  // The gradient of the logits [row, item].
  std::vector<double> checked() const {
    const Shape& s = p.shape;
    std::vector<double> dz(rows * s.items);
    for (int64_t r = 0; r < rows; ++r) {
      const double scale = inverse[r % s.steps];
      const int64_t of = p.target[r / s.steps];
      double largest = -INFINITY, sum = 0;
      for (int64_t i = 0; i < s.items; ++i) largest = std::fmax(largest, p.logit(r, i));
      for (int64_t i = 0; i < s.items; ++i) sum += std::exp((p.logit(r, i) - largest) * scale);
      check("shift", r, shift[r], largest, 1e-5 * (1 + std::fabs(largest)));
      check("norm", r, norm[r], sum, 1e-5 * sum);
      check("logit of the target", r, target_logit[r], of < 0 ? 0 : (p.logit(r, of) - largest) * scale, 1e-4);
      for (int64_t i = 0; i < s.items; ++i)
        dz[r * s.items + i] = coefficient[r] * scale * (std::exp((p.logit(r, i) - largest) * scale) / sum - (i == of));
    }
    return dz;
  }
};

void cross_entropy(const Problem& p) {
  const Shape& s = p.shape;
  std::vector<float> grad_rows(s.users * s.steps * s.width, NAN), grad_table(s.items * s.width, NAN);
  EntropyOf loss(p);
  const SoftmaxOverItems softmax = softmax_of(p, grad_rows, grad_table);
  {
    const Scratch scratch(REAREC_ENGINE::losses.scratch_bytes(softmax));
    REAREC_ENGINE::losses.cross_entropy({softmax, scratch.get(), loss.arguments()});
  }
  check_gradients(p, loss.checked(), grad_rows, grad_table, 1e-4);
}

// The same from a chunk of logits, in one call or with the gradient in a second one.
void cross_entropy_of_chunk(const Problem& p, bool at_once) {
  const Shape& s = p.shape;
  Problem all = p;
  all.grouped = false;
  std::vector<float> logits(s.items * s.users * s.steps + kLogitsPadding, NAN);
  const auto place = [&](int64_t row, int64_t item) { return (item * s.steps + row % s.steps) * s.users + row / s.steps; };
  for (int64_t r = 0; r < s.users * s.steps; ++r)
    for (int64_t i = 0; i < s.items; ++i) logits[place(r, i)] = static_cast<float>(all.logit(r, i));
  EntropyOf loss(p);
  for (int pass = at_once ? 1 : 0; pass < 2; ++pass)
    baseline::losses.cross_entropy({{logits.data(), s.items, {s.users, s.steps, p.target.data()},
                                     p.grouped ? p.group.data() : nullptr, false, at_once || pass == 0, pass == 1, p.threads},
                                    loss.arguments()});
  const std::vector<double> dz = loss.checked();
  for (int64_t r = 0; r < s.users * s.steps; ++r)
    for (int64_t i = 0; i < s.items; ++i)
      check("gradient of a chunk", place(r, i), logits[place(r, i)], dz[r * s.items + i], 1e-5);
}

void ensemble(const Problem& p, bool paper) {
  const Shape& s = p.shape;
  const float scale = 0.5f, of_entropy = 0.75f, of_kl = 0.125f;
  const int64_t T = s.steps, rows = s.users * T;
  std::vector<float> grad_rows(rows * s.width, NAN), grad_table(s.items * s.width, NAN);
  std::vector<float> shift(s.users * (T + 1)), norm(s.users * (T + 1)), spread(rows), target_logit(s.users);
  const SoftmaxOverItems softmax = softmax_of(p, grad_rows, grad_table);
  {
    const Scratch scratch(REAREC_ENGINE::losses.scratch_bytes(softmax));
    REAREC_ENGINE::losses.ensemble({softmax, scratch.get(),
                                    {scale, paper, shift.data(), norm.data(), spread.data(), target_logit.data(), of_entropy,
                                     of_kl}});
  }
  std::vector<double> dz(rows * s.items);
  std::vector<double> z(T * s.items), mean(s.items), u(T * s.items), shifts(T + 1), norms(T + 1), spreads(T);
  for (int64_t user = 0; user < s.users; ++user) {
    for (int64_t i = 0; i < s.items; ++i) mean[i] = 0;
    for (int64_t t = 0; t < T; ++t)
      for (int64_t i = 0; i < s.items; ++i) mean[i] += (z[t * s.items + i] = p.logit(user * T + t, i)) / T;
    for (int64_t t = 0; t < T; ++t)
      for (int64_t i = 0; i < s.items; ++i) {
        u[t * s.items + i] = 0;
        for (int64_t o = paper ? t + 1 : 0; o < T; ++o) u[t * s.items + i] += z[t * s.items + i] - z[o * s.items + i];
      }
    for (int64_t t = 0; t <= T; ++t) {
      const double* x = t < T ? &z[t * s.items] : mean.data();
      shifts[t] = -INFINITY, norms[t] = 0;
      for (int64_t i = 0; i < s.items; ++i) shifts[t] = std::fmax(shifts[t], x[i]);
      for (int64_t i = 0; i < s.items; ++i) norms[t] += std::exp((x[i] - shifts[t]) * scale);
      check("norm of a step", user * (T + 1) + t, norm[user * (T + 1) + t], norms[t], 1e-4 * norms[t]);
    }
    for (int64_t t = 0; t < T; ++t) {
      double size = 0;
      spreads[t] = 0;
      for (int64_t i = 0; i < s.items; ++i) {
        const double e = std::exp((z[t * s.items + i] - shifts[t]) * scale) * u[t * s.items + i];
        spreads[t] += e, size += std::fabs(e);
      }
      check("spread", user * T + t, spread[user * T + t], spreads[t], 1e-4 * size + 1e-6);
    }
    for (int64_t i = 0; i < s.items; ++i) {
      const double of_mean = std::exp((mean[i] - shifts[T]) * scale) / norms[T] - (p.target[user] == i);
      double earlier = 0;
      for (int64_t t = 0; t < T; ++t) {
        const double q = std::exp((z[t * s.items + i] - shifts[t]) * scale) / norms[t];
        double step = q * (u[t * s.items + i] - spreads[t] / norms[t]) * scale;
        if (paper) step += q * t - earlier, earlier += q;
        dz[(user * T + t) * s.items + i] = of_entropy * scale / T * of_mean + of_kl * scale * step;
      }
    }
  }
  check_gradients(p, dz, grad_rows, grad_table, 1e-3);
}

// Scores are sums of few small numbers, and exact: so is the order, ties by lower item.
void topk(int64_t rows, int64_t items, int64_t width, int64_t k, bool bounded, int threads) {
  const std::vector<float> hidden = eighths(rows * width, 2), table = eighths(items * width, 2);
  const int64_t blocks = (items + 31) / 32, depth = (width + 31) / 32, padded = (rows + 31) / 32 * 32, capacity = 3 * k + 32;
  const int parts = static_cast<int>(threads < blocks ? threads : blocks);
  const Scratch tiles(blocks * depth * 2048), row_tiles(padded * depth * 64);
  std::vector<float> bounds(blocks * 64), center(width, 0.125f), row_bounds(4 * padded), scores(2 * parts * padded * capacity);
  std::vector<float> threshold(parts * padded), best_scores(rows * k, -INFINITY);
  std::vector<int64_t> kept(parts * padded * capacity), state(2 * parts * padded), best(rows * k, -1);
  std::unique_ptr<bool[]> is_bounded(new bool[padded]), proven(new bool[rows]);
  const ItemTiles catalog = {tiles.get(), bounded ? bounds.data() : nullptr, bounded ? center.data() : nullptr, items, width};
  const Matrix from = {table.data(), false, width};
  REAREC_ENGINE::retrieval.pack_items({catalog, from, threads, nullptr});
  const int64_t barred[] = {items / 2};
  REAREC_ENGINE::retrieval.topk({hidden.data(), catalog, from, {nullptr, nullptr, barred, 1},
                            {row_tiles.get(), row_bounds.data(), is_bounded.get(), padded},
                            {scores.data(), kept.data(), state.data(), threshold.data(), capacity},
                            {best_scores.data(), best.data(), rows, k}, proven.get(), parts});
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<std::pair<double, int64_t>> all;
    for (int64_t i = 0; i < items; ++i) {
      double score = 0;
      for (int64_t n = 0; n < width; ++n) score += double{hidden[r * width + n]} * table[i * width + n];
      if (i != barred[0]) all.push_back({-score, i});
    }
    std::sort(all.begin(), all.end());
    if (!proven[r]) continue;  // too many ties: the caller asks elsewhere
    for (int64_t i = 0; i < k; ++i) {
      const bool there = i < static_cast<int64_t>(all.size());
      const int64_t item = there ? all[i].second : -1;
      check("item of the top-k", r * k + i, static_cast<double>(best[r * k + i]), static_cast<double>(item), 0);
      if (there) check("score of the top-k", r * k + i, best_scores[r * k + i], -all[i].first, 0);
    }
  }
}

// Scores are exact here too: so are the ranks, whether the tiles are packed before or on the way.
void rank(int64_t rows, int64_t items, int64_t width, bool bounded, bool prepared, int threads) {
  const std::vector<float> hidden = eighths(rows * width, 2), table = eighths(items * width, 2);
  const int64_t blocks = (items + 31) / 32, depth = (width + 31) / 32, padded = (rows + 31) / 32 * 32;
  const int parts = static_cast<int>(threads < blocks ? threads : blocks);
  const Scratch tiles(blocks * depth * 2048), row_tiles(padded * depth * 64);
  std::vector<float> bounds(blocks * 64), center(width, 0.125f), row_bounds(4 * padded), scores((1 + parts) * padded);
  std::vector<float> target_score(rows), bonus(rows);
  std::vector<int64_t> progress(3 * parts * padded), half_counts(rows), target(rows), begin(rows), end(rows), barred;
  std::unique_ptr<bool[]> is_bounded(new bool[padded]), proven(new bool[rows]);
  for (int64_t r = 0; r < rows; ++r) {
    target[r] = below(items);
    bonus[r] = static_cast<float>(below(3) - 1) / 4;
    begin[r] = static_cast<int64_t>(barred.size());
    for (int64_t i = below(5); i < items; i += 1 + below(200)) barred.push_back(i);
    end[r] = static_cast<int64_t>(barred.size());
  }
  barred.push_back(0);  // so that there is an address
  const float* const middle = bounded ? center.data() : nullptr;
  ItemTiles catalog = {tiles.get(), bounded ? bounds.data() : nullptr, middle, items, width};
  const Matrix from = {table.data(), false, width};
  if (prepared)
    REAREC_ENGINE::retrieval.pack_items({catalog, from, threads, nullptr});
  else
    catalog = {nullptr, nullptr, middle, items, width};
  REAREC_ENGINE::retrieval.rank({hidden.data(), rows, catalog, from, target.data(), bonus.data(),
                                 {begin.data(), end.data(), barred.data(), static_cast<int64_t>(barred.size())},
                                 {row_tiles.get(), row_bounds.data(), is_bounded.get(), padded},
                                 {scores.data(), progress.data()}, target_score.data(), half_counts.data(), proven.get(),
                                 parts});
  for (int64_t r = 0; r < rows; ++r) {
    const auto score = [&](int64_t i) {
      double total = 0;
      for (int64_t n = 0; n < width; ++n) total += double{hidden[r * width + n]} * table[i * width + n];
      return total;
    };
    const double own = score(target[r]) + bonus[r];
    int64_t right = 0;
    for (int64_t i = 0; i < items; ++i)
      if (i != target[r] && !std::binary_search(&barred[begin[r]], &barred[end[r]], i))
        right += (score(i) > own) + (score(i) >= own);
    if (!proven[r]) wrong("rows without a rank, the first", r, 0, 1);
    check("score of the target", r, target_score[r], own, 0);
    check("twice the rank", r, static_cast<double>(half_counts[r]), static_cast<double>(right), 0);
  }
}

void ranks(int threads) {
  for (int64_t rows : {1, 16, 17, 50})
    for (int bounded = 0; bounded < 2; ++bounded)
      for (int prepared = 0; prepared < 2; ++prepared) {
        rank(rows, 1, 1, bounded, prepared, threads);
        rank(rows, 1000, 40, bounded, prepared, threads);
      }
}

// Of either sign, with all the digits of bfloat16, and now and then so small that an engine may take it for zero.
float any_bfloat16() {
  const int64_t exponent = below(8) ? 120 + below(16) : below(8);
  const uint32_t bits = static_cast<uint32_t>(below(2) << 31 | exponent << 23 | below(128) << 16);
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// What engines may round: as much as item_tiles.cpp allows them, which is what proves a top-k or a rank. Row r's
// target is item r, so that the targets' scores are products of rows and items; an exact search sees by itself where a
// float32 score is not within its bounds, which are here those of the products' rounding alone.
void rounding(int64_t width, bool bounded) {
  const int64_t count = 50, blocks = 2, depth = (width + 31) / 32, padded = 64;
  std::vector<float> hidden(count * width), table(count * width), center(width, 0.0f);
  for (float& x : hidden) x = any_bfloat16();
  for (float& x : table) x = any_bfloat16();
  const Scratch tiles(blocks * depth * 2048), row_tiles(padded * depth * 64);
  std::vector<float> bounds(blocks * 64), row_bounds(4 * padded), scores(2 * padded), target_score(count);
  std::vector<int64_t> progress(3 * padded), half_counts(count), target(count);
  std::unique_ptr<bool[]> is_bounded(new bool[padded]), proven(new bool[count]);
  for (int64_t r = 0; r < count; ++r) target[r] = r;
  const ItemTiles catalog = {tiles.get(), bounded ? bounds.data() : nullptr, bounded ? center.data() : nullptr, count, width};
  const Matrix from = {table.data(), false, width};
  REAREC_ENGINE::retrieval.pack_items({catalog, from, 1, nullptr});
  const int64_t products = REAREC_ENGINE::retrieval.rank(
      {hidden.data(), count, catalog, from, target.data(), nullptr, {nullptr, nullptr, nullptr, 0},
       {row_tiles.get(), row_bounds.data(), is_bounded.get(), padded}, {scores.data(), progress.data()},
       target_score.data(), half_counts.data(), proven.get(), 1});
  if (products < 0) wrong("scores outside of their bounds, width", width, static_cast<double>(products), 0);
  for (int64_t r = 0; r < count; ++r) {
    double right = 0, size = 0;
    for (int64_t n = 0; n < width; ++n) {
      const double product = double{hidden[r * width + n]} * table[r * width + n];
      right += product, size += std::fabs(product);
    }
    check("a product", r, target_score[r], right, (depth * 32 + 32) * (0x1p-23 * size + 0x1p-118));  // 2^-126 times 2^8
  }
}

}  // namespace

int main(int count, char** arguments) {
  const bool brief = count > 1 && std::strcmp(arguments[1], "brief") == 0;  // of every kernel something
  const bool quick = brief || (count > 1 && std::strcmp(arguments[1], "quick") == 0);
  const Shape shapes[] = {{1, 1, 1, 1}, {5, 1, 33, 7}, {70, 3, 333, 24}, {33, 2, 300, 40}, {40, 7, 70, 33}};
  for (const Shape& shape : shapes) {
    if ((quick && shape.users == 40) || (brief && shape.users == 70)) continue;
    for (int threads = quick ? 2 : 1; threads <= 2; ++threads)
      for (int parts = 1; parts <= 2; ++parts) {
        cross_entropy(Problem(shape, parts == 2, false, threads));
        cross_entropy(Problem(shape, parts == 2, true, threads));
        cross_entropy_of_chunk(Problem(shape, false, parts == 2, threads), threads == 2);
        for (int paper = 0; paper < 2; ++paper) ensemble(Problem(shape, parts == 2, false, threads), paper);
      }
  }
  for (int threads = quick ? 2 : 1; threads <= 2; ++threads)
    for (int64_t rows : {1, 16, 17, 50})
      for (int bounded = 0; bounded < 2; ++bounded) {
        topk(rows, 1, 1, 3, bounded, threads);
        topk(rows, 1000, 40, 7, bounded, threads);
      }
  for (int threads = quick ? 2 : 1; threads <= 2; ++threads) ranks(threads);
  for (int64_t width : {2, 40, 300})
    for (int bounded = 0; bounded < 2; ++bounded) rounding(width, bounded);
  std::printf("right\n");
}
