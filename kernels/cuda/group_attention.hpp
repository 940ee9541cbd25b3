// The ways in which attention inside groups is computed on a GPU.
#pragma once

#include "kernels/group_attention.hpp"

namespace photon::cuda {

// Operands of the forward pass, or of the backward pass when dout is given. table may be null.
struct GroupAttention {
  ConstTensorView q;
  ConstTensorView k;
  ConstTensorView v;
  const RopeTable* table = nullptr;
  TensorView out;
  ConstTensorView dout;
  TensorView dq;
  TensorView dk;
  TensorView dv;
};

// A warp a (group, key head), everything in registers. bf16, at most 8 positions, heads of 64 or 128, rows of 16-byte
// packs.
bool fits_a_warp(const GroupAttention& a);
void warp_group_attention(const Context& ctx, const GroupAttention& a);

// A block a (group, key head), everything in shared memory as bf16. Longer groups of the same sort.
bool fits_a_block(const GroupAttention& a);
void block_group_attention(const Context& ctx, const GroupAttention& a);

}  // namespace photon::cuda
