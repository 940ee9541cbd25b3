// Layouts of up to eight ranks on the CPU.
#include "layouts.hpp"

#include "train/replica_check.hpp"

namespace photon {
namespace {

using testing::Layouts;
using testing::photon_model;
using testing::vanilla_model;

// One bit of one rank's weights: every rank names it.
TEST(ReplicaCheck, FindsOneBit) {
  RunConfig config;
  config.model = photon_model(2);
  config.train.batch_size = 8;
  Communicator& all = testing::world().all();
  const Plan plan = make_plan(config, all.size(), 0, [](std::int64_t) { return std::int64_t{1}; });
  const Parameters weights(config.model, Space::host);
  EXPECT_NO_THROW(check_replicas({}, all, plan, weights, 1, "here"));
  constexpr int broken = 5;
  if (all.rank() == broken) weights.flat().host<float>()[7] = -0.0F;
  try {
    check_replicas({}, all, plan, weights, 2, all.rank() == broken ? "there" : "here");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the weights differ after step 2: rank 5 on there ("), std::string::npos)
        << error.what();
  }
}

TEST_F(Layouts, OfTwoLevels) {
  const ParallelConfig encoders_on_two{.stages = 3, .shards = 2, .cut = "encoder2,decoder2", .microbatch_size = 2};
  expect_equal(photon_model(2),
               {{1, {}},
                {2, {.data = 2, .microbatch_size = 2}},
                {2, {.stages = 2, .cut = "decoder2", .microbatch_size = 2}},
                {4, {.stages = 2, .shards = 3, .cut = "decoder2", .microbatch_size = 4}},
                {4, {.stages = 2, .shards = 3, .cut = "decoder1", .microbatch_size = 1}},
                {4, encoders_on_two},
                {8, encoders_on_two},
                {5, {.stages = 5, .cut = "encoder1.1,encoder2.1,decoder2.1,decoder1.1", .microbatch_size = 1}}},
               15);
}

TEST_F(Layouts, ThatRecomputeLayers) {
  constexpr Recompute layers = Recompute::layers;
  expect_equal(photon_model(2),
               {{1, {.recompute = layers}},
                {4, {.stages = 2, .shards = 3, .cut = "decoder2", .microbatch_size = 2, .recompute = layers}},
                {5,
                 {.stages = 4,
                  .shards = 2,
                  .cut = "encoder1.1,encoder2.1,decoder2.1",
                  .microbatch_size = 2,
                  .zero = 1,
                  .recompute = layers}}},
               15);
  expect_equal(vanilla_model(), {{3, {.stages = 3, .microbatch_size = 2, .recompute = layers}}}, 15);
}

TEST_F(Layouts, ThatSplitTheBackward) {
  constexpr SplitBackward on = SplitBackward::on;
  expect_equal(photon_model(2),
               {{2, {.stages = 2, .cut = "decoder2", .microbatch_size = 2, .split_backward = on}},
                {2, {.stages = 2, .cut = "decoder1.1", .microbatch_size = 8, .split_backward = on}},
                {4, {.stages = 2, .shards = 3, .cut = "decoder1", .microbatch_size = 1, .split_backward = on}},
                {4, {.stages = 4, .cut = "encoder2,decoder2,decoder1", .microbatch_size = 1, .split_backward = on}},
                {4, {.stages = 4, .cut = "encoder1.1,encoder2.1,decoder1", .microbatch_size = 4, .split_backward = on}},
                {8,
                 {.stages = 3,
                  .shards = 2,
                  .cut = "encoder2,decoder2.1",
                  .microbatch_size = 1,
                  .zero = 1,
                  .split_backward = on}}},
               15);
  ModelConfig tied = photon_model(2);
  tied.tie_embeddings = true;
  expect_equal(tied, {{4, {.stages = 2, .shards = 3, .microbatch_size = 2, .zero = 1, .split_backward = on}}}, 15);
  expect_equal(vanilla_model(), {{4, {.stages = 4, .microbatch_size = 1, .split_backward = on}}}, 15);
}

TEST_F(Layouts, WithSharedMoments) {
  expect_equal(photon_model(2),
               {{8, {.microbatch_size = 1, .zero = 1}},
                {3, {.stages = 2, .shards = 2, .cut = "decoder1.1", .microbatch_size = 4, .zero = 1}},
                {8, {.stages = 3, .shards = 2, .cut = "encoder2,decoder2", .microbatch_size = 2, .zero = 1}}},
               15);
  ModelConfig tied = photon_model(2);
  tied.tie_embeddings = true;
  tied.lookback = 3;
  expect_equal(tied, {{8, {.stages = 3, .shards = 2, .cut = "decoder2.1,decoder1.1", .microbatch_size = 2, .zero = 1}}},
               15);
}

TEST_F(Layouts, OfOneLevelAndThree) {
  expect_equal(photon_model(1),
               {{3, {.stages = 3, .microbatch_size = 2}},
                {4, {.stages = 2, .shards = 3, .cut = "decoder1", .microbatch_size = 2}},
                {8, {.stages = 3, .shards = 2, .cut = "encoder1.1,decoder1.1", .microbatch_size = 2, .zero = 1}}},
               15);
  expect_equal(photon_model(3),
               {{6, {.stages = 4, .shards = 3, .cut = "encoder3,decoder3,decoder2", .microbatch_size = 2}},
                {4, {.stages = 3, .shards = 2, .cut = "encoder2.1,decoder1", .microbatch_size = 4}}},
               31);
}

TEST_F(Layouts, OfVanillaModels) {
  expect_equal(vanilla_model(),
               {{4, {.stages = 4, .microbatch_size = 2}},
                {6, {.stages = 3, .cut = "layer.1,layer.3", .microbatch_size = 2, .zero = 1}}},
               15);
  ModelConfig tied = vanilla_model();
  tied.tie_embeddings = true;
  expect_equal(tied, {{6, {.stages = 3, .microbatch_size = 2, .zero = 1}}}, 15);
}

}  // namespace
}  // namespace photon
