#include "model/parameters.hpp"

#include <utility>

#include "blueprint/modules.hpp"
#include "kernels/elementwise.hpp"
#include "support/random.hpp"

namespace photon {
namespace {

Shape shape_of(const ParameterSpec& spec) {
  return spec.shape.size() == 1 ? Shape{spec.shape[0]} : Shape{spec.shape[0], spec.shape[1]};
}

}  // namespace

Parameters::Parameters(const ModelConfig& config, Space space, const std::string& what)
    : Parameters(photon::parameters(config), space, what) {}

Parameters::Parameters(std::vector<ParameterSpec> specs, Space space, const std::string& what)
    : specs_(std::move(specs)), buffer_(space, DType::f32, {flat_size(specs_)}, what) {
  for (std::size_t i = 0; i < specs_.size(); ++i) index_[specs_[i].name] = i;
}

const ParameterSpec& Parameters::spec(const std::string& name) const {
  const auto found = index_.find(name);
  PHOTON_EXPECT(found != index_.end(), "no parameter named {}", name);
  return specs_[found->second];
}

TensorView Parameters::view_in(const TensorView& flat, const std::string& name) const {
  const ParameterSpec& s = spec(name);
  return flat.slice(0, s.offset, s.numel()).reshape(shape_of(s));
}

TensorView Parameters::view(const std::string& name) const {
  return view_in(flat(), name);
}

TensorView Parameters::working_view(const std::string& name) const {
  return view_in(working(), name);
}

void Parameters::make_working_copy(DType dtype) {
  if (dtype == DType::f32) return;
  PHOTON_EXPECT(dtype == DType::bf16 && flat().space() == Space::device, "a {} copy of parameters in {} memory",
                name_of(dtype), name_of(flat().space()));
  working_ = Tensor(Space::device, dtype, flat().shape(), "the working copy of the weights");
}

void Parameters::refresh_working_copy() {
  if (!working_.view()) return;
  Context ctx;
  ctx.space = Space::device;
  device::synchronize(ctx.stream);
  copy_elements(ctx, flat(), working_);
  device::synchronize(ctx.stream);
}

TensorView Parameters::fused(const std::string& first, const std::string& last) const {
  const ParameterSpec& a = spec(first);
  const ParameterSpec& b = spec(last);
  const std::int64_t columns = a.shape.back();
  const std::int64_t count = b.offset + b.numel() - a.offset;
  PHOTON_EXPECT(b.shape.back() == columns && count % columns == 0, "{} .. {} is no matrix of {} columns", first, last,
                columns);
  std::int64_t parts = 0;
  for (std::size_t i = index_.at(first); i <= index_.at(last); ++i) parts += specs_[i].numel();
  PHOTON_EXPECT(parts == count, "{} .. {} has gaps", first, last);
  return working().slice(0, a.offset, count).reshape({count / columns, columns});
}

bool only_added_to(const ParameterSpec& spec) {
  if (spec.shape.size() == 1) return true;
  return spec.name == "lm_head.weight" || spec.name == embedding_name(ModelType::photon) ||
         spec.name == embedding_name(ModelType::vanilla);
}

void begin_gradients(const Context& ctx, const Parameters& gradients) {
  for (const ParameterSpec& spec : gradients.specs()) {
    if (only_added_to(spec)) fill(ctx, gradients.view(spec.name), 0.0F);
  }
}

void initialize(Parameters& parameters, std::uint64_t seed) {
  if (parameters.flat().space() == Space::device) {
    Parameters host(parameters.specs(), Space::host, "fresh weights");
    initialize(host, seed);
    copy(host.flat(), parameters.flat());
    parameters.refresh_working_copy();
    return;
  }
  for (const ParameterSpec& spec : parameters.specs()) {
    auto* const values = parameters.view(spec.name).host<float>();
    const std::uint64_t stream = hash_name(spec.name);
    const std::int64_t n = spec.numel();
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < n; ++i) {
      double value = spec.init_value;
      if (spec.init_std > 0) value += spec.init_std * random_normal(seed, stream, static_cast<std::uint64_t>(i));
      values[i] = static_cast<float>(value);
    }
  }
}

}  // namespace photon
