// Matrices as 8-bit floats for matrix products (OCP 8-bit floating point, arXiv 2209.05433): scaled as a whole, so that
// the largest element just fits, and rounded to nearest, ties to even.
#pragma once

#include "tensor/context.hpp"

namespace photon {

// e4m3: 4 bits of exponent, 3 of mantissa, up to 448, no infinity; e5m2: up to 57344.
enum class Float8 { e4m3, e5m2 };

// A matrix x [M, K] as it is and transposed, with the same values: x[m, k] = values[m, k] * scale. Products read both
// operands along the summed dim, so that each matrix is needed in both ways over a training step. On a device.
struct Quantized {
  Float8 format = Float8::e4m3;
  TensorView values = {};      // u8 [M, K]; empty where no product reads it
  TensorView transposed = {};  // u8 [K, M], likewise
  TensorView scale = {};       // f32 [1] at a multiple of 16 bytes; a power of two: scaling rounds nothing

  explicit operator bool() const { return static_cast<bool>(scale); }
  // Rows begin .. begin + count - 1 of x; multiples of 16.
  Quantized rows(std::int64_t begin, std::int64_t count) const;
};

// Whether matrices [M, K] can be quantized: both multiples of 16, as products of 8-bit floats ask.
bool quantizable(std::int64_t rows, std::int64_t columns);

// Fills `to` from x [M, K] bf16 with 16-byte rows. The scale follows from the largest element, whose absolute value is
// looked for first unless `largest` (f32 [1] on the device) holds it or a bound of it; what exceeds that bound by more
// than the format's range becomes its largest number. Where x holds a NaN or an infinity (or `largest` is one) the
// scale is NaN, and so is every product.
void quantize(const Context& ctx, const ConstTensorView& x, const Quantized& to, const ConstTensorView& largest = {});

// CUDA bodies: quantize.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void quantize(const Context& ctx, const ConstTensorView& x, const Quantized& to, const ConstTensorView& largest);
bool has_float8();  // whether the current device multiplies 8-bit floats (sm_89 and later)
}  // namespace cuda

}  // namespace photon
