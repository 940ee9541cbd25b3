#include <algorithm>

#include "decode/openai.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/random.hpp"
#include "tokenizer/utf8.hpp"

namespace photon::openai {
namespace {

using Json = nlohmann::ordered_json;

// The service gives ids and times of its own; here they are a function of the row, so that a job gives the same bytes
// whenever it runs.
std::string id_digits(const std::string& name) {
  return checksum_text(hash_name(name));
}

const char* finish_reason(FinishReason reason) {
  return reason == FinishReason::length ? "length" : "stop";
}

std::int64_t num_characters(std::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

// A token's text; where its bytes are no whole characters, "bytes:" and their hexadecimal digits.
std::string token_text(std::string_view bytes) {
  if (utf8_sanitize(bytes) == bytes) return std::string(bytes);
  std::string text = "bytes:";
  for (const char c : bytes) text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return text;
}

// What logprobs call a token.
std::string token_name(const OpenAiRow& row, std::int32_t token) {
  const bool known = row.tokenizer != nullptr && token < row.tokenizer->vocab_size();
  return known ? token_text(row.tokenizer->token_bytes(token)) : fmt::format("token_id:{}", token);
}

// As the service has them: the likeliest tokens as asked for, and the chosen one where it is none of them. Of tokens of
// one name the likelier stays.
Json top_logprobs(const Completion& completion, const OpenAiRow& row, std::size_t at) {
  Json entries = Json::object();
  const auto add = [&](std::int32_t token, float logprob) {
    const std::string name = token_name(row, token);
    if (!entries.contains(name)) entries[name] = logprob;
  };
  const std::vector<TopToken>& top = completion.top[at];
  for (std::size_t i = 0; i < std::min(top.size(), static_cast<std::size_t>(row.top_logprobs)); ++i)
    add(top[i].token, top[i].logprob);
  add(completion.tokens[at], completion.logprobs[at]);
  return entries;
}

Json logprobs(const Completion& completion, const OpenAiRow& row) {
  Json tokens = Json::array();
  Json offsets = Json::array();
  Json tops = Json::array();
  std::int64_t offset = 0;
  for (std::size_t i = 0; i < completion.tokens.size(); ++i) {
    const std::int32_t token = completion.tokens[i];
    const bool known = row.tokenizer != nullptr && token < row.tokenizer->vocab_size();
    tokens.push_back(token_name(row, token));
    offsets.push_back(offset);
    if (known) offset += num_characters(row.tokenizer->token_bytes(token));
    if (row.top_logprobs > 0) tops.push_back(top_logprobs(completion, row, i));
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", completion.logprobs},
          {"top_logprobs", row.top_logprobs > 0 ? std::move(tops) : Json(nullptr)},
          {"text_offset", std::move(offsets)}};
}

bool known_by_line(RowError::Kind kind) {
  return kind == RowError::Kind::malformed || kind == RowError::Kind::duplicate;
}

std::string dump(const Json& record) {
  return record.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string result_line(const Result& result) {
  const OpenAiRow& row = *result.openai;
  const std::string digits = id_digits(result.id);
  const auto num_samples = std::max<std::size_t>(result.samples.size() / static_cast<std::size_t>(row.num_prompts), 1);
  Json choices = Json::array();
  std::int64_t num_tokens = 0;
  for (std::size_t i = 0; i < result.samples.size(); ++i) {
    const Completion& completion = result.samples[i];
    num_tokens += static_cast<std::int64_t>(completion.tokens.size());
    choices.push_back({{"text", (row.echo ? row.prompts[i / num_samples] : "") + completion.text},
                       {"index", i},
                       {"logprobs", row.logprobs ? logprobs(completion, row) : Json(nullptr)},
                       {"finish_reason", finish_reason(completion.finish)}});
  }
  const Json body{{"id", "cmpl-" + digits},
                  {"object", "text_completion"},
                  {"created", 0},
                  {"model", row.model},
                  {"choices", std::move(choices)},
                  {"usage",
                   {{"prompt_tokens", row.num_prompt_tokens},
                    {"completion_tokens", num_tokens},
                    {"total_tokens", row.num_prompt_tokens + num_tokens}}}};
  return dump({{"id", "batch_req_" + digits},
               {"custom_id", Json::parse(result.id)},
               {"response", {{"status_code", 200}, {"request_id", "req_" + digits}, {"body", body}}},
               {"error", nullptr}});
}

std::string error_line(const RowError& error) {
  const bool no_request = known_by_line(error.kind);
  const std::string digits = id_digits(no_request ? fmt::format("line {}", error.line) : error.id);
  Json id = Json::parse(error.id);
  if (!id.is_string()) id = nullptr;  // the row has none
  Json record{{"id", "batch_req_" + digits}, {"custom_id", std::move(id)}};
  if (no_request) {
    record["response"] = nullptr;
    record["error"] = {{"code", name_of(error.kind)}, {"message", error.message}, {"line", error.line}};
  } else {
    const bool asked_wrongly = error.kind != RowError::Kind::failed;
    const Json body{{"error",
                     {{"message", error.message},
                      {"type", asked_wrongly ? "invalid_request_error" : "server_error"},
                      {"param", nullptr},
                      {"code", name_of(error.kind)},
                      {"line", error.line}}}};
    record["response"] = {{"status_code", asked_wrongly ? 400 : 500}, {"request_id", "req_" + digits}, {"body", body}};
    record["error"] = nullptr;
  }
  return dump(record);
}

std::optional<EarlierResult> read_record(const Json& record) {
  const auto id = record.find("custom_id");
  const auto response = record.find("response");
  const auto error = record.find("error");
  if (id == record.end() || response == record.end() || error == record.end()) return std::nullopt;
  if (error->is_object()) {
    const auto line = error->find("line");
    if (line == error->end() || !line->is_number_integer()) return std::nullopt;
    return EarlierResult{key_of_line(*line), true};
  }
  if (!id->is_string() || !response->is_object()) return std::nullopt;
  const auto status = response->find("status_code");
  if (status == response->end() || !status->is_number_integer()) return std::nullopt;
  return EarlierResult{key_of_id(dump(*id)), *status != 200};
}

}  // namespace photon::openai
