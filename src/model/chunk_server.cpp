#include "model/chunk_server.hpp"

#include <algorithm>
#include <utility>

#include "model/photon_model.hpp"

namespace photon {
namespace {

// A step's indices.
constexpr std::size_t slot_index = 0;
constexpr std::size_t position_index = 1;
constexpr std::size_t num_indices = 2;

}  // namespace

ChunkRows ChunkRows::part(std::int64_t begin, std::int64_t end) const {
  ChunkRows some;
  some.num_tokens = num_tokens;
  some.capacity = capacity;
  some.logprobs = logprobs;
  some.direct = direct;
  some.top_logprobs = top_logprobs;
  some.draws.assign(draws.begin() + begin, draws.begin() + end);
  some.forced.assign(forced.begin() + begin * num_tokens, forced.begin() + end * num_tokens);
  const std::int64_t first = before_begin[static_cast<std::size_t>(begin)];
  const std::int64_t last = before_begin[static_cast<std::size_t>(end)];
  for (std::int64_t i = begin; i <= end; ++i)
    some.before_begin.push_back(before_begin[static_cast<std::size_t>(i)] - first);
  some.before.assign(before.begin() + first, before.begin() + last);
  return some;
}

std::int64_t ChunkLink::answer_bytes(std::int64_t) const {
  PHOTON_EXPECT(false, "tokens come through the host here");
}
std::vector<ChunkPart> ChunkLink::receive_into(std::int64_t, const TensorView&) {
  PHOTON_EXPECT(false, "tokens come through the host here");
}
void ChunkLink::wait_until(const std::function<bool()>&) {
  PHOTON_EXPECT(false, "tokens come through the host here");
}

ChunkServer::ChunkServer(const ModelConfig& config, const PhotonTensors& weights, DType dtype, const Context& ctx)
    : ctx_(ctx),
      dtype_(dtype),
      width_(config.width(1)),
      chunk_tokens_(config.cumulative_chunk(1)),
      lookback_(config.lookback),
      chunk_(config, weights, ctx, dtype) {}

void ChunkServer::forget_graphs() {
  for (Cohort& c : cohorts_) {
    if (c.steps) c.steps->forget_graphs();
  }
}

std::int64_t ChunkServer::cache_bytes() const {
  std::int64_t bytes = chunk_.cache_bytes();
  for (const Cohort& c : cohorts_) {
    if (c.history.view()) bytes += c.history.view().bytes() + c.latents.view().bytes();
  }
  return bytes;
}

void ChunkServer::open(std::int64_t number, ChunkRows rows) {
  PHOTON_EXPECT(number >= 0 && number < 64, "cohort {}", number);
  PHOTON_EXPECT(rows.size() > 0 && rows.num_tokens > 0 && rows.num_tokens % chunk_tokens_ == 0 &&
                    static_cast<std::int64_t>(rows.forced.size()) == rows.size() * rows.num_tokens &&
                    static_cast<std::int64_t>(rows.before_begin.size()) == rows.size() + 1 &&
                    rows.before_begin.back() == static_cast<std::int64_t>(rows.before.size()),
                "a step of {} rows with {} tokens each, {} given and {} before", rows.size(), rows.num_tokens,
                rows.forced.size(), rows.before.size());
  if (static_cast<std::size_t>(number) >= cohorts_.size()) cohorts_.resize(static_cast<std::size_t>(number) + 1);
  Cohort& c = cohort(number);
  if (!c.steps || c.logprobs != rows.logprobs || c.top_logprobs != rows.top_logprobs) {
    c.logprobs = rows.logprobs;
    c.top_logprobs = rows.top_logprobs;
    c.steps = std::make_unique<StepQueue>(ctx_, chunk_tokens_, static_cast<std::int64_t>(num_indices),
                                          DecoderOptions{.logprobs = rows.logprobs, .top_logprobs = rows.top_logprobs});
  }
  const std::int64_t padded = c.steps->padded(rows.size());
  const bool fresh = !c.history.view();
  const bool small = fresh || c.latents.shape()[0] < padded || c.history.shape()[1] < rows.capacity;
  const bool new_arena = arena_.capacity() < chunk_.call_bytes(padded);
  if ((small || new_arena) && on_device()) device::synchronize(ctx_.stream);
  if (small) {
    const std::int64_t most = std::max(padded, fresh ? 0 : c.latents.shape()[0]);
    const std::int64_t capacity = std::max(rows.capacity, fresh ? 0 : c.history.shape()[1]);
    c.latents = Tensor(ctx_.space, dtype_, {most, width_}, "chunks' latents");
    c.history = Tensor(ctx_.space, DType::i32, {most + 1, capacity}, "tokens of the rows");
    c.steps->forget_graphs();
  }
  ensure_arena(arena_, ctx_.space, std::max(arena_.capacity(), chunk_.call_bytes(padded)), "decoding chunks");
  if (chunk_.reserve(padded) || new_arena) forget_graphs();
  for (std::int64_t i = 0; i < rows.size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const std::int64_t position = rows.draws[at].position;
    const std::int64_t count = rows.before_begin[at + 1] - rows.before_begin[at];
    PHOTON_EXPECT(position >= count && position + rows.num_tokens <= rows.capacity &&
                      (count == position || (rows.draws[at].repetition_penalty == 1.0 && count >= lookback_)),
                  "row {} at position {} of {} with {} tokens before", i, position, rows.capacity, count);
    if (count == 0) continue;
    copy(ctx_.stream, host_view(rows.before.data() + rows.before_begin[at], {count}),
         c.history.view().slice(0, i, 1).merge(0).slice(0, position - count, count));
  }
  c.rows = std::move(rows);
}

TensorView ChunkServer::latents(std::int64_t number) {
  Cohort& c = cohort(number);
  return c.latents.view().slice(0, 0, c.rows.size());
}

StepInput ChunkServer::input_of(const Cohort& c, std::int64_t offset) const {
  const std::int64_t n = c.rows.size();
  PHOTON_EXPECT(offset >= 0 && offset % chunk_tokens_ == 0 && offset + chunk_tokens_ <= c.rows.num_tokens,
                "a chunk at {} of {} tokens", offset, c.rows.num_tokens);
  const auto spare = static_cast<std::int32_t>(c.history.shape()[0] - 1);
  StepInput input;
  input.indices.resize(num_indices);
  input.padding = {spare, 0};
  input.padding_draw.slot = spare;
  for (std::int64_t i = 0; i < n; ++i) {
    DrawRow draw = c.rows.draws[static_cast<std::size_t>(i)];
    draw.position += offset;
    draw.slot = i;
    input.indices[slot_index].push_back(static_cast<std::int32_t>(i));
    input.indices[position_index].push_back(static_cast<std::int32_t>(draw.position));
    input.draws.push_back(draw);
    const auto begin = c.rows.forced.begin() + i * c.rows.num_tokens + offset;
    input.forced.insert(input.forced.end(), begin, begin + chunk_tokens_);
  }
  return input;
}

void ChunkServer::decode(const Cohort& c, const StepBlock& block) {
  ChunkCall call;
  call.history = c.history;
  call.slot = block.indices[slot_index];
  call.position = block.indices[position_index];
  chunk_.decode(arena_, block, c.latents.view().slice(0, 0, block.rows), call, {});
}

void ChunkServer::start(std::int64_t number, std::int64_t offset) {
  Cohort& c = cohort(number);
  c.steps->run(input_of(c, offset), true, [&](const StepBlock& block) { decode(c, block); });
}

StepResult ChunkServer::take(std::int64_t number) {
  return cohort(number).steps->take();
}

ConstTensorView ChunkServer::start_in_place(std::int64_t number, std::int64_t offset) {
  Cohort& c = cohort(number);
  return c.steps->run_in_place(input_of(c, offset), true, [&](const StepBlock& block) { decode(c, block); });
}

}  // namespace photon
