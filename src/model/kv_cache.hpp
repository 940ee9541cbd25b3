// Keys and values of the sequences that a stack continues.
#pragma once

#include <vector>

#include "tensor/buffer.hpp"
#include "tensor/context.hpp"

namespace photon {

// For each layer [slots, capacity, Hkv, hd].
struct KvCache {
  std::vector<Tensor> k;
  std::vector<Tensor> v;

  std::int64_t bytes() const;
  void copy_slot(const Context& ctx, std::int64_t from, std::int64_t to) const;
};

// Of anything else that is kept for each slot, [slots, ...].
void copy_slot(const Context& ctx, const Tensor& kept, std::int64_t from, std::int64_t to);

}  // namespace photon
