#include "trace/trace.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/error.hpp"

namespace photon {
namespace {

using Json = nlohmann::json;

Trace two_ranks() {
  Trace trace;
  trace.first_step = 3;
  trace.last_step = 4;
  trace.tracks = {
      {.rank = 0,
       .label = "encoder1",
       .host = "a",
       .spans = {{"training step 3", "step", 1'000'000, 9'000'001},
                 {"send X(1) 0 to rank 1", "communication", 2'000'000, 2'000'500, "m", false}}},
      {.rank = 1,
       .label = "decoder1 \"x\"\n</script>",
       .host = "\xff not text",
       .clock_offset_ns = -5'000'000,
       .clock_uncertainty_ns = 700,
       .clock_drift_ns = -40,
       .spans = {{"receive X(1) 0 from rank 0", "wait", 1'500'000, 2'100'000, "m", true}}},
  };
  return trace;
}

TEST(Trace, IsChromesFormat) {
  const Json file = Json::parse(trace_json(two_ranks()));
  EXPECT_EQ(file["otherData"]["kind"], "measured");
  EXPECT_EQ(file["otherData"]["clock_uncertainty_us"], 0.74);
  EXPECT_EQ(file["otherData"]["ranks"][1]["clock_offset_us"], -5000);
  std::vector<Json> spans, flows;
  std::vector<std::string> threads;
  for (const Json& event : file["traceEvents"]) {
    if (event["ph"] == "X") spans.push_back(event);
    if (event["ph"] == "s" || event["ph"] == "f") flows.push_back(event);
    if (event["name"] == "thread_name") threads.push_back(event["args"]["name"]);
  }
  EXPECT_EQ(threads, (std::vector<std::string>{"rank 0: encoder1", "rank 1: decoder1 \"x\"\n</script>"}));
  ASSERT_EQ(spans.size(), 3U);
  EXPECT_EQ(spans[0]["ts"], 0);
  EXPECT_EQ(spans[0]["dur"], 8000.001);
  EXPECT_EQ(spans[1]["name"], "send X(1) 0 to rank 1");
  EXPECT_EQ(spans[2]["tid"], 1);
  EXPECT_EQ(spans[2]["ts"], 500);
  ASSERT_EQ(flows.size(), 2U);
  EXPECT_EQ(flows[0]["ph"], "s");
  EXPECT_EQ(flows[1]["ph"], "f");
  EXPECT_EQ(flows[0]["id"], flows[1]["id"]);
  EXPECT_EQ(flows[0]["ts"], 1000);
  EXPECT_GT(flows[1]["ts"].get<double>(), 500);  // within the receiving span
  EXPECT_LT(flows[1]["ts"].get<double>(), 1100);
}

TEST(Trace, IsReadBack) {
  const Trace written = two_ranks();
  const Trace read = parse_trace(trace_json(written), "t.json");
  EXPECT_FALSE(read.predicted);
  EXPECT_EQ(read.first_step, 3);
  EXPECT_EQ(read.last_step, 4);
  ASSERT_EQ(read.tracks.size(), 2U);
  EXPECT_EQ(read.tracks[1].label, written.tracks[1].label);
  EXPECT_EQ(read.tracks[1].clock_uncertainty_ns, 700);
  EXPECT_EQ(read.tracks[1].clock_drift_ns, -40);
  ASSERT_EQ(read.tracks[0].spans.size(), 2U);
  EXPECT_EQ(read.tracks[0].spans[0].end_ns, 8'000'001);
  EXPECT_EQ(read.tracks[1].spans[0].category, "wait");
}

TEST(Trace, OtherFilesAreRefused) {
  const auto problem = [](const std::string& text) {
    try {
      parse_trace(text, "t.json");
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_NE(problem("{").find("t.json is not a trace of photon"), std::string::npos);
  EXPECT_NE(problem("{\"traceEvents\": []}").find("t.json is not a trace of photon"), std::string::npos);
  Json newer = Json::parse(trace_json(two_ranks()));
  newer["otherData"]["format_version"] = 2;
  EXPECT_NE(problem(newer.dump()).find("its format_version is 2, this program knows 1"), std::string::npos);
  Json stray = Json::parse(trace_json(two_ranks()));
  stray["traceEvents"].push_back({{"ph", "X"}, {"name", "x"}, {"cat", "wait"}, {"tid", 7}, {"ts", 0}, {"dur", 0}});
  EXPECT_NE(problem(stray.dump()).find("an event belongs to no rank"), std::string::npos);
}

}  // namespace
}  // namespace photon
