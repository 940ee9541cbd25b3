// The table of photon bench decode: the paper's measure, tokens a second for a GiB of cache.
#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <vector>

#include "blueprint/parameters.hpp"
#include "cli/decode_measure.hpp"
#include "model/incremental.hpp"
#include "support/error.hpp"

namespace photon::cli {
namespace {

constexpr std::int64_t encoder_window = 64;  // units that a windowed encoder sees
constexpr std::int64_t measured_groups = 4;  // of every row, in the middle of its answer

struct Variant {
  std::string name;
  ModelConfig config;
  std::string mode;
};

// PHOTON's layers in one level, about as many parameters: Block Transformer.
ModelConfig block_of(const ModelConfig& photon) {
  ModelConfig block = photon;
  block.levels.resize(1);
  std::int64_t layers = 0;
  for (const LevelConfig& level : photon.levels) layers += level.encoder.layers + level.decoder.layers;
  block.levels[0].decoder.layers = layers / 2;
  block.levels[0].encoder.layers = layers - layers / 2;
  validate(block);
  return block;
}

ModelConfig windowed(const ModelConfig& photon) {
  ModelConfig config = photon;
  for (std::size_t l = 0; l + 1 < config.levels.size(); ++l) config.levels[l].encoder.window = encoder_window;
  validate(config);
  return config;
}

std::vector<Variant> variants_of(const std::string& name) {
  const std::string prefix = "photon-";
  if (name.rfind(prefix, 0) != 0) {
    throw InputError(fmt::format("the table is of a photon preset and its relatives, not of '{}'", name), "",
                     "use --preset photon-600m or photon-1.2b");
  }
  const ModelConfig photon = preset(name);
  const std::string size = name.substr(prefix.size());
  return {{"vanilla-" + size, preset("vanilla-" + size), "hiergen"},
          {"block-" + size, block_of(photon), "hiergen"},
          {name, photon, "hiergen"},
          {name + ", windows", windowed(photon), "hiergen"},
          {name, photon, "recgen"}};
}

// The middle of the answers: rows of prompt + new/2 tokens in caches for all of them.
DecodeCase middle_of(const Variant& v, std::int64_t prompt, std::int64_t new_tokens) {
  const std::int64_t group = std::max<std::int64_t>(v.config.group_tokens(), 8);
  DecodeCase c;
  c.mode = v.mode;
  c.prompt = (prompt + new_tokens / 2) / group * group;
  c.new_tokens = measured_groups * group;
  c.reserve_tokens = prompt + new_tokens;
  return c;
}

}  // namespace

void print_decode_table(const std::string& preset_name, const Place& place) {
  for (const Variant& v : variants_of(preset_name)) {
    const OpenModel model = fresh_model(v.config, 1, place.space(), place.dtype());
    const DecoderSource source = decoder_source(*model.model, place.context());
    for (const auto& [prompt, new_tokens] : {std::pair<std::int64_t, std::int64_t>{2048, 128}, {128, 2048}}) {
      DecodeCase c = middle_of(v, prompt, new_tokens);
      // From the largest batch that fits downwards, as long as a smaller one is faster.
      double best = 0;
      std::int64_t best_batch = 0;
      std::int64_t cache_bytes = 0;
      for (c.batch = std::max<std::int64_t>(most_decode_rows(v.config, source, place, c), 1); c.batch > 0;
           c.batch /= 2) {
        const DecodeMeasured m = measure_decode(v.config, source, place, c, {});
        const double rate = static_cast<double>(c.batch * c.new_tokens) / m.decode_seconds;
        if (rate <= best) break;
        best = rate;
        best_batch = c.batch;
        cache_bytes = c.batch * slot_cache_bytes(v.config, prompt + new_tokens, place.dtype());
      }
      const double gib = static_cast<double>(cache_bytes) / 0x1p30;
      const nlohmann::ordered_json line = {
          {"bench", "decode table"},
          {"model", v.name},
          {"parameters", num_parameters(v.config)},
          {"mode", v.mode},
          {"device", place.device_name()},
          {"precision", place.precision_name()},
          {"prompt", prompt},
          {"new_tokens", new_tokens},
          {"best_batch", best_batch},
          {"tokens_per_second", best},
          {"cache_gib", gib},
          {"cache_bytes_a_row", cache_bytes / std::max<std::int64_t>(best_batch, 1)},
          {"tokens_per_second_per_gib", best / gib},
      };
      std::cout << line.dump() << std::endl;
    }
  }
}

}  // namespace photon::cli
