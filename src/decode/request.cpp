#include "decode/request.hpp"

#include <charconv>
#include <cmath>

#include "decode/openai.hpp"
#include "decode/row_fields.hpp"
#include "support/error.hpp"
#include "support/random.hpp"

namespace photon {
namespace {

using rows::bad;
using rows::BadRow;
using rows::Json;

const std::vector<std::string>& known_keys() {
  static const std::vector<std::string> keys{"id",    "prompt",         "tokens", "temperature",
                                             "top_k", "top_p",          "min_p",  "repetition_penalty",
                                             "seed",  "max_new_tokens", "n",      "stop"};
  return keys;
}

void require(bool holds, std::string_view option, double value, std::string_view range) {
  if (!holds)
    throw InputError(fmt::format("{} is {}", option, value), fmt::format("it must be {}", range), "change it");
}

bool is_openai(const Json& row, InputFormat format) {
  return format == InputFormat::openai || (format == InputFormat::automatic && openai::is_row(row));
}

const char* id_key(const Json& row, InputFormat format) {
  return is_openai(row, format) ? "custom_id" : "id";
}

void read_native(const Json& row, const Tokenizer* tokenizer, const RequestLimits& limits, Request& request) {
  rows::expect_keys(row, known_keys());
  for (const auto& [key, value] : row.items()) rows::apply_option(key, value, request.options);
  const bool has_prompt = row.contains("prompt");
  const bool has_tokens = row.contains("tokens");
  if (has_prompt == has_tokens) {
    bad(has_prompt ? "the row has both prompt and tokens" : "the row has neither prompt nor tokens",
        "one of them says what to continue", "give exactly one");
  }
  if (has_tokens) {
    request.prompt = rows::tokens("tokens", row["tokens"], limits.vocab_size);
  } else {
    const std::string prompt = rows::text("prompt", row["prompt"]);
    if (tokenizer == nullptr) bad("the row gives a text", "this model has no tokenizer", "give \"tokens\"");
    request.prompt = tokenizer->encode(prompt);
  }
  validate(request.options);
  request.options.max_new_tokens =
      rows::room_for(static_cast<std::int64_t>(request.prompt.size()), request.options.max_new_tokens, limits);
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

InputFormat input_format(const std::string& name) {
  if (name == "auto") return InputFormat::automatic;
  if (name == "native") return InputFormat::native;
  if (name == "openai") return InputFormat::openai;
  throw InputError(fmt::format("no format of rows is called '{}'", name), "photon knows its own and OpenAI's",
                   "use auto, native or openai");
}

Shard parse_shard(const std::string& text) {
  Shard shard{-1, 0};
  const char* end = text.data() + text.size();
  const auto index = std::from_chars(text.data(), end, shard.index);
  if (index.ec == std::errc() && index.ptr != end && *index.ptr == '/') {
    const auto count = std::from_chars(index.ptr + 1, end, shard.count);
    if (count.ec != std::errc() || count.ptr != end) shard.count = 0;
  }
  if (shard.index < 0 || shard.index >= shard.count) {
    throw InputError(fmt::format("the shard is '{}'", text), "it must be I/N with I from 0 to N - 1",
                     "write e.g. 0/4 for the first of four");
  }
  return shard;
}

std::optional<PromptLine> PromptReader::next() {
  PromptLine line;
  while (std::getline(*input_, line.text)) {
    line.line = ++line_;
    bytes_read_ += static_cast<std::int64_t>(line.text.size()) + 1;
    if (line.text.find_first_not_of(" \t\r") == std::string::npos) continue;
    std::string id = std::to_string(line_);
    try {
      const Json row = rows::parse_object(line.text, line_);
      rows::read_id(row, id_key(row, format_), id);
      line.key = key_of_id(id);
      line.duplicate = !ids_.insert(line.key);
      if (line.duplicate) line.key = key_of_line(line_);
    } catch (const BadRow&) {
      line.key = key_of_line(line_);
    }
    if (!shard_.has(line_)) continue;
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
  bool openai = limits_.format == InputFormat::openai;
  try {
    const Json row = rows::parse_object(line.text, line.line);
    openai = is_openai(row, limits_.format);
    rows::read_id(row, id_key(row, limits_.format), error.id);
    Request request;
    request.line = line.line;
    request.options = defaults_;
    request.id = error.id;
    request.key = hash_name(rows::id_text(error.id));
    if (line.duplicate) {
      bad(fmt::format("the id {} stands twice in the input", error.id), "results are known by their id",
          "give every row an id of its own", RowError::Kind::duplicate);
    }
    if (openai) {
      openai::read(row, tokenizer_, limits_, request);
    } else {
      read_native(row, tokenizer_, limits_, request);
    }
    return request;
  } catch (const BadRow& row) {
    error.kind = row.kind;
    error.message = row.message;
  } catch (const InputError& input_error) {
    error.message = input_error.what();
  }
  if (openai) error.openai = std::make_shared<const OpenAiRow>();
  return error;
}

}  // namespace photon
