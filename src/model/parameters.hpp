// A flat fp32 buffer with named views: parameters, their gradients, or an optimizer moment. Parameters that ops read in
// bf16 have a working copy of the same layout beside the fp32 masters, or, where nobody changes them, in their place.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "blueprint/parameters.hpp"
#include "config/model_config.hpp"
#include "tensor/buffer.hpp"
#include "tensor/context.hpp"

namespace photon {

// Which parameters keep fp32 values beside a bf16 working copy: all, to be trained and saved, or, to be read alone, the
// norms (vectors), which ops read in fp32 always.
enum class Masters { all, norms };

class Parameters {
 public:
  Parameters() = default;
  // Zero-filled, laid out by photon::parameters(config).
  Parameters(const ModelConfig& config, Space space, const std::string& what = "parameters");

  // Zero-filled, laid out as the specs say, e.g. hosted_parameters().
  Parameters(std::vector<ParameterSpec> specs, Space space, const std::string& what = "parameters");

  // The same to be read alone, by assign() or initialize() given values: where `dtype` is bf16 there is a working copy
  // and of the fp32 values the norms' alone, and memory for the others is never taken. Errors: ContractError for bf16
  // on the host.
  static Parameters read_only(std::vector<ParameterSpec> specs, Space space, DType dtype,
                              const std::string& what = "parameters");

  const std::vector<ParameterSpec>& specs() const { return specs_; }
  Space space() const { return buffer_.view().space(); }
  // [flat_size], padding included (always zero). Errors: ContractError with Masters::norms.
  TensorView flat() const;
  // Errors: ContractError for an unknown name, or one without an fp32 value.
  TensorView view(const std::string& name) const;
  bool has(const std::string& name) const { return index_.count(name) != 0; }
  // What ops read, in the dtype of the activations: views of the working copy, of the flat buffer itself where there is
  // none. Norms are read as view().
  TensorView working() const { return working_.view() ? working_.view() : flat(); }
  TensorView working_view(const std::string& name) const;
  // The run of matrices from `first` to `last` of working() as one [sum of rows, in] matrix; they must lie gap-free
  // behind each other.
  TensorView fused(const std::string& first, const std::string& last) const;

  // Sets a working copy aside, of zeros; nothing to do for f32. Errors: ContractError for bf16 on the host.
  void make_working_copy(DType dtype);
  // Takes all values from parameters of the same specs, in any memory, the working copy included; done when it returns.
  // Those have masters, or a working copy like this one's.
  void assign(const Parameters& from);
  // Gives a parameter's elements from `begin` on these values [n] f32 of host memory, in the working copy too; done
  // when it returns.
  void write(const std::string& name, std::int64_t begin, const ConstTensorView& values);
  // Rounds the values into the working copy, done when it returns. Whoever changes flat() calls it, or keeps
  // working() in step otherwise.
  void refresh_working_copy();

 private:
  void set_specs(std::vector<ParameterSpec> specs);
  void set_working_copy(DType dtype, const std::string& what);
  const ParameterSpec& spec(const std::string& name) const;
  TensorView view_in(const TensorView& flat, const std::string& name) const;

  std::vector<ParameterSpec> specs_;
  std::map<std::string, std::size_t> index_;
  Masters masters_ = Masters::all;
  Tensor buffer_;  // with Masters::norms of the vectors alone, each at its place in norm_offsets_
  std::map<std::string, std::int64_t> norm_offsets_;
  Tensor working_;
};

// Gradients that passes only add to: of norms, the start latent, the embedding and the head. All others are those of
// linear layers, which a pass with Write::replace writes whole.
bool only_added_to(const ParameterSpec& spec);
// Zeroes what the first pass of a step, which replaces the others, adds to.
void begin_gradients(const Context& ctx, const Parameters& gradients);

// Fresh weights by the specs' distributions; each value a function of (seed, name, element), computed on the host
// wherever the parameters lie. The working copy follows.
void initialize(Parameters& parameters, std::uint64_t seed);

}  // namespace photon
