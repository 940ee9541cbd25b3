#include "partition/plan.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <tuple>

#include "partition/schedule.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

RunConfig config_of(std::int64_t batch_size, std::int64_t microbatch_size) {
  RunConfig config;
  config.train.batch_size = batch_size;
  config.parallel.microbatch_size = microbatch_size;
  return config;
}

std::int64_t thousand_each(std::int64_t sequences) {
  return 1000 * sequences;
}

std::string refusal(const RunConfig& config, std::int64_t num_ranks) {
  try {
    make_plan(config, num_ranks, 1'000'000, thousand_each);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Plan, EverySequenceBelongsToOneMicrobatchOfOneReplica) {
  for (const auto& [batch, ranks, micro] : {std::tuple{12, 3, 2}, {6, 1, 1}, {6, 2, 3}, {5, 5, 1}}) {
    const Plan plan = make_plan(config_of(batch, micro), ranks, 0, thousand_each);
    std::set<std::int64_t> seen;
    std::int64_t previous = -1;
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      for (std::int64_t i = 0; i < plan.num_microbatches(); ++i) {
        const std::int64_t first = plan.first_sequence(rank, i);
        EXPECT_EQ(first, previous + 1);  // contiguous slices in rank order
        for (std::int64_t k = 0; k < plan.microbatch_size; ++k) EXPECT_TRUE(seen.insert(first + k).second);
        previous = first + plan.microbatch_size - 1;
      }
    }
    EXPECT_EQ(static_cast<std::int64_t>(seen.size()), batch);
    EXPECT_EQ(*seen.rbegin(), batch - 1);
  }
}

TEST(Plan, ChoosesTheLargestDivisorThatFits) {
  EXPECT_EQ(choose_microbatch_size(12, 12'000, thousand_each), 12);
  EXPECT_EQ(choose_microbatch_size(12, 11'999, thousand_each), 6);
  EXPECT_EQ(choose_microbatch_size(12, 3'500, thousand_each), 3);
  EXPECT_EQ(choose_microbatch_size(12, 10, thousand_each), 1);
  EXPECT_EQ(choose_microbatch_size(7, 6'000, thousand_each), 1);
  EXPECT_EQ(make_plan(config_of(24, 0), 2, 6'000, thousand_each).microbatch_size, 6);
}

TEST(Plan, RefusesWhatDoesNotDivide) {
  EXPECT_EQ(
      refusal(config_of(7, 0), 2),
      "train.batch_size 7 cannot be split over 2 ranks (1 sequences would be left over) set train.batch_size to 6 or "
      "8, or start another number of ranks");
  EXPECT_NE(refusal(config_of(2, 0), 4).find("set train.batch_size to 4,"), std::string::npos);
  EXPECT_NE(refusal(config_of(12, 4), 2).find("parallel.microbatch_size 4 does not divide the 6 sequences"),
            std::string::npos);
  EXPECT_EQ(refusal(config_of(12, 3), 2), "accepted");
}

TEST(Plan, RefusesLayoutsItCannotTrain) {
  RunConfig config = config_of(8, 0);
  config.parallel.stages = 2;
  EXPECT_NE(refusal(config, 2).find("this layout is not supported yet (parallel.stages is 2"), std::string::npos);
  config.parallel.stages = 1;
  config.parallel.shards = 3;
  EXPECT_NE(refusal(config, 4).find("parallel.shards is 3"), std::string::npos);
  config.parallel.shards = 1;
  config.parallel.data = 4;
  EXPECT_NE(refusal(config, 1).find("parallel.data is 4, but the job has 1 rank "), std::string::npos);
  EXPECT_EQ(refusal(config, 4), "accepted");
}

TEST(Schedule, GivesEveryReplicaTheSameProgram) {
  const Plan plan = make_plan(config_of(12, 2), 3, 0, thousand_each);
  const std::vector<Program> programs = schedule(plan, plan.num_microbatches(), {.evaluate = true, .save = true});
  ASSERT_EQ(programs.size(), 3U);
  const Program expected{{Op::forward, 0},  {Op::backward, 0},    {Op::forward, 1},
                         {Op::backward, 1}, {Op::all_reduce, -1}, {Op::clip_norm, -1},
                         {Op::step, -1},    {Op::evaluate, -1},   {Op::save, -1}};
  for (const Program& program : programs) EXPECT_EQ(program, expected);
  EXPECT_EQ(expected[2].str(), "forward 1");
  EXPECT_EQ(expected[4].str(), "all_reduce");
}

TEST(Schedule, LeavesOutWhatIsNotDue) {
  const Plan plan = make_plan(config_of(2, 2), 1, 0, thousand_each);
  const Program program = schedule(plan, 1, {}).front();
  ASSERT_EQ(program.size(), 5U);
  EXPECT_EQ(program.back().op, Op::step);
}

}  // namespace
}  // namespace photon
