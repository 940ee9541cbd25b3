// A flat fp32 buffer with named views: parameters, their gradients, or an optimizer moment.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "blueprint/parameters.hpp"
#include "config/model_config.hpp"
#include "tensor/buffer.hpp"

namespace photon {

class Parameters {
 public:
  Parameters() = default;
  // Zero-filled, laid out by photon::parameters(config).
  Parameters(const ModelConfig& config, Space space, const std::string& what = "parameters");

  // Zero-filled, laid out as the specs say, e.g. hosted_parameters().
  Parameters(std::vector<ParameterSpec> specs, Space space, const std::string& what = "parameters");

  const std::vector<ParameterSpec>& specs() const { return specs_; }
  TensorView flat() const { return buffer_.view(); }  // [flat_size], padding included (always zero)
  // Errors: ContractError for an unknown name.
  TensorView view(const std::string& name) const;
  bool has(const std::string& name) const { return index_.count(name) != 0; }
  // The run of matrices from `first` to `last` as one [sum of rows, in] matrix; they must lie gap-free behind each
  // other.
  TensorView fused(const std::string& first, const std::string& last) const;

 private:
  const ParameterSpec& spec(const std::string& name) const;

  std::vector<ParameterSpec> specs_;
  std::map<std::string, std::size_t> index_;
  Tensor buffer_;
};

// Fresh weights by the specs' distributions; each value a function of (seed, name, element). Host parameters only.
void initialize(Parameters& parameters, std::uint64_t seed);

}  // namespace photon
