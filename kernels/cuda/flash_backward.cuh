// What the bodies of stream attention's backward pass are given.
#pragma once

#include "kernels/cuda/flash.cuh"

namespace photon::cuda::flash {

// How dq goes from block to block.
struct Relay {
  float* sums;  // [B * Hq, query tiles, warps, a lane's float4s, lanes, 4]
  int* turns;   // [B * Hq, query tiles, parts that are handed on by themselves]: blocks that have added theirs
  int* ticket;  // the next piece of work
};

// All that a backward pass over keys is given.
struct Backward {
  Heads<const bf16> q;
  Heads<const bf16> k;
  Heads<const bf16> v;
  Heads<const bf16> dout;
  // What is needed of a query besides q and dout, [B, Hq, padded], zeros from N on: its log-sum-exp as a power of two,
  // and out . dout.
  const float* lse_log2;
  const float* delta;
  Heads<bf16> dq;
  Heads<bf16> dk;
  Heads<bf16> dv;
  // Angles by which dq and dk are turned back, [positions, hd/2]; null: they are not.
  const float* cosines;
  const float* sines;
  Relay relay;
  int num_key_heads;
  int padded;  // N, up to whole tiles of queries
  Sizes s;
};

// The same on Hopper's own matrix units (flash_backward_hopper.cu), which alone turns dq and dk back; false, with
// nothing launched, where it cannot run.
template <int Width>
bool backward_on_hopper(const Context& ctx, const Backward& a, const ConstTensorView& q, const ConstTensorView& k,
                        const ConstTensorView& v, const ConstTensorView& dout);

}  // namespace photon::cuda::flash
