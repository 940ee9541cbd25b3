// A training run: carries out the schedule on a model, keeps the run folder, and survives being stopped at any instant.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "checkpoint/checkpoint.hpp"
#include "comm/stop_signal.hpp"
#include "comm/world.hpp"
#include "config/run_config.hpp"
#include "model/compute.hpp"
#include "model/model.hpp"
#include "partition/plan.hpp"
#include "partition/schedule.hpp"
#include "train/adamw_optimizer.hpp"
#include "train/background_save.hpp"
#include "train/console.hpp"
#include "train/gradient_sums.hpp"
#include "train/loss_totals.hpp"
#include "train/memory_plan.hpp"
#include "train/metrics.hpp"
#include "train/owned_pieces.hpp"
#include "train/pipeline.hpp"
#include "train/run_folder.hpp"
#include "train/run_trace.hpp"
#include "train/sequences.hpp"
#include "train/spike_guard.hpp"
#include "train/state_staging.hpp"
#include "train/step_clock.hpp"
#include "train/stored_products.hpp"

namespace photon {

struct TrainOptions {
  std::filesystem::path run;         // the run folder
  std::filesystem::path init_from;   // weights to start from (any form of --model); empty: fresh ones by train.seed
  bool fresh = false;                // set an existing run folder aside instead of continuing it
  std::filesystem::path trace = {};  // where to write a trace; empty: none
  std::optional<StepRange> trace_steps = {};  // by default three after the first one of this start
  bool check = false;                         // look at everything, print what it takes, and change nothing
  double time_limit = 0;                      // seconds after which the run stops as by a signal; 0: none
};

using ModelFactory = std::function<std::unique_ptr<Model>(const ModelConfig&, Space, std::int32_t start_token, DType)>;

class Trainer {
 public:
  // The world outlives the trainer. `factory` makes the model, make_model by default.
  Trainer(World& world, RunConfig config, TrainOptions options, ModelFactory factory = make_model);

  // Trains from where the run folder stands to train.steps. Collective. Errors: InputError for what the user can
  // change; Preempted after a signal, with the state saved; Error when steps fail or the last one cannot be saved.
  void run();

 private:
  using Clock = std::chrono::steady_clock;

  // What one step carries from instruction to instruction.
  struct Step {
    Step(std::int64_t step, const ModelConfig& model) : number(step), totals(model) {}

    std::int64_t number;
    LossScales scales;
    LossTotals totals;
    StepRecord record;
    bool finite = false;
    bool spike = false;
    bool recorded = false;
    double gradient_scale = 1;
    Clock::time_point begin = Clock::now();
  };

  void check();  // instead of training, TrainOptions::check

  // Set-up, in this order.
  void open_folder();
  void adopt_stored_config();
  void open_data();
  struct Sizes {
    MemoryPlan memory;           // of this rank
    std::int64_t available = 0;  // bytes, on every rank
  };
  Sizes plan_layout();  // and says what it takes; refuses what does not fit
  void make_buffers(const Sizes& sizes);
  // Makes plan_ by parallel.recompute, or of `none` and `layers` the first that fits on every rank (collective then);
  // returns this rank's memory.
  MemoryPlan choose_plan(std::int64_t available_bytes);
  // Then lets it split the backward, where parallel.split_backward leaves that open, it is predicted to be faster and
  // fits every rank (collective then); returns this rank's memory, `memory` where plan_ stays.
  MemoryPlan choose_split(const MemoryPlan& memory, std::int64_t available_bytes);
  MemoryPlan make_plan_with(const ParallelConfig& parallel, std::int64_t available_bytes);
  void restore_or_initialize();
  void initialize_weights();
  LoadedModel model_to_start_from() const;  // --init-from
  void find_peak();                         // of the GPUs, for MFU
  void record_start();                      // in logs/starts.jsonl; and prepares the trace

  Parameters& weights() { return pipeline_ ? pipeline_->parameters() : model_->parameters(); }

  bool out_of_time() const;
  bool asked_to_stop() const { return StopSignal::received() != 0 || out_of_time(); }
  // Whether any rank was asked to stop; the answer is common to all. Takes a save that is under way a part further.
  bool stop_agreed();
  void wait_for_sums();
  bool evaluation_due(std::int64_t step) const;
  bool save_due(std::int64_t step) const;

  void run_step();
  void execute(const Instruction& instruction, Step& step);
  Batch microbatch(std::int64_t index) const;
  void backward(const Instruction& instruction, Step& step);
  void reduce(Step& step);  // the sums of losses
  void clip(Step& step);
  void update(Step& step);
  void finish_record(Step& step);
  void store_products();
  std::optional<ValidationResult> evaluate();
  void complete_evaluation();
  // What this rank stores of a checkpoint: ranks that hold the same tensors share them out.
  std::vector<TensorPiece> pieces_to_save();
  // Where checkpoints are read from and written to: the buffers themselves, or their copies in host memory.
  Parameters& stored_weights() { return staging_ ? staging_->weights() : weights(); }
  Parameters& stored_mean() { return staging_ ? staging_->mean() : optimizer_->mean(); }
  Parameters& stored_variance() { return staging_ ? staging_->variance() : optimizer_->variance(); }
  // Begins to save the state: copies it, and has the copy written beside the training that goes on. Without room for
  // copies it is done when this returns.
  void save();
  // Waits for a save that was begun. saved_step_ then is the newest step on disk.
  void finish_save();
  void end_save(const BackgroundSave::Outcome& outcome);
  [[noreturn]] void preempt();

  World& world_;
  RunConfig config_;
  TrainOptions options_;
  ModelFactory factory_;
  RunFolder folder_;
  StopSignal signals_;
  TrainPlace place_;
  std::unique_ptr<Compute> compute_;
  Context ctx_;  // of compute_

  std::unique_ptr<RunLock> lock_;
  std::unique_ptr<TrainingData> data_;
  std::unique_ptr<ValidationData> validation_;
  Plan plan_;
  std::unique_ptr<Model> model_;            // the whole model, or
  std::unique_ptr<PipelineRank> pipeline_;  // this rank's part of it
  std::unique_ptr<Parameters> gradients_;
  std::unique_ptr<GatheredLosses> losses_;  // of a step's microbatches on this rank
  std::unique_ptr<GradientSums> sums_;
  StoredProducts products_;
  std::vector<OwnedPiece> owned_;  // what this rank answers for of the tensors that several hold
  std::unique_ptr<AdamWOptimizer> optimizer_;
  std::unique_ptr<StateStaging> staging_;   // on a GPU, and where there is room for copies
  std::unique_ptr<BackgroundSave> saving_;  // after staging_: a save that reads it ends first
  std::unique_ptr<MetricsFile> metrics_;    // rank 0 only
  bool gathering_ = false;                  // shares of the weights are on their way
  std::unique_ptr<Console> console_;
  StepClock clock_;
  std::unique_ptr<RunTrace> trace_;  // where one is asked for
  Sequences sequences_;              // this replica's part of the step's batch

  TrainState state_;
  std::int64_t bad_in_row_ = 0;
  SpikeGuard spikes_;
  double peak_flops_ = 0;  // of all ranks' GPUs, a second; 0: not known
  Clock::time_point started_ = Clock::now();
  std::int64_t saved_step_ = -1;  // the newest step whose state is on disk
  std::int64_t forwarded_ = -1;   // microbatch whose forward was asked for, whose backward is not done
  bool stopping_ = false;
};

}  // namespace photon
