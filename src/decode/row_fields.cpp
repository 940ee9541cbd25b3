#include "decode/row_fields.hpp"

#include <algorithm>
#include <limits>

#include "config/nearest.hpp"
#include "support/error.hpp"

namespace photon::rows {
namespace {

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

}  // namespace

void bad(std::string_view problem, std::string_view why, std::string_view remedy, RowError::Kind kind) {
  throw BadRow{kind, error_message(problem, why, remedy)};
}

Json parse(const std::string& text, std::int64_t line, std::string& id) {
  Json row = parse_object(text, line);
  read_id(row, "id", id);
  return row;
}

Json parse_object(const std::string& text, std::int64_t line) {
  Json row = Json::parse(text, nullptr, false);
  if (row.is_discarded()) {
    bad(fmt::format("line {} is not JSON", line + 1), "every line must be one JSON object", "correct the line",
        RowError::Kind::malformed);
  }
  if (!row.is_object()) {
    bad(fmt::format("line {} is {}", line + 1, shown(row)), "every line must be one JSON object",
        "write {\"id\": ..., ...}", RowError::Kind::malformed);
  }
  return row;
}

void read_id(const Json& row, const char* key, std::string& id) {
  const bool own = std::string_view(key) == "id";
  const auto given = row.find(key);
  if (given == row.end()) {
    if (own) return;
    bad(fmt::format("the row has no {}", key), "its result is known by it", "give every row one of its own",
        RowError::Kind::malformed);
  }
  if (!given->is_string() && !(own && given->is_number_integer())) {
    bad(fmt::format("the {} is {}", key, shown(*given)),
        own ? "it must be a string or a whole number" : "it must be a string",
        own ? "change it, or leave it out to use the line number" : "put it in quotes", RowError::Kind::malformed);
  }
  id = given->dump();
}

std::string id_text(const std::string& id) {
  const Json value = Json::parse(id);
  return value.is_string() ? value.get<std::string>() : id;
}

void expect_keys(const Json& row, const std::vector<std::string>& known) {
  for (const auto& [key, value] : row.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      bad(fmt::format("unknown key '{}'", key), "", fmt::format("did you mean '{}'?", nearest(key, known)));
    }
  }
}

std::int64_t room_for(std::int64_t length, std::int64_t max_new_tokens, const RequestLimits& limits) {
  if (limits.max_length <= 0) return max_new_tokens;
  if (length >= limits.max_length) {
    bad(fmt::format("the prompt has {} tokens", length), fmt::format("the model's max_length is {}", limits.max_length),
        "shorten it", RowError::Kind::too_long);
  }
  return std::min(max_new_tokens, limits.max_length - length);
}

std::string shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', true);
  return text.size() <= 40 ? text : text.substr(0, 37) + "...";
}

double number(const std::string& key, const Json& value) {
  if (!value.is_number())
    bad(fmt::format("{} is {}", key, shown(value)), "it must be a number", "write it without quotes");
  return value.get<double>();
}

std::int64_t integer(const std::string& key, const Json& value) {
  const bool fits =
      value.is_number_integer() &&
      (!value.is_number_unsigned() ||
       value.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
  if (!fits) bad(fmt::format("{} is {}", key, shown(value)), "it must be a whole number", "write e.g. 16");
  return value.get<std::int64_t>();
}

const std::string& text(const std::string& key, const Json& value) {
  if (!value.is_string()) bad(fmt::format("{} is {}", key, shown(value)), "it must be text", "put it in quotes");
  return value.get_ref<const std::string&>();
}

std::vector<std::int32_t> tokens(const std::string& key, const Json& value, std::int64_t vocab_size) {
  if (!value.is_array()) {
    bad(fmt::format("{} is {}", key, shown(value)), "it must be a list of token ids", "write e.g. [17, 4]");
  }
  std::vector<std::int32_t> ids;
  ids.reserve(value.size());
  for (const Json& entry : value) {
    const std::int64_t token = integer("a token", entry);
    if (token < 0 || token >= vocab_size) {
      bad(fmt::format("token {} is not in the vocabulary", token), fmt::format("its ids are 0 .. {}", vocab_size - 1),
          "use this model's tokenizer");
    }
    ids.push_back(static_cast<std::int32_t>(token));
  }
  return ids;
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

}  // namespace photon::rows
