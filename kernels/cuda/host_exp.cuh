// The exponential with the host's bits, so that both sides draw the same token.
#pragma once

#include "kernels/cuda/common.cuh"

namespace photon::cuda {

// e^x as kernels/cpu computes it.
__device__ inline float host_exp(float x) {
  const float clamped = x > 89.0F ? 89.0F : x;
  const float magic = 12582912.0F;
  const float shifted = __fmaf_rn(clamped, 1.44269504088896341F, magic);
  const float n = __fsub_rn(shifted, magic);
  float r = __fmaf_rn(n, -0.693359375F, clamped);
  r = __fmaf_rn(n, 2.12194440e-4F, r);
  float p = 1.9875691500e-4F;
  p = __fmaf_rn(p, r, 1.3981999507e-3F);
  p = __fmaf_rn(p, r, 8.3334519073e-3F);
  p = __fmaf_rn(p, r, 4.1665795894e-2F);
  p = __fmaf_rn(p, r, 1.6666665459e-1F);
  p = __fmaf_rn(p, r, 5.0000001201e-1F);
  p = __fadd_rn(__fmaf_rn(p, __fmul_rn(r, r), r), 1.0F);
  const int exponent = __float_as_int(shifted) - __float_as_int(magic);
  const int half = exponent >> 1;
  const float y =
      __fmul_rn(__fmul_rn(p, __int_as_float((half + 127) << 23)), __int_as_float((exponent - half + 127) << 23));
  return x < -87.336544F ? 0.0F : y;
}

}  // namespace photon::cuda
