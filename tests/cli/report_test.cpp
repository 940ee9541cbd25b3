#include <filesystem>
#include <string>

#include "program.hpp"

namespace photon {
namespace {

using testing::Outcome;

class ReportCommand : public testing::ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    for (const char* run : {"first", "second"}) {
      std::filesystem::create_directories(path(run));
      write(std::string(run) + "/config.yaml",
            "model: {preset: photon-60m, tokenizer: byte, vocab_size: 259}\ndata: {train: none.h5}\n");
      write(std::string(run) + "/metrics.jsonl", "{\"step\": 1, \"loss\": 2.5}\n");
    }
  }
};

TEST_F(ReportCommand, WritesAPage) {
  const Outcome one = photon("report first");
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_EQ(one.out, "first/report.html\n");
  const std::string page = read(path("first/report.html"));
  EXPECT_TRUE(page.starts_with("<!doctype html>")) << page.substr(0, 100);
  EXPECT_NE(page.find("<title>first · photon report</title>"), std::string::npos);
  const Outcome two = photon("report first second/");
  EXPECT_EQ(two.code, 0) << two.err;
  EXPECT_EQ(two.out, "report.html\n");
  EXPECT_NE(read(path("report.html")).find("<title>first, second · photon report</title>"), std::string::npos);
  const Outcome piped = photon("report second --output -");
  EXPECT_EQ(piped.code, 0) << piped.err;
  EXPECT_TRUE(piped.out.starts_with("<!doctype html>"));
  EXPECT_FALSE(std::filesystem::exists(path("second/report.html")));
}

TEST_F(ReportCommand, RefusesWhatItCannotRead) {
  const auto refused = [this](const std::string& arguments, const std::string& part) {
    const Outcome outcome = photon("report " + arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  };
  refused("third", "third is not a run folder (it has no config.yaml)");
  refused("first --trace none.json", "cannot read none.json");
  write("trace.json", "{}");
  refused("first --trace trace.json", "trace.json is not a trace of photon");
  refused("first second --trace trace.json", "--trace cannot be given with several runs");
  refused("first --cluster none.yaml", "cannot read none.yaml");
  refused("first --ouput x", "did you mean --output?");
  refused("", "runs is required");
}

}  // namespace
}  // namespace photon
