// Cross-entropy over a catalog by tiles.
#include "cpu/cross_entropy.h"

#include "cpu/tiles/sweep.h"

namespace rearec::tiles::REAREC_ENGINE {

void ensemble(const OfSweep<Ensemble>& a);  // ensemble.cpp

namespace {

size_t scratch_bytes(const SoftmaxOverItems& c) {
  const int64_t running = 4 * c.users.steps + 3, vectors = 3 * c.users.steps + 3;  // of the ensemble, which has more
  return c.two_parts ? Sweep<2>::bytes(c, running, vectors) : Sweep<1>::bytes(c, running, vectors);
}

void cross_entropy(const OfSweep<CrossEntropy>& a) {
  sweep(a.softmax, a.scratch, CrossEntropyLoss(a.softmax.users, a.loss));
}

}  // namespace

const LossEngine losses = {scratch_bytes, cross_entropy, ensemble};

}  // namespace rearec::tiles::REAREC_ENGINE
