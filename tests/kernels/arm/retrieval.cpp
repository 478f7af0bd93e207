// Top-k and rank over scores that are small integers, so that every order of summation gives the same.
#include "cpu/retrieval.h"

#include <algorithm>
#include <string>

#include "check.h"

using namespace rearec;

void check_retrieval() {
  const int64_t rows = 5, items = 203, width = 13, k = 9;
  auto hidden = random_floats(rows * width, 3), table = random_floats(items * width, 3);
  for (float& value : hidden) value = std::round(value);
  for (float& value : table) value = std::round(value);
  const auto narrow = rounded<bfloat16>(table);
  std::vector<float> scores(rows * items);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < items; ++i)
      for (int64_t j = 0; j < width; ++j) scores[r * items + i] += hidden[r * width + j] * table[i * width + j];
  const std::vector<int64_t> excluded{0, 17, 18, 202};
  const Exclusion exclusion{nullptr, nullptr, excluded.data(), static_cast<int64_t>(excluded.size())};
  const auto is_excluded = [&](int64_t item) { return std::binary_search(excluded.begin(), excluded.end(), item); };
  std::vector<std::vector<int64_t>> best(rows);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < items; ++i)
      if (!is_excluded(i)) best[r].push_back(i);
    std::stable_sort(best[r].begin(), best[r].end(),
                     [&](int64_t a, int64_t b) { return scores[r * items + a] > scores[r * items + b]; });
  }

  const int parts = 2;
  // The same numbers three times: as they are, in bfloat16, and as what is rounded to them when it is read.
  std::vector<float> near = table;
  for (float& value : near) value *= 1.0005f;
  const auto table_of = [&](int way) {
    const void* const values[] = {nullptr, table.data(), narrow.data(), near.data()};
    return Table{values[way], way == 2, way == 3, items, width, width};
  };
  const std::vector<const char*> names{"", "", " of bfloat16", " of rounded floats"};
  for (int way = 0; way < 4; ++way) {
    std::vector<float> top(parts * rows * k, -kInfinity);
    std::vector<int64_t> found(parts * rows * k, -1);
    const Best heaps{top.data(), found.data(), rows, k};
    if (way == 0)
      for (int64_t first = 0; first < items; first += 150)
        baseline::retrieval.topk(
            {{&scores[first], rows, std::min<int64_t>(150, items - first), items, first, 2}, heaps, exclusion});
    else
      baseline::retrieval.topk_direct({hidden.data(), table_of(way), heaps, parts, exclusion});
    baseline::retrieval.topk_sort({heaps});
    bool same = true;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < k; ++i)
        same = same && found[r * k + i] == best[r][i] && top[r * k + i] == scores[r * items + best[r][i]];
    expect((std::string(way == 0 ? "topk" : "topk_direct") + names[way]).c_str(), same);
  }

  const std::vector<int64_t> target{3, 17, 100, 201, 50};
  std::vector<float> target_score;
  for (int64_t r = 0; r < rows; ++r) target_score.push_back(scores[r * items + target[r]]);
  for (int way = 0; way < 4; ++way) {
    std::vector<int64_t> half_counts(parts * rows);
    std::vector<float> own_score = target_score;
    if (way == 0) {
      baseline::retrieval.rank({{scores.data(), rows, items, items, 0, 2}, target.data(), target_score.data(),
                                half_counts.data(), exclusion});
    } else {
      own_score.assign(rows, 0);
      baseline::retrieval.rank_direct({hidden.data(), table_of(way), rows, target.data(), nullptr, own_score.data(),
                                       half_counts.data(), parts, exclusion});
    }
    bool same = own_score == target_score;
    for (int64_t r = 0; r < rows; ++r) {
      int64_t want = 0;
      for (int64_t i = 0; i < items; ++i) {
        if (is_excluded(i) || i == target[r]) continue;
        want += 2 * (scores[r * items + i] > target_score[r]) + (scores[r * items + i] == target_score[r]);
      }
      same = same && half_counts[r] == want;
    }
    expect((std::string(way == 0 ? "rank" : "rank_direct") + names[way]).c_str(), same);
  }
}
