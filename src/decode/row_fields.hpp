// Reading one line of a file of rows, for generate and score. Includes nlohmann/json: for .cpp files of these rooms
// only.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "decode/request.hpp"

namespace photon::rows {

using Json = nlohmann::json;

// Ends the reading of one row.
struct BadRow {
  RowError::Kind kind;
  std::string message;
};
[[noreturn]] void bad(std::string_view problem, std::string_view why, std::string_view remedy,
                      RowError::Kind kind = RowError::Kind::invalid);

// The object that `text` is, and its id (as JSON) in `id`, which holds the line number before. Throws BadRow.
Json parse(const std::string& text, std::int64_t line, std::string& id);
// The same in two steps: the object, then the id, under the key `key`.
Json parse_object(const std::string& text, std::int64_t line);
void read_id(const Json& row, const char* key, std::string& id);
// The text a row's id stands for: a string's own characters, an integer's digits.
std::string id_text(const std::string& id);
void expect_keys(const Json& row, const std::vector<std::string>& known);

// Takes a key of photon's own rows into the options; another key does nothing.
void apply_option(const std::string& key, const Json& value, GenerationOptions& options);
// How many of max_new_tokens a prompt of that length leaves room for. Throws BadRow when for none.
std::int64_t room_for(std::int64_t length, std::int64_t max_new_tokens, const RequestLimits& limits);

std::string shown(const Json& value);  // shortened, for messages
double number(const std::string& key, const Json& value);
std::int64_t integer(const std::string& key, const Json& value);
const std::string& text(const std::string& key, const Json& value);
std::vector<std::int32_t> tokens(const std::string& key, const Json& value, std::int64_t vocab_size);

}  // namespace photon::rows
