// The decoder of one level as macro-steps run it: n groups side by side, one reconstruction after another. Its cache
// holds a group and no more, and belongs to whoever decodes the group.
#pragma once

#include "model/cached_stack.hpp"
#include "model/photon_stage.hpp"

namespace photon {

class LocalDecoder {
 public:
  // Of level l. `weights` outlive it.
  LocalDecoder(const ModelConfig& config, std::int64_t l, const LevelTensors& weights, const Context& ctx, DType dtype);

  // Room for calls of `rows` rows; true when memory that calls were recorded with has moved.
  bool reserve(std::int64_t rows);
  // What a call takes from its arena at most.
  std::int64_t call_bytes(std::int64_t rows) const;
  std::int64_t cache_bytes() const { return cache_.bytes(); }

  // c [n, D_l] -> y [n, D_{l-1}]: a group's first reconstruction. Where the level looks back, `recent` [n, k] i32 are
  // the tokens before the group (negative: none) and `table` embeds them; else both are empty.
  void start(Arena& arena, const ConstTensorView& c, const ConstTensorView& recent, const ConstTensorView& table,
             const TensorView& y);
  // content [n, D_{l-1}] (unit j of the group) -> y: reconstruction j + 1.
  void next(Arena& arena, std::int64_t j, const ConstTensorView& content, const TensorView& y);

 private:
  std::int64_t start_positions() const { return prefix_ + lookback_; }
  ConstTensorView constant(std::int64_t value, std::int64_t rows) const;

  Context ctx_;
  DType dtype_;
  std::int64_t width_;  // D_{l-1}
  std::int64_t prefix_;
  std::int64_t lookback_;
  std::int64_t positions_;
  const LevelTensors& weights_;
  CachedStack stack_;
  std::int64_t rows_ = 0;
  KvCache cache_;
  Tensor iota_;
  Tensor constants_;  // [positions, rows] i32
};

}  // namespace photon
