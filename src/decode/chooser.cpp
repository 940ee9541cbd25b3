#include "decode/chooser.hpp"

namespace photon {
namespace {

struct Drawn {
  std::vector<std::int32_t> tokens;
  std::vector<float> logprobs;  // empty unless asked for
  std::vector<std::string> failures;
};

// Draws rows begin .. begin + rows.size() - 1 of `logits`. A row whose logits are not finite fails alone.
Drawn draw_rows(const Context& ctx, const TensorView& logits, std::int64_t begin, std::span<const SampleRow> rows,
                bool logprobs) {
  const auto n = static_cast<std::int64_t>(rows.size());
  Drawn drawn;
  drawn.tokens.assign(rows.size(), 0);
  drawn.failures.assign(rows.size(), "");
  if (logprobs) drawn.logprobs.assign(rows.size(), 0.0F);
  const auto part = [&](std::int64_t first, std::int64_t count) {
    sample(ctx, logits.slice(0, begin + first, count),
           rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
           host_view(drawn.tokens.data() + first, {count}),
           logprobs ? host_view(drawn.logprobs.data() + first, {count}) : TensorView());
  };
  try {
    part(0, n);
  } catch (const InputError&) {
    for (std::int64_t i = 0; i < n; ++i) {
      try {
        part(i, 1);
      } catch (const InputError& error) {
        drawn.failures[static_cast<std::size_t>(i)] = error.what();
      }
    }
  }
  return drawn;
}

}  // namespace

GroupChooser::GroupChooser(const Context& ctx, std::span<Sample* const> samples, std::span<const std::int64_t> lengths,
                           bool logprobs)
    : ctx_(ctx), samples_(samples), lengths_(lengths.begin(), lengths.end()), logprobs_(logprobs) {}

bool GroupChooser::draws(std::size_t row, std::int64_t offset) const {
  const Sample& sample = *samples_[row];
  return !sample.finished() && lengths_[row] + offset >= sample.prompt_length();
}

bool GroupChooser::needs_logits(std::int64_t offset) {
  for (std::size_t row = 0; row < samples_.size(); ++row) {
    if (draws(row, offset)) return true;
  }
  return false;
}

void GroupChooser::choose(std::int64_t offset, const TensorView& logits, std::span<std::int32_t> tokens) {
  const std::size_t n = samples_.size();
  PHOTON_EXPECT(tokens.size() == n, "{} tokens for {} rows", tokens.size(), n);
  std::vector<SampleRow> rows;
  for (std::size_t row = 0; row < n;) {
    if (!draws(row, offset)) {
      const std::int64_t position = lengths_[row] + offset;
      const Sample& sample = *samples_[row];
      // What follows a finished row's end is never read: any token will do.
      tokens[row] = position < sample.length() ? sample.sequence()[static_cast<std::size_t>(position)] : 0;
      ++row;
      continue;
    }
    // The kernel takes whole runs of rows.
    rows.clear();
    std::size_t end = row;
    for (; end < n && draws(end, offset); ++end) rows.push_back(samples_[end]->draw(lengths_[end] + offset));
    const Drawn drawn = draw_rows(ctx_, logits, static_cast<std::int64_t>(row), rows, logprobs_);
    for (std::size_t i = 0; row < end; ++row, ++i) {
      tokens[row] = drawn.tokens[i];
      if (!drawn.failures[i].empty()) {
        samples_[row]->fail(drawn.failures[i]);
      } else {
        samples_[row]->accept(drawn.tokens[i], logprobs_ ? drawn.logprobs[i] : 0.0F, logprobs_);
      }
    }
  }
}

ChunkChooser::ChunkChooser(const Context& ctx, std::span<Chunk> chunks, bool logprobs)
    : ctx_(ctx), chunks_(chunks), logprobs_(logprobs) {}

void ChunkChooser::choose(std::int64_t offset, const TensorView& logits, std::span<std::int32_t> tokens) {
  PHOTON_EXPECT(tokens.size() == chunks_.size(), "{} tokens for {} chunks", tokens.size(), chunks_.size());
  std::vector<SampleRow> rows;
  rows.reserve(chunks_.size());
  for (const Chunk& chunk : chunks_) rows.push_back(chunk.sample->draw(chunk.position + offset));
  const Drawn drawn = draw_rows(ctx_, logits, 0, rows, logprobs_);
  for (std::size_t i = 0; i < chunks_.size(); ++i) {
    Chunk& chunk = chunks_[i];
    tokens[i] = drawn.tokens[i];
    const float logprob = logprobs_ ? drawn.logprobs[i] : 0.0F;
    if (chunk.in_order) {
      if (!drawn.failures[i].empty() && !chunk.sample->finished()) chunk.sample->fail(drawn.failures[i]);
      chunk.sample->accept(drawn.tokens[i], logprob, logprobs_);
    } else {
      if (chunk.failure.empty()) chunk.failure = drawn.failures[i];
      if (chunk.failure.empty()) {
        chunk.tokens.push_back(drawn.tokens[i]);
        chunk.logprobs.push_back(logprob);
      }
    }
  }
}

}  // namespace photon
