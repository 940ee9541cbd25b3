// photon generate and the forms of its files: compressed, piped, OpenAI's, in shards; and what ends a job early.
#include <unistd.h>

#include <cstdlib>

#include "storage/byte_stream.hpp"
#include "storage/line_writer.hpp"
#include "use_model.hpp"

namespace photon {
namespace {

using nlohmann::json;
using testing::Outcome;

constexpr const char* job = "generate --model model --temperature 0.9 --seed 3 --max-batch 4 ";

class GenerateFiles : public testing::UseModel {
 protected:
  // The text of a file, whatever its compression.
  std::string text_of(const std::string& name) const {
    const auto input = open_text(path(name));
    std::ostringstream text;
    for (std::string line; std::getline(*input, line);) text << line << "\n";
    return text.str();
  }
  Outcome run(const std::string& arguments) const { return photon(job + arguments); }
  // What the job gives undisturbed.
  std::multiset<std::string> expected() const {
    const Outcome outcome = run("--prompts prompts.jsonl --output expected.jsonl");
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return lines("expected.jsonl");
  }
};

TEST_F(GenerateFiles, CompressedInAndOut) {
  const auto rows = expected();
  const std::string prompts = read(path("prompts.jsonl"));
  const std::size_t half = prompts.find("\n", prompts.size() / 2) + 1;
  for (const Compression compression : {Compression::gzip, Compression::zstd}) {
    const std::string ending = compression == Compression::gzip ? ".gz" : ".zst";
    // Several members, and a name that says nothing.
    write("in.bin", compress(prompts.substr(0, half), compression) + compress(prompts.substr(half), compression));
    const Outcome outcome = run("--prompts in.bin --output out.jsonl" + ending);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(lines_of(text_of("out.jsonl" + ending)), rows);
    // The same through pipes.
    const Outcome piped =
        program("cat in.bin | '" PHOTON_BINARY "' " + std::string(job) +
                "--prompts - --output - --output-compression " + (compression == Compression::gzip ? "gzip" : "zstd"));
    EXPECT_EQ(piped.code, 0) << piped.err;
    write("piped", piped.out);
    EXPECT_EQ(read(path("piped")).substr(0, 2), compression == Compression::gzip ? "\x1f\x8b" : "\x28\xb5");
    EXPECT_EQ(lines_of(text_of("piped")), rows);
    // A damaged input is found before anything is written.
    write("cut" + ending, read(path("in.bin")).substr(0, half / 4));
    const Outcome cut = run("--prompts cut" + ending + " --output none.jsonl");
    EXPECT_EQ(cut.code, 2);
    EXPECT_NE(cut.err.find("cut" + ending), std::string::npos) << cut.err;
    EXPECT_NE(cut.err.find("cut short"), std::string::npos) << cut.err;
    EXPECT_FALSE(std::filesystem::exists(path("none.jsonl")));
  }
}

TEST_F(GenerateFiles, KilledCompressedJobsGoOn) {
  const auto rows = expected();
  for (const std::string ending : {".gz", ".zst"}) {
    const std::string output = "out.jsonl" + ending;
    int kills = 0;
    for (int code = -1; code != 0; ++kills) {
      ASSERT_LT(kills, 30);
      const std::string fault = (kills % 2 == 0 ? "results.row:" : "results.done:") + std::to_string(4 + 5 * kills);
      ::setenv("PHOTON_FAULT", fault.c_str(), 1);
      const Outcome outcome = run("--prompts prompts.jsonl --output " + output);
      ::unsetenv("PHOTON_FAULT");
      code = outcome.code;
      if (code == 0) break;
      EXPECT_EQ(code, 137) << outcome.err;
      // What a kill in the middle of a write leaves: rows of a member that is not whole.
      const std::string member = compress("{\"id\":29,\"text\":\"\"}\n", compression_of(output));
      std::ofstream(path(output), std::ios::app | std::ios::binary) << member.substr(0, member.size() / 2);
    }
    EXPECT_GT(kills, 2);
    EXPECT_EQ(lines_of(text_of(output)), rows);
  }
}

TEST_F(GenerateFiles, OpenAiBatches) {
  const std::string batch =
      json{{"custom_id", "one"},
           {"method", "POST"},
           {"url", "/v1/completions"},
           {"body", {{"model", "mine"}, {"prompt", {"ab", "c"}}, {"max_tokens", 5}, {"n", 2}}}}
          .dump() +
      "\n" + R"({"custom_id": "two", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}})" +
      "\n" + R"({"custom_id": "three", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}})" +
      "\nbroken\n";
  write("batch.jsonl", batch);
  const std::string arguments = "--prompts batch.jsonl --output out.jsonl --max-new-tokens 3 --input-format openai";
  const Outcome outcome = run(arguments);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(json::parse(outcome.out)["rows"], 2);
  EXPECT_EQ(json::parse(outcome.out)["errors"], 2);
  std::map<std::string, json> rows;
  for (const std::string& line : lines("out.jsonl")) {
    const json row = json::parse(line);
    rows[row["custom_id"].is_string() ? row["custom_id"].get<std::string>() : "none"] = row;
  }
  ASSERT_EQ(rows.size(), 4U);
  const json& one = rows["one"]["response"]["body"];
  ASSERT_EQ(one["choices"].size(), 4U);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(one["choices"][static_cast<std::size_t>(i)]["index"], i);
  EXPECT_EQ(one["model"], "mine");
  EXPECT_EQ(one["usage"]["prompt_tokens"], 3);
  EXPECT_LE(one["usage"]["completion_tokens"], 20);
  EXPECT_EQ(rows["two"]["response"]["status_code"], 400);
  EXPECT_EQ(rows["three"]["response"]["body"]["model"], "model");
  EXPECT_EQ(rows["none"]["error"]["code"], "malformed_row");
  // Everything is known again, and the same when it is made anew.
  const auto first = lines("out.jsonl");
  EXPECT_EQ(json::parse(run(arguments).out)["resumed"], 4);
  EXPECT_EQ(lines("out.jsonl"), first);
  std::filesystem::remove(path("out.jsonl"));
  EXPECT_EQ(photon("generate --model model --temperature 0.9 --seed 3 --max-batch 1 " + arguments).code, 0);
  EXPECT_EQ(lines("out.jsonl"), first);
}

TEST_F(GenerateFiles, ShardsMakeOneJob) {
  const auto rows = expected();
  std::multiset<std::string> together;
  for (int shard = 0; shard < 3; ++shard) {
    const std::string output = "shard-" + std::to_string(shard) + ".jsonl";
    const Outcome outcome = run("--prompts prompts.jsonl --shard " + std::to_string(shard) + "/3 --output " + output);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_GT(lines(output).size(), 5U);
    together.merge(lines(output));
  }
  EXPECT_EQ(together, rows);
  EXPECT_EQ(run("--prompts prompts.jsonl --shard 3/3 --output o").code, 2);
}

TEST_F(GenerateFiles, TooManyErrorsEndTheJob) {
  std::string prompts;
  for (int i = 0; i < 12; ++i) {
    prompts += json{{"id", i}, {"prompt", "a"}, {"max_new_tokens", 2}, {"top_k", i % 3 == 2 ? -1 : 0}}.dump() + "\n";
  }
  write("bad.jsonl", prompts);
  const std::string arguments = "--prompts bad.jsonl --output out.jsonl ";
  const Outcome stopped = run(arguments + "--max-errors 2");
  EXPECT_EQ(stopped.code, 1);
  EXPECT_NE(stopped.err.find("3 rows have failed (--max-errors 2"), std::string::npos) << stopped.err;
  const std::size_t written = lines("out.jsonl").size();
  EXPECT_GE(written, 3U);
  // Earlier errors count: nothing more is decoded.
  const Outcome again = run(arguments + "--max-errors 2");
  EXPECT_EQ(again.code, 1);
  EXPECT_EQ(lines("out.jsonl").size(), written);
  const Outcome enough = run(arguments + "--max-errors 4");
  EXPECT_EQ(enough.code, 0) << enough.err;
  EXPECT_EQ(lines("out.jsonl").size(), 12U);
  EXPECT_EQ(run(arguments + "--max-errors 3").code, 1);
  EXPECT_EQ(run(arguments + "--max-errors 4 --retry-errors").code, 0);
  EXPECT_EQ(run("--prompts bad.jsonl --output first.jsonl --max-errors 0").code, 1);
}

TEST_F(GenerateFiles, TheTimeLimitEndsTheJobLikeASignal) {
  // A row that takes for ever.
  write("long.jsonl",
        "{\"id\": 0, \"prompt\": \"\", \"max_new_tokens\": 1}\n"
        "{\"id\": 1, \"prompt\": \"\", \"max_new_tokens\": 1000000}\n");
  const std::string greedy = "generate --model model --prompts long.jsonl --output long.out --time-limit ";
  const Outcome outcome = photon(greedy + "1");
  EXPECT_EQ(outcome.code, 75) << outcome.err;
  EXPECT_NE(outcome.err.find("the time limit of 1 s is up"), std::string::npos) << outcome.err;
  EXPECT_LE(lines("long.out").size(), 1U);
  EXPECT_EQ(photon(greedy + "-1").code, 2);
}

TEST_F(GenerateFiles, RowsOfAPipeAreDecodedAsTheyCome) {
  // The second row is written when the first result is there.
  const Outcome outcome = program(
      "{ echo '{\"id\": 1, \"prompt\": \"a\", \"max_new_tokens\": 1}'; for i in $(seq 1200); do [ -s out.jsonl ] && "
      "break; sleep 0.05; done; "
      "echo '{\"id\": 2, \"prompt\": \"b\", \"max_new_tokens\": 1}'; } | '" PHOTON_BINARY "' " +
      std::string(job) + "--prompts - --output out.jsonl");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(lines("out.jsonl").size(), 2U);
  // A pipe that stays silent keeps nobody from stopping.
  write("first.jsonl", "{\"id\": 3, \"prompt\": \"c\", \"max_new_tokens\": 1}\n");
  const Outcome silent = program(
      "{ cat first.jsonl; for i in $(seq 1200); do [ -e code ] && break; sleep 0.05; done; } | { '" PHOTON_BINARY "' " +
      std::string(job) + "--prompts - --output out.jsonl --time-limit 1; echo $? > code; }");
  EXPECT_EQ(read(path("code")), "75\n") << silent.err;
  EXPECT_GE(lines("out.jsonl").size(), 2U);
}

TEST_F(GenerateFiles, ProgressAsJson) {
  const Outcome outcome =
      run("--prompts prompts.jsonl --output out.jsonl --progress-json progress.jsonl --progress-every 0.001");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json summary = json::parse(outcome.out);
  std::ifstream in(path("progress.jsonl"));
  std::vector<json> progress;
  for (std::string line; std::getline(in, line);) progress.push_back(json::parse(line));
  ASSERT_FALSE(progress.empty());
  const json& last = progress.back();
  EXPECT_EQ(last["rows"], 30);
  EXPECT_EQ(last["errors"], 1);
  EXPECT_EQ(last["resumed"], 0);
  EXPECT_EQ(last["total"], 31);
  EXPECT_EQ(last["tokens"], summary["new_tokens"]);
  EXPECT_EQ(last["active"], 0);
  EXPECT_EQ(last["eta_seconds"], 0);
  EXPECT_GT(last["cache_bytes"], 0);
  EXPECT_GT(last["elapsed"], 0);
  for (const char* key : {"rows", "errors", "resumed", "total", "tokens", "tokens_per_second", "eta_seconds", "active",
                          "cache_bytes", "elapsed"}) {
    for (const json& line : progress) EXPECT_TRUE(line.contains(key)) << key;
  }
  // On stderr, with prompts whose number is not known, beside results on stdout.
  const Outcome piped = run("--prompts - --output - --progress-json - < prompts.jsonl");
  ASSERT_EQ(piped.code, 0) << piped.err;
  EXPECT_EQ(lines_of(piped.out), lines("out.jsonl"));
  const std::size_t at = piped.err.find("{\"rows\":30");
  ASSERT_NE(at, std::string::npos) << piped.err;
  EXPECT_TRUE(json::parse(piped.err.substr(at, piped.err.find('\n', at) - at))["total"].is_null());
  EXPECT_EQ(run("--prompts prompts.jsonl --output o --progress-every 0").code, 2);
}

TEST_F(GenerateFiles, AReaderThatGoesAwayEndsTheJob) {
  // The row after the first comes when the reader is gone for certain.
  const Outcome outcome = program(
      "{ { echo '{\"id\": 1, \"prompt\": \"a\", \"max_new_tokens\": 1}'; for i in $(seq 1200); do [ -e gone ] && "
      "break; sleep 0.05; done; "
      "sleep 0.5; "
      "echo '{\"id\": 2, \"prompt\": \"b\", \"max_new_tokens\": 1}'; } | { '" PHOTON_BINARY "' " +
      std::string(job) + "--prompts - --output - ; echo $? > code; } | { exec <&-; touch gone; }; }");
  EXPECT_EQ(read(path("code")), "1\n") << outcome.err;
  EXPECT_NE(outcome.err.find("its reader has stopped reading"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace photon
