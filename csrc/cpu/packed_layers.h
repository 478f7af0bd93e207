// Where the weights of a stack of layers lie once they are packed: in the order in which a step reads them.
#pragma once
#include "cpu/packed_linear.h"
#include "cpu/rollout.h"

namespace rearec {
namespace {

struct PackedNorm {
  int64_t at;  // weight, then bias, each filled up with zeros to whole panels
};

// Hands out places in the packed weights, in the order in which a step reads them.
struct PackedPlaces {
  int64_t width;
  int64_t next = 0;

  PackedLinear linear(int64_t inputs, int64_t outputs) {
    const PackedLinear place{inputs, outputs, next};
    next += place.floats();
    return place;
  }
  PackedNorm norm() {
    const PackedNorm place{next};
    next += 2 * whole_panels(width);
    return place;
  }
};

struct PackedLayer {
  PackedLinear query, key, value, output;
  PackedNorm attention_norm;
  PackedLinear inner, outer;
  PackedNorm feed_forward_norm;

  PackedLayer(PackedPlaces& places, int64_t ffn)
      : query(places.linear(places.width, places.width)),
        key(places.linear(places.width, places.width)),
        value(places.linear(places.width, places.width)),
        output(places.linear(places.width, places.width)),
        attention_norm(places.norm()),
        inner(places.linear(places.width, ffn)),
        outer(places.linear(ffn, places.width)),
        feed_forward_norm(places.norm()) {}
};

int64_t width_of(const LayerStack& stack) { return stack.heads * stack.head_dim; }

int64_t packed_floats(const LayerStack& stack) {
  PackedPlaces places{width_of(stack)};
  places.norm();
  for (int64_t l = 0; l < stack.layers; ++l) PackedLayer(places, stack.ffn);
  return places.next;
}

void pack(const PackedNorm& norm, int64_t width, const float* weight, const float* bias, float* packed) {
  const int64_t padded = whole_panels(width);
  float* to = packed + norm.at;
  for (int64_t i = 0; i < padded; ++i) {
    to[i] = i < width ? weight[i] : 0;
    to[padded + i] = i < width ? bias[i] : 0;
  }
}

void pack_layers(const PackLayers& a) {
  const int64_t width = width_of(a.stack);
  const float* const* tensors = a.tensors.items;
  PackedPlaces places{width};
  const auto next = [&](const auto& place) {
    if constexpr (sizeof(place) == sizeof(PackedNorm))
      pack(place, width, tensors[0], tensors[1], a.packed);
    else
      pack(place, tensors[0], tensors[1], a.packed);
    tensors += 2;
  };
  next(places.norm());
  for (int64_t l = 0; l < a.stack.layers; ++l) {
    const PackedLayer layer(places, a.stack.ffn);
    next(layer.query);
    next(layer.key);
    next(layer.value);
    next(layer.output);
    next(layer.attention_norm);
    next(layer.inner);
    next(layer.outer);
    next(layer.feed_forward_norm);
  }
}

}  // namespace
}  // namespace rearec
