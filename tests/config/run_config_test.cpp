#include "config/run_config.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "expect_error.hpp"

namespace photon {
namespace {

using testing::expect_input_error;

constexpr const char* small = R"(# a comment
model:
  preset: photon-60m
  vocab_size: 259
  tokenizer: byte
data:
  train: train.h5
)";

RunConfig parse(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return parse_run_config(yaml, "run.yaml", overrides);
}

void refused(const std::string& yaml, const std::vector<std::string>& parts) {
  expect_input_error([&] { parse(yaml); }, parts);
}

void refused_set(const std::string& change, const std::vector<std::string>& parts) {
  expect_input_error([&] { parse(small, {change}); }, parts);
}

TEST(RunConfig, FillsTheDefaults) {
  const RunConfig c = parse(small);
  RunConfig expected;
  expected.model = preset("photon-60m");
  expected.model.vocab_size = 259;
  expected.model.tokenizer = "byte";
  expected.data.train = {{"train.h5", 1.0}};
  EXPECT_EQ(c, expected);
  EXPECT_EQ(c.train.learning_rate, 3e-4);
  EXPECT_EQ(c.train.weight_decay, 0.1);
  EXPECT_EQ(c.train.beta1, 0.9);
  EXPECT_EQ(c.train.beta2, 0.95);
  EXPECT_EQ(c.train.grad_clip, 1.0);
  EXPECT_EQ(c.train.alpha, 0.3);
  EXPECT_TRUE(c.train.rec_stop_gradient);
}

TEST(RunConfig, RoundTripsThroughYaml) {
  RunConfig c = parse(small);
  EXPECT_EQ(parse(to_yaml(c)), c);

  c.model = preset("vanilla-600m");
  c.model.tokenizer = "a name: with # specials \"quoted\" \\ é\t.model";
  c.data.train = {{"no", 1e-7}, {"true", 1.0 / 3}, {"17", 1e22}, {"- x", 1}, {" padded ", 5}};
  c.data.val = {{"~", 1}, {"null", 2}};
  c.train.schedule = Schedule::wsd;
  c.train.rec_distance = RecDistance::smooth_l1;
  c.train.precision = Precision::bf16;
  c.train.rec_stop_gradient = false;
  c.train.deterministic = true;
  c.train.seed = 18446744073709551615ULL;
  c.train.learning_rate = 0.1234567890123456789;
  c.train.min_learning_rate = 1e-300;
  c.train.warmup_steps = 7;
  c.parallel = {2, 3, 4, "decoder1", 5};
  EXPECT_EQ(parse(to_yaml(c)), c);
}

TEST(RunConfig, WritesNumbersThatEveryYamlReaderTakesForNumbers) {
  const std::string text = to_yaml(parse(small));
  EXPECT_EQ(text.rfind("format_version: 1\nmodel:\n  format_version: 1\n  model_type: photon\n", 0), 0u) << text;
  EXPECT_NE(text.find("norm_eps: 1.0e-05\n"), std::string::npos) << text;
  EXPECT_NE(text.find("min_learning_rate: 3.0e-05\n"), std::string::npos) << text;
  EXPECT_NE(text.find("  train:\n    - file: train.h5\n      weight: 1.0\n  val: []\n"), std::string::npos) << text;
}

TEST(RunConfig, ReadsWhatFilesItIsGiven) {
  const auto train = [](const std::string& value) { return parse(small, {"data.train=" + value}).data.train; };
  EXPECT_EQ(train("a.h5"), (std::vector<DataFile>{{"a.h5", 1}}));
  EXPECT_EQ(train("[a.h5, b.h5]"), (std::vector<DataFile>{{"a.h5", 1}, {"b.h5", 1}}));
  EXPECT_EQ(train("[{file: ../a.h5, weight: 2}, b.h5, {file: c.h5}]"),
            (std::vector<DataFile>{{"../a.h5", 2}, {"b.h5", 1}, {"c.h5", 1}}));
  refused_set("data.train=[{file: a.h5, wieght: 2}]",
              {"unknown key data.train[0].wieght", "did you mean data.train[0].weight?"});
  refused_set("data.train=[{weight: 2}]", {"data.train[0].file is missing"});
  refused_set("data.train=[{file: a.h5, weight: 0}]", {"data.train[0].weight is 0", "above 0"});
  refused_set("data.train=[[a]]", {"data.train[0] is a list"});
  refused_set("data.train=5", {"data.train is 5", "a file or a list of files"});
  refused_set("data.train=[]", {"data.train names no file"});
  refused_set("data.train=''", {"data.train[0] names no file"});
}

TEST(RunConfig, StartsFromAPresetAtTheTopToo) {
  const RunConfig c = parse("preset: photon-125m\nmodel: {vocab_size: 500}\ndata: {train: x}\n");
  ModelConfig expected = preset("photon-125m");
  expected.vocab_size = 500;
  EXPECT_EQ(c.model, expected);
  EXPECT_EQ(parse("preset: photon-125m\ndata: {train: x}").model, preset("photon-125m"));
  EXPECT_EQ(parse("preset: vanilla-600m\nmodel: {layers: 2}\ndata: {train: x}").model.stack.layers, 2);
  refused("preset: photon-125m\nmodel: {preset: photon-60m}\ndata: {train: x}",
          {"preset is given twice", "run.yaml:2"});
  refused("preset: 3\ndata: {train: x}", {"preset is 3", "name of a preset"});
  refused("\npreset: photon-61m\ndata: {train: x}",
          {"run.yaml:2", "unknown preset photon-61m", "did you mean photon-60m?"});
  refused("perset: photon-60m\nmodel: {}\ndata: {train: x}", {"unknown key perset", "did you mean preset?"});
}

TEST(RunConfig, ReplacesLevelsWhole) {
  const RunConfig c = parse(R"(
model:
  preset: photon-60m
  levels:
    - {dim: 512, chunk: 8, prefix: 2, encoder: {layers: 1, heads: 8, ffn: 9}, decoder: {layers: 1, heads: 8, ffn: 9}}
data: {train: x}
)");
  ASSERT_EQ(c.model.num_levels(), 1);
  EXPECT_EQ(c.model.levels[0].chunk, 8);
  EXPECT_EQ(c.model.levels[0].encoder.kv_heads, 8);
  EXPECT_EQ(c.model.vocab_size, 32000);
}

TEST(RunConfig, DerivesDefaultsThatFollowOtherKeys) {
  EXPECT_EQ(parse(small, {"train.steps=50"}).train.warmup_steps, 5);
  EXPECT_EQ(parse(small, {"train.steps=5"}).train.warmup_steps, 0);
  EXPECT_EQ(parse(small, {"train.steps=5000"}).train.warmup_steps, 100);
  EXPECT_EQ(parse(small, {"train.learning_rate=0.01"}).train.min_learning_rate, 0.001);
  EXPECT_EQ(parse(small, {"train.learning_rate=3e-4"}).train.min_learning_rate, 3e-5);
  EXPECT_EQ(parse(small, {"train.min_learning_rate=0"}).train.min_learning_rate, 0);
}

TEST(Overrides, SetOneKeyLaterOnesWin) {
  EXPECT_EQ(parse(small, {"train.steps=10", "train.steps=20"}).train.steps, 20);
  EXPECT_EQ(parse(small, {"train.steps=1e4"}).train.steps, 10000);
  EXPECT_EQ(parse(small, {"train.schedule=wsd"}).train.schedule, Schedule::wsd);
  EXPECT_EQ(parse(small, {"model.levels.0.chunk=8"}).model.levels[0].chunk, 8);
  EXPECT_EQ(parse(small, {"model.levels[1].encoder.window=8"}).model.levels[1].encoder.window, 8);
  EXPECT_EQ(parse(small, {"parallel={data: 2, stages: 3}"}).parallel, (ParallelConfig{2, 3, 1, "", 0}));
  EXPECT_EQ(parse(small, {"data.train=a=b.h5"}).data.train[0].file, "a=b.h5");
  EXPECT_EQ(parse(small, {"model.tokenizer=''"}).model.tokenizer, "");
  EXPECT_EQ(parse(small, {"model.tokenizer="}).model.tokenizer, "");
  EXPECT_EQ(parse(small, {"parallel.cut=decoder1", "parallel.cut="}).parallel.cut, "");
  EXPECT_TRUE(parse(small, {"data.val=val.h5", "data.val="}).data.val.empty());
}

TEST(Overrides, ChooseThePresetFirst) {
  // The order of the two does not matter: a preset is what the other keys start from.
  for (const auto& overrides : {std::vector<std::string>{"model.preset=photon-125m", "model.lookback=2"},
                                std::vector<std::string>{"model.lookback=2", "model.preset=photon-125m"},
                                std::vector<std::string>{"model.lookback=2", "preset=photon-125m"}}) {
    const RunConfig c = parse(small, overrides);
    EXPECT_EQ(c.model.dim, 768);
    EXPECT_EQ(c.model.lookback, 2);
    EXPECT_EQ(c.model.vocab_size, 259);  // the file's own
  }
  EXPECT_EQ(parse(small, {"model={preset: vanilla-600m}"}).model, preset("vanilla-600m"));
}

TEST(Overrides, AreCheckedLikeTheFile) {
  refused_set("train.stpes=10", {"unknown key train.stpes", "--set train.stpes=10", "did you mean train.steps?"});
  refused_set("steps=10", {"unknown key steps", "did you mean train.steps?"});
  refused_set("trian.steps=10", {"unknown key trian", "did you mean train?"});
  refused_set("model.levels.0.heads=10",
              {"unknown key model.levels[0].heads", "did you mean model.levels[0].encoder.heads?"});
  refused_set("train.steps=ten", {"train.steps is \"ten\"", "--set train.steps=ten", "must be an integer, at least 1"});
  refused_set("train.steps=10.5", {"train.steps is 10.5"});
  refused_set("train.steps='10'", {"train.steps is \"10\""});
  refused_set("train.steps=", {"train.steps is nothing"});
  refused_set("data.train=", {"data.train names no file"});
  refused_set("train.steps", {"--set train.steps names no key and value", "key=value"});
  refused_set("=3", {"--set =3 names no key"});
  refused_set("train..steps=3", {"names no key"});
  refused_set("train.steps.=3", {"names no key"});
  refused_set("train.steps.x=3", {"train.steps is a section", "--set train.steps.x=3", "must be an integer"});
  refused_set("model.vocab_size.x=3",
              {"--set model.vocab_size.x=3 names no key", "model.vocab_size is 259, not a section"});
  refused_set("model.levels.2.chunk=3", {"names no entry of model.levels", "2 entries"});
  refused_set("model.levels.-1.chunk=3", {"names no entry of model.levels"});
  refused_set("model.levels.x.chunk=3", {"names no entry of model.levels"});
  refused_set("train=[1", {"--set train=[1 is not valid YAML"});
  refused_set("format_version=2", {"format_version 2", "newer than the 1"});
  refused_set("model.preset=foton-60m", {"unknown preset foton-60m", "did you mean photon-60m?"});
}

TEST(RunConfig, NamesFileLineAndKeyOfEveryMistake) {
  refused(std::string(small) + "train:\n  stpes: 3\n",
          {"unknown key train.stpes", "run.yaml:9", "did you mean train.steps?"});
  refused(std::string(small) + "train:\n  steps: 3\n  seed: 1\n  steps: 4\n",
          {"train.steps is given twice", "run.yaml:9", "run.yaml:11"});
  refused(std::string(small) + "train:\n  beta1: 1\n", {"train.beta1 is 1", "run.yaml:9", "below 1"});
  refused(std::string(small) + "train:\n  grad_clip: .nan\n", {"train.grad_clip is", "run.yaml:9"});
  refused(std::string(small) + "train:\n  deterministic: yes\n", {"train.deterministic is \"yes\"", "true or false"});
  refused(std::string(small) + "train:\n  schedule: linear\n", {"train.schedule is \"linear\"", "one of cosine, wsd"});
  refused(std::string(small) + "train: 3\n", {"train is 3", "run.yaml:8", "a section"});
  refused(std::string(small) + "train:\n  seed: -1\n", {"train.seed is -1"});
  refused("format_version: 2\nsomething: new\n",
          {"format_version 2 of run.yaml:1", "newer than the 1 this photon reads", "update photon"});
  refused("model: {preset: photon-60m, format_version: 3}\ndata: {train: x}", {"format_version 3"});
  refused("data: {train: x}", {"model is missing", "run.yaml"});
  refused("preset: photon-60m", {"data.train names no file"});
  refused("model: {vocab_size: 10}\ndata: {train: x}", {"model.dim is missing", "run.yaml:1"});
  refused("model: {preset: photon-60m, model_type: vanilla}\ndata: {train: x}",
          {"model.lookback is out of place", "run.yaml:1", "model_type"});
  refused("model: {preset: photon-60m, layers: 3}\ndata: {train: x}", {"model.layers is out of place"});
}

TEST(RunConfig, RefusesWhatIsNoConfiguration) {
  refused("train: [\n  steps: 3\n x", {"run.yaml is not valid YAML", "line"});
  refused("a: 1\n---\nb: 2\n", {"run.yaml holds 2 YAML documents"});
  refused("- 1\n", {"run.yaml is not a configuration", "a list"});
  refused("just text", {"run.yaml is not a configuration"});
  refused("", {"model is missing"});
  refused("a: &x [*x]\n", {"nested too deeply"});
  refused("{a: 1}: 2\n", {"key that is no word"});
}

TEST(RunConfig, ChecksWhatKeysMustSatisfyTogether) {
  refused_set("train={steps: 10, warmup_steps: 11}", {"train.warmup_steps is 11", "at most train.steps, 10"});
  refused_set("train={learning_rate: 1e-4, min_learning_rate: 2e-4}",
              {"train.min_learning_rate is 0.0002", "train.learning_rate"});
  refused_set("model.max_length=512", {"train.sequence_length is 1024", "model.max_length, 512"});
  refused_set("parallel.microbatch_size=17", {"parallel.microbatch_size is 17", "train.batch_size, 16"});
  refused_set("parallel.data=3", {"train.batch_size is 16", "multiple of parallel.data, 3"});
  refused_set("data.document_mask=block", {"data.document_mask is \"block\"", "only none"});
  refused_set("model.levels.0.encoder.heads=7",
              {"model.levels[0].encoder.heads is 7", "--set", "must divide the width, 512"});
}

TEST(RunConfig, AnEmptySectionMeansItsDefaults) {
  EXPECT_EQ(parse(std::string(small) + "train:\n"), parse(small));
}

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ("photon_config_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  std::filesystem::path folder_;
};

TEST_F(Files, AreReadWithWindowsLineEndsToo) {
  EXPECT_EQ(load_run_config(write("unix.yaml", small), {}), parse(small));
  std::string dos;
  for (const char c : std::string(small)) dos += c == '\n' ? "\r\n" : std::string(1, c);
  EXPECT_EQ(load_run_config(write("dos.yaml", dos), {}), parse(small));
}

TEST_F(Files, ThatCannotBeReadAreNamed) {
  const std::string missing = (folder_ / "missing.yaml").string();
  expect_input_error([&] { load_run_config(missing, {}); }, {"cannot read " + missing, "No such file"});
  expect_input_error([&] { load_run_config(folder_.string(), {}); }, {"cannot read " + folder_.string(), "directory"});
}

TEST_F(Files, OfAModelAloneNeedNoData) {
  const std::string file = write("model.yaml", "model: {preset: photon-60m, lookback: 1}\ntrain: {steps: 3}\n");
  ModelConfig expected = preset("photon-60m");
  expected.lookback = 2;
  EXPECT_EQ(load_model_section(file, {"model.lookback=2"}), expected);
  expect_input_error([&] { load_model_section(file, {"model.dmi=2"}); },
                     {"unknown key model.dmi", "did you mean model.dim?"});
  expect_input_error([&] { load_model_section(file, {"modle.dim=2"}); }, {"unknown key modle", "did you mean model?"});
  const std::string bare = write("bare.yaml", "train: {steps: 3}\n");
  expect_input_error([&] { load_model_section(bare, {}); }, {"model is missing"});
}

TEST(ConfigurationReference, NamesEveryKeyThatIsWritten) {
  const std::string reference = configuration_reference();
  for (const char* key : {"`levels[].encoder.rope_theta`", "`levels[].decoder.kv_heads`", "`lookback`", "`train`",
                          "`val`", "`steps`", "`microbatch_size`", "`rec_stop_gradient`", "`keep_checkpoints`"}) {
    EXPECT_NE(reference.find(std::string("| ") + key + " |"), std::string::npos) << key;
  }
  EXPECT_EQ(reference.find("levels[].decoder.window"), std::string::npos);
}

TEST(ConfigurationReference, IsThePageInTheDocumentation) {
  std::ifstream in(std::string(PHOTON_SOURCE_DIR) + "/docs/configuration.md");
  std::ostringstream text;
  text << in.rdbuf();
  EXPECT_TRUE(text.str() == configuration_reference()) << "write it anew: photon help config > docs/configuration.md";
}

TEST(ShippedConfigurations, AllLoad) {
  int num_files = 0;
  for (const char* kind : {"model", "train"}) {
    const auto folder = std::filesystem::path(PHOTON_SOURCE_DIR) / "configs" / kind;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() != ".yaml") continue;
      EXPECT_NO_THROW(load_model_section(entry.path().string(), {})) << entry.path();
      if (std::string(kind) == "train") {
        EXPECT_NO_THROW(load_run_config(entry.path().string(), {})) << entry.path();
      }
      ++num_files;
    }
  }
  EXPECT_GT(num_files, 0);
}

}  // namespace
}  // namespace photon
