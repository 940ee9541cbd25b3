#include "model/model.hpp"

#include "blueprint/activations.hpp"
#include "kernels/head_loss.hpp"
#include "model/float8_weights.hpp"
#include "model/photon_model.hpp"
#include "model/vanilla_model.hpp"

namespace photon {
namespace {

std::unique_ptr<Model> make(const ModelConfig& config, Space space, std::int32_t start_token, DType dtype,
                            Masters masters) {
  if (config.type == ModelType::vanilla)
    return std::make_unique<VanillaModel>(config, space, start_token, dtype, masters);
  return std::make_unique<PhotonModel>(config, space, dtype, masters);
}

}  // namespace

LossSums& LossSums::operator+=(const LossSums& other) {
  ce += other.ce;
  num_tokens += other.num_tokens;
  rec.resize(std::max(rec.size(), other.rec.size()));
  num_units.resize(rec.size());
  for (std::size_t i = 0; i < other.rec.size(); ++i) {
    rec[i] += other.rec[i];
    num_units[i] += other.num_units[i];
  }
  return *this;
}

GatheredLosses::GatheredLosses(const ModelConfig& config, Space space)
    : sums_(space, DType::f64, {std::max<std::int64_t>(config.num_levels(), 1)}, "sums of losses") {}

void GatheredLosses::clear(const Context& ctx) const {
  const std::vector<double> zeros(static_cast<std::size_t>(view().numel()));
  copy(ctx.stream, host_view(zeros.data(), {view().numel()}), view());
}

LossSums GatheredLosses::fetch(const Context& ctx) const {
  std::vector<double> values(static_cast<std::size_t>(view().numel()));
  copy(ctx.stream, view(), host_view(values.data(), {view().numel()}));
  LossSums sums;
  sums.ce = values.front();
  sums.rec.assign(values.begin() + 1, values.end());
  sums.num_units.resize(sums.rec.size());
  return sums;
}

Model::Model(const ModelConfig& config, Space space, DType dtype, Masters masters)
    : config_(config),
      dtype_(dtype),
      parameters_(masters == Masters::norms ? Parameters::read_only(photon::parameters(config), space, dtype)
                                            : Parameters(config, space)) {
  if (masters == Masters::all) parameters_.make_working_copy(dtype);
}

Model::~Model() = default;

void Model::set_pass_options(const PassOptions& options) {
  PHOTON_EXPECT(!options.split_backward, "a model's backward is one piece: that of a part can be split (ModelPart)");
  options_ = options;
  float8_ = options.fp8 ? std::make_unique<Float8Weights>(stacks()) : nullptr;
}

void Model::weights_changed(const Context& ctx) {
  if (float8_) float8_->refresh(ctx);
}

TensorView Model::head_weight() const {
  if (!config_.tie_embeddings) return parameters_.working_view("lm_head.weight");
  return parameters_.working_view(config_.type == ModelType::vanilla ? "model.embed_tokens.weight" : "embed.weight");
}

double head_losses(const Model& model, const Context& ctx, const ConstTensorView& states, const ConstTensorView& tokens,
                   const ConstTensorView& mask, const TensorView& token_loss, const TensorView& argmax) {
  if (ctx.space == Space::host) {
    return head_loss_forward(ctx, states, model.head_weight(), tokens, mask, token_loss, argmax);
  }
  const auto room = [](const ConstTensorView& like) {
    return like ? Tensor(Space::device, like.dtype(), like.shape(), "the head's losses") : Tensor();
  };
  const Tensor device_tokens = room(tokens);
  const Tensor device_mask = room(mask);
  const Tensor loss = room(token_loss);
  const Tensor best = room(argmax);
  copy(ctx.stream, tokens, device_tokens);
  if (mask) copy(ctx.stream, mask, device_mask);
  const double sum = head_loss_forward(ctx, states, model.head_weight(), device_tokens, device_mask, loss, best);
  if (token_loss) copy(ctx.stream, loss, token_loss);
  if (argmax) copy(ctx.stream, best, argmax);
  device::synchronize(ctx.stream);
  return sum;
}

std::unique_ptr<Model> make_model(const ModelConfig& config, Space space, std::int32_t start_token, DType dtype) {
  return make(config, space, start_token, dtype, Masters::all);
}

std::unique_ptr<Model> make_frozen_model(const ModelConfig& config, Space space, std::int32_t start_token,
                                         DType dtype) {
  return make(config, space, start_token, dtype, Masters::norms);
}

std::int64_t count_tokens(const Batch& batch) {
  if (!batch.mask) return batch.tokens.numel();
  const auto* const mask = batch.mask.host<std::uint8_t>();
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < batch.mask.numel(); ++i) count += mask[i] != 0;
  return count;
}

std::vector<std::int64_t> unpadded_units(const ModelConfig& config, std::int64_t batch, std::int64_t tokens) {
  std::vector<std::int64_t> units;
  for (std::int64_t l = 1; l < config.num_levels(); ++l) units.push_back(batch * (tokens / config.cumulative_chunk(l)));
  return units;
}

std::int64_t training_arena_bytes(const ModelConfig& config, std::int64_t batch, std::int64_t tokens, DType dtype,
                                  const PassOptions& options) {
  return training_activation_bytes(config, batch, tokens, element_bytes(dtype), options);
}

}  // namespace photon
