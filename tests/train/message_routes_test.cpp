#include "train/message_routes.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>

#include "config/run_config.hpp"

namespace photon {
namespace {

Plan plan_for(std::int64_t ranks, std::int64_t stages, std::int64_t shards, const std::string& cut,
              const std::string& model = "photon-60m") {
  RunConfig config;
  config.model = preset(model);
  config.train.batch_size = 24;
  config.train.sequence_length = 256;
  config.parallel.stages = stages;
  config.parallel.shards = shards;
  config.parallel.cut = cut;
  config.parallel.microbatch_size = 3;
  return make_plan(config, static_cast<int>(ranks), std::int64_t{1} << 40,
                   [](std::int64_t) { return std::int64_t{1}; });
}

// message_routes() itself refuses programs that disagree about the order of messages.
TEST(MessageRoutes, NameEveryPairOnce) {
  const std::vector<Plan> plans{plan_for(2, 2, 1, ""),
                                plan_for(4, 2, 3, "decoder2"),
                                plan_for(4, 2, 3, "decoder1"),
                                plan_for(4, 4, 1, "encoder2,decoder2,decoder1"),
                                plan_for(8, 3, 2, "encoder2,decoder2"),
                                plan_for(4, 2, 1, "", "vanilla-600m")};
  for (const Plan& plan : plans) {
    std::set<std::pair<int, int>> seen;
    for (const Route& route : message_routes(plan)) {
      EXPECT_TRUE(seen.insert({route.from, route.to}).second) << route.from << " to " << route.to;
      // Messages stay within a replica, between different stages.
      EXPECT_EQ(plan.role(route.from).replica, plan.role(route.to).replica);
      EXPECT_NE(plan.role(route.from).stage, plan.role(route.to).stage);
    }
    EXPECT_GE(seen.size(), 2U);  // there and back
  }
}

TEST(MessageRoutes, ReplicasExchangeNoMessages) {
  EXPECT_TRUE(message_routes(plan_for(4, 1, 1, "")).empty());
}

}  // namespace
}  // namespace photon
