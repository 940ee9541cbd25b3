#include <nlohmann/json.hpp>

#include "program.hpp"
#include "use_model.hpp"

namespace photon {
namespace {

using nlohmann::json;
using testing::Outcome;

class MeasureDrift : public testing::ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    write("tiny.yaml", testing::tiny_model);
    ASSERT_EQ(photon("init --config tiny.yaml --seed 5 --output model").code, 0);
  }
};

TEST_F(MeasureDrift, OnDataAndOnPrompts) {
  write("text.txt", std::string(700, 'x') + "\n");
  ASSERT_EQ(photon("prepare --tokenizer byte --output data text.txt").code, 0);
  const Outcome data = photon(
      "drift --model model --data data/train.h5 --sequence-length 60 --sequences 5 --window 3 --bin 10 --output d.json "
      "--plot d.svg");
  ASSERT_EQ(data.code, 0) << data.err;
  EXPECT_EQ(data.out, "");
  const json drift = json::parse(read(path("d.json")));
  EXPECT_EQ(drift["model"], "model");
  EXPECT_EQ(drift["prompt_tokens"], 15);
  EXPECT_EQ(drift["num_rows"], 5);
  EXPECT_EQ(drift["exact"]["num_tokens"], 5 * 45);
  ASSERT_EQ(drift["approximations"].size(), 2U);
  EXPECT_EQ(drift["approximations"][0]["name"], "recgen");
  EXPECT_EQ(drift["approximations"][1]["name"], "window 3");
  EXPECT_EQ(drift["approximations"][1]["by_distance"].size(), 5U);
  EXPECT_EQ(read(path("d.svg")).rfind("<svg", 0), 0U);

  write("prompts.jsonl", "{\"prompt\": \"hello\"}\n{\"prompt\": \"\"}\n");
  const Outcome prompts =
      photon("drift --model model --prompts - --max-new-tokens 9 --temperature 1 --seed 2 < prompts.jsonl");
  ASSERT_EQ(prompts.code, 0) << prompts.err;
  const json figures = json::parse(prompts.out);
  EXPECT_EQ(figures["prompts"], "-");
  EXPECT_GT(figures["exact"]["num_tokens"], 0);
  EXPECT_LE(figures["exact"]["num_tokens"], 18);
}

TEST_F(MeasureDrift, WrongUseIsRefused) {
  write("text.txt", std::string(50, 'x'));
  ASSERT_EQ(photon("prepare --tokenizer byte --output data text.txt").code, 0);
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const Outcome outcome = photon("drift " + arguments);
    EXPECT_EQ(outcome.code, 2) << arguments << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  };
  refused("--model model", "exactly one of them");
  refused("--model model --data data/train.h5 --prompts p", "exactly one of them");
  refused("--model model --prompts none.jsonl", "cannot read none.jsonl");
  refused("--model model --data data/train.h5 --sequence-length 60", "holds no window of 60 tokens");
  refused("--model model --data data/train.h5 --sequence-length 20 --prompt-tokens 20", "no token would follow");
  refused("--model model --data data/train.h5 --sequence-length 20 --window 0", "a window is 0");
  refused("--model model --data data/train.h5 --skip-recgen", "nothing to compare");
  refused("--model model --data data/train.h5 --windw 3", "--window");
}

}  // namespace
}  // namespace photon
