#include "model/kv_cache.hpp"

#include "tensor/view.hpp"

namespace photon {

std::int64_t KvCache::bytes() const {
  std::int64_t bytes = 0;
  for (const auto* const tensors : {&k, &v}) {
    for (const Tensor& tensor : *tensors) bytes += tensor.view().bytes();
  }
  return bytes;
}

void KvCache::copy_slot(const Context& ctx, std::int64_t from, std::int64_t to) const {
  for (const auto* const tensors : {&k, &v}) {
    for (const Tensor& tensor : *tensors) photon::copy_slot(ctx, tensor, from, to);
  }
}

void copy_slot(const Context& ctx, const Tensor& kept, std::int64_t from, std::int64_t to) {
  copy(ctx.stream, kept.view().slice(0, from, 1), kept.view().slice(0, to, 1));
}

}  // namespace photon
