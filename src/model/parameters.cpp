#include "model/parameters.hpp"

#include <algorithm>
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
    : buffer_(space, DType::f32, {flat_size(specs)}, what) {
  set_specs(std::move(specs));
}

Parameters Parameters::read_only(std::vector<ParameterSpec> specs, Space space, DType dtype, const std::string& what) {
  if (dtype == DType::f32) return {std::move(specs), space, what};
  Parameters parameters;
  parameters.set_specs(std::move(specs));
  parameters.masters_ = Masters::norms;
  std::vector<ParameterSpec> before;
  for (const ParameterSpec& s : parameters.specs_) {
    if (s.shape.size() > 1) continue;
    parameters.norm_offsets_[s.name] = vectors_size(before);
    before.push_back(s);
  }
  parameters.buffer_ =
      Tensor(space, DType::f32, {std::max<std::int64_t>(vectors_size(before), 1)}, "norm weights of " + what);
  parameters.set_working_copy(dtype, what);
  return parameters;
}

void Parameters::set_specs(std::vector<ParameterSpec> specs) {
  specs_ = std::move(specs);
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

TensorView Parameters::flat() const {
  PHOTON_EXPECT(masters_ == Masters::all, "these parameters have given up their fp32 values");
  return buffer_.view();
}

TensorView Parameters::view(const std::string& name) const {
  if (masters_ == Masters::all) return view_in(flat(), name);
  const auto found = norm_offsets_.find(name);
  PHOTON_EXPECT(found != norm_offsets_.end(), "{} has no fp32 value here", name);
  return buffer_.view().slice(0, found->second, spec(name).numel());
}

TensorView Parameters::working_view(const std::string& name) const {
  return view_in(working(), name);
}

void Parameters::make_working_copy(DType dtype) {
  if (dtype != DType::f32) set_working_copy(dtype, "the working copy of the weights");
}

void Parameters::set_working_copy(DType dtype, const std::string& what) {
  PHOTON_EXPECT(dtype == DType::bf16 && space() == Space::device, "a {} copy of parameters in {} memory",
                name_of(dtype), name_of(space()));
  working_ = Tensor(Space::device, dtype, {flat_size(specs_)}, what);
}

void Parameters::assign(const Parameters& from) {
  PHOTON_EXPECT(flat_size(from.specs_) == flat_size(specs_) && from.specs_.size() == specs_.size(),
                "parameters of {} elements from {}", flat_size(specs_), flat_size(from.specs_));
  if (masters_ == Masters::all) {
    copy(from.flat(), flat());
    return refresh_working_copy();
  }
  if (from.working_.view()) {
    copy(from.working_, working_.view());
  } else {  // rounded here, a piece at a time
    constexpr std::int64_t piece = std::int64_t{1} << 24;
    const std::int64_t size = flat_size(specs_);
    const Tensor staged(Space::device, DType::f32, {std::min(piece, size)}, "weights on their way");
    Context ctx;
    ctx.space = Space::device;
    for (std::int64_t begin = 0; begin < size; begin += piece) {
      const std::int64_t count = std::min(piece, size - begin);
      copy(from.flat().slice(0, begin, count), staged.view().slice(0, 0, count));
      copy_elements(ctx, staged.view().slice(0, 0, count), working().slice(0, begin, count));
      device::synchronize(ctx.stream);
    }
  }
  for (const auto& [name, offset] : norm_offsets_) copy(from.view(name), view(name));
}

void Parameters::write(const std::string& name, std::int64_t begin, const ConstTensorView& values) {
  const std::int64_t count = values.numel();
  const auto part = [&](const TensorView& whole) { return whole.reshape({whole.numel()}).slice(0, begin, count); };
  const bool master = masters_ == Masters::all || norm_offsets_.count(name) != 0;
  if (master) copy(values, part(view(name)));
  if (!working_.view()) return;
  Context ctx;
  ctx.space = Space::device;
  const Tensor staged = master ? Tensor() : Tensor(Space::device, DType::f32, {count}, "weights on their way");
  if (!master) copy(values, staged);
  copy_elements(ctx, master ? part(view(name)) : staged.view(), part(working_view(name)));
  device::synchronize(ctx.stream);
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
  constexpr std::int64_t piece = std::int64_t{1} << 24;  // elements on their way to a device
  const bool there = parameters.space() == Space::host;
  std::vector<float> staged;
  for (const ParameterSpec& spec : parameters.specs()) {
    const std::uint64_t stream = hash_name(spec.name);
    const std::int64_t size = spec.numel();
    for (std::int64_t begin = 0; begin < size; begin += piece) {
      const std::int64_t n = std::min(piece, size - begin);
      if (!there) staged.resize(static_cast<std::size_t>(piece));
      float* const values = there ? parameters.view(spec.name).host<float>() + begin : staged.data();
#pragma omp parallel for schedule(static)
      for (std::int64_t i = 0; i < n; ++i) {
        double value = spec.init_value;
        if (spec.init_std > 0)
          value += spec.init_std * random_normal(seed, stream, static_cast<std::uint64_t>(begin + i));
        values[i] = static_cast<float>(value);
      }
      if (!there) parameters.write(spec.name, begin, host_view(values, {n}));
    }
  }
}

}  // namespace photon
