// What is asked for: rows of a prompts file (docs/decoding.md), read one at a time and checked before anything is
// decoded.
#pragma once

#include <cstdint>
#include <istream>
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

struct Request {
  std::string id;         // as JSON: "\"a\"" or "7"
  std::uint64_t key = 0;  // hash of the id's text, names the row's random numbers
  std::int64_t line = 0;  // of the prompts file, from 0
  std::vector<std::int32_t> prompt;
  GenerationOptions options;

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
};
std::string_view name_of(RowError::Kind kind);

using Row = std::variant<Request, RowError>;

// What a row must fit into.
struct RequestLimits {
  std::int64_t vocab_size = 0;
  std::int64_t max_length =
      0;  // tokens of a sequence; 0 = no limit. max_new_tokens is cut to it, a prompt must be below it
};

// A line of the prompts file that holds something.
struct PromptLine {
  std::int64_t line = 0;   // from 0
  bool duplicate = false;  // an earlier row has its id
  std::string text;
  RowKey key;  // what its result is known by
};

// Reads a prompts file line by line and sees to it that ids stand once: as many as 32 bytes of memory an id.
class PromptReader {
 public:
  explicit PromptReader(std::istream& input) : input_(&input) {}  // which must outlive this

  // The next line that is not empty; nothing at the end of the input. Errors: Error when reading fails.
  std::optional<PromptLine> next();

  std::int64_t bytes_read() const { return bytes_read_; }

 private:
  std::istream* input_;
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
