// One sample in flight: its tokens so far, its text, and when it ends.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "decode/request.hpp"
#include "model/incremental.hpp"

namespace photon {

enum class FinishReason { none, length, eos, stop };
std::string_view name_of(FinishReason reason);

struct TopToken {
  std::int32_t token = 0;
  float logprob = 0;
  bool operator==(const TopToken&) const = default;
};

// What a sample has come to.
struct Completion {
  std::vector<std::int32_t> tokens;  // decided ones, the eos left out
  std::vector<float> logprobs;       // of these tokens, when asked for
  std::string text;                  // bytes; a stop string and what follows it left out
  FinishReason finish = FinishReason::none;
  std::vector<std::vector<TopToken>> top = {};  // of these tokens, when asked for: the likeliest, the first one first
};

class Sample {
 public:
  // `request` and, unless null, `tokenizer` must outlive this. eos < 0: no token ends a text.
  Sample(const Request& request, std::int64_t index, const Tokenizer* tokenizer, std::int32_t eos);

  const Request& request() const { return *request_; }
  std::int64_t index() const { return index_; }
  std::int64_t prompt_length() const { return static_cast<std::int64_t>(request_->prompt.size()); }
  // Prompt and decided tokens.
  const std::vector<std::int32_t>& sequence() const { return sequence_; }
  std::int64_t length() const { return static_cast<std::int64_t>(sequence_.size()); }
  bool finished() const { return completion_.finish != FinishReason::none || failed(); }
  bool failed() const { return !failure_.empty(); }
  const std::string& failure() const { return failure_; }
  const Completion& completion() const { return completion_; }

  // How to draw the token at `position` of the sequence.
  RowDraw draw(std::int64_t position) const;
  // What a step is told of it: the prompt's token, draw_token, or any token where the sequence will have ended.
  std::int32_t forced(std::int64_t position) const;
  // Takes the token at `position`, the next one of the sequence, unless it is the prompt's or the sample has finished.
  // failed_token fails the sample. The token is the result's at `index` of [n, num_tokens]; what is told of
  // probabilities there is kept.
  void take(std::int64_t position, const StepResult& result, std::size_t index);
  void fail(const std::string& why) { failure_ = why; }

 private:
  // Appends the next token of the sequence and sees whether the sample ends with it.
  void accept(std::int32_t token);
  void find_stop(std::size_t from);

  const Request* request_;
  std::int64_t index_;
  const Tokenizer* tokenizer_;
  std::int32_t eos_;
  std::vector<std::int32_t> sequence_;
  Completion completion_;
  std::string failure_;
};

}  // namespace photon
