// What is asked for: rows of a prompts file (docs/decoding.md), read one at a time and checked before anything is
// decoded.
#pragma once

#include <cstdint>
#include <istream>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "decode/row_key.hpp"
#include "kernels/sampling.hpp"
#include "tokenizer/tokenizer.hpp"

namespace photon {

// How one row is decoded; a row of the prompts file may override every one of them.
struct GenerationOptions {
  SamplingOptions sampling;
  std::uint64_t seed = 0;
  std::int64_t max_new_tokens = 128;
  std::int64_t num_samples = 1;
  std::vector<std::string> stop;  // texts that end a row; none is empty
};

// Errors: InputError naming the option out of range.
void validate(const GenerationOptions& options);

struct OpenAiRow;    // decode/openai.hpp
struct PromptGroup;  // decode/prompt_group.hpp

struct FurtherPrompt {
  std::vector<std::int32_t> tokens;
  std::int64_t max_new_tokens = 0;
};

struct Request {
  std::string id;         // as JSON: "\"a\"" or "7"
  std::uint64_t key = 0;  // hash of the id's text, names the row's random numbers
  std::int64_t line = 0;  // of the prompts file, from 0
  std::vector<std::int32_t> prompt;
  GenerationOptions options;
  // Of rows with several prompts. Their samples follow those of `prompt`, as further samples of the row.
  std::vector<FurtherPrompt> more_prompts;
  std::int64_t first_sample = 0;            // of the row's, where the engine has split such a row
  std::shared_ptr<PromptGroup> group;       // the same
  std::shared_ptr<const OpenAiRow> openai;  // null: the row is in photon's own form, and so is its result

  // Tokens its sequence may grow to.
  std::int64_t num_tokens() const { return static_cast<std::int64_t>(prompt.size()) + options.max_new_tokens; }
};

// Why a row gives no result.
struct RowError {
  // malformed: the line is no row with an id; duplicate: an earlier row has its id; these two are known by their line,
  // the others by their id.
  enum class Kind { malformed, duplicate, invalid, too_long, failed } kind = Kind::invalid;
  std::string id;  // as JSON; the line number when the row gives none
  std::int64_t line = 0;
  std::string message;
  std::shared_ptr<const OpenAiRow> openai = nullptr;  // null: in photon's own form
};
std::string_view name_of(RowError::Kind kind);

using Row = std::variant<Request, RowError>;

// photon's own rows, those of OpenAI's batches, or each as it looks like.
enum class InputFormat { automatic, native, openai };
InputFormat input_format(const std::string& name);  // "auto" | "native" | "openai". Errors: InputError.

// The part of a file that a job takes: the lines whose number (from 0) leaves `index` when divided by `count`.
struct Shard {
  std::int64_t index = 0;
  std::int64_t count = 1;
  bool has(std::int64_t line) const { return line % count == index; }
};
Shard parse_shard(const std::string& text);  // "I/N", I from 0. Errors: InputError.

// What a row must fit into, and how it is read.
struct RequestLimits {
  std::int64_t vocab_size = 0;
  std::int64_t max_length =
      0;  // tokens of a sequence; 0 = no limit. max_new_tokens is cut to it, a prompt must be below it
  InputFormat format = InputFormat::automatic;
  bool logprobs = false;  // the job keeps them
  std::int64_t top_logprobs = 0;
  std::string model = {};  // what a result in OpenAI's form says where its row names no model
};

// A line of the prompts file that holds something.
struct PromptLine {
  std::int64_t line = 0;   // from 0
  bool duplicate = false;  // an earlier row has its id
  std::string text;
  RowKey key;  // what its result is known by
};

// Reads a prompts file line by line and sees to it that ids stand once: as many as 32 bytes of memory an id. Of another
// shard's rows only the ids are read.
class PromptReader {
 public:
  // `input` must outlive this.
  explicit PromptReader(std::istream& input, InputFormat format = InputFormat::automatic, Shard shard = {})
      : input_(&input), format_(format), shard_(shard) {}

  // The next line of the shard that is not empty; nothing at the end of the input. Errors: Error when reading fails.
  std::optional<PromptLine> next();

  std::int64_t bytes_read() const { return bytes_read_; }

 private:
  std::istream* input_;
  InputFormat format_;
  Shard shard_;
  std::int64_t line_ = -1;
  std::int64_t bytes_read_ = 0;
  KeySet ids_;
};

// Makes rows of lines.
class RequestParser {
 public:
  // A null tokenizer takes rows of tokens only; otherwise it must outlive this. Errors: InputError for bad defaults.
  RequestParser(const Tokenizer* tokenizer, const GenerationOptions& defaults, const RequestLimits& limits);
  Row parse(const PromptLine& line) const;

 private:
  const Tokenizer* tokenizer_;
  GenerationOptions defaults_;
  RequestLimits limits_;
};

}  // namespace photon
