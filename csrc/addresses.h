// Memory of tensors as Python hands it over.
#pragma once
#include <cstdint>

namespace rearec {

using Address = uintptr_t;

template <class T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace rearec
