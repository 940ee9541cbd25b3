// Decoding with level 1 apart from the coarse stream, here within one process.
#include <gtest/gtest.h>

#include <tuple>

#include "shares.hpp"

namespace photon {
namespace {

using testing::all_ways;
using testing::decode;
using testing::decode_with;
using testing::deterministic;
using testing::expect_same;
using testing::share_of;

// Decodes each chunk where it is asked for. The first rows go to one server, the others to a second one. `direct`: the
// servers leave a step's tokens where the decoder wants them.
class LocalChunks : public ChunkLink {
 public:
  LocalChunks(const PhotonShare& share, std::int64_t num_cohorts, bool direct)
      : steps_(static_cast<std::size_t>(num_cohorts)), direct_(direct) {
    for (int i = 0; i < 2; ++i)
      servers_.push_back(
          std::make_unique<ChunkServer>(share.config(), share.tensors(), share.dtype(), deterministic()));
  }
  std::int64_t num_cohorts() const override { return static_cast<std::int64_t>(steps_.size()); }
  void open(std::int64_t cohort, const ChunkRows& rows) override {
    Step& step = steps_.at(static_cast<std::size_t>(cohort));
    step.rows = rows.size();
    step.logprobs = rows.logprobs;
    EXPECT_TRUE(direct_ || !rows.direct);
    step.first = (rows.size() + 2) / 3;
    servers_[0]->open(cohort, rows.part(0, step.first));
    if (step.first < rows.size()) servers_[1]->open(cohort, rows.part(step.first, rows.size()));
    for (const Step& other : steps_) most_under_way_ += other.asked && &other != &step ? 1 : 0;
  }
  void send(std::int64_t cohort, std::int64_t offset, const ConstTensorView& c) override {
    Step& step = steps_.at(static_cast<std::size_t>(cohort));
    EXPECT_EQ(c.size(0), step.rows);
    EXPECT_FALSE(step.asked);
    step.asked = true;
    step.offset = offset;
    step.c = c;
  }
  StepResult receive(std::int64_t cohort) override {
    Step& step = steps_.at(static_cast<std::size_t>(cohort));
    EXPECT_TRUE(step.asked);
    step.asked = false;
    copy(step.c.slice(0, 0, step.first), servers_[0]->latents(cohort));
    servers_[0]->start(cohort, step.offset);
    EXPECT_TRUE(servers_[0]->ready(cohort));  // the host's chunk is decoded when it has begun
    StepResult result = servers_[0]->take(cohort);
    EXPECT_FALSE(servers_[0]->ready(cohort));
    if (step.first == step.rows) return result;
    copy(step.c.slice(0, step.first, step.rows - step.first), servers_[1]->latents(cohort));
    servers_[1]->start(cohort, step.offset);
    result.append(servers_[1]->take(cohort));
    return result;
  }
  bool direct() const override { return direct_; }
  std::int64_t answer_bytes(std::int64_t cohort) const override {
    const Step& step = steps_.at(static_cast<std::size_t>(cohort));
    return step.rows * servers_[0]->chunk_tokens() * (step.logprobs ? 8 : 4);
  }
  std::vector<ChunkPart> receive_into(std::int64_t cohort, const TensorView& memory) override {
    Step& step = steps_.at(static_cast<std::size_t>(cohort));
    EXPECT_TRUE(step.asked && direct_);
    step.asked = false;
    std::vector<ChunkPart> parts;
    std::int64_t at = 0;
    for (const auto& [server, begin, end] :
         {std::tuple(0, std::int64_t{0}, step.first), std::tuple(1, step.first, step.rows)}) {
      if (begin == end) continue;
      copy(step.c.slice(0, begin, end - begin), servers_[static_cast<std::size_t>(server)]->latents(cohort));
      const ConstTensorView tokens = servers_[static_cast<std::size_t>(server)]->start_in_place(cohort, step.offset);
      copy(tokens, memory.slice(0, at, tokens.numel()));
      auto* next = static_cast<std::byte*>(memory.data()) + at;
      at += tokens.numel();
      const auto take = [&](DType dtype) {
        const ConstTensorView view(next, dtype, Space::host, {end - begin});
        next += view.bytes();
        return view;
      };
      ChunkPart& part = parts.emplace_back();
      part.begin = begin;
      for (std::int64_t t = 0; t < servers_[0]->chunk_tokens(); ++t) part.tokens.push_back(take(DType::i32));
      for (std::int64_t t = 0; t < servers_[0]->chunk_tokens() && step.logprobs; ++t) {
        part.logprobs.push_back(take(DType::f32));
      }
    }
    EXPECT_EQ(at, memory.bytes());
    return parts;
  }
  std::int64_t num_overlaps() const { return most_under_way_; }

 private:
  struct Step {
    std::int64_t rows = 0;
    std::int64_t first = 0;
    std::int64_t offset = 0;
    bool asked = false;
    bool logprobs = false;
    ConstTensorView c;
  };
  std::vector<std::unique_ptr<ChunkServer>> servers_;
  std::vector<Step> steps_;
  bool direct_;
  std::int64_t most_under_way_ = 0;  // steps that began while others waited for tokens
};

void expect_same_as_whole(const ModelConfig& config, GenerationMode mode) {
  const auto model = testing::random_model(config, 8);
  const std::vector<Request> rows = all_ways(config);
  EngineOptions options;
  options.mode = mode;
  options.logprobs = true;
  options.top_logprobs = 3;
  options.max_batch = 5;
  const auto expected = decode(*model, rows, options, 2);
  options.top_logprobs = 0;
  const auto without_top = decode(*model, rows, options, 2);
  const auto coarse = share_of(*model, coarse_layers(config));
  const auto chunks = share_of(*model, chunk_layers(config));
  for (const std::int64_t num_cohorts : {1, 2, 3}) {
    for (const std::int64_t batch : {1, 6, 40}) {
      for (const bool direct : {false, true}) {
        SCOPED_TRACE(::testing::Message() << num_cohorts << " cohorts, batch " << batch << ", direct " << direct);
        options.max_batch = batch;
        options.max_chunks = batch == 6 ? 5 : 0;
        // Likeliest tokens go by the host always.
        options.top_logprobs = direct ? 0 : 3;
        LocalChunks link(*chunks, num_cohorts, direct);
        expect_same(direct ? without_top : expected,
                    decode_with(decoder_source(*coarse, deterministic(), link), rows, options, 2));
        if (mode == GenerationMode::hiergen && num_cohorts > 1 && batch > 1) {
          EXPECT_GT(link.num_overlaps(), 0);
        }
      }
    }
  }
}

class CoarseDecode : public ::testing::TestWithParam<testing::NamedConfig> {};
TEST_P(CoarseDecode, HierGenIsThatOfTheWholeModel) {
  expect_same_as_whole(GetParam().config, GenerationMode::hiergen);
}
INSTANTIATE_TEST_SUITE_P(Shapes, CoarseDecode, ::testing::ValuesIn(testing::photon_shapes()),
                         [](const auto& shape) { return shape.param.name; });

class CoarseRecGen : public ::testing::TestWithParam<testing::NamedConfig> {};
TEST_P(CoarseRecGen, RecGenIsThatOfTheWholeModel) {
  expect_same_as_whole(GetParam().config, GenerationMode::recgen);
}
// A repetition penalty reads the tokens of the chunk before, and so keeps its cohort waiting.
TEST_P(CoarseRecGen, OneCohortRunsAheadWhileChunksOfAnotherAreDecoded) {
  const ModelConfig& config = GetParam().config;
  const auto model = testing::random_model(config, 8);
  std::vector<Request> rows = all_ways(config);
  std::erase_if(rows, [](const Request& row) { return row.options.sampling.repetition_penalty != 1.0; });
  ASSERT_GT(rows.size(), 2U);
  EngineOptions options;
  options.mode = GenerationMode::recgen;
  options.look_ahead = 1;
  const auto expected = decode(*model, rows, options, 2);
  const auto coarse = share_of(*model, coarse_layers(config));
  const auto chunks = share_of(*model, chunk_layers(config));
  for (const std::int64_t max_chunks : {1, 3, 1000}) {
    SCOPED_TRACE(::testing::Message() << "at most " << max_chunks << " chunks in a call");
    options.max_chunks = max_chunks;
    options.prompt_rows = max_chunks == 3 ? 3 : recgen_prompt_rows;
    LocalChunks link(*chunks, 2, false);
    expect_same(expected, decode_with(decoder_source(*coarse, deterministic(), link), rows, options, 2));
    EXPECT_GT(link.num_overlaps(), 0);
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CoarseRecGen, ::testing::ValuesIn(testing::recgen_shapes()),
                         [](const auto& shape) { return shape.param.name; });

TEST(PhotonShares, HoldTheirModulesAlone) {
  for (const testing::NamedConfig& shape : testing::photon_shapes()) {
    SCOPED_TRACE(shape.name);
    const PhotonShare coarse(shape.config, coarse_layers(shape.config), Space::host);
    const PhotonShare chunks(shape.config, chunk_layers(shape.config), Space::host);
    std::int64_t all = 0;
    std::int64_t embedding = 0;
    std::int64_t level_1 = 0;  // head, converter and decoder
    for (const ParameterSpec& spec : parameters(shape.config)) {
      all += spec.numel();
      const bool is_embedding = spec.name == embedding_name(shape.config);
      const bool in_decoder = spec.name.starts_with("levels.0.decoder.") || spec.name == "levels.0.converter.weight" ||
                              spec.name == "lm_head.weight";
      embedding += is_embedding ? spec.numel() : 0;
      level_1 += in_decoder ? spec.numel() : 0;
      EXPECT_EQ(chunks.parameters().has(spec.name), is_embedding || in_decoder) << spec.name;
      EXPECT_EQ(coarse.parameters().has(spec.name), !in_decoder) << spec.name;
    }
    const auto padding = [](const PhotonShare& share) {
      return parameter_alignment * static_cast<std::int64_t>(share.parameters().specs().size());
    };
    EXPECT_LE(chunks.parameters().flat().numel(), embedding + level_1 + padding(chunks));
    EXPECT_LE(coarse.parameters().flat().numel(), all - level_1 + padding(coarse));
  }
}

TEST(ChunkServers, KeepChunksOfTheRowsAlone) {
  const ModelConfig config = testing::photon_shapes()[1].config;
  const auto model = testing::random_model(config, 8);
  const auto share = share_of(*model, chunk_layers(config));
  ChunkServer server(config, share->tensors(), share->dtype(), deterministic());
  EXPECT_EQ(server.cache_bytes(), 0);
  ChunkRows rows;
  const std::int64_t n = 6;
  rows.num_tokens = config.cumulative_chunk(1);
  rows.capacity = 100;
  rows.draws.resize(static_cast<std::size_t>(n));
  rows.forced.assign(static_cast<std::size_t>(n * rows.num_tokens), draw_token);
  rows.before_begin.assign(static_cast<std::size_t>(n + 1), 0);
  server.open(0, rows);
  // A local cache a row, c(1) and the tokens of the rows (one row more for padding).
  const LevelConfig& level = config.levels[0];
  const std::int64_t local = 2 * level.decoder.layers * config.decoder_positions(1) * config.dim * 4;
  EXPECT_EQ(server.cache_bytes(), n * (local + config.width(1) * 4) + (n + 1) * rows.capacity * 4);
  rows.draws[0].position = 97;
  EXPECT_THROW(server.open(0, rows), ContractError);  // beyond the capacity
}

}  // namespace
}  // namespace photon
