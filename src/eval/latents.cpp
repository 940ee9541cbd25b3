#include "eval/latents.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/elementwise.hpp"
#include "kernels/linear.hpp"
#include "model/incremental.hpp"
#include "tensor/half.hpp"

namespace photon {
namespace {

std::vector<float> host_floats(const Context& ctx, const ConstTensorView& view) {
  Tensor moved;
  ConstTensorView here = view;
  if (view.space() != Space::host) {
    moved = Tensor(Space::host, view.dtype(), view.shape(), "latents");
    copy(ctx.stream, view, moved);
    device::synchronize(ctx.stream);
    here = moved.view();
  }
  std::vector<float> values(static_cast<std::size_t>(view.numel()));
  if (here.dtype() == DType::bf16) {
    std::transform(here.host<bfloat16>(), here.host<bfloat16>() + here.numel(), values.begin(),
                   [](bfloat16 x) { return to_float(x); });
  } else {
    std::copy_n(here.host<float>(), here.numel(), values.begin());
  }
  return values;
}

// c(L) [B, M_L, D_L] of X(L): shifted by a unit, behind the start latent.
std::vector<float> shifted(const std::vector<float>& x, const std::vector<float>& start, std::int64_t batch) {
  std::vector<float> c(x.size());
  const auto width = static_cast<std::int64_t>(start.size());
  const std::int64_t row = static_cast<std::int64_t>(x.size()) / batch;
  for (std::int64_t b = 0; b < batch && row > 0; ++b) {
    std::copy(start.begin(), start.end(), c.begin() + b * row);
    std::copy_n(x.begin() + b * row, row - width, c.begin() + b * row + width);
  }
  return c;
}

// Everything but c(L), and hidden.
PathStates without_top(const ModelConfig& config, std::int64_t length) {
  PathStates states;
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
    states.units.push_back(length / config.cumulative_chunk(l));
    states.widths.push_back(config.width(l));
  }
  return states;
}

Tensor copy_of(const Context& ctx, const Tensor& tensor) {
  Tensor result(tensor.view().space(), tensor.view().dtype(), tensor.shape(), "latents");
  copy_elements(ctx, tensor, result);
  return result;
}

// X(L) [B, M_L, D_L] over the units X(L-1) | Y(L-1) [B, M_{L-1}, D_{L-1}].
Tensor top_encoder(PhotonModel& model, const Context& ctx, const Tensor& below) {
  const ModelConfig& config = model.config();
  const std::int64_t top = config.num_levels();
  const LevelConfig& level = config.levels[static_cast<std::size_t>(top - 1)];
  const LevelTensors& w = model.tensors().levels[static_cast<std::size_t>(top - 1)];
  const std::int64_t batch = below.shape()[0];
  const std::int64_t units = below.shape()[1] / level.chunk;
  Arena arena(ctx.space,
              stack_inference_bytes(level.encoder, level.dim, AttentionKind::stream, {batch, units, units},
                                    element_bytes(model.dtype())),
              "the top encoder");
  const Tensor a(ctx.space, model.dtype(), {batch, units, level.dim}, "units of the top level");
  Tensor x(ctx.space, model.dtype(), a.shape(), "units of the top level");
  linear_forward(ctx, below.view().reshape({batch * units, w.chunker.size(1)}), w.chunker, rows(a.view()));
  model.level(top).encoder.forward(ctx, arena, w.encoder, a, x);
  if (ctx.space == Space::device) device::synchronize(ctx.stream);  // the arena goes
  return x;
}

}  // namespace

std::span<const float> PathStates::latent(std::int64_t level, std::int64_t row, std::int64_t unit) const {
  const auto at = static_cast<std::size_t>(level - 1);
  const std::int64_t width = widths.at(at);
  PHOTON_EXPECT(unit >= 0 && unit < units[at], "unit {} of {}", unit, units[at]);
  const std::int64_t begin = (row * units[at] + unit) * width;
  return {conditioning[at].data() + begin, static_cast<std::size_t>(width)};
}

PathStates teacher_forced_states(PhotonModel& model, const Context& ctx, const Batch& batch) {
  const ModelConfig& config = model.config();
  PhotonModel::States all = model.states(ctx, batch);
  PathStates states = without_top(config, config.padded_length(batch.tokens.size(1)));
  for (std::int64_t l = 1; l < config.num_levels(); ++l)
    states.conditioning.push_back(host_floats(ctx, all.y[static_cast<std::size_t>(l)]));
  states.conditioning.push_back(
      shifted(host_floats(ctx, all.x.back()), host_floats(ctx, model.tensors().start_latent), batch.tokens.size(0)));
  states.hidden = std::move(all.y[0]);
  return states;
}

PathStates recgen_states(PhotonModel& model, const Context& ctx, const Batch& batch,
                         std::span<const std::int64_t> prompt_tokens) {
  require_recgen(model.config());
  const ModelConfig& config = model.config();
  const std::int64_t top = config.num_levels();
  const std::int64_t length = config.padded_length(batch.tokens.size(1));
  std::vector<Tensor> latents;  // c(l), l = 1 .. L-1
  Tensor below;                 // what the top chunker reads
  {
    const PhotonModel::States exact = model.states(ctx, batch);
    for (std::int64_t l = 1; l < top; ++l) latents.push_back(copy_of(ctx, exact.y[static_cast<std::size_t>(l)]));
    below = copy_of(ctx, exact.x[static_cast<std::size_t>(top - 1)]);
  }
  std::vector<TensorView> views;
  for (const Tensor& latent : latents) views.push_back(latent.view());
  PathStates states = without_top(config, length);
  states.hidden = recgen_hidden(model, ctx, batch, prompt_tokens, views);

  const std::int64_t span = config.cumulative_chunk(top - 1);
  for (std::int64_t b = 0; b < batch.tokens.size(0); ++b) {
    const std::int64_t start = config.padded_length(prompt_tokens[static_cast<std::size_t>(b)]);
    if (start >= batch.tokens.size(1)) continue;
    const auto rolled = [&](const TensorView& all) {
      return all.slice(0, b, 1).merge(0).slice(0, start / span, (length - start) / span);
    };
    copy_elements(ctx, rolled(views.back()), rolled(below.view()));
  }
  const Tensor x = top_encoder(model, ctx, below);
  for (const Tensor& latent : latents) states.conditioning.push_back(host_floats(ctx, latent));
  states.conditioning.push_back(
      shifted(host_floats(ctx, x), host_floats(ctx, model.tensors().start_latent), batch.tokens.size(0)));
  return states;
}

double cosine(std::span<const float> a, std::span<const float> b) {
  double dot = 0;
  double aa = 0;
  double bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto x = static_cast<double>(a[i]);
    const auto y = static_cast<double>(b[i]);
    dot += x * y;
    aa += x * x;
    bb += y * y;
  }
  if (std::isnan(dot) || std::isnan(aa) || std::isnan(bb)) return std::nan("");
  if (std::equal(a.begin(), a.end(), b.begin(), b.end())) return 1;
  if (aa == 0 || bb == 0) return 0;
  return std::clamp(dot / std::sqrt(aa * bb), -1.0, 1.0);
}

}  // namespace photon
