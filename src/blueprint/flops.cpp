#include "blueprint/flops.hpp"

namespace photon {
namespace {

// One stack over `sequences` sequences of `positions` positions.
double stack_flops(const StackConfig& stack, double width, double sequences, double positions) {
  const double kv_width = width / static_cast<double>(stack.heads) * static_cast<double>(stack.kv_heads);
  const double matrices = 2 * width * width + 2 * kv_width * width + 3 * width * static_cast<double>(stack.ffn);
  double keys = positions / 2;  // causal: half the square
  if (stack.window > 0 && static_cast<double>(stack.window) < positions) {
    const auto w = static_cast<double>(stack.window);
    keys = w - w * w / (2 * positions);
  }
  const double per_position = 2 * matrices + 2 * 2 * width * keys;
  return static_cast<double>(stack.layers) * sequences * positions * per_position;
}

// Chunker and encoder of level l over one sequence of t tokens; converter and decoder.
double encoder_flops(const ModelConfig& config, std::int64_t l, double t) {
  const LevelConfig& level = config.levels[static_cast<std::size_t>(l - 1)];
  const double units = t / static_cast<double>(config.cumulative_chunk(l));
  const auto width = static_cast<double>(level.dim);
  return 2 * units * width * static_cast<double>(level.chunk) * static_cast<double>(config.width(l - 1)) +
         stack_flops(level.encoder, width, 1, units);
}
double decoder_flops(const ModelConfig& config, std::int64_t l, double t) {
  const LevelConfig& level = config.levels[static_cast<std::size_t>(l - 1)];
  const double units = t / static_cast<double>(config.cumulative_chunk(l));
  const auto below = static_cast<double>(config.width(l - 1));
  return 2 * units * static_cast<double>(level.dim) * static_cast<double>(level.prefix) * below +
         stack_flops(level.decoder, below, units, static_cast<double>(config.decoder_positions(l)));
}

}  // namespace

ForwardFlops forward_flops(const ModelConfig& config, std::int64_t tokens) {
  ForwardFlops flops;
  const auto t = static_cast<double>(tokens);
  const auto dim = static_cast<double>(config.dim);
  flops.head = 2 * t * dim * static_cast<double>(config.vocab_size);
  if (config.type == ModelType::vanilla) {
    flops.decoders = stack_flops(config.stack, dim, 1, t);
    return flops;
  }
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
    flops.encoders += encoder_flops(config, l, t);
    flops.decoders += decoder_flops(config, l, t);
  }
  return flops;
}

std::vector<double> module_flops(const ModelConfig& config, std::int64_t tokens) {
  if (config.type == ModelType::vanilla) return {forward_flops(config, tokens).total()};
  const auto t = static_cast<double>(tokens);
  std::vector<double> flops;
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) flops.push_back(encoder_flops(config, l, t));
  for (std::int64_t l = config.num_levels(); l >= 1; --l) flops.push_back(decoder_flops(config, l, t));
  flops.back() += forward_flops(config, tokens).head;
  return flops;
}

double training_flops(const ModelConfig& config, std::int64_t tokens) {
  return 3 * forward_flops(config, tokens).total();
}

}  // namespace photon
