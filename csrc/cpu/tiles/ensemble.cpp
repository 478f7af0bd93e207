// Ensemble reasoning loss over a catalog by tiles.
#include "cpu/ensemble.h"

#include "cpu/tiles/sweep.h"

namespace rearec::tiles::REAREC_ENGINE {

void ensemble(const OfSweep<Ensemble>& a) {
  with_ensemble_loss(a.softmax.users, a.loss, [&](const Loss& loss) { sweep(a.softmax, a.scratch, loss); });
}

}  // namespace rearec::tiles::REAREC_ENGINE
