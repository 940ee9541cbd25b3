#include "decode/request.hpp"

#include <gtest/gtest.h>

#include <sstream>

#include "support/error.hpp"
#include "support/random.hpp"

namespace photon {
namespace {

std::vector<Row> read(const std::string& text, std::int64_t max_length = 0, const GenerationOptions& defaults = {}) {
  static const auto tokenizer = make_byte_tokenizer();
  std::istringstream input(text);
  PromptReader reader(input);
  const RequestParser parser(tokenizer.get(), defaults, {tokenizer->vocab_size(), max_length});
  std::vector<Row> rows;
  while (auto line = reader.next()) rows.push_back(parser.parse(*line));
  return rows;
}

void expect_error(const std::string& row, RowError::Kind kind, const std::string& part, std::int64_t max_length = 0) {
  const std::vector<Row> rows = read(row + "\n", max_length);
  ASSERT_EQ(rows.size(), 1U) << row;
  ASSERT_TRUE(std::holds_alternative<RowError>(rows[0])) << row;
  const auto& error = std::get<RowError>(rows[0]);
  EXPECT_EQ(error.kind, kind) << row;
  EXPECT_NE(error.message.find(part), std::string::npos) << row << " gives: " << error.message;
}

TEST(RequestTest, ReadsPromptsTokensAndIds) {
  const auto rows =
      read("{\"id\": \"a\", \"prompt\": \"hi\"}\n\n{\"id\": 7, \"tokens\": [1, 258]}\n{\"prompt\": \"\"}");
  ASSERT_EQ(rows.size(), 3U);
  const auto& a = std::get<Request>(rows[0]);
  EXPECT_EQ(a.id, "\"a\"");
  EXPECT_EQ(a.key, hash_name("a"));
  EXPECT_EQ(a.prompt, (std::vector<std::int32_t>{'h', 'i'}));
  EXPECT_EQ(a.options.max_new_tokens, 128);
  const auto& b = std::get<Request>(rows[1]);
  EXPECT_EQ(b.id, "7");
  EXPECT_EQ(b.key, hash_name("7"));
  EXPECT_EQ(b.line, 2);
  EXPECT_EQ(b.prompt, (std::vector<std::int32_t>{1, 258}));
  // Without an id: the line's number from 0, empty lines counted.
  EXPECT_EQ(std::get<Request>(rows[2]).id, "3");
  EXPECT_TRUE(std::get<Request>(rows[2]).prompt.empty());
}

TEST(RequestTest, RowsOverrideTheDefaults) {
  GenerationOptions defaults;
  defaults.sampling.temperature = 0.5;
  defaults.stop = {"x"};
  const auto rows = read(
      "{\"prompt\": \"\", \"temperature\": 2, \"top_k\": 3, \"top_p\": 0.5, \"min_p\": 0.1, \"repetition_penalty\": "
      "1.5, "
      "\"seed\": 18446744073709551615, \"max_new_tokens\": 9, \"n\": 4, \"stop\": [\"a\", \"b\"]}\n"
      "{\"prompt\": \"\"}\n{\"prompt\": \"\", \"stop\": \"one\"}\n",
      0, defaults);
  const auto& o = std::get<Request>(rows[0]).options;
  EXPECT_EQ(o.sampling.temperature, 2);
  EXPECT_EQ(o.sampling.top_k, 3);
  EXPECT_EQ(o.sampling.top_p, 0.5);
  EXPECT_EQ(o.sampling.min_p, 0.1);
  EXPECT_EQ(o.sampling.repetition_penalty, 1.5);
  EXPECT_EQ(o.seed, ~std::uint64_t{0});
  EXPECT_EQ(o.max_new_tokens, 9);
  EXPECT_EQ(o.num_samples, 4);
  EXPECT_EQ(o.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(std::get<Request>(rows[1]).options.sampling.temperature, 0.5);
  EXPECT_EQ(std::get<Request>(rows[1]).options.stop, (std::vector<std::string>{"x"}));
  EXPECT_EQ(std::get<Request>(rows[2]).options.stop, (std::vector<std::string>{"one"}));
}

TEST(RequestTest, BadRowsBecomeErrorsThatSayWhy) {
  using Kind = RowError::Kind;
  expect_error("{\"id\": 1, \"prompt\": ", Kind::malformed, "line 1 is not JSON");
  expect_error("[1]", Kind::malformed, "one JSON object");
  expect_error("{\"id\": 1.5, \"prompt\": \"\"}", Kind::malformed, "the id is 1.5");
  expect_error("{\"id\": null, \"prompt\": \"\"}", Kind::malformed, "the id is null");
  expect_error("{\"prompt\": \"\", \"temprature\": 1}", Kind::invalid,
               "unknown key 'temprature' did you mean 'temperature'?");
  expect_error("{\"id\": 1}", Kind::invalid, "neither prompt nor tokens");
  expect_error("{\"prompt\": \"\", \"tokens\": []}", Kind::invalid, "both prompt and tokens");
  expect_error("{\"prompt\": 4}", Kind::invalid, "prompt is 4");
  expect_error("{\"tokens\": \"abc\"}", Kind::invalid, "list of token ids");
  expect_error("{\"tokens\": [1, 259]}", Kind::invalid, "token 259 is not in the vocabulary (its ids are 0 .. 258)");
  expect_error("{\"tokens\": [-1]}", Kind::invalid, "token -1");
  expect_error("{\"tokens\": [1.5]}", Kind::invalid, "1.5");
  expect_error("{\"prompt\": \"\", \"temperature\": -1}", Kind::invalid, "temperature is -1");
  expect_error("{\"prompt\": \"\", \"temperature\": \"1\"}", Kind::invalid, "must be a number");
  expect_error("{\"prompt\": \"\", \"top_p\": 0}", Kind::invalid, "top_p is 0");
  expect_error("{\"prompt\": \"\", \"min_p\": 2}", Kind::invalid, "min_p is 2");
  expect_error("{\"prompt\": \"\", \"top_k\": -1}", Kind::invalid, "top_k is -1");
  expect_error("{\"prompt\": \"\", \"repetition_penalty\": 0}", Kind::invalid, "repetition_penalty is 0");
  expect_error("{\"prompt\": \"\", \"max_new_tokens\": 0}", Kind::invalid, "max_new_tokens is 0");
  expect_error("{\"prompt\": \"\", \"n\": 0}", Kind::invalid, "n is 0");
  expect_error("{\"prompt\": \"\", \"stop\": [\"\"]}", Kind::invalid, "stop string is empty");
  expect_error("{\"prompt\": \"\", \"stop\": 3}", Kind::invalid, "stop is 3");
  expect_error("{\"prompt\": \"\", \"seed\": 0.5}", Kind::invalid, "seed is 0.5");
  expect_error("{\"prompt\": \"12345678\"}", Kind::too_long, "8 tokens (the model's max_length is 8)", 8);
}

TEST(RequestTest, ErrorsKeepTheIdAndTheJobGoesOn) {
  const auto rows = read(
      "{\"id\": \"a\", \"n\": 0, \"prompt\": \"\"}\nnonsense\n{\"id\": \"a\", \"prompt\": \"\"}\n{\"id\": \"b\", "
      "\"prompt\": \"\"}");
  ASSERT_EQ(rows.size(), 4U);
  EXPECT_EQ(std::get<RowError>(rows[0]).id, "\"a\"");
  EXPECT_EQ(std::get<RowError>(rows[1]).id, "1");
  EXPECT_EQ(std::get<RowError>(rows[1]).line, 1);
  EXPECT_EQ(std::get<RowError>(rows[2]).kind, RowError::Kind::duplicate);
  EXPECT_EQ(std::get<Request>(rows[3]).id, "\"b\"");
}

TEST(RequestTest, DuplicatesAreErrors) {
  const auto rows = read("{\"id\": 1, \"prompt\": \"\"}\n{\"prompt\": \"\"}\n{\"id\": \"1\", \"prompt\": \"\"}\n");
  ASSERT_EQ(rows.size(), 3U);
  // The second row's line number is the first row's id; "1" is another id than 1.
  EXPECT_EQ(std::get<RowError>(rows[1]).kind, RowError::Kind::duplicate);
  EXPECT_NE(std::get<RowError>(rows[1]).message.find("the id 1 stands twice"), std::string::npos);
  EXPECT_EQ(std::get<Request>(rows[2]).id, "\"1\"");
}

TEST(RequestTest, TheModelsLengthCutsTheAnswer) {
  const auto rows = read("{\"prompt\": \"1234567\"}\n", 8);
  EXPECT_EQ(std::get<Request>(rows[0]).options.max_new_tokens, 1);
}

TEST(RequestTest, TextsNeedATokenizer) {
  std::istringstream input("{\"prompt\": \"a\"}\n{\"tokens\": [1]}\n");
  PromptReader reader(input);
  const RequestParser parser(nullptr, {}, {10, 0});
  EXPECT_NE(std::get<RowError>(parser.parse(*reader.next())).message.find("no tokenizer"), std::string::npos);
  EXPECT_TRUE(std::holds_alternative<Request>(parser.parse(*reader.next())));
}

}  // namespace
}  // namespace photon
