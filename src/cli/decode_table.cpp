// The table of photon bench decode: the paper's measure, tokens a second for a GiB of cache.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "blueprint/activations.hpp"
#include "blueprint/parameters.hpp"
#include "cli/decode_measure.hpp"
#include "model/incremental.hpp"
#include "support/error.hpp"

namespace photon::cli {
namespace {

constexpr std::int64_t encoder_window = 64;  // units that a windowed encoder sees
constexpr int most_batches = 6;              // tried, from the largest one down
constexpr double as_fast = 0.98;             // of the fastest: a smaller batch is the better one then

struct Variant {
  std::string name;
  ModelConfig config;
  std::string mode;
  bool same_weights = false;  // as the one before
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
          {name, photon, "recgen", true},
          {name + ", windows", windowed(photon), "hiergen", true}};
}

using Json = nlohmann::ordered_json;

std::int64_t cache_bytes_of(const Variant& v, std::int64_t tokens, std::int64_t rows, DType dtype) {
  std::int64_t bytes = rows * slot_cache_bytes(v.config, tokens, dtype);
  if (v.mode == "recgen" && rows > recgen_prompt_rows)
    bytes -= (rows - recgen_prompt_rows) * lower_cache_bytes(v.config, tokens, element_bytes(dtype));
  return bytes;
}

// One line of the table: from the largest batch that is admitted downwards, as long as a smaller one is as fast.
Json measure(const Variant& v, const DecoderSource& source, const Place& place, std::int64_t prompt,
             std::int64_t new_tokens) {
  SteadyDecoding decoding(v.config, source, place, v.mode, prompt, new_tokens);
  if (decoding.most_rows() == 0) {
    throw Error(fmt::format("not one sequence of {} tokens of {} fits", prompt + new_tokens, v.name),
                fmt::format("it takes {} bytes of caches", source.slot_bytes(prompt + new_tokens)),
                "free memory, or raise --memory-limit");
  }
  SteadyDecoding::Rate best;
  double fastest = 0;
  Json batches = Json::array();
  std::int64_t rows = decoding.most_rows();
  for (int i = 0; i < most_batches && rows > 0; ++i, rows /= 2) {
    const SteadyDecoding::Rate rate = decoding.measure(rows);
    batches.push_back({{"batch", rows}, {"tokens_per_second", rate.tokens_per_second}});
    if (rate.tokens_per_second < as_fast * fastest) break;
    fastest = std::max(fastest, rate.tokens_per_second);
    best = rate;
  }
  const std::int64_t cache_bytes = cache_bytes_of(v, prompt + new_tokens, best.rows, place.dtype());
  const double gib = static_cast<double>(cache_bytes) / 0x1p30;
  return {{"bench", "decode table"},
          {"model", v.name},
          {"parameters", num_parameters(v.config)},
          {"mode", v.mode},
          {"device", place.device_name()},
          {"precision", place.precision_name()},
          {"prompt", prompt},
          {"new_tokens", new_tokens},
          {"best_batch", best.rows},
          {"tokens_per_second", best.tokens_per_second},
          {"cache_gib", gib},
          {"cache_bytes_a_row", cache_bytes / best.rows},
          {"tokens_per_second_per_gib", best.tokens_per_second / gib},
          {"measured_from", best.from},
          {"measured_tokens_a_row", best.tokens_a_row},
          {"measured_seconds", best.seconds},
          {"batches", std::move(batches)}};
}

}  // namespace

void print_decode_table(const std::string& preset_name, const Place& place) {
  using Clock = std::chrono::steady_clock;
  std::unique_ptr<Model> model;
  for (const Variant& v : variants_of(preset_name)) {
    auto begin = Clock::now();
    if (v.same_weights) {
      std::unique_ptr<Model> next = make_frozen_model(v.config, place.space(), 0, place.dtype());
      next->parameters().assign(model->parameters());
      model = std::move(next);
    } else {
      model.reset();  // its memory goes first
      model = std::move(fresh_model(v.config, 1, place.space(), place.dtype()).model);
    }
    const DecoderSource source = decoder_source(*model, place.context());
    for (const auto& [prompt, new_tokens] : {std::pair<std::int64_t, std::int64_t>{2048, 128}, {128, 2048}}) {
      Json line = measure(v, source, place, prompt, new_tokens);
      line["seconds"] = std::chrono::duration<double>(Clock::now() - begin).count();
      begin = Clock::now();
      std::cout << line.dump() << std::endl;
    }
  }
}

}  // namespace photon::cli
