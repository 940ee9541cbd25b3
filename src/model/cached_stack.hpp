// A stack that continues cached sequences: the same layers as Stack, one or a few new positions at a time, with all
// indices in the memory of the context's space.
#pragma once

#include "kernels/rope.hpp"
#include "model/kv_cache.hpp"
#include "model/stack.hpp"

namespace photon {

// A product of a decoding step: by the op for few rows where that applies, else linear_forward.
void step_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const TensorView& y);

class CachedStack {
 public:
  CachedStack(const StackConfig& config, std::int64_t width, double norm_eps, AttentionKind kind)
      : config_(config),
        width_(width),
        norm_eps_(norm_eps),
        kind_(kind),
        rope_(width / config.heads, config.rope_theta) {}

  // Positions that will be reached; before anything else.
  void reserve(Space space, std::int64_t num_positions) { rope_.reserve(space, num_positions); }

  // [slots, capacity, Hkv, hd] a layer.
  KvCache make_cache(Space space, DType dtype, std::int64_t slots, std::int64_t capacity) const;

  // n rows with P new positions each, x [n P, D] and, of the last Q of each (1 or P), out [n Q, D]; rows of both may be
  // strided. Row r's are positions first[r] .. of sequence slot[r] (n i32 each).
  void step(const Context& ctx, Arena& arena, const StackTensors& weights, const ConstTensorView& x, KvCache& cache,
            const ConstTensorView& slot, const ConstTensorView& first, const TensorView& out) const;
  std::int64_t step_bytes(std::int64_t rows, std::int64_t positions, std::int64_t element) const;

  // Streams from position 0 that also fill caches: sequence s of x [n, P, D] into slot[s], its first length[s]
  // positions; out [n, P, D].
  void prefill(const Context& ctx, Arena& arena, const StackTensors& weights, const ConstTensorView& x, KvCache& cache,
               const ConstTensorView& slot, const ConstTensorView& length, const TensorView& out) const;
  std::int64_t prefill_bytes(std::int64_t rows, std::int64_t positions, std::int64_t element) const;

 private:
  std::int64_t head_width() const { return width_ / config_.heads; }
  std::int64_t kv_width() const { return config_.kv_heads * head_width(); }
  // A layer behind its attention: attn and residual [m, D] -> the stream's next rows `next` and, normalised with the
  // next weight `norm`, `h`.
  void close_layer(const Context& ctx, Arena& arena, const LayerTensors& w, const ConstTensorView& attn,
                   const ConstTensorView& residual, const ConstTensorView& norm, const TensorView& next,
                   const TensorView& h) const;
  std::int64_t layer_bytes(std::int64_t rows, std::int64_t outputs, std::int64_t element) const;

  StackConfig config_;
  std::int64_t width_;
  double norm_eps_;
  AttentionKind kind_;
  RopeTable rope_;
};

}  // namespace photon
