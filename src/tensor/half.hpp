// Conversions of 16-bit floats, rounding to nearest even; NaN stays NaN.
#pragma once

#include "tensor/types.hpp"

namespace photon {

bfloat16 to_bfloat16(float x);
float16 to_float16(float x);
float to_float(bfloat16 x);
float to_float(float16 x);

}  // namespace photon
