#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "program.hpp"

namespace photon {
namespace {

using testing::Outcome;

constexpr const char* run = R"(model: {preset: photon-60m, tokenizer: byte, vocab_size: 259}
data: {train: none.h5}
train: {batch_size: 16, sequence_length: 512, precision: bf16}
)";

constexpr const char* cluster = R"(nodes: 1
devices_per_node: 4
memory: 8
matrix_rate: {bf16: 500}
memory_bandwidth: 2000
link_within_node: {bandwidth: 300, latency: 10}
)";

class PlanCommand : public testing::ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    write("run.yaml", run);
    write("cluster.yaml", cluster);
  }
  Outcome plan(const std::string& more) const {
    return photon("plan --config run.yaml --cluster cluster.yaml " + more);
  }
};

const std::string three_shards = "--set parallel.stages=2 --set parallel.shards=3 --set parallel.cut=decoder2 ";

TEST_F(PlanCommand, SaysWhatARunTakesOnDisk) {
  const auto disk = [&](const std::string& more) {
    const Outcome outcome = plan("--json " + more);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out).at("disk_bytes");
  };
  const auto once = disk("");
  const auto weights = once["weights"].get<std::int64_t>();
  EXPECT_GT(weights, 0);
  EXPECT_EQ(once["checkpoint"], 3 * weights);  // with two moments
  EXPECT_EQ(once["most"], 4 * weights);
  // One checkpoint more than is kept, and model/ twice, while one is made.
  EXPECT_EQ(disk("--set train.steps=1000 --set train.checkpoint_every=100")["most"], (4 * 3 + 2) * weights);
  EXPECT_EQ(disk("--set train.steps=1000 --set train.checkpoint_every=400")["most"], (3 * 3 + 2) * weights);
  EXPECT_EQ(disk("--set train.steps=1000 --set train.checkpoint_every=100 --set train.keep_checkpoints=0")["most"],
            (10 * 3 + 2) * weights);
}

TEST_F(PlanCommand, ExplainsALayout) {
  const Outcome outcome = plan(three_shards);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const char* part : {"on 4 ranks: 1 replica of 4\n", "encoder1 encoder2\n", "decoder2 decoder1\n",
                           "predicted: ", " tokens/s; ", "\nrank 3 ", "0-9 forward"}) {
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << "\n" << outcome.out;
  }
}

TEST_F(PlanCommand, PrintsJson) {
  const Outcome outcome = plan(three_shards + "--json --set parallel.microbatch_size=2");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["ranks"], 4);
  EXPECT_EQ(json["replicas"], 1);
  EXPECT_EQ(json["microbatches"], 8);
  EXPECT_EQ(json["stages"].size(), 2U);
  EXPECT_EQ(json["stages"][1]["shards"], 3);
  ASSERT_EQ(json["replica_ranks"].size(), 4U);
  std::int64_t most = 0;
  double longest = 0;
  for (const auto& rank : json["replica_ranks"]) {
    const auto& memory = rank["memory_bytes"];
    std::int64_t sum = 0;
    for (const char* part : {"weights", "gradients", "optimizer", "activations", "staging"}) {
      sum += memory[part].get<std::int64_t>();
    }
    EXPECT_EQ(memory["total"], sum);
    most = std::max(most, sum);
    ASSERT_FALSE(rank["program"].empty());
    std::map<std::string, int> ops;
    for (const auto& instruction : rank["program"]) ++ops[instruction["op"].get<std::string>()];
    EXPECT_EQ(ops["forward"], 8);
    EXPECT_EQ(ops["step"], 1);
    EXPECT_EQ(ops["send"], rank["stage"] == 0 ? 8 * 2 * 3 : 8 * 2);  // X(1), c(2) to three shards; their gradients
    longest = std::max(longest, rank["compute_seconds"].get<double>() + rank["wait_seconds"].get<double>() +
                                    rank["communication_seconds"].get<double>());
  }
  EXPECT_NEAR(longest, json["step_seconds"].get<double>(), 1e-9);
  EXPECT_EQ(json["memory_bytes"], most);
  EXPECT_NEAR(json["tokens_per_second"].get<double>() * json["step_seconds"].get<double>(), 16 * 512, 1e-6);
}

TEST_F(PlanCommand, PlansAHundredThousandRanks) {
  write("cluster.yaml",
        std::string(cluster).replace(0, 8, "nodes: 12500") + "link_between_nodes: {bandwidth: 50, latency: 20}\n");
  std::string wide = read(path("cluster.yaml"));
  const std::string four = "devices_per_node: 4";
  ASSERT_NE(wide.find(four), std::string::npos);
  write("cluster.yaml", wide.replace(wide.find(four), four.size(), "devices_per_node: 8"));
  const Outcome outcome = plan(three_shards + "--json --set train.batch_size=100000 --set parallel.zero=1");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["ranks"], 100'000);
  EXPECT_EQ(json["replicas"], 25'000);
  EXPECT_EQ(json["replica_ranks"].size(), 4U);
  // The moments of the encoders are shared by 25,000 ranks.
  EXPECT_LT(json["replica_ranks"][0]["memory_bytes"]["optimizer"].get<double>(),
            json["replica_ranks"][0]["memory_bytes"]["weights"].get<double>() / 1000);
}

TEST_F(PlanCommand, WritesATrace) {
  const std::map<std::string, std::set<std::string>> backwards{{"off", {"backward 0"}},
                                                               {"on", {"backward_input 0", "backward_weight 0"}}};
  for (const auto& [split, backward] : backwards) {
    SCOPED_TRACE("split_backward " + split);
    const Outcome outcome = plan(three_shards + "--trace trace.json --set parallel.split_backward=" + split);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto trace = nlohmann::json::parse(read(path("trace.json")));
    std::set<std::int64_t> tracks;
    std::set<std::string> names;
    for (const auto& event : trace["traceEvents"]) {
      tracks.insert(event["tid"].get<std::int64_t>());
      names.insert(event["name"].get<std::string>());
      if (event["ph"] == "X") {
        EXPECT_GT(event["dur"].get<double>(), 0);
      }
    }
    EXPECT_EQ(tracks, (std::set<std::int64_t>{0, 1, 2, 3}));
    std::set<std::string> expected{"forward 0", "all_reduce", "step", "thread_name"};
    expected.insert(backward.begin(), backward.end());
    for (const std::string& name : expected) EXPECT_TRUE(names.contains(name)) << name;
  }
}

TEST_F(PlanCommand, SearchesAndItsAnswerCanBeGiven) {
  const Outcome outcome = plan("--search --json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto found = nlohmann::json::parse(outcome.out);
  const auto given = nlohmann::json::parse(plan(found["settings"].get<std::string>() + " --json").out);
  EXPECT_EQ(given["step_seconds"], found["step_seconds"]);
  EXPECT_LE(found["step_seconds"], nlohmann::json::parse(plan(three_shards + "--json").out)["step_seconds"]);
  EXPECT_NE(plan("--search").out.find("fastest layout: --set parallel.stages="), std::string::npos);
}

TEST_F(PlanCommand, RefusesWithTheReason) {
  const auto refused = [this](const std::string& more, const std::vector<std::string>& parts) {
    const Outcome outcome = plan(more);
    EXPECT_EQ(outcome.code, 2) << more;
    EXPECT_EQ(outcome.out, "") << more;
    for (const std::string& part : parts) EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  };
  refused("--set model.preset=photon-7b", {"this layout needs ", "GiB on a rank that has 8.0 GiB (weights ",
                                           "no layout on 4 ranks fits, the smallest needs "});
  refused("--set model.preset=photon-600m --set parallel.microbatch_size=4",
          {"this layout needs ", "the nearest layout that fits needs ", "--set parallel.stages="});
  refused("--set parallel.stages=3", {"the job has 4 ranks", "a replica of parallel.stages 3"});
  refused("--set train.precision=fp32", {"the cluster file gives no matrix rate for train.precision fp32"});
  refused("--set parallel.stagse=3", {"did you mean parallel.stages?"});
  EXPECT_EQ(photon("plan --config run.yaml --cluster none.yaml").code, 2);
  EXPECT_NE(photon("plan --config run.yaml --cluster none.yaml").err.find("cannot read none.yaml"), std::string::npos);
  write("cluster.yaml", "memory: -1\nmatrix_rate: {bf16: 1}\nmemory_bandwidth: 1\n");
  refused("", {"memory is -1", "cluster.yaml:1"});
}

TEST_F(PlanCommand, ShippedFilesArePlanned) {
  const std::string source = PHOTON_SOURCE_DIR;
  const Outcome quickstart =
      photon("plan --config '" + source + "/configs/train/quickstart-pipeline.yaml' --cluster '" + source +
             "/configs/cluster/four-h100.yaml'");
  EXPECT_EQ(quickstart.code, 0) << quickstart.err;
  const Outcome large = photon("plan --config '" + source + "/configs/train/photon-600m.yaml' --cluster '" + source +
                               "/configs/cluster/1024-h100.yaml' --set model.preset=photon-7b --set "
                               "train.batch_size=4096 --search");
  EXPECT_EQ(large.code, 0) << large.err;
  EXPECT_NE(large.out.find("on 1024 ranks"), std::string::npos) << large.out;
}

TEST_F(PlanCommand, PlansDecoding) {
  const Outcome table = plan("--decode --prompt-tokens 512 --new-tokens 64");
  ASSERT_EQ(table.code, 0) << table.err;
  for (const char* part : {"HierGen in bf16: 64 new tokens after prompts of 512", "4 replicas",
                           "coarse rank + 3 shards", "chosen: 4 replicas, ", "top cache"}) {
    EXPECT_NE(table.out.find(part), std::string::npos) << part << "\n" << table.out;
  }
  const Outcome outcome = plan("--decode --json --mode recgen --batch 64 --decoder-shards 3");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  ASSERT_EQ(json["layouts"].size(), 1U);
  const auto& layout = json["layouts"][0];
  EXPECT_EQ(layout["rows"], 64);
  ASSERT_EQ(layout["ranks"].size(), 2U);
  EXPECT_EQ(layout["ranks"][0]["role"], "coarse");
  EXPECT_EQ(layout["ranks"][1]["rows"], 22);
  std::int64_t sum = 0;
  for (const auto& [key, bytes] : layout["ranks"][0]["memory_bytes"].items()) {
    if (key != "total") sum += bytes.get<std::int64_t>();
  }
  EXPECT_EQ(layout["ranks"][0]["memory_bytes"]["total"], sum);

  const auto refused = [&](const std::string& more, const std::string& part) {
    const Outcome refusal = plan("--decode " + more);
    EXPECT_EQ(refusal.code, 2) << refusal.out;
    EXPECT_NE(refusal.err.find(part), std::string::npos) << refusal.err;
  };
  refused("--decoder-shards 2", "shards 3");
  refused("--batch 10000000", "the nearest that fits is --batch ");
  refused("--precision fp32", "gives no matrix rate");
  refused("--search", "of training");
  refused("--mode fast", "use hiergen or recgen");
}

}  // namespace
}  // namespace photon
