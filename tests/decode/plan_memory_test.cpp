// The bytes that photon plan --decode counts against those that the decoders hold.
#include <gtest/gtest.h>

#include "decode/engine.hpp"
#include "partition/decode_cost.hpp"
#include "shares.hpp"

namespace photon {
namespace {

constexpr std::int64_t num_rows = 12;
constexpr std::int64_t cohorts = 2;

DecodeMemory planned(const ModelConfig& config, DecodeRole role, std::int64_t capacity) {
  return decode_memory(config, Precision::fp32, DecodeMode::hiergen, role, num_rows, capacity,
                       role == DecodeRole::whole ? 1 : cohorts, std::int64_t{1} << 36);
}

void expect_close(std::int64_t counted, std::int64_t held, const std::string& what) {
  EXPECT_NEAR(static_cast<double>(counted), static_cast<double>(held), 0.05 * static_cast<double>(held)) << what;
}

TEST(PlanMemory, IsWhatAWholeModelHolds) {
  for (const testing::NamedConfig& shape : testing::all_shapes()) {
    const std::int64_t capacity = decode_capacity(shape.config, 100);
    const DecodeMemory memory = planned(shape.config, DecodeRole::whole, capacity);
    const auto model = testing::random_model(shape.config, 3);
    const auto decoder = make_incremental_decoder(*model, Context{}, num_rows, capacity);
    expect_close(memory.caches(), decoder->cache_bytes(), shape.name);
    expect_close(memory.caches(), num_rows * slot_cache_bytes(shape.config, capacity), shape.name);
    EXPECT_EQ(memory.weights, model->parameters().flat().bytes()) << shape.name;
  }
}

TEST(PlanMemory, OfRecGenIsWhatItHolds) {
  constexpr std::int64_t many = recgen_prompt_rows + 60;
  for (const testing::NamedConfig& shape : testing::recgen_shapes()) {
    const std::int64_t capacity = decode_capacity(shape.config, 100);
    const DecodeMemory memory = decode_memory(shape.config, Precision::fp32, DecodeMode::recgen, DecodeRole::whole,
                                              many, capacity, 1, std::int64_t{1} << 36);
    const auto model = testing::random_model(shape.config, 3);
    const auto decoder =
        make_incremental_decoder(*model, Context{}, many, capacity, {.prompt_rows = recgen_prompt_rows});
    expect_close(memory.caches(), decoder->cache_bytes(), shape.name);
  }
}

class NoLink : public ChunkLink {
 public:
  std::int64_t num_cohorts() const override { return cohorts; }
  void open(std::int64_t, const ChunkRows&) override {}
  void send(std::int64_t, std::int64_t, const ConstTensorView&) override {}
  StepResult receive(std::int64_t) override { return {}; }
};

TEST(PlanMemory, IsWhatACoarseRankAndItsShardsHold) {
  for (const testing::NamedConfig& shape : testing::photon_shapes()) {
    const ModelConfig& config = shape.config;
    const std::int64_t capacity = decode_capacity(config, 100);
    const auto model = testing::random_model(config, 3);
    const DecodeMemory coarse = planned(config, DecodeRole::coarse, capacity);
    const auto share = testing::share_of(*model, coarse_layers(config));
    NoLink link;
    const DecoderSource source = decoder_source(*share, Context{}, link);
    expect_close(coarse.caches(), source.make(num_rows, capacity, {})->cache_bytes(), shape.name);
    expect_close(coarse.caches(), num_rows * source.slot_bytes(capacity), shape.name);
    EXPECT_EQ(coarse.weights, share->parameters().flat().bytes()) << shape.name;

    const DecodeMemory shard = planned(config, DecodeRole::shard, capacity);
    const auto chunks = testing::share_of(*model, chunk_layers(config));
    ChunkServer server(config, chunks->tensors(), DType::f32, Context{});
    for (std::int64_t cohort = 0; cohort < cohorts; ++cohort) {
      ChunkRows rows;
      rows.num_tokens = config.group_tokens();
      rows.capacity = capacity;
      rows.draws.resize(static_cast<std::size_t>(num_rows / cohorts));
      rows.forced.assign(static_cast<std::size_t>(num_rows / cohorts * config.group_tokens()), draw_token);
      rows.before_begin.assign(rows.draws.size() + 1, 0);
      server.open(cohort, rows);
    }
    expect_close(shard.caches(), server.cache_bytes(), shape.name);
    EXPECT_EQ(shard.weights, chunks->parameters().flat().bytes()) << shape.name;
  }
}

// What the engine makes caches for.
TEST(PlanMemory, CapacityIsTheEngines) {
  const ModelConfig config = testing::recgen_shapes()[0].config;
  const auto model = testing::random_model(config, 3);
  for (const std::int64_t tokens : {9, 47, 150}) {
    EngineOptions options;
    options.max_batch = 2;
    Engine engine(decoder_source(*model, Context{}), nullptr, -1, options);
    Request request;
    request.id = "0";
    request.prompt.assign(static_cast<std::size_t>(tokens - 1), 1);
    request.options.max_new_tokens = 1;
    bool given = false;
    testing::Results results;
    engine.run([&]() { return std::exchange(given, true) ? std::nullopt : std::optional<Row>(request); }, results,
               [](const EngineStatistics&) { return true; });
    const EngineStatistics& statistics = engine.statistics();
    EXPECT_EQ(statistics.cache_bytes, statistics.num_slots * slot_cache_bytes(config, decode_capacity(config, tokens)));
  }
}

}  // namespace
}  // namespace photon
