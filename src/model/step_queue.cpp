#include "model/step_queue.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace photon {
namespace {

constexpr std::int64_t draw_bytes = sizeof(DrawRow);
constexpr std::int64_t int_bytes = sizeof(std::int32_t);

}  // namespace

void run_recorded(const Context& ctx, std::int64_t& num_runs, Graph& graph, const std::function<void()>& body) {
  if (num_runs++ == 0) return body();
  if (!graph) graph = Graph::record(ctx.stream, body);
  graph.launch(ctx.stream);
}

StepQueue::StepQueue(const Context& ctx, std::int64_t tokens, std::int64_t num_indices, const DecoderOptions& options)
    : ctx_(ctx), tokens_(tokens), num_indices_(num_indices), options_(options) {
  if (on_device()) {
    done_.emplace_back();
    done_.emplace_back();
  }
}

StepQueue::~StepQueue() = default;

std::int64_t padded_rows(Space space, std::int64_t n) {
  if (space == Space::host || n <= 8) return n;
  const auto unit = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(n))) / 16;
  return (n + unit - 1) / unit * unit;
}

std::int64_t StepQueue::input_bytes(std::int64_t rows) const {
  return rows * (draw_bytes + int_bytes * (num_indices_ + tokens_));
}

std::int64_t StepQueue::output_bytes(std::int64_t rows) const {
  return rows * tokens_ * int_bytes * ((options_.logprobs ? 2 : 1) + 2 * options_.top_logprobs);
}

void StepQueue::forget_graphs() {
  recorded_.clear();
}

void StepQueue::reserve(std::int64_t rows) {
  if (rows <= capacity_) return;
  if (on_device()) device::synchronize(ctx_.stream);
  PHOTON_EXPECT(pending_.empty(), "a larger step while {} wait for their results", pending_.size());
  forget_graphs();
  blocks_.clear();
  capacity_ = rows;
  inputs_ = Tensor(ctx_.space, DType::u8, {input_bytes(rows)}, "a step's input");
  outputs_ = Tensor(ctx_.space, DType::u8, {output_bytes(rows)}, "a step's results");
  if (on_device()) {
    for (PinnedBuffer& buffer : results_) buffer = PinnedBuffer(output_bytes(rows), "a step's results");
  }
}

const StepBlock& StepQueue::block_of(std::int64_t rows) {
  const auto found = blocks_.find(rows);
  if (found != blocks_.end()) return found->second;
  StepBlock& block = blocks_[rows];
  block.rows = rows;
  auto* input = static_cast<std::uint8_t*>(inputs_.view().data());
  block.draws = TensorView(input, DType::u8, ctx_.space, {rows * draw_bytes});
  input += rows * draw_bytes;
  const auto ints = [&](std::uint8_t*& at, DType dtype) {
    const TensorView view(at, dtype, ctx_.space, {rows});
    at += rows * int_bytes;
    return view;
  };
  for (std::int64_t i = 0; i < num_indices_; ++i) block.indices.push_back(ints(input, DType::i32));
  for (std::int64_t t = 0; t < tokens_; ++t) block.forced.push_back(ints(input, DType::i32));
  auto* output = static_cast<std::uint8_t*>(outputs_.view().data());
  for (std::int64_t t = 0; t < tokens_; ++t) block.chosen.push_back(ints(output, DType::i32));
  for (std::int64_t t = 0; t < tokens_; ++t)
    block.logprobs.push_back(options_.logprobs ? ints(output, DType::f32) : TensorView());
  const std::int64_t top = options_.top_logprobs;
  const auto tops = [&](DType dtype) {
    if (top == 0) return TensorView();
    const TensorView view(output, dtype, ctx_.space, {rows, top});
    output += rows * top * int_bytes;
    return view;
  };
  for (std::int64_t t = 0; t < tokens_; ++t) block.top_tokens.push_back(tops(DType::i32));
  for (std::int64_t t = 0; t < tokens_; ++t) block.top_logprobs.push_back(tops(DType::f32));
  block.needs_logits.assign(static_cast<std::size_t>(tokens_), true);
  return block;
}

// Returns the padded rows.
std::int64_t StepQueue::queue(const StepInput& input, bool record, const std::function<void(const StepBlock&)>& body) {
  const auto n = static_cast<std::int64_t>(input.draws.size());
  const std::int64_t rows = padded(n);
  reserve(rows);
  packed_.resize(static_cast<std::size_t>(input_bytes(rows)));
  auto* const draws = reinterpret_cast<DrawRow*>(packed_.data());
  std::copy(input.draws.begin(), input.draws.end(), draws);
  std::fill(draws + n, draws + rows, input.padding_draw);
  auto* at = reinterpret_cast<std::int32_t*>(packed_.data() + rows * draw_bytes);
  for (std::size_t i = 0; i < input.indices.size(); ++i, at += rows) {
    std::copy(input.indices[i].begin(), input.indices[i].end(), at);
    std::fill(at + n, at + rows, input.padding[i]);
  }
  std::vector<bool> needed(static_cast<std::size_t>(tokens_), on_device());
  for (std::int64_t t = 0; t < tokens_; ++t, at += rows) {
    for (std::int64_t r = 0; r < n; ++r) {
      at[r] = input.forced[static_cast<std::size_t>(r * tokens_ + t)];
      if (at[r] == draw_token) needed[static_cast<std::size_t>(t)] = true;
    }
    std::fill(at + n, at + rows, 0);
  }
  const ConstTensorView from = host_view(packed_.data(), {input_bytes(rows)});
  copy(ctx_.stream, from, inputs_.view().slice(0, 0, input_bytes(rows)));

  const StepBlock& block = block_of(rows);
  if (!on_device()) {
    StepBlock exact = block;
    exact.needs_logits = needed;
    body(exact);
  } else if (record && options_.graphs) {
    Recorded& recorded = recorded_[rows];
    run_recorded(ctx_, recorded.num_runs, recorded.graph, [&] { body(block); });
  } else {
    body(block);
  }
  return rows;
}

ConstTensorView StepQueue::run_in_place(const StepInput& input, bool record,
                                        const std::function<void(const StepBlock&)>& body) {
  const std::int64_t rows = queue(input, record, body);
  return outputs_.view().slice(0, 0, output_bytes(rows));
}

void StepQueue::run(const StepInput& input, bool record, const std::function<void(const StepBlock&)>& body) {
  PHOTON_EXPECT(pending_.size() < results_.size(), "{} steps wait for their results to be taken", pending_.size());
  const std::int64_t rows = queue(input, record, body);
  const std::size_t buffer = next_buffer_;
  next_buffer_ = (next_buffer_ + 1) % results_.size();
  if (on_device()) {
    queue_read(ctx_.stream, outputs_.view().slice(0, 0, output_bytes(rows)), results_[buffer].data());
    done_[buffer].record(ctx_.stream);
  }
  pending_.push_back({static_cast<std::int64_t>(input.draws.size()), rows, buffer});
}

bool StepQueue::ready() const {
  return !pending_.empty() && (!on_device() || done_[pending_.front().buffer].reached());
}

StepResult StepQueue::take() {
  StepResult result;
  result.num_tokens = tokens_;
  if (pending_.empty()) return result;
  const Pending step = pending_.front();
  pending_.pop_front();
  if (on_device()) done_[step.buffer].wait();
  const void* const data = on_device() ? results_[step.buffer].data() : outputs_.view().data();
  const auto* const tokens = static_cast<const std::int32_t*>(data);
  const auto* const logprobs = static_cast<const float*>(data) + step.rows * tokens_;
  const std::int64_t top = options_.top_logprobs;
  const auto* const top_tokens = tokens + step.rows * tokens_ * (options_.logprobs ? 2 : 1);
  const auto* const top_logprobs = reinterpret_cast<const float*>(top_tokens + step.rows * tokens_ * top);
  result.num_top = top;
  for (std::int64_t r = 0; r < step.num_rows; ++r) {
    for (std::int64_t t = 0; t < tokens_; ++t) {
      result.tokens.push_back(tokens[t * step.rows + r]);
      if (options_.logprobs) result.logprobs.push_back(logprobs[t * step.rows + r]);
      for (std::int64_t i = (t * step.rows + r) * top; i < (t * step.rows + r + 1) * top; ++i) {
        result.top_tokens.push_back(top_tokens[i]);
        result.top_logprobs.push_back(top_logprobs[i]);
      }
    }
  }
  return result;
}

}  // namespace photon
