// What is asked for: rows of a prompts file (docs/decoding.md), read one at a time and checked before anything is
// decoded.
#pragma once

#include <cstdint>
#include <istream>
#include <optional>
#include <string>
#include <unordered_set>
#include <variant>
#include <vector>

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

class RequestReader {
 public:
  // `input` and, unless null, `tokenizer` must outlive this. A null tokenizer takes rows of tokens only.
  RequestReader(std::istream& input, const Tokenizer* tokenizer, const GenerationOptions& defaults,
                const RequestLimits& limits);

  // The next row; nothing at the end of the input. Empty lines are no rows, but count as lines. Errors: Error when
  // reading fails.
  std::optional<Row> next();

  std::int64_t bytes_read() const { return bytes_read_; }

 private:
  Row parse(const std::string& text);

  std::istream* input_;
  const Tokenizer* tokenizer_;
  GenerationOptions defaults_;
  RequestLimits limits_;
  std::int64_t line_ = -1;
  std::int64_t bytes_read_ = 0;
  std::unordered_set<std::string> ids_;
};

}  // namespace photon
