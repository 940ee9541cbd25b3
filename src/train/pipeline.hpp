// What one rank of a pipeline holds and does: its layers of the model, the microbatches under way, and the messages to
// and from the other stages.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "config/run_config.hpp"
#include "model/model_part.hpp"
#include "partition/plan.hpp"
#include "partition/schedule.hpp"

namespace photon {

class PipelineRank {
 public:
  // Collective: makes a communicator; `all` outlives this object and has the plan's ranks. On a device, tensors lie and
  // messages travel there, in the order of the context's stream: nothing below waits for another rank.
  PipelineRank(const RunConfig& config, const Plan& plan, Communicator& all, std::int32_t start_token,
               const Context& ctx = {}, DType dtype = DType::f32);

  Parameters& parameters() { return parameters_; }
  const std::vector<ParameterSpec>& specs() const { return parameters_.specs(); }

  // The microbatches of the step that begins: batch_of(i) stays valid until finish().
  using BatchOf = std::function<Batch(std::int64_t)>;
  void begin_step(BatchOf batch_of);
  // As Model::gather_losses_in(), for backward().
  void gather_losses_in(const TensorView& sums) { gathered_losses_ = sums; }
  void forward(const Context& ctx, std::int64_t microbatch);
  // Adds to `gradients`, which are laid out as parameters(); microbatch 0 behind begin_gradients(). Sums of the losses
  // that this rank computes. `module`: what is hosted of that one alone, modules in descending order; -1: all.
  LossSums backward(const Context& ctx, std::int64_t microbatch, const LossScales& scales, const RecLossOptions& rec,
                    Parameters& gradients, std::int64_t module = -1);
  // What a split backward left of a microbatch whose input part, backward(), is done. `module`: as there, in any order.
  void backward_weights(const Context& ctx, std::int64_t microbatch, Parameters& gradients, std::int64_t module = -1);
  void send(const Instruction& instruction);
  void receive(const Context& ctx, const Instruction& instruction);
  // Waits until everything that was sent has arrived.
  void finish();
  // As Model::weights_changed().
  void weights_changed(const Context& ctx) { part_->weights_changed(ctx); }
  // Forward and losses of one batch of at most the plan's microbatch size; every rank of the replica calls it.
  LossSums evaluate(const Context& ctx, const Batch& batch, const RecLossOptions& rec);

  // The most memory that activations, and gradients on their way in, have taken so far, bytes.
  std::int64_t activation_peak() const;

  // Collective: all weights on rank 0, which gets those of other stages in memory set aside when it was
  // made; null on other ranks.
  const Parameters* gather_weights();

 private:
  // A microbatch between the first message of its forward and the last of its backward.
  struct Flight {
    std::int64_t microbatch = -1;
    std::int64_t sequences = 0;
    std::int64_t groups_per_sequence = 0;
    GroupRange groups;
    Arena arena;
    std::optional<StagePass> pass;  // empty for a rank without groups (a small batch in evaluation)
    bool backward_begun = false;
    std::vector<Sending> sendings;
  };
  Flight& flight(const Context& ctx, std::int64_t microbatch);
  void begin_backward(const Context& ctx, Flight& flight);
  LossSums no_sums() const;
  TensorView tensor_of(const StagePass& pass, const Boundary& tensor) const;
  // The rows of a boundary tensor that this rank and `peer` share; empty where there are none.
  TensorView shared_rows(const Flight& flight, const Boundary& tensor, std::int64_t peer) const;
  static int tag_of(const Instruction& instruction);

  ModelConfig config_;
  Plan plan_;
  std::int64_t rank_;
  RankRole role_;
  Space space_;
  Stream stream_;
  Communicator& all_;
  Communicator messages_;  // the same ranks
  Parameters parameters_;
  std::unique_ptr<ModelPart> part_;
  std::optional<Parameters> gathered_;  // rank 0
  TensorView gathered_losses_;
  BatchOf batch_of_;
  std::vector<Flight> flights_;
  Tensor received_;  // gradients on their way into dX(l)
};

}  // namespace photon
