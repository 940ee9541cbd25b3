// A decoder whose logits are a pure function of a slot's tokens (HierGen) or of a chunk's latent and its tokens
// (RecGen), so that what an engine makes of it can be said without an engine. It checks the contract of every call.
#pragma once

#include <algorithm>
#include <array>
#include <set>
#include <vector>

#include "decode/engine.hpp"
#include "support/error.hpp"
#include "support/random.hpp"

namespace photon::testing {

inline constexpr std::int64_t fake_vocab = 259;  // of the byte tokenizer
inline constexpr std::int64_t fake_width = 4;

struct FakeShape {
  std::int64_t group = 4;
  std::int64_t chunk = 2;
  bool asynchronous = false;
};

inline std::uint64_t hash_tokens(std::span<const std::int32_t> tokens) {
  std::uint64_t hash = 17;
  for (const std::int32_t token : tokens) hash = random_bits(hash, 1, static_cast<std::uint64_t>(token));
  return hash;
}

// Letters are likely, other bytes and the special tokens seldom.
inline void fake_logits(std::uint64_t hash, float* logits) {
  for (std::int64_t v = 0; v < fake_vocab; ++v) {
    const bool letter = v >= 'a' && v <= 'e';
    logits[v] = static_cast<float>(3 * random_uniform(hash, 2, static_cast<std::uint64_t>(v)) + (letter ? 4 : 0) +
                                   (v == 257 ? 2.5 : 0));
  }
}

// The latent of a chunk: a function of the tokens before the coarse stream took over, and of where it is.
inline std::array<float, fake_width> fake_latent(std::uint64_t prefix_hash, std::int64_t position) {
  std::array<float, fake_width> latent{};
  for (std::size_t i = 0; i < latent.size(); ++i) {
    latent[i] = static_cast<float>(random_uniform(prefix_hash, static_cast<std::uint64_t>(position), i));
  }
  return latent;
}

inline std::uint64_t hash_chunk(const float* latent, std::span<const std::int32_t> tokens) {
  std::uint64_t hash = hash_tokens(tokens);
  for (std::int64_t i = 0; i < fake_width; ++i)
    hash = random_bits(hash, 3, static_cast<std::uint64_t>(latent[i] * 0x1p24F));
  return hash;
}

// What happened to all decoders of a source.
struct FakeLog {
  std::int64_t num_made = 0;
  std::int64_t num_prefilled = 0;  // prompts
  std::int64_t num_copied = 0;
  std::int64_t num_steps = 0;  // step_group and roll_out calls
  std::int64_t max_rows = 0;   // of one call
  std::int64_t num_row_steps = 0;
  std::int64_t num_skipped_heads = 0;  // offsets whose tokens were all forced
  std::int64_t max_chunks = 0;         // of one call
};

class FakeDecoder : public IncrementalDecoder {
 public:
  FakeDecoder(const FakeShape& shape, std::int64_t num_slots, std::int64_t max_tokens, const DecoderOptions& options,
              FakeLog& log)
      : shape_(shape),
        options_(options),
        max_tokens_((max_tokens + shape.group - 1) / shape.group * shape.group),
        log_(log),
        slots_(static_cast<std::size_t>(num_slots)) {
    ++log_.num_made;
  }

  std::int64_t group_tokens() const override { return shape_.group; }
  std::int64_t num_slots() const override { return static_cast<std::int64_t>(slots_.size()); }
  std::int64_t max_tokens() const override { return max_tokens_; }
  std::int64_t cache_bytes() const override { return num_slots() * max_tokens_; }
  std::int64_t length(std::int64_t slot) const override { return at(slot).length; }

  void clear(std::int64_t slot) override { at(slot) = Slot(); }
  void copy_slot(std::int64_t from, std::int64_t to) override {
    PHOTON_EXPECT(from != to, "copy onto itself");
    at(to) = at(from);
    ++log_.num_copied;
  }
  void prefill(std::span<const std::int64_t> slots, std::span<const std::span<const std::int32_t>> prompts) override {
    expect_different(slots);
    PHOTON_EXPECT(slots.size() == prompts.size(), "slots and prompts");
    for (std::size_t i = 0; i < slots.size(); ++i) {
      Slot& slot = at(slots[i]);
      PHOTON_EXPECT(slot.length == 0, "slot not empty");
      slot.tokens.assign(prompts[i].begin(), prompts[i].end());
      slot.length = static_cast<std::int64_t>(slot.tokens.size());
      PHOTON_EXPECT(slot.length % shape_.group == 0 && slot.length <= max_tokens_, "prompt length");
      ++log_.num_prefilled;
    }
  }

  // Like a device: results wait until they are taken.
  void step_group(const GroupStep& step) override {
    expect_different(step.slots);
    record(step.slots);
    const std::size_t n = step.slots.size();
    const auto group = static_cast<std::size_t>(shape_.group);
    PHOTON_EXPECT(step.forced.size() == n * group && step.draws.size() == n, "a step's sizes");
    for (const std::int64_t slot : step.slots) {
      PHOTON_EXPECT(!at(slot).coarse && length(slot) + shape_.group <= max_tokens_, "slot is full, or coarse");
    }
    StepResult result;
    result.num_tokens = shape_.group;
    result.tokens.resize(n * group);
    result.logprobs.resize(options_.logprobs ? n * group : 0);
    for (std::size_t t = 0; t < group; ++t) {
      bool draws = false;
      for (std::size_t i = 0; i < n; ++i) {
        Slot& slot = at(step.slots[i]);
        std::int32_t token = step.forced[i * group + t];
        float logprob = 0;
        if (token == draw_token) {
          draws = true;
          std::vector<float> logits(static_cast<std::size_t>(fake_vocab));
          group_logits(step.slots[i], slot.tokens, logits.data());
          token = draw(logits, step.draws[i], static_cast<std::int64_t>(t), slot.tokens, logprob);
        }
        slot.tokens.push_back(token == failed_token ? 0 : token);
        result.tokens[i * group + t] = token;
        if (options_.logprobs) result.logprobs[i * group + t] = logprob;
      }
      if (!draws) ++log_.num_skipped_heads;
    }
    for (const std::int64_t slot : step.slots) at(slot).length += shape_.group;
    queued_.push_back(std::move(result));
    PHOTON_EXPECT(queued_.size() <= 2, "{} steps under way", queued_.size());
  }
  StepResult take_step() override {
    PHOTON_EXPECT(!queued_.empty(), "no step to take");
    StepResult result = std::move(queued_.front());
    queued_.erase(queued_.begin());
    return result;
  }
  bool asynchronous() const override { return shape_.asynchronous; }

  ConstTensorView roll_out(std::span<const std::int64_t> slots, std::int64_t num_groups) override {
    expect_different(slots);
    record(slots);
    PHOTON_EXPECT(num_groups >= 1, "no groups");
    const std::int64_t chunks = num_groups * shape_.group / shape_.chunk;
    rolled_ = Tensor(Space::host, DType::f32, {static_cast<std::int64_t>(slots.size()), chunks, fake_width});
    float* to = rolled_.host<float>();
    for (const std::int64_t s : slots) {
      Slot& slot = at(s);
      slot.coarse = true;
      for (std::int64_t j = 0; j < chunks; ++j, to += fake_width) {
        const auto latent = fake_latent(hash_tokens(slot.tokens), slot.length + j * shape_.chunk);
        std::copy(latent.begin(), latent.end(), to);
      }
      slot.length += num_groups * shape_.group;
      slot.seen.resize(static_cast<std::size_t>(slot.length));
      PHOTON_EXPECT(slot.length <= max_tokens_, "slot is full");
    }
    return rolled_;
  }

  void start_chunks(const ConstTensorView& latents, const ChunkStep& step) override {
    const std::size_t m = step.slots.size();
    log_.max_chunks = std::max(log_.max_chunks, static_cast<std::int64_t>(m));
    StepResult result;
    result.num_tokens = shape_.chunk;
    for (std::size_t i = 0; i < m; ++i) {
      Slot& slot = at(step.slots[i]);
      if (slot.seen.size() < slot.tokens.size()) slot.seen.resize(slot.tokens.size());
      std::copy(slot.tokens.begin(), slot.tokens.end(), slot.seen.begin());
      const auto position = static_cast<std::int64_t>(step.draws[i].key.position);
      std::vector<std::int32_t> tokens;
      for (std::int64_t t = 0; t < shape_.chunk; ++t) {
        std::vector<float> logits(static_cast<std::size_t>(fake_vocab));
        fake_logits(hash_chunk(latents.host<float>() + step.latents[i] * fake_width, tokens), logits.data());
        float logprob = 0;
        tokens.push_back(draw(logits, step.draws[i], t,
                              std::span(slot.seen).first(static_cast<std::size_t>(position + t)), logprob));
        slot.seen[static_cast<std::size_t>(position + t)] = tokens.back();
        if (options_.logprobs) result.logprobs.push_back(logprob);
      }
      result.tokens.insert(result.tokens.end(), tokens.begin(), tokens.end());
    }
    calls_.push_back(std::move(result));
    PHOTON_EXPECT(calls_.size() == 1, "{} calls of chunks under way", calls_.size());
  }
  StepResult take_chunks() override {
    PHOTON_EXPECT(!calls_.empty(), "no call of chunks to take");
    StepResult result = std::move(calls_.front());
    calls_.clear();
    return result;
  }

 protected:
  virtual void group_logits(std::int64_t slot, std::span<const std::int32_t> tokens, float* logits) {
    (void)slot;
    fake_logits(hash_tokens(tokens), logits);
  }

 private:
  struct Slot {
    std::vector<std::int32_t> tokens;  // before the coarse stream took over
    std::vector<std::int32_t> seen;    // by position, chunks included
    std::int64_t length = 0;
    bool coarse = false;
  };

  std::int32_t draw(std::vector<float>& logits, const RowDraw& how, std::int64_t offset,
                    std::span<const std::int32_t> seen, float& logprob) const {
    SampleRow row{how.options, how.key, seen};
    row.key.position += static_cast<std::uint64_t>(offset);
    PHOTON_EXPECT(row.key.position == seen.size(), "a token drawn at {} after {}", row.key.position, seen.size());
    std::int32_t token = failed_token;
    try {
      sample(Context{}, host_view(logits.data(), {1, fake_vocab}), {&row, 1}, host_view(&token, {1}),
             host_view(&logprob, {1}));
    } catch (const InputError&) {
      token = failed_token;
    }
    return token;
  }

  Slot& at(std::int64_t slot) { return slots_.at(static_cast<std::size_t>(slot)); }
  const Slot& at(std::int64_t slot) const { return slots_.at(static_cast<std::size_t>(slot)); }
  static void expect_different(std::span<const std::int64_t> slots) {
    PHOTON_EXPECT(!slots.empty() && std::set(slots.begin(), slots.end()).size() == slots.size(), "slots");
  }
  void record(std::span<const std::int64_t> slots) {
    const auto n = static_cast<std::int64_t>(slots.size());
    ++log_.num_steps;
    log_.num_row_steps += n;
    log_.max_rows = std::max(log_.max_rows, n);
  }

  FakeShape shape_;
  DecoderOptions options_;
  std::int64_t max_tokens_;
  FakeLog& log_;
  std::vector<Slot> slots_;
  std::vector<StepResult> queued_;
  std::vector<StepResult> calls_;
  Tensor rolled_;
};

// A slot of t tokens takes t bytes.
inline DecoderSource fake_source(FakeLog& log, const FakeShape& shape = {}) {
  DecoderSource source;
  source.group_tokens = shape.group;
  source.chunk_tokens = shape.chunk;
  source.slot_bytes = [](std::int64_t max_tokens) { return max_tokens; };
  source.make = [&log, shape](std::int64_t num_slots, std::int64_t max_tokens, const DecoderOptions& options) {
    return std::make_unique<FakeDecoder>(shape, num_slots, max_tokens, options, log);
  };
  return source;
}

}  // namespace photon::testing
