// Layouts of up to four ranks: a coarse rank and its shards, and replicas of that, against one process.
#include "decode/chunk_messages.hpp"
#include "shares.hpp"
#include "testing/world.hpp"

namespace photon {
namespace {

using testing::all_ways;
using testing::decode;
using testing::decode_with;
using testing::deterministic;
using testing::expect_same;
using testing::share_of;
using testing::world;

struct Layout {
  int groups;
  int shards;
};

void expect_same_on_ranks(const ModelConfig& config, GenerationMode mode) {
  const auto model = testing::random_model(config, 8);
  std::vector<Request> rows = all_ways(config);
  EngineOptions options;
  options.mode = mode;
  options.logprobs = true;
  // Tokens through the host, and as between GPUs into memory of the coarse stream's space.
  for (const std::optional<Space> direct : {std::optional<Space>(), std::optional(Space::host)}) {
    options.top_logprobs = direct ? 0 : 3;  // which go by the host always
    for (const Layout& layout : {Layout{1, 1}, Layout{1, 2}, Layout{1, 3}, Layout{2, 1}}) {
      const int size = 1 + layout.shards;
      const int number = world().rank() / size;
      const bool takes_part = world().rank() < layout.groups * size && world().size() >= layout.groups * size;
      Communicator group = world().all().split(takes_part ? number : layout.groups, "decoding group");
      if (!takes_part) continue;
      if (group.rank() > 0) {
        const auto share = share_of(*model, chunk_layers(config));
        ChunkServer server(config, share->tensors(), share->dtype(), deterministic());
        EXPECT_FALSE(serve_chunks(server, group, nullptr));
        continue;
      }
      const auto share = share_of(*model, coarse_layers(config));
      ChunkMessages link(group, config.cumulative_chunk(1), decode_cohorts, direct);
      options.max_batch = 16;
      const auto expected = decode(*model, rows, options, 2);
      for (const std::int64_t batch : {1 + number, 7, 40}) {
        SCOPED_TRACE(::testing::Message() << layout.groups << " x (1 + " << layout.shards << "), batch " << batch
                                          << ", direct " << direct.has_value());
        options.max_batch = batch;
        expect_same(expected, decode_with(decoder_source(*share, deterministic(), link), rows, options, 2));
      }
      EXPECT_FALSE(link.stop_requested());
      link.finish(false);
    }
  }
}

class DecodeLayouts : public ::testing::TestWithParam<testing::NamedConfig> {};
TEST_P(DecodeLayouts, GiveTheResultsOfOneProcess) {
  expect_same_on_ranks(GetParam().config, GenerationMode::hiergen);
}
INSTANTIATE_TEST_SUITE_P(Shapes, DecodeLayouts, ::testing::ValuesIn(testing::photon_shapes()),
                         [](const auto& shape) { return shape.param.name; });

class RecGenLayouts : public ::testing::TestWithParam<testing::NamedConfig> {};
TEST_P(RecGenLayouts, GiveTheResultsOfOneProcess) {
  expect_same_on_ranks(GetParam().config, GenerationMode::recgen);
}
INSTANTIATE_TEST_SUITE_P(Shapes, RecGenLayouts, ::testing::ValuesIn(testing::recgen_shapes()),
                         [](const auto& shape) { return shape.param.name; });

// A shard that is asked to stop tells the coarse rank, which ends the others as preempted.
TEST(DecodeLayoutsStop, WhenAnyShardIsAskedTo) {
  if (world().size() < 3) GTEST_SKIP() << "it takes a coarse rank and two shards";
  const ModelConfig config = testing::photon_shapes()[1].config;
  const auto model = testing::random_model(config, 8);
  Communicator group = world().all().split(0, "decoding group");
  if (group.rank() > 0) {
    const auto share = share_of(*model, chunk_layers(config));
    ChunkServer server(config, share->tensors(), share->dtype(), deterministic());
    EXPECT_TRUE(serve_chunks(
        server, group, +[] { return world().rank() == 2; }));
    return;
  }
  const auto share = share_of(*model, coarse_layers(config));
  ChunkMessages link(group, config.cumulative_chunk(1), decode_cohorts, Space::host);
  Engine engine(decoder_source(*share, deterministic(), link), nullptr, -1, {});
  testing::Results results;
  std::int64_t i = 0;
  // Rows without end.
  const auto next = [&]() -> std::optional<Row> {
    Request row = all_ways(config)[static_cast<std::size_t>(i % 9)];
    row.id = std::to_string(i++);
    return row;
  };
  EXPECT_FALSE(engine.run(next, results, [&](const EngineStatistics&) { return !link.stop_requested(); }));
  link.finish(true);
}

}  // namespace
}  // namespace photon
