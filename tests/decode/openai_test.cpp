#include "decode/openai.hpp"

#include <gtest/gtest.h>

#include <sstream>

#include "fake_decoder.hpp"
#include "support/error.hpp"
#include "support/random.hpp"

namespace photon {
namespace {

using nlohmann::json;

const Tokenizer& byte_tokenizer() {
  static const auto tokenizer = make_byte_tokenizer();
  return *tokenizer;
}

RequestLimits limits(InputFormat format = InputFormat::automatic, bool logprobs = true, std::int64_t top = 3) {
  return {byte_tokenizer().vocab_size(), 100, format, logprobs, logprobs ? top : 0, "bytes-small"};
}

std::vector<Row> read(const std::string& text, const RequestLimits& fits = limits(), const Shard& shard = {}) {
  std::istringstream input(text);
  PromptReader reader(input, fits.format, shard);
  const RequestParser parser(&byte_tokenizer(), {}, fits);
  std::vector<Row> rows;
  while (auto line = reader.next()) rows.push_back(parser.parse(*line));
  return rows;
}

std::string batch_row(const std::string& id, const json& body) {
  return json{{"custom_id", id}, {"method", "POST"}, {"url", "/v1/completions"}, {"body", body}}.dump() + "\n";
}

Request request(const json& body) {
  const std::vector<Row> rows = read(batch_row("a", body));
  if (const auto* error = std::get_if<RowError>(&rows.at(0))) throw std::runtime_error(error->message);
  return std::get<Request>(rows[0]);
}

Completion completion(const std::string& text, FinishReason finish, const std::vector<float>& logprobs = {}) {
  return {{text.begin(), text.end()}, logprobs, text, finish};
}

TEST(OpenAiTest, BodiesAreRead) {
  const Request plain = request({{"prompt", "hi"}});
  EXPECT_EQ(plain.id, "\"a\"");
  EXPECT_EQ(plain.key, hash_name("a"));
  EXPECT_EQ(plain.prompt, (std::vector<std::int32_t>{'h', 'i'}));
  EXPECT_EQ(plain.options.max_new_tokens, 98);  // the command's 128, cut to the model's max_length
  EXPECT_EQ(plain.openai->model, "bytes-small");
  EXPECT_EQ(plain.openai->num_prompt_tokens, 2);
  const Request full = request({{"model", "m"},
                                {"prompt", {7, 258}},
                                {"max_tokens", 9},
                                {"temperature", 0.5},
                                {"top_p", 0.75},
                                {"top_k", -1},
                                {"min_p", 0.25},
                                {"repetition_penalty", 1.5},
                                {"n", 3},
                                {"best_of", 3},
                                {"stop", {"x", "y"}},
                                {"seed", 11},
                                {"logprobs", 0},
                                {"echo", false},
                                {"stream", false},
                                {"suffix", nullptr},
                                {"logit_bias", json::object()},
                                {"presence_penalty", 0.0},
                                {"user", "me"}});
  EXPECT_EQ(full.prompt, (std::vector<std::int32_t>{7, 258}));
  EXPECT_EQ(full.options.max_new_tokens, 9);
  EXPECT_EQ(full.options.sampling.temperature, 0.5);
  EXPECT_EQ(full.options.sampling.top_p, 0.75);
  EXPECT_EQ(full.options.sampling.top_k, 0);
  EXPECT_EQ(full.options.sampling.min_p, 0.25);
  EXPECT_EQ(full.options.sampling.repetition_penalty, 1.5);
  EXPECT_EQ(full.options.num_samples, 3);
  EXPECT_EQ(full.options.stop, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(full.options.seed, 11U);
  EXPECT_TRUE(full.openai->logprobs);
  EXPECT_EQ(full.openai->top_logprobs, 0);
  EXPECT_EQ(request({{"prompt", "hi"}, {"logprobs", 3}}).openai->top_logprobs, 3);
  EXPECT_EQ(request({{"prompt", "hi"}, {"logprobs", true}}).openai->top_logprobs, 0);
  EXPECT_EQ(full.openai->model, "m");
  const Request several = request({{"prompt", {"ab", "", "c"}}, {"echo", true}, {"max_tokens", 99}});
  ASSERT_EQ(several.more_prompts.size(), 2U);
  EXPECT_EQ(several.options.max_new_tokens, 98);
  EXPECT_EQ(several.more_prompts[0].tokens, std::vector<std::int32_t>{});
  EXPECT_EQ(several.more_prompts[0].max_new_tokens, 99);
  EXPECT_EQ(several.more_prompts[1].tokens, std::vector<std::int32_t>{'c'});
  EXPECT_EQ(several.openai->prompts, (std::vector<std::string>{"ab", "", "c"}));
  EXPECT_EQ(several.openai->num_prompt_tokens, 3);
  EXPECT_EQ(request({{"prompt", json{{1, 2}, {3}}}}).more_prompts[0].tokens, std::vector<std::int32_t>{3});
}

TEST(OpenAiTest, WhatCannotBeDoneIsSaid) {
  const auto refused = [](const std::string& row, RowError::Kind kind, const std::string& part,
                          const RequestLimits& fits = limits()) {
    const std::vector<Row> rows = read(row, fits);
    ASSERT_EQ(rows.size(), 1U) << row;
    ASSERT_TRUE(std::holds_alternative<RowError>(rows[0])) << row;
    const auto& error = std::get<RowError>(rows[0]);
    EXPECT_EQ(error.kind, kind) << row;
    EXPECT_NE(error.message.find(part), std::string::npos) << row << " gives: " << error.message;
    EXPECT_NE(error.openai, nullptr) << row;
  };
  const auto body = [&](const json& asked, const std::string& part, RowError::Kind kind = RowError::Kind::invalid) {
    refused(batch_row("a", asked), kind, part);
  };
  body({{"messages", json::array()}}, "unknown key 'messages'");
  body({{"max_tokens", 3}}, "the body has no prompt");
  body({{"prompt", 7}}, "prompt is 7");
  body({{"prompt", json::array()}}, "prompt is []");
  body({{"prompt", {"a", 7}}}, "a prompt is 7");
  body({{"prompt", {1, 999}}}, "token 999 is not in the vocabulary");
  body({{"prompt", "a"}, {"stream", true}}, "stream is true (a batch has no stream)");
  body({{"prompt", "a"}, {"logit_bias", {{"5", 1}}}}, "logit_bias is");
  body({{"prompt", "a"}, {"suffix", "end"}}, "suffix is \"end\"");
  body({{"prompt", "a"}, {"frequency_penalty", 0.5}}, "frequency_penalty is 0.5");
  body({{"prompt", "a"}, {"best_of", 4}, {"n", 2}}, "best_of is 4 and n 2");
  body({{"prompt", "a"}, {"logprobs", 6}}, "logprobs is 6 (it must be 0 to 5)");
  body({{"prompt", "a"}, {"logprobs", -1}}, "logprobs is -1");
  body({{"prompt", "a"}, {"logprobs", 4}}, "this job keeps 3) start it with --top-logprobs 4");
  body({{"prompt", "a"}, {"logprobs", 0}, {"echo", true}}, "logprobs and echo");
  body({{"prompt", "a"}, {"echo", "yes"}}, "echo is \"yes\"");
  body({{"prompt", "a"}, {"max_tokens", 0}}, "max_new_tokens is 0");
  body({{"prompt", "a"}, {"top_p", 0}}, "top_p is 0");
  body({{"prompt", {"a", std::string(100, 'x')}}}, "the prompt has 100 tokens", RowError::Kind::too_long);
  refused(batch_row("a", {{"prompt", "a"}, {"logprobs", 0}}), RowError::Kind::invalid, "--logprobs",
          limits(InputFormat::automatic, false));
  refused(R"({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}})", RowError::Kind::invalid,
          "it has no chats");
  refused(R"({"custom_id": "a", "method": "GET", "url": "/v1/completions", "body": {}})", RowError::Kind::invalid,
          "method is \"GET\"");
  refused(R"({"custom_id": "a", "url": "/v1/completions", "body": {}})", RowError::Kind::invalid, "no method");
  refused(R"({"custom_id": "a", "method": "POST", "url": "/v1/completions"})", RowError::Kind::invalid, "no body");
  refused(R"({"custom_id": "a", "metod": "POST"})", RowError::Kind::invalid, "did you mean 'method'");
  refused(R"({"custom_id": 7, "body": {}})", RowError::Kind::malformed, "the custom_id is 7");
  refused(R"({"url": "/v1/completions", "body": {}})", RowError::Kind::malformed, "no custom_id");
  refused("not json", RowError::Kind::malformed, "line 1 is not JSON", limits(InputFormat::openai));
  refused(R"({"id": 1, "prompt": "x"})", RowError::Kind::malformed, "no custom_id", limits(InputFormat::openai));
}

TEST(OpenAiTest, FormsMixRowByRowUnlessOneIsAskedFor) {
  const std::string text = batch_row("a", {{"prompt", "x"}}) + "{\"id\": \"b\", \"prompt\": \"y\"}\n" +
                           "{\"id\": \"a\", \"prompt\": \"again\"}\n" + "nothing\n";
  const auto mixed = read(text);
  EXPECT_NE(std::get<Request>(mixed[0]).openai, nullptr);
  EXPECT_EQ(std::get<Request>(mixed[1]).openai, nullptr);
  EXPECT_EQ(std::get<RowError>(mixed[2]).kind, RowError::Kind::duplicate);  // a custom_id is an id
  EXPECT_EQ(std::get<RowError>(mixed[3]).openai, nullptr);
  EXPECT_NE(std::get<RowError>(read(text, limits(InputFormat::native))[0]).message.find("unknown key"),
            std::string::npos);
  EXPECT_EQ(input_format("auto"), InputFormat::automatic);
  EXPECT_THROW(input_format("chat"), InputError);
}

TEST(OpenAiTest, ResultsAreTheServices) {
  Result result{"\"a\"", {completion("xy", FinishReason::length), completion("z", FinishReason::eos)}, 3};
  result.openai = std::make_shared<const OpenAiRow>(OpenAiRow{"m", false, false, 0, {}, 1, 5, nullptr});
  EXPECT_EQ(
      result_line(result),
      R"({"id":"batch_req_d14ea7ee89bfd7df","custom_id":"a","response":{"status_code":200,"request_id":"req_d14ea7ee89bfd7df",)"
      R"("body":{"id":"cmpl-d14ea7ee89bfd7df","object":"text_completion","created":0,"model":"m","choices":[)"
      R"({"text":"xy","index":0,"logprobs":null,"finish_reason":"length"},)"
      R"({"text":"z","index":1,"logprobs":null,"finish_reason":"stop"}],)"
      R"("usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}},"error":null})");
}

TEST(OpenAiTest, EchoAndLogprobs) {
  Result result{"\"a\"",
                {completion("x", FinishReason::stop), completion("y", FinishReason::stop),
                 completion("z", FinishReason::stop), completion("w", FinishReason::stop)}};
  result.openai = std::make_shared<const OpenAiRow>(OpenAiRow{"m", true, false, 0, {"p ", "q "}, 2, 4, nullptr});
  const json echoed = json::parse(result_line(result))["response"]["body"]["choices"];
  EXPECT_EQ(echoed[0]["text"], "p x");
  EXPECT_EQ(echoed[1]["text"], "p y");
  EXPECT_EQ(echoed[2]["text"], "q z");
  EXPECT_EQ(echoed[3]["text"], "q w");

  Completion bytes{{'a', 0xC3, 0xA9, 300}, {-0.5F, -1.0F, -0.25F, -2.0F}, "a\xc3\xa9", FinishReason::length};
  Result kept{"\"a\"", {bytes}};
  kept.openai = std::make_shared<const OpenAiRow>(OpenAiRow{"m", false, true, 0, {}, 1, 0, &byte_tokenizer()});
  EXPECT_EQ(json::parse(result_line(kept))["response"]["body"]["choices"][0]["logprobs"],
            json({{"tokens", {"a", "bytes:\\xc3", "bytes:\\xa9", "token_id:300"}},
                  {"token_logprobs", {-0.5, -1.0, -0.25, -2.0}},
                  {"top_logprobs", nullptr},
                  {"text_offset", {0, 1, 2, 2}}}));
}

// As many of the likeliest as the row asks for, and the chosen token where it is none of them.
TEST(OpenAiTest, LikeliestTokens) {
  Completion one{{'b', 'a'}, {-3.0F, -0.5F}, "ba", FinishReason::length};
  one.top = {{{'a', -0.25F}, {'c', -1.0F}, {300, -2.0F}}, {{'a', -0.5F}, {0xC3, -1.5F}, {'c', -2.0F}}};
  Result kept{"\"a\"", {one}};
  const auto tops = [&](std::int64_t count) {
    kept.openai = std::make_shared<const OpenAiRow>(OpenAiRow{"m", false, true, count, {}, 1, 0, &byte_tokenizer()});
    return json::parse(result_line(kept))["response"]["body"]["choices"][0]["logprobs"];
  };
  EXPECT_EQ(tops(0)["top_logprobs"], json(nullptr));
  EXPECT_EQ(tops(1)["top_logprobs"], json::parse(R"([{"a": -0.25, "b": -3.0}, {"a": -0.5}])"));
  EXPECT_EQ(tops(3)["top_logprobs"], json::parse(R"([{"a": -0.25, "c": -1.0, "token_id:300": -2.0, "b": -3.0},)"
                                                 R"( {"a": -0.5, "bytes:\\xc3": -1.5, "c": -2.0}])"));
  EXPECT_EQ(tops(3)["token_logprobs"], json({-3.0, -0.5}));
  // In photon's own form all that the job keeps, by their ids.
  kept.openai = nullptr;
  EXPECT_EQ(json::parse(result_line(kept))["top_logprobs"],
            json::parse("[[[97,-0.25],[99,-1.0],[300,-2.0]],[[97,-0.5],[195,-1.5],[99,-2.0]]]"));
}

TEST(OpenAiTest, ErrorsAreTheServicesAndAreKnownAgain) {
  const auto openai = std::make_shared<const OpenAiRow>();
  const RowError invalid{RowError::Kind::invalid, "\"a\"", 4, "why", openai};
  EXPECT_EQ(
      error_line(invalid),
      R"({"id":"batch_req_d14ea7ee89bfd7df","custom_id":"a","response":{"status_code":400,"request_id":"req_d14ea7ee89bfd7df",)"
      R"("body":{"error":{"message":"why","type":"invalid_request_error","param":null,"code":"invalid_row",)"
      R"("line":4}}},"error":null})");
  const RowError failed{RowError::Kind::failed, "\"a\"", 4, "why", openai};
  EXPECT_EQ(json::parse(error_line(failed))["response"]["status_code"], 500);
  EXPECT_EQ(json::parse(error_line(failed))["response"]["body"]["error"]["type"], "server_error");
  const RowError malformed{RowError::Kind::malformed, "4", 4, "why", openai};
  EXPECT_EQ(error_line(malformed), R"({"id":"batch_req_a9022634419cf4d4","custom_id":null,"response":null,)"
                                   R"("error":{"code":"malformed_row","message":"why","line":4}})");
  const RowError twice{RowError::Kind::duplicate, "\"a\"", 4, "why", openai};
  EXPECT_EQ(json::parse(error_line(twice))["custom_id"], "a");

  for (const RowError& error : {invalid, failed, malformed, twice}) {
    const auto earlier = read_result_line(error_line(error));
    ASSERT_TRUE(earlier) << error_line(error);
    EXPECT_TRUE(earlier->error);
    EXPECT_EQ(earlier->key, key_of(error)) << error_line(error);
  }
  Result result{"\"a\"", {completion("x", FinishReason::stop)}};
  result.openai = openai;
  const auto earlier = read_result_line(result_line(result));
  ASSERT_TRUE(earlier);
  EXPECT_FALSE(earlier->error);
  EXPECT_EQ(earlier->key, key_of_id("\"a\""));
  EXPECT_FALSE(read_result_line(batch_row("a", {{"prompt", "x"}})));
  EXPECT_FALSE(read_result_line(R"({"id": "x", "custom_id": "a", "response": null, "error": null})"));
}

struct Collected : ResultSink {
  std::vector<Result> results;
  std::vector<RowError> errors;
  void result(const Result& result) override { results.push_back(result); }
  void error(const RowError& error) override { errors.push_back(error); }
};

Collected decode(const std::string& text, std::int64_t max_batch, std::int64_t memory = 1 << 20) {
  testing::FakeLog log;
  EngineOptions options;
  options.max_batch = max_batch;
  options.memory_bytes = memory;
  Engine engine(testing::fake_source(log), &byte_tokenizer(), 257, options);
  std::vector<Row> rows = read(text, {byte_tokenizer().vocab_size(), 0});
  std::size_t next = 0;
  Collected sink;
  EXPECT_TRUE(engine.run(
      [&]() -> std::optional<Row> {
        if (next == rows.size()) return std::nullopt;
        return rows[next++];
      },
      sink, [](const EngineStatistics&) { return true; }));
  EXPECT_EQ(engine.statistics().rows, static_cast<std::int64_t>(sink.results.size()));
  EXPECT_EQ(engine.statistics().errors, static_cast<std::int64_t>(sink.errors.size()));
  return sink;
}

TEST(OpenAiTest, SeveralPromptsGiveTheirChoicesInOrderWhateverTheBatch) {
  const json prompts{"aaa", "", "b", "cccccccc"};
  const std::string row = batch_row("a", {{"prompt", prompts}, {"n", 2}, {"max_tokens", 11}, {"temperature", 1}});
  const Collected together = decode(row + batch_row("b", {{"prompt", "x"}}), 16);
  ASSERT_EQ(together.results.size(), 2U);
  const Result& several = together.results[together.results[0].id == "\"a\"" ? 0 : 1];
  ASSERT_EQ(several.samples.size(), 8U);
  for (const std::int64_t batch : {1, 3}) {
    const Collected alone = decode(row, batch);
    ASSERT_EQ(alone.results.size(), 1U);
    EXPECT_EQ(result_line(alone.results[0]), result_line(several));
  }
  // Each prompt is continued by itself, its samples drawn as later samples of the row.
  const Collected first =
      decode(batch_row("a", {{"prompt", "aaa"}, {"n", 2}, {"max_tokens", 11}, {"temperature", 1}}), 4);
  EXPECT_EQ(several.samples[0].tokens, first.results[0].samples[0].tokens);
  EXPECT_EQ(several.samples[1].tokens, first.results[0].samples[1].tokens);
  const Collected same = decode(batch_row("a", {{"prompt", {"b", "b"}}, {"max_tokens", 30}, {"temperature", 1}}), 4);
  EXPECT_NE(same.results[0].samples[0].tokens, same.results[0].samples[1].tokens);
}

TEST(OpenAiTest, OnePromptThatDoesNotFitFailsItsRowOnce) {
  const std::string large(5000, 'x');
  const Collected sink =
      decode(batch_row("a", {{"prompt", {"ok", large, large}}}) + batch_row("b", {{"prompt", "x"}}), 4, 2000);
  ASSERT_EQ(sink.errors.size(), 1U);
  EXPECT_EQ(sink.errors[0].kind, RowError::Kind::too_long);
  EXPECT_NE(sink.errors[0].openai, nullptr);
  ASSERT_EQ(sink.results.size(), 1U);
  EXPECT_EQ(sink.results[0].id, "\"b\"");
}

TEST(OpenAiTest, RowsGivenBackAreWhole) {
  testing::FakeLog log;
  EngineOptions options;
  options.max_batch = 1;
  Engine engine(testing::fake_source(log), &byte_tokenizer(), 257, options);
  const auto rows = read(batch_row("a", {{"prompt", "x"}}) + batch_row("b", {{"prompt", {"y", "z"}}}) +
                         batch_row("c", {{"prompt", {"u", "v", "w"}}}));
  std::size_t next = 0;
  std::vector<std::int64_t> given;
  Collected sink;
  int polls = 0;
  engine.run(
      [&]() -> std::optional<Row> {
        if (next == rows.size()) return std::nullopt;
        return rows[next++];
      },
      sink,
      [&](const EngineStatistics&) {
        if (++polls == 2) given = engine.give_back(1);
        return true;
      });
  EXPECT_EQ(given, std::vector<std::int64_t>{2});
  ASSERT_EQ(sink.results.size(), 2U);
  EXPECT_EQ(sink.results[1].samples.size(), 2U);
}

TEST(ShardTest, TakesTheLinesOfItsNumberAndKnowsAllIds) {
  const std::string text =
      "{\"id\": 1, \"prompt\": \"\"}\n{\"id\": 2, \"prompt\": \"\"}\n\n{\"id\": 1, \"prompt\": \"\"}\n{\"prompt\": "
      "\"\"}\n";
  const auto even = read(text, limits(), parse_shard("0/2"));
  const auto odd = read(text, limits(), parse_shard("1/2"));
  ASSERT_EQ(even.size(), 2U);
  EXPECT_EQ(std::get<Request>(even[0]).id, "1");
  EXPECT_EQ(std::get<Request>(even[1]).id, "4");
  ASSERT_EQ(odd.size(), 2U);
  EXPECT_EQ(std::get<Request>(odd[0]).id, "2");
  EXPECT_EQ(std::get<RowError>(odd[1]).kind, RowError::Kind::duplicate);  // of a row of the other shard
  for (const std::string wrong : {"", "1", "2/2", "-1/2", "0/0", "a/b", "1/2/3", "1/ 2", "1/"}) {
    EXPECT_THROW(parse_shard(wrong), InputError) << wrong;
  }
}

}  // namespace
}  // namespace photon
