// Model FLOPs: 2 per multiply-add of every matrix product, attention at half the square, each level at its own rate.
#pragma once

#include <cstdint>
#include <vector>

#include "config/model_config.hpp"

namespace photon {

// Forward FLOPs of one sequence of `tokens` tokens, by part.
struct ForwardFlops {
  double encoders = 0;  // chunkers included
  double decoders = 0;  // converters included
  double head = 0;
  double total() const { return encoders + decoders + head; }
};
ForwardFlops forward_flops(const ModelConfig& config, std::int64_t tokens);
// The same by layer of the chain (blueprint/modules.hpp): chunkers and converters count with the first layer of their
// stack, the head with the last one of all.
std::vector<double> layer_flops(const ModelConfig& config, std::int64_t tokens);

// What recomputing its layers' activations in the backward adds, likewise by layer: the forward without the stack's
// last product, chunkers, converters and the head.
std::vector<double> recompute_flops(const ModelConfig& config, std::int64_t tokens);

// What the weight gradients of linear layers take, which a split backward computes in a part of its own: likewise by
// layer, chunkers and converters with the first one of their stack, the head not (its gradients are one op).
std::vector<double> weight_gradient_flops(const ModelConfig& config, std::int64_t tokens);

// Forward and backward of one sequence: three times the forward. Recomputation does not count: it is no part of the
// model.
double training_flops(const ModelConfig& config, std::int64_t tokens);

}  // namespace photon
