#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "use_model.hpp"

namespace photon {
namespace {

using nlohmann::json;
using testing::Outcome;

class UseModel : public testing::UseModel {};

constexpr const char* job =
    "generate --model model --prompts prompts.jsonl --temperature 0.9 --seed 3 --max-batch 4 --output ";

TEST_F(UseModel, KilledAnywhereAndStartedAgainGivesTheSameRows) {
  for (const std::string mode : {" --mode hiergen", " --mode recgen"}) {
    const Outcome whole = photon(std::string(job) + "whole.jsonl" + mode);
    ASSERT_EQ(whole.code, 0) << whole.err;
    const json summary = json::parse(whole.out);
    EXPECT_EQ(summary["rows"], 30);
    EXPECT_EQ(summary["errors"], 1);
    // Killed before or after the 1st, 4th, 7th, ... row it writes, until it gets through.
    int kills = 0;
    for (int code = -1; code != 0; ++kills) {
      ASSERT_LT(kills, 30);
      const std::string fault = (kills % 2 == 0 ? "results.row:" : "results.done:") + std::to_string(1 + 3 * kills);
      ::setenv("PHOTON_FAULT", fault.c_str(), 1);
      const Outcome outcome = photon(std::string(job) + "killed.jsonl" + mode);
      ::unsetenv("PHOTON_FAULT");
      code = outcome.code;
      if (code != 0) {
        EXPECT_EQ(code, 137) << outcome.err;
        if (kills % 3 == 0) std::ofstream(path("killed.jsonl"), std::ios::app) << "{\"id\":29,\"te";
      }
    }
    EXPECT_GT(kills, 3);
    EXPECT_EQ(lines("killed.jsonl"), lines("whole.jsonl"));
    std::filesystem::remove(path("whole.jsonl"));
    std::filesystem::remove(path("killed.jsonl"));
  }
}

TEST_F(UseModel, StdinToStdout) {
  write("one.jsonl", "{\"id\": \"a\", \"prompt\": \"hello\"}\n");
  const Outcome outcome =
      photon("generate --model model --prompts - --output - --max-new-tokens 5 --logprobs < one.jsonl");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json row = json::parse(outcome.out);
  EXPECT_EQ(row["id"], "a");
  EXPECT_EQ(row["tokens"].size(), row["logprobs"].size());
}

TEST_F(UseModel, WrongUseIsRefused) {
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const Outcome outcome = photon(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  };
  refused("generate --model model --prompts none.jsonl --output o", "cannot read none.jsonl");
  refused("generate --model nothing --prompts prompts.jsonl --output o", "nothing");
  refused("generate --model model --prompts prompts.jsonl --output prompts.jsonl", "is no result of photon generate");
  refused(std::string(job) + "o --mode fast", "use hiergen or recgen");
  refused(std::string(job) + "o --top-p 0", "top_p is 0");
  refused(std::string(job) + "o --temprature 1", "--temperature");
  refused(std::string(job) + "o --numerics exact", "deterministic or tuned");
  refused("score --model model --input none.jsonl --output o", "cannot read none.jsonl");
  refused("eval --model model --data none.h5", "none.h5");
  EXPECT_FALSE(std::filesystem::exists(path("o")));
}

TEST_F(UseModel, SeveralRanksShareTheRows) {
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  const auto on_two_ranks = [&](const std::string& arguments) {
    const std::string command = "cd '" + folder_.string() +
                                "' && ASAN_OPTIONS=detect_leaks=0 mpirun --oversubscribe -np 2 '" PHOTON_BINARY "' " +
                                arguments + " >'" + path(".out") + "' 2>'" + path(".err") + "'";
    return std::system(command.c_str());
  };
  EXPECT_EQ(photon(std::string(job) + "alone --ordered").code, 0);
  EXPECT_EQ(on_two_ranks(std::string(job) + "shared --ordered"), 0) << read(path(".err"));
  EXPECT_NE(read(path("alone")), "");
  EXPECT_EQ(read(path("shared")), read(path("alone")));
  EXPECT_FALSE(std::filesystem::exists(path("shared.parts")));
  EXPECT_NE(on_two_ranks(std::string(job) + "-"), 0);
  EXPECT_NE(read(path(".err")).find("name a file"), std::string::npos) << read(path(".err"));
}

TEST_F(UseModel, SigtermKeepsWhatIsDoneAndExitsWith75) {
  // Rows that take for ever: the job is certainly running when the signal comes.
  write("long.jsonl",
        "{\"id\": 0, \"prompt\": \"\", \"max_new_tokens\": 1}\n{\"id\": 1, \"prompt\": \"\", \"max_new_tokens\": "
        "1000000}\n");
  const std::string command = "cd '" + folder_.string() +
                              "' && { '" PHOTON_BINARY
                              "' generate --model model --prompts long.jsonl --output long.out 2>.err & pid=$!; "
                              "while ! [ -s long.out ]; do sleep 0.05; done; kill -TERM $pid; wait $pid; }";
  const int status = std::system(command.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 75) << read(path(".err"));
  EXPECT_NE(read(path(".err")).find("start the same command again"), std::string::npos);
  EXPECT_EQ(lines("long.out").size(), 1U);
}

TEST_F(UseModel, EvalAndScoreSpeakJson) {
  write("text.txt", std::string(700, 'x') + "\n");
  ASSERT_EQ(photon("prepare --tokenizer byte --output data text.txt").code, 0);
  const Outcome eval = photon("eval --model model --data data/train.h5 --sequence-length 64");
  ASSERT_EQ(eval.code, 0) << eval.err;
  const json figures = json::parse(eval.out);
  EXPECT_EQ(figures["num_tokens"], 702);
  EXPECT_EQ(figures["num_bytes"], 701);
  EXPECT_NEAR(figures["loss"].get<double>(), std::log(259.0), 0.2);
  const Outcome both =
      photon("eval --model model --data data/train.h5 --sequence-length 64 --mode recgen --prompt-tokens 32");
  EXPECT_EQ(json::parse(both.out)["num_tokens"], 702 - 11 * 32) << both.err;
  write("rows.jsonl", "{\"context\": \"ab\", \"continuation\": \"c\"}\n");
  const Outcome score = photon("score --model model --input rows.jsonl --output - ");
  ASSERT_EQ(score.code, 0) << score.err;
  EXPECT_EQ(json::parse(score.out)["num_tokens"], 1);
}

TEST_F(UseModel, BenchDecodeMeasures) {
  for (const std::string mode : {"hiergen", "recgen"}) {
    const Outcome outcome = photon("bench decode --model model --batch 3 --prompt 7 --new-tokens 10 --mode " + mode);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const json figures = json::parse(outcome.out);
    EXPECT_GT(figures["tokens_per_second"], 0);
    EXPECT_GT(figures["end_to_end_tokens_per_second"], 0);
    EXPECT_EQ(figures["batch"], 3);
  }
}

}  // namespace
}  // namespace photon
