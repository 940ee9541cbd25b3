// photon generate on ranks of which some decode level 1's tokens for others.
#include <nlohmann/json.hpp>

#include "testing/process.hpp"
#include "use_model.hpp"

namespace photon {
namespace {

using nlohmann::json;
using testing::Outcome;

class GenerateLayouts : public testing::UseModel {
 protected:
  static std::string ranks(int n) {
    return "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive "
           "ASAN_OPTIONS=detect_leaks=0 mpirun --oversubscribe -np " +
           std::to_string(n) + " '" PHOTON_BINARY "' ";
  }
  static std::string job(const std::string& output, const std::string& more) {
    return "generate --model model --prompts prompts.jsonl --temperature 0.9 --seed 3 --max-batch 5 --top-logprobs 2 "
           "--device cpu --output " +
           output + more;
  }
};

TEST_F(GenerateLayouts, GiveTheRowsOfOneProcess) {
  for (const std::string mode : {" --mode hiergen", " --mode recgen"}) {
    const Outcome whole = photon(job("whole.jsonl", mode));
    ASSERT_EQ(whole.code, 0) << whole.err;
    for (const auto& [n, shards] : {std::pair{2, 1}, {3, 2}, {4, 1}}) {
      const Outcome outcome =
          program(ranks(n) + job("ranks.jsonl", mode + " --decoder-shards " + std::to_string(shards)));
      ASSERT_EQ(outcome.code, 0) << outcome.err;
      EXPECT_EQ(json::parse(outcome.out)["rows"], 30) << outcome.out;
      EXPECT_EQ(lines("ranks.jsonl"), lines("whole.jsonl")) << n << " ranks, " << shards << " shards";
      std::filesystem::remove(path("ranks.jsonl"));
    }
    std::filesystem::remove(path("whole.jsonl"));
  }
}

TEST_F(GenerateLayouts, WhatCannotBeIsRefused) {
  const Outcome alone = photon(job("o", " --decoder-shards 1"));
  EXPECT_EQ(alone.code, 2);
  EXPECT_NE(alone.err.find("start 2 ranks"), std::string::npos) << alone.err;
  const Outcome odd = program(ranks(3) + job("o", " --decoder-shards 1"));
  EXPECT_NE(odd.code, 0);
  EXPECT_NE(odd.err.find("start 2 or 4 ranks, or use --decoder-shards 2"), std::string::npos) << odd.err;
  write("vanilla.yaml",
        "model: {model_type: vanilla, vocab_size: 259, tokenizer: byte, dim: 8, layers: 1, heads: 2, ffn: 10}\n");
  ASSERT_EQ(photon("init --config vanilla.yaml --seed 5 --output vanilla").code, 0);
  const Outcome vanilla =
      program(ranks(2) + "generate --model vanilla --prompts prompts.jsonl --output o --decoder-shards 1");
  EXPECT_NE(vanilla.code, 0);
  EXPECT_NE(vanilla.err.find("a vanilla model has no decoder shards"), std::string::npos) << vanilla.err;
  EXPECT_FALSE(std::filesystem::exists(path("o")));
}

// A shard that throws in the middle of its work, alone in its group or beside another group: every rank ends, the
// message says which one and why, what was finished stays, and the job goes on from there.
TEST_F(GenerateLayouts, AShardThatThrowsEndsTheJobAndLosesNothing) {
  const Outcome whole = photon(job("whole.jsonl", ""));
  ASSERT_EQ(whole.code, 0) << whole.err;
  const std::multiset<std::string> expected = lines("whole.jsonl");
  write("rank.sh",
        "echo $$ > pid.$OMPI_COMM_WORLD_RANK; [ $OMPI_COMM_WORLD_RANK = 1 ] && export "
        "PHOTON_FAULT=enospc@shard.chunk:$1; "
        "exec '" PHOTON_BINARY "' " +
            job("ranks.jsonl", " --decoder-shards 1"));
  for (const int num_ranks : {2, 4}) {
    std::size_t most = 0;
    // Of the two groups that share the rows none is sure of more than a few chunks.
    for (const int chunk : num_ranks == 2 ? std::vector{1, 25} : std::vector{3}) {
      const std::string launch = ranks(num_ranks);
      const Outcome failed = program(launch.substr(0, launch.find(" '")) + " sh rank.sh " + std::to_string(chunk));
      EXPECT_EQ(failed.code, 1) << failed.err;
      EXPECT_NE(failed.err.find("shard.chunk"), std::string::npos) << failed.err;
      EXPECT_NE(failed.err.find("rank 1"), std::string::npos) << failed.err;
      for (int rank = 0; rank < num_ranks; ++rank) {
        const int process = std::stoi(read(path("pid." + std::to_string(rank))));
        testing::wait_until([&] { return ::kill(process, 0) != 0; });
      }
      // Whole results of the undisturbed job, and no others; those of the start before are among them.
      if (num_ranks > 2) {
        const Outcome merged = photon("merge --output ranks.jsonl --keep-parts");
        EXPECT_EQ(merged.code, 0) << merged.err;
      }
      for (const std::string& line : lines("ranks.jsonl")) EXPECT_EQ(expected.count(line), 1U) << line;
      const std::size_t written = lines("ranks.jsonl").size();
      EXPECT_GE(written, most);
      most = written;
    }
    if (num_ranks == 2) {
      EXPECT_GT(most, 0U);
    }
    EXPECT_LT(most, expected.size());
    const Outcome done = program(ranks(num_ranks) + job("ranks.jsonl", " --decoder-shards 1"));
    EXPECT_EQ(done.code, 0) << done.err;
    EXPECT_EQ(lines("ranks.jsonl"), expected);
    std::filesystem::remove(path("ranks.jsonl"));
    std::filesystem::remove_all(path("ranks.jsonl.parts"));
  }
}

// Prompts from a pipe that its writer leaves in the middle of a row: those before are decoded, and nobody is kept from
// stopping. Started again the job goes on with what it has not done.
TEST_F(GenerateLayouts, RanksDoNotWaitForASlowPipe) {
  write("rows",
        "{\"id\": 1, \"prompt\": \"a\", \"max_new_tokens\": 2}\n"
        "{\"id\": 2, \"prompt\": \"b\", \"max_new_tokens\": 2}\n");
  const std::string words = "generate --model model --prompts - --device cpu --output slow.jsonl";
  write("rank.sh", "echo $$ > pid.$OMPI_COMM_WORLD_RANK; exec '" PHOTON_BINARY "' " + words);
  const auto results = [&] {
    std::size_t count = 0;
    for (const char* rank : {"0", "1"}) {
      const std::string part = read(path(std::string("slow.jsonl.parts/rank-") + rank + ".part"));
      for (std::size_t at = part.find("\"text\""); at != std::string::npos; at = part.find("\"text\"", at + 1)) ++count;
    }
    return count;
  };
  testing::Process process(
      {"sh", "-c",
       "cd '" + folder_.string() +
           "' && { cat rows; printf '{\"id\": 3, \"pro'; while [ ! -e over ]; do sleep 0.05; done; } | "
           "mpirun --oversubscribe -np 2 sh rank.sh"},
      {{"OMPI_ALLOW_RUN_AS_ROOT", "1"},
       {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
       {"OMP_NUM_THREADS", "1"},
       {"OMP_WAIT_POLICY", "passive"},
       {"PHOTON_EXIT_FILE", path("exit")},
       {"ASAN_OPTIONS", "detect_leaks=0"}});
  testing::wait_until([&] { return results() == 2; });
  ::kill(std::stoi(read(path("pid.1"))), SIGTERM);
  testing::wait_until([&] { return !read(path("exit")).empty(); });
  EXPECT_EQ(std::stoi(read(path("exit"))), 75);
  write("over", "");
  process.wait();

  const Outcome outcome =
      program("{ cat rows; printf '{\"id\": 3, \"pro'; sleep 0.3; echo 'mpt\": \"c\", \"max_new_tokens\": 2}'; } | " +
              ranks(2) + words);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(lines("slow.jsonl").size(), 3U);
  EXPECT_EQ(json::parse(outcome.out)["resumed"], 2) << outcome.out;
}

// One row that is done at once, and one that takes for ever: the job is certainly running when the signal comes.
TEST_F(GenerateLayouts, SignalsStopEveryRank) {
  write("prompts.jsonl",
        "{\"id\": 0, \"prompt\": \"\", \"max_new_tokens\": 1}\n{\"id\": 1, \"prompt\": \"\", \"max_new_tokens\": "
        "1000000}\n");
  for (const int signal : {SIGTERM, SIGKILL}) {
    std::filesystem::remove(path("long.out"));
    // The ranks write their process numbers, so that the signal can go to one of them: the shard.
    const std::string rank = "echo $$ > pid.$OMPI_COMM_WORLD_RANK; exec '" PHOTON_BINARY "' " +
                             job("long.out", " --decoder-shards 1 --memory 1");
    write("rank.sh", rank);
    testing::Process process(
        {"sh", "-c", "cd '" + folder_.string() + "' && exec mpirun --oversubscribe -np 2 sh rank.sh"},
        {{"OMPI_ALLOW_RUN_AS_ROOT", "1"},
         {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
         {"OMP_NUM_THREADS", "1"},
         {"OMP_WAIT_POLICY", "passive"},
         {"PHOTON_EXIT_FILE", path("exit")},
         {"ASAN_OPTIONS", "detect_leaks=0"}});
    testing::wait_until([&] { return std::filesystem::exists(path("long.out")) && !read(path("long.out")).empty(); });
    const int shard = std::stoi(read(path("pid.1")));
    ::kill(shard, signal);
    const testing::ProcessResult result = process.wait();
    if (signal == SIGTERM) {
      EXPECT_EQ(result.exit_code, 75) << result.errors;
      EXPECT_NE(result.errors.find("start the same command again"), std::string::npos) << result.errors;
    } else {
      EXPECT_NE(result.exit_code, 0);
      EXPECT_NE(result.errors.find("rank 1 on host"), std::string::npos) << result.errors;
    }
    EXPECT_EQ(lines("long.out").size(), 1U);
  }
}

}  // namespace
}  // namespace photon
