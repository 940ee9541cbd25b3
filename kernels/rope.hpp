// Rotary position embedding in the half-split ("rotate_half") layout.
#pragma once

#include "tensor/context.hpp"

namespace photon {

// cos and sin of position * theta^(-2i/hd), computed in double and rounded once; host memory, [positions, hd/2] f32
// each. Grows on request. hd must be even.
class RopeTable {
 public:
  RopeTable() = default;
  RopeTable(std::int64_t head_width, double theta) : head_width_(head_width), theta_(theta) {}
  // Makes positions 0 .. num_positions-1 available in `space`.
  void reserve(Space space, std::int64_t num_positions);
  ConstTensorView cosines() const { return cos_.view(); }  // [positions, hd/2]
  ConstTensorView sines() const { return sin_.view(); }
  std::int64_t positions() const { return positions_; }

 private:
  std::int64_t head_width_ = 0;
  double theta_ = 10000.0;
  std::int64_t positions_ = 0;
  Tensor cos_;
  Tensor sin_;
};

enum class Rotation { forward, backward };  // backward turns by the negative angle: the gradient

// Rotates every head of every row in place. x [N, H, hd] (row strides allowed; q and k heads that lie side by side are
// one call), positions [N] i32, each below table.positions().
void rope(const Context& ctx, const RopeTable& table, const ConstTensorView& positions, const TensorView& x,
          Rotation rotation);

// The same for whole sequences: x [B, N, H, hd], row n of each stands at position n.
void rope(const Context& ctx, const RopeTable& table, const TensorView& x, Rotation rotation);

// CUDA bodies: rope.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void rope(const Context& ctx, const RopeTable& table, const ConstTensorView& positions, const TensorView& x,
          Rotation rotation);
void rope(const Context& ctx, const RopeTable& table, const TensorView& x, Rotation rotation);
}  // namespace cuda

}  // namespace photon
