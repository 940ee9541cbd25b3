#include "decode/request.hpp"

#include <algorithm>
#include <cmath>

#include "decode/row_fields.hpp"
#include "support/error.hpp"
#include "support/random.hpp"

namespace photon {
namespace {

using rows::bad;
using rows::BadRow;
using rows::integer;
using rows::Json;
using rows::number;
using rows::shown;

std::vector<std::string> stop_texts(const Json& value) {
  std::vector<std::string> texts;
  if (value.is_string()) {
    texts.push_back(value.get<std::string>());
  } else if (value.is_array()) {
    for (const Json& text : value) {
      if (!text.is_string())
        bad(fmt::format("stop holds {}", shown(text)), "stop strings are text", "put it in quotes");
      texts.push_back(text.get<std::string>());
    }
  } else if (!value.is_null()) {
    bad(fmt::format("stop is {}", shown(value)), "it must be a string or a list of strings", "write \"stop\": \"\\n\"");
  }
  return texts;
}

const std::vector<std::string>& known_keys() {
  static const std::vector<std::string> keys{"id",    "prompt",         "tokens", "temperature",
                                             "top_k", "top_p",          "min_p",  "repetition_penalty",
                                             "seed",  "max_new_tokens", "n",      "stop"};
  return keys;
}

void apply_option(const std::string& key, const Json& value, GenerationOptions& options) {
  if (key == "temperature") options.sampling.temperature = number(key, value);
  if (key == "top_k") options.sampling.top_k = integer(key, value);
  if (key == "top_p") options.sampling.top_p = number(key, value);
  if (key == "min_p") options.sampling.min_p = number(key, value);
  if (key == "repetition_penalty") options.sampling.repetition_penalty = number(key, value);
  if (key == "seed") {
    if (!value.is_number_integer()) bad(fmt::format("seed is {}", shown(value)), "it must be a whole number", "");
    options.seed =
        value.is_number_unsigned() ? value.get<std::uint64_t>() : static_cast<std::uint64_t>(value.get<std::int64_t>());
  }
  if (key == "max_new_tokens") options.max_new_tokens = integer(key, value);
  if (key == "n") options.num_samples = integer(key, value);
  if (key == "stop") options.stop = stop_texts(value);
}

void require(bool holds, std::string_view option, double value, std::string_view range) {
  if (!holds)
    throw InputError(fmt::format("{} is {}", option, value), fmt::format("it must be {}", range), "change it");
}

}  // namespace

std::string_view name_of(RowError::Kind kind) {
  switch (kind) {
    case RowError::Kind::malformed:
      return "malformed_row";
    case RowError::Kind::duplicate:
      return "duplicate_id";
    case RowError::Kind::invalid:
      return "invalid_row";
    case RowError::Kind::too_long:
      return "too_long";
    case RowError::Kind::failed:
      break;
  }
  return "failed";
}

void validate(const GenerationOptions& options) {
  const SamplingOptions& s = options.sampling;
  require(s.temperature >= 0 && std::isfinite(s.temperature), "temperature", s.temperature, "0 (greedy) or more");
  require(s.top_k >= 0, "top_k", static_cast<double>(s.top_k), "0 (off) or more");
  require(s.top_p > 0 && s.top_p <= 1, "top_p", s.top_p, "above 0 and at most 1 (off)");
  require(s.min_p >= 0 && s.min_p <= 1, "min_p", s.min_p, "0 (off) to 1");
  require(s.repetition_penalty > 0 && std::isfinite(s.repetition_penalty), "repetition_penalty", s.repetition_penalty,
          "above 0 (1 = off)");
  require(options.max_new_tokens >= 1, "max_new_tokens", static_cast<double>(options.max_new_tokens), "1 or more");
  require(options.max_new_tokens <= 1'000'000'000, "max_new_tokens", static_cast<double>(options.max_new_tokens),
          "at most 1000000000");
  require(options.num_samples >= 1 && options.num_samples <= 1'000'000, "n", static_cast<double>(options.num_samples),
          "1 to 1000000");
  for (const std::string& stop : options.stop) {
    if (stop.empty()) throw InputError("a stop string is empty", "it would end every row at once", "leave it out");
  }
}

std::optional<PromptLine> PromptReader::next() {
  PromptLine line;
  while (std::getline(*input_, line.text)) {
    line.line = ++line_;
    bytes_read_ += static_cast<std::int64_t>(line.text.size()) + 1;
    if (line.text.find_first_not_of(" \t\r") == std::string::npos) continue;
    std::string id = std::to_string(line_);
    try {
      rows::parse(line.text, line_, id);
      line.key = key_of_id(id);
      line.duplicate = !ids_.insert(line.key);
      if (line.duplicate) line.key = key_of_line(line_);
    } catch (const BadRow&) {
      line.key = key_of_line(line_);
    }
    return line;
  }
  if (input_->bad())
    throw Error("cannot read the prompts", "the file system reports an error", "check the file and start again");
  return std::nullopt;
}

RequestParser::RequestParser(const Tokenizer* tokenizer, const GenerationOptions& defaults, const RequestLimits& limits)
    : tokenizer_(tokenizer), defaults_(defaults), limits_(limits) {
  validate(defaults_);
  PHOTON_EXPECT(limits_.vocab_size > 0, "no vocabulary");
}

Row RequestParser::parse(const PromptLine& line) const {
  RowError error;
  error.line = line.line;
  error.id = std::to_string(line.line);
  try {
    const Json row = rows::parse(line.text, line.line, error.id);
    Request request;
    request.line = line.line;
    request.options = defaults_;
    request.id = error.id;
    request.key = hash_name(rows::id_text(error.id));
    if (line.duplicate) {
      bad(fmt::format("the id {} stands twice in the input", error.id), "results are known by their id",
          "give every row an id of its own", RowError::Kind::duplicate);
    }
    rows::expect_keys(row, known_keys());
    for (const auto& [key, value] : row.items()) apply_option(key, value, request.options);
    const bool has_prompt = row.contains("prompt");
    const bool has_tokens = row.contains("tokens");
    if (has_prompt == has_tokens) {
      bad(has_prompt ? "the row has both prompt and tokens" : "the row has neither prompt nor tokens",
          "one of them says what to continue", "give exactly one");
    }
    if (has_tokens) {
      request.prompt = rows::tokens("tokens", row["tokens"], limits_.vocab_size);
    } else {
      const std::string prompt = rows::text("prompt", row["prompt"]);
      if (tokenizer_ == nullptr) bad("the row gives a text", "this model has no tokenizer", "give \"tokens\"");
      request.prompt = tokenizer_->encode(prompt);
    }
    validate(request.options);
    if (limits_.max_length > 0) {
      const auto length = static_cast<std::int64_t>(request.prompt.size());
      if (length >= limits_.max_length) {
        bad(fmt::format("the prompt has {} tokens", length),
            fmt::format("the model's max_length is {}", limits_.max_length), "shorten it", RowError::Kind::too_long);
      }
      request.options.max_new_tokens = std::min(request.options.max_new_tokens, limits_.max_length - length);
    }
    return request;
  } catch (const BadRow& row) {
    error.kind = row.kind;
    error.message = row.message;
  } catch (const InputError& input_error) {
    error.message = input_error.what();
  }
  return error;
}

}  // namespace photon
