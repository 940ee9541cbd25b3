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
      variance_(specs, space, "the optimizer's second moments") {
  for (const DecayRange& range : decay_ranges(specs)) {
    runs_.push_back({range.begin, range.begin, range.end - range.begin, range.decays});
  }
}

AdamWOptimizer::AdamWOptimizer(const std::vector<OwnedPiece>& pieces, const TrainConfig& config, Space space)
    : config_(config),
      mean_(compact_specs(pieces), space, "the optimizer's first moments"),
      variance_(compact_specs(pieces), space, "the optimizer's second moments") {
  for (const OwnedPiece& piece : pieces) {
    const bool joins =
        !runs_.empty() && runs_.back().decays == piece.decays && runs_.back().flat + runs_.back().count == piece.flat;
    if (joins) {
      runs_.back().count += piece.count;
    } else {
      runs_.push_back({piece.flat, piece.compact, piece.count, piece.decays});
    }
  }
}

void AdamWOptimizer::step(const Context& ctx, Parameters& parameters, const Parameters& gradients, double learning_rate,
                          double gradient_scale, std::int64_t update) {
  for (const Run& run : runs_) {
    const auto part = [&](const Parameters& buffer, std::int64_t begin) {
      return buffer.flat().slice(0, begin, run.count);
    };
    adamw(
        ctx,
        {.learning_rate = learning_rate,
         .beta1 = config_.beta1,
         .beta2 = config_.beta2,
         .eps = config_.adam_eps,
         .weight_decay = run.decays ? config_.weight_decay : 0,
         .gradient_scale = gradient_scale,
         .step = update},
        part(parameters, run.flat), part(gradients, run.flat), part(mean_, run.moment), part(variance_, run.moment),
        parameters.working().dtype() == DType::f32 ? TensorView() : parameters.working().slice(0, run.flat, run.count));
  }
}

}  // namespace photon
