// How macro-steps reach the device: what a step must know of its rows is packed and sent in one copy, the step's ops
// are recorded once for each number of rows and replayed, and results come back while the host goes on. On the host a
// step simply runs.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "model/incremental.hpp"
#include "tensor/graph.hpp"

namespace photon {

// A step's rows as its ops see them, in fixed places for each number of rows.
struct StepBlock {
  std::int64_t rows = 0;                 // padded ones included
  std::vector<TensorView> indices;       // [rows] i32 each
  std::vector<TensorView> forced;        // [rows] i32 for each token of a row
  TensorView draws;                      // [rows * sizeof(DrawRow)] u8
  std::vector<TensorView> chosen;        // [rows] i32 for each token
  std::vector<TensorView> logprobs;      // [rows] f32 for each token; empty views unless asked for
  std::vector<TensorView> top_tokens;    // [rows, N] i32 for each token; the same
  std::vector<TensorView> top_logprobs;  // [rows, N] f32
  std::vector<bool> needs_logits;        // for each token: whether any row may draw it
};

// One step's input. Vectors hold one value a row; those of padding rows are made from the last element of each index.
struct StepInput {
  std::vector<std::vector<std::int32_t>> indices;
  std::vector<std::int32_t> padding;  // what padding rows have for each index
  std::vector<std::int32_t> forced;   // [n, tokens]
  std::vector<DrawRow> draws;         // n
  DrawRow padding_draw;
};

// The number of rows that a step of n is padded to: on a device there are few different ones, since each has a graph.
std::int64_t padded_rows(Space space, std::int64_t n);

class StepQueue {
 public:
  // Steps of `tokens` tokens a row with `num_indices` indices.
  StepQueue(const Context& ctx, std::int64_t tokens, std::int64_t num_indices, const DecoderOptions& options);
  ~StepQueue();

  std::int64_t padded(std::int64_t n) const { return padded_rows(ctx_.space, n); }
  // Room for steps of up to `rows` (padded) rows. Graphs are forgotten when it grows.
  void reserve(std::int64_t rows);
  // After anything that moves what the steps use.
  void forget_graphs();

  // Queues a step; `record` false: it is not recorded.
  void run(const StepInput& input, bool record, const std::function<void(const StepBlock&)>& body);
  // The same, but the results stay where the step leaves them until the next one: as u8 [tokens, padded rows] i32, and
  // behind them as many logprobs, f32, if asked for.
  ConstTensorView run_in_place(const StepInput& input, bool record, const std::function<void(const StepBlock&)>& body);
  // Whether the oldest step's result is there; false when none is queued.
  bool ready() const;
  // Waits for the oldest step's result; empty when none is queued.
  StepResult take();

 private:
  struct Pending {
    std::int64_t num_rows = 0;  // without padding
    std::int64_t rows = 0;
    std::size_t buffer = 0;
  };
  struct Recorded {
    std::int64_t num_runs = 0;
    Graph graph;
  };

  const StepBlock& block_of(std::int64_t rows);
  std::int64_t queue(const StepInput& input, bool record, const std::function<void(const StepBlock&)>& body);
  std::int64_t input_bytes(std::int64_t rows) const;
  std::int64_t output_bytes(std::int64_t rows) const;
  bool on_device() const { return ctx_.space == Space::device; }

  Context ctx_;
  std::int64_t tokens_;
  std::int64_t num_indices_;
  DecoderOptions options_;
  std::int64_t capacity_ = 0;  // rows
  Tensor inputs_;
  Tensor outputs_;
  std::vector<std::uint8_t> packed_;
  std::map<std::int64_t, StepBlock> blocks_;  // by rows
  std::map<std::int64_t, Recorded> recorded_;
  // Results of up to two steps on their way to the host.
  std::array<PinnedBuffer, 2> results_;
  std::vector<Event> done_;
  std::deque<Pending> pending_;
  std::size_t next_buffer_ = 0;
};

// The recorded or plain run of `body`: the first run of a graph is a plain one, which lets ops choose their algorithms.
void run_recorded(const Context& ctx, std::int64_t& num_runs, Graph& graph, const std::function<void()>& body);

}  // namespace photon
