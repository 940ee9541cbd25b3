#include "decode/sample.hpp"

#include <algorithm>

#include "support/error.hpp"

namespace photon {

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::length:
      return "length";
    case FinishReason::eos:
      return "eos";
    case FinishReason::stop:
      return "stop";
    case FinishReason::none:
      break;
  }
  return "none";
}

Sample::Sample(const Request& request, std::int64_t index, const Tokenizer* tokenizer, std::int32_t eos)
    : request_(&request), index_(index), tokenizer_(tokenizer), eos_(eos), sequence_(request.prompt) {}

RowDraw Sample::draw(std::int64_t position) const {
  RowDraw row;
  row.options = request_->options.sampling;
  row.key = {request_->options.seed, request_->key, static_cast<std::uint64_t>(request_->first_sample + index_),
             static_cast<std::uint64_t>(position)};
  return row;
}

std::int32_t Sample::forced(std::int64_t position) const {
  if (position < prompt_length()) return request_->prompt[static_cast<std::size_t>(position)];
  return position < request_->num_tokens() ? draw_token : 0;
}

void Sample::take(std::int64_t position, const StepResult& result, std::size_t index) {
  if (position < prompt_length() || finished()) return;
  const std::int32_t token = result.tokens[index];
  if (token == failed_token) {
    return fail(error_message("the row's next token cannot be drawn",
                              "its logits hold NaN or infinity, or no finite value",
                              "check the model's weights and precision"));
  }
  if (token == eos_) {
    completion_.finish = FinishReason::eos;
    return;
  }
  if (!result.logprobs.empty()) completion_.logprobs.push_back(result.logprobs[index]);
  if (result.num_top > 0) {
    std::vector<TopToken>& top = completion_.top.emplace_back();
    const auto count = static_cast<std::size_t>(result.num_top);
    for (std::size_t i = index * count; i < (index + 1) * count; ++i) {
      if (result.top_tokens[i] >= 0) top.push_back({result.top_tokens[i], result.top_logprobs[i]});
    }
  }
  accept(token);
}

void Sample::accept(std::int32_t token) {
  const std::size_t before = completion_.text.size();
  // A model may have more ids than its tokenizer: those have no text.
  if (tokenizer_ != nullptr && token < tokenizer_->vocab_size()) {
    // Only the very first token of a text may lose a tokenizer's leading space.
    if (sequence_.empty()) {
      completion_.text += tokenizer_->decode({&token, 1});
    } else {
      completion_.text += tokenizer_->token_bytes(token);
    }
  }
  sequence_.push_back(token);
  completion_.tokens.push_back(token);
  find_stop(before);
  if (completion_.finish == FinishReason::none &&
      static_cast<std::int64_t>(completion_.tokens.size()) >= request_->options.max_new_tokens) {
    completion_.finish = FinishReason::length;
  }
}

// Looks for stop strings that end at or after byte `from`; the earliest beginning wins.
void Sample::find_stop(std::size_t from) {
  std::size_t first = std::string::npos;
  for (const std::string& stop : request_->options.stop) {
    const std::size_t begin = from >= stop.size() ? from - stop.size() + 1 : 0;
    first = std::min(first, completion_.text.find(stop, begin));
  }
  if (first == std::string::npos) return;
  completion_.text.resize(first);
  completion_.finish = FinishReason::stop;
}

}  // namespace photon
