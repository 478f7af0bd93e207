// The kernels of csrc/cpu against float64, without Python: for a processor that is emulated.
#include "check.h"

int main() {
  check_vectors();
  check_attention();
  check_layer_norm();
  check_losses();
  check_retrieval();
  if (failures == 0) std::printf("every kernel agrees with float64\n");
  return failures != 0;
}
