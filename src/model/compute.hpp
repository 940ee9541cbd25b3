// Where a model computes: the host, or one GPU with a stream and the scratch memory of its ops.
#pragma once

#include <cstdint>

#include "config/model_config.hpp"
#include "tensor/context.hpp"

namespace photon {

class Compute {
 public:
  // On the current GPU where `space` is the device. `scratch_bytes` as the functions below give them, or 0 where
  // reserve_scratch() follows; unused on the host.
  Compute(Space space, Numerics numerics, std::int64_t scratch_bytes = 0);
  ~Compute();
  Compute(const Compute&) = delete;
  Compute& operator=(const Compute&) = delete;

  const Context& context() const { return context_; }
  std::int64_t scratch_peak() const { return scratch_.peak(); }
  // Waits until all queued work is done.
  void synchronize() const;

 private:
  Arena scratch_;
  Context context_;
};

// Bytes of scratch that the ops of forward_backward and of the optimizer need on a GPU, for microbatches of up to B
// sequences of T tokens; evaluate() and hidden() on such batches need less.
std::int64_t training_scratch_bytes(const ModelConfig& config, std::int64_t batch, std::int64_t tokens, DType dtype);

// Lets a device context's scratch hold what such a batch needs, growing it where it must (which waits for queued work);
// nothing to do on the host.
void reserve_scratch(const Context& ctx, const ModelConfig& config, std::int64_t batch, std::int64_t tokens,
                     DType dtype);

// Device memory that the libraries under the ops take besides: workspaces of matrix products, the runtime's own.
inline constexpr std::int64_t device_overhead_bytes = std::int64_t{768} << 20;

}  // namespace photon
