// What `photon bench kernels` measures: every op at the shapes that training photon-600m gives it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/scratch.hpp"
#include "tensor/context.hpp"

namespace photon::cli {

// Device tensors of one set of operands, filled with random values.
class Operands {
 public:
  Operands();

  // Normal values times a half: activations and gradients.
  TensorView values(DType dtype, const Shape& shape);
  TensorView zeros(DType dtype, const Shape& shape);
  // Integers in [0, below).
  TensorView integers(const Shape& shape, std::int32_t below);

 private:
  TensorView add(Tensor tensor);
  std::vector<Tensor> tensors_;
  std::uint64_t next_ = 0;
};

using Call = std::function<void(const Context&)>;

struct KernelCase {
  std::string op;
  std::string shape;
  double bytes;  // that must be read and written once
  double flops;  // of products, 0 where bytes decide
  // Makes operands and returns the call that uses them. The operands must outlive the call.
  std::function<Call(Operands&)> make;
};

std::vector<KernelCase> kernel_cases();

// Those of attention along streams and against caches, and the workspace that they take.
void add_attention_cases(std::vector<KernelCase>& cases);
cuda::ScratchLimits attention_case_limits();

// Those of 8-bit floats.
void add_float8_cases(std::vector<KernelCase>& cases);

}  // namespace photon::cli
