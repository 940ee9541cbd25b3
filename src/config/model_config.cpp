#include "config/model_config.hpp"

namespace photon {

std::int64_t ModelConfig::cumulative_chunk(std::int64_t level) const {
  std::int64_t product = 1;
  for (std::int64_t l = 1; l <= level; ++l) product *= levels[static_cast<std::size_t>(l - 1)].chunk;
  return product;
}

std::int64_t ModelConfig::decoder_positions(std::int64_t level) const {
  const LevelConfig& c = levels[static_cast<std::size_t>(level - 1)];
  return c.prefix + level_lookback(level) + c.chunk - 1;
}

bool operator==(const StackConfig& a, const StackConfig& b) {
  return a.layers == b.layers && a.heads == b.heads && a.kv_heads == b.kv_heads && a.ffn == b.ffn &&
         a.rope_theta == b.rope_theta && a.window == b.window;
}

bool operator==(const LevelConfig& a, const LevelConfig& b) {
  return a.dim == b.dim && a.chunk == b.chunk && a.prefix == b.prefix && a.encoder == b.encoder && a.decoder == b.decoder;
}

bool operator==(const ModelConfig& a, const ModelConfig& b) {
  return a.type == b.type && a.vocab_size == b.vocab_size && a.dim == b.dim && a.tie_embeddings == b.tie_embeddings &&
         a.lookback == b.lookback && a.norm_eps == b.norm_eps && a.max_length == b.max_length &&
         a.tokenizer == b.tokenizer && a.start_token == b.start_token && a.levels == b.levels && a.stack == b.stack;
}

}  // namespace photon
