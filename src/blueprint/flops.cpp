#include "blueprint/flops.hpp"

namespace photon {
namespace {

// The products with weights of a stack over `rows` positions.
double stack_product_flops(const StackConfig& stack, double width, double rows) {
  const double kv_width = width / static_cast<double>(stack.heads) * static_cast<double>(stack.kv_heads);
  const double matrices = 2 * width * width + 2 * kv_width * width + 3 * width * static_cast<double>(stack.ffn);
  return static_cast<double>(stack.layers) * rows * 2 * matrices;
}

// One stack over `sequences` sequences of `positions` positions.
double stack_flops(const StackConfig& stack, double width, double sequences, double positions) {
  double keys = positions / 2;  // causal: half the square
  if (stack.window > 0 && static_cast<double>(stack.window) < positions) {
    const auto w = static_cast<double>(stack.window);
    keys = w - w * w / (2 * positions);
  }
  return stack_product_flops(stack, width, sequences * positions) +
         static_cast<double>(stack.layers) * sequences * positions * 2 * 2 * width * keys;
}

// Chunker and encoder of level l over one sequence of t tokens; converter and decoder.
struct ModuleFlops {
  double before = 0;  // chunker, converter
  double stack = 0;
  double products = 0;  // with the weights of the stack
  double total() const { return before + stack; }
};
ModuleFlops encoder_flops(const ModelConfig& config, std::int64_t l, double t) {
  const LevelConfig& level = config.levels[static_cast<std::size_t>(l - 1)];
  const double units = t / static_cast<double>(config.cumulative_chunk(l));
  const auto width = static_cast<double>(level.dim);
  return {2 * units * width * static_cast<double>(level.chunk) * static_cast<double>(config.width(l - 1)),
          stack_flops(level.encoder, width, 1, units), stack_product_flops(level.encoder, width, units)};
}
ModuleFlops decoder_flops(const ModelConfig& config, std::int64_t l, double t) {
  const LevelConfig& level = config.levels[static_cast<std::size_t>(l - 1)];
  const double units = t / static_cast<double>(config.cumulative_chunk(l));
  const auto below = static_cast<double>(config.width(l - 1));
  const auto positions = static_cast<double>(config.decoder_positions(l));
  return {2 * units * static_cast<double>(level.dim) * static_cast<double>(level.prefix) * below,
          stack_flops(level.decoder, below, units, positions),
          stack_product_flops(level.decoder, below, units * positions)};
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
    flops.encoders += encoder_flops(config, l, t).total();
    flops.decoders += decoder_flops(config, l, t).total();
  }
  return flops;
}

namespace {

// By layer of the chain, without the head; of a stack what `part` says.
std::vector<double> by_layer(const ModelConfig& config, std::int64_t tokens, double ModuleFlops::*part) {
  const auto t = static_cast<double>(tokens);
  std::vector<double> flops;
  const auto add = [&](const StackConfig& stack, const ModuleFlops& module) {
    for (std::int64_t i = 0; i < stack.layers; ++i) {
      flops.push_back(module.*part / static_cast<double>(stack.layers) + (i == 0 ? module.before : 0));
    }
  };
  if (config.type == ModelType::vanilla) {
    const auto width = static_cast<double>(config.dim);
    add(config.stack, {0, stack_flops(config.stack, width, 1, t), stack_product_flops(config.stack, width, t)});
  }
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
    add(config.levels[static_cast<std::size_t>(l - 1)].encoder, encoder_flops(config, l, t));
  }
  for (std::int64_t l = config.num_levels(); l >= 1; --l) {
    add(config.levels[static_cast<std::size_t>(l - 1)].decoder, decoder_flops(config, l, t));
  }
  return flops;
}

}  // namespace

std::vector<double> layer_flops(const ModelConfig& config, std::int64_t tokens) {
  std::vector<double> flops = by_layer(config, tokens, &ModuleFlops::stack);
  flops.back() += forward_flops(config, tokens).head;
  return flops;
}

std::vector<double> weight_gradient_flops(const ModelConfig& config, std::int64_t tokens) {
  return by_layer(config, tokens, &ModuleFlops::products);
}

std::vector<double> recompute_flops(const ModelConfig& config, std::int64_t tokens) {
  const auto t = static_cast<double>(tokens);
  std::vector<double> flops;
  const auto add = [&](const StackConfig& stack, double width, double sequences, double positions) {
    StackConfig layer = stack;
    layer.layers = 1;
    const double down = 2 * sequences * positions * width * static_cast<double>(stack.ffn);
    flops.insert(flops.end(), static_cast<std::size_t>(stack.layers),
                 stack_flops(layer, width, sequences, positions) - down);
  };
  if (config.type == ModelType::vanilla) add(config.stack, static_cast<double>(config.dim), 1, t);
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
    const LevelConfig& level = config.levels[static_cast<std::size_t>(l - 1)];
    add(level.encoder, static_cast<double>(level.dim), 1, t / static_cast<double>(config.cumulative_chunk(l)));
  }
  for (std::int64_t l = config.num_levels(); l >= 1; --l) {
    add(config.levels[static_cast<std::size_t>(l - 1)].decoder, static_cast<double>(config.width(l - 1)),
        t / static_cast<double>(config.cumulative_chunk(l)), static_cast<double>(config.decoder_positions(l)));
  }
  return flops;
}

double training_flops(const ModelConfig& config, std::int64_t tokens) {
  return 3 * forward_flops(config, tokens).total();
}

}  // namespace photon
