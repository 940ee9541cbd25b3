// Descriptions of tensors for Hopper's copy engine.
#pragma once

#include <cuda.h>

#include "tensor/view.hpp"

namespace photon::cuda {

// For copies of `rows` positions of one head, 64 of its columns at a time, into tiles [rows, 64] of shared memory with
// the hardware's 128-byte swizzle; zeros beyond the tensor. x: bf16 [B, N, H, hd], 16-byte aligned. Coordinates of a
// copy: column, head, position, sequence.
CUtensorMap head_map(const ConstTensorView& x, int rows);

}  // namespace photon::cuda
