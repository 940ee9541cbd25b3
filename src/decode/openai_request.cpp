#include <algorithm>

#include "decode/openai.hpp"
#include "decode/row_fields.hpp"
#include "kernels/top_tokens.hpp"
#include "support/error.hpp"

namespace photon::openai {
namespace {

using rows::bad;
using rows::integer;
using rows::Json;
using rows::shown;

const std::vector<std::string>& body_keys() {
  static const std::vector<std::string> keys{"model",
                                             "prompt",
                                             "max_tokens",
                                             "temperature",
                                             "top_p",
                                             "n",
                                             "stop",
                                             "seed",
                                             "logprobs",
                                             "echo",
                                             "top_k",
                                             "min_p",
                                             "user",
                                             "metadata",
                                             "best_of",
                                             "stream",
                                             "stream_options",
                                             "suffix",
                                             "logit_bias",
                                             "presence_penalty",
                                             "frequency_penalty",
                                             "repetition_penalty"};
  return keys;
}

// Asked for nothing: null, false, 0, "" or an empty list or object.
bool is_off(const Json& value) {
  return value.is_null() || value == Json(false) || (value.is_number() && value.get<double>() == 0) ||
         ((value.is_string() || value.is_array() || value.is_object()) && value.empty()) || value == Json("");
}

// What photon does not do is refused where a row asks for it.
void refuse_unsupported(const Json& body, std::int64_t num_samples) {
  for (const char* key : {"suffix", "logit_bias", "presence_penalty", "frequency_penalty"}) {
    const auto value = body.find(key);
    if (value != body.end() && !is_off(*value)) {
      bad(fmt::format("{} is {}", key, shown(*value)), "photon does not do that", "leave it out");
    }
  }
  if (const auto stream = body.find("stream"); stream != body.end() && !is_off(*stream)) {
    bad(fmt::format("stream is {}", shown(*stream)), "a batch has no stream", "leave it out");
  }
  if (const auto best = body.find("best_of"); best != body.end() && !best->is_null()) {
    if (integer("best_of", *best) != num_samples) {
      bad(fmt::format("best_of is {} and n {}", shown(*best), num_samples), "photon gives every sample it makes",
          "leave best_of out, or make it n");
    }
  }
}

std::vector<std::vector<std::int32_t>> read_prompts(const Json& prompt, const Tokenizer* tokenizer,
                                                    const RequestLimits& limits) {
  const auto encode = [&](const Json& text) {
    if (tokenizer == nullptr) bad("the prompt is a text", "this model has no tokenizer", "give a list of token ids");
    return tokenizer->encode(text.get_ref<const std::string&>());
  };
  if (prompt.is_string()) return {encode(prompt)};
  if (!prompt.is_array() || prompt.empty()) {
    bad(fmt::format("prompt is {}", shown(prompt)), "it must say what to continue",
        "give a text, a list of token ids, or a list of several of these");
  }
  if (prompt[0].is_number()) return {rows::tokens("prompt", prompt, limits.vocab_size)};
  std::vector<std::vector<std::int32_t>> prompts;
  for (const Json& one : prompt) {
    prompts.push_back(one.is_string() ? encode(one) : rows::tokens("a prompt", one, limits.vocab_size));
  }
  return prompts;
}

std::int64_t room_for(std::size_t length, std::int64_t max_new_tokens, const RequestLimits& limits) {
  return rows::room_for(static_cast<std::int64_t>(length), max_new_tokens, limits);
}

}  // namespace

bool is_row(const nlohmann::json& row) {
  return row.contains("custom_id") || row.contains("url") || row.contains("body");
}

void read(const nlohmann::json& row, const Tokenizer* tokenizer, const RequestLimits& limits, Request& request) {
  rows::expect_keys(row, {"custom_id", "method", "url", "body"});
  const auto expect = [&](const char* key, const std::string& wanted, const char* why) {
    const auto value = row.find(key);
    if (value == row.end() || *value != wanted) {
      bad(value == row.end() ? fmt::format("the row has no {}", key) : fmt::format("{} is {}", key, shown(*value)), why,
          fmt::format("write \"{}\": \"{}\"", key, wanted));
    }
  };
  expect("method", "POST", "a batch posts its requests");
  expect("url", "/v1/completions", "photon continues texts: it has no chats, embeddings or other services");
  const auto body = row.find("body");
  if (body == row.end() || !body->is_object()) {
    bad("the row has no body", "it says what to continue", "write \"body\": {\"prompt\": ...}");
  }
  rows::expect_keys(*body, body_keys());

  OpenAiRow form;
  form.model = limits.model;
  form.tokenizer = tokenizer;
  for (const auto& [key, value] : body->items()) {
    if (value.is_null()) continue;  // as if it were not there
    if (key == "model") form.model = rows::text(key, value);
    if (key == "echo") {
      if (!value.is_boolean()) bad(fmt::format("echo is {}", shown(value)), "it must be true or false", "");
      form.echo = value.get<bool>();
    }
    if (key == "logprobs") {
      // Some clients say true and false, as for chats.
      form.logprobs = !value.is_boolean() || value.get<bool>();
      if (!value.is_boolean()) form.top_logprobs = integer(key, value);
      if (form.top_logprobs < 0 || form.top_logprobs > most_top_tokens) {
        bad(fmt::format("logprobs is {}", shown(value)), fmt::format("it must be 0 to {}", most_top_tokens),
            "ask for fewer");
      }
    } else if (key == "max_tokens") {
      rows::apply_option("max_new_tokens", value, request.options);
    } else if (key == "top_k" && value == Json(-1)) {
      request.options.sampling.top_k = 0;  // how servers like vLLM write "all"
    } else {
      rows::apply_option(key, value, request.options);
    }
  }
  validate(request.options);
  refuse_unsupported(*body, request.options.num_samples);
  if (form.logprobs && !limits.logprobs) {
    bad("the row asks for logprobs", "this job does not keep them", "start it with --logprobs");
  }
  if (form.top_logprobs > limits.top_logprobs) {
    bad(fmt::format("the row asks for {} likeliest tokens", form.top_logprobs),
        fmt::format("this job keeps {}", limits.top_logprobs),
        fmt::format("start it with --top-logprobs {}", form.top_logprobs));
  }
  if (form.logprobs && form.echo) {
    bad("the row asks for logprobs and echo", "photon keeps no logprobs of prompts here", "use photon score");
  }

  const auto prompt = body->find("prompt");
  if (prompt == body->end()) bad("the body has no prompt", "it says what to continue", "write \"prompt\": \"...\"");
  std::vector<std::vector<std::int32_t>> prompts = read_prompts(*prompt, tokenizer, limits);
  form.num_prompts = static_cast<std::int64_t>(prompts.size());
  const std::int64_t max_new_tokens = request.options.max_new_tokens;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    form.num_prompt_tokens += static_cast<std::int64_t>(prompts[i].size());
    if (form.echo) {
      const Json& given = prompt->is_array() && !(*prompt)[0].is_number() ? (*prompt)[i] : *prompt;
      if (!given.is_string() && tokenizer == nullptr) {
        bad("the row asks for echo", "this model has no tokenizer", "leave echo out");
      }
      form.prompts.push_back(given.is_string() ? given.get<std::string>() : tokenizer->decode(prompts[i]));
    }
    const std::int64_t room = room_for(prompts[i].size(), max_new_tokens, limits);
    if (i == 0) {
      request.options.max_new_tokens = room;
      request.prompt = std::move(prompts[0]);
    } else {
      request.more_prompts.push_back({std::move(prompts[i]), room});
    }
  }
  request.openai = std::make_shared<const OpenAiRow>(std::move(form));
}

}  // namespace photon::openai
