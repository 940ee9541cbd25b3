#include "train/adamw_optimizer.hpp"

#include "kernels/optimizer.hpp"

namespace photon {

std::vector<DecayRange> decay_ranges(const std::vector<ParameterSpec>& specs) {
  std::vector<DecayRange> ranges;
  for (const ParameterSpec& spec : specs) {
    if (ranges.empty() || ranges.back().decays != spec.decays) {
      if (!ranges.empty()) ranges.back().end = spec.offset;
      ranges.push_back({spec.offset, 0, spec.decays});
    }
  }
  if (!ranges.empty()) ranges.back().end = flat_size(specs);
  return ranges;
}

AdamWOptimizer::AdamWOptimizer(const std::vector<ParameterSpec>& specs, const TrainConfig& config, Space space)
    : config_(config),
      mean_(specs, space, "the optimizer's first moments"),
      variance_(specs, space, "the optimizer's second moments"),
      ranges_(decay_ranges(mean_.specs())) {}

void AdamWOptimizer::step(const Context& ctx, Parameters& parameters, const Parameters& gradients, double learning_rate,
                          double gradient_scale, std::int64_t update) {
  for (const DecayRange& range : ranges_) {
    const std::int64_t count = range.end - range.begin;
    const auto part = [&](const Parameters& buffer) { return buffer.flat().slice(0, range.begin, count); };
    adamw(ctx,
          {.learning_rate = learning_rate,
           .beta1 = config_.beta1,
           .beta2 = config_.beta2,
           .eps = config_.adam_eps,
           .weight_decay = range.decays ? config_.weight_decay : 0,
           .gradient_scale = gradient_scale,
           .step = update},
          part(parameters), part(gradients), part(mean_), part(variance_));
  }
}

}  // namespace photon
