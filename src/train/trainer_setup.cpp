// What a trainer does before its first step.
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "partition/cluster.hpp"
#include "partition/search.hpp"
#include "storage/publish.hpp"
#include "support/log.hpp"
#include "train/device_peak.hpp"
#include "train/gather_bytes.hpp"
#include "train/memory_plan.hpp"
#include "train/start_record.hpp"
#include "train/trainer.hpp"

namespace photon {

void Trainer::open_folder() {
  if (world_.rank() == 0) {
    if (options_.fresh) {
      if (const auto old = folder_.set_aside()) log_info("the run that was there is now {}", old->string());
    }
    folder_.create();
    lock_ = std::make_unique<RunLock>(folder_);
  }
  world_.all().barrier();
  log_to_file(folder_.log_file(world_.rank()).string());
  world_.keep_operations(folder_.operations_file(world_.rank()).string());
}

void Trainer::adopt_stored_config() {
  const std::optional<RunConfig> stored = folder_.stored_config();
  const bool continues = stored && !list_checkpoints(folder_.root()).empty();
  world_.all().barrier();  // every rank has read what rank 0 will replace
  if (!continues) return;
  // The data names the tokenizer when the configuration does not; the stored one has it resolved.
  if (config_.model.tokenizer.empty()) config_.model.tokenizer = stored->model.tokenizer;
  if (!same_model(stored->model, config_.model)) {
    std::string changes;
    for (const std::string& change : changed_keys(*stored, config_)) {
      if (change.starts_with("model.")) changes += (changes.empty() ? "" : ", ") + change;
    }
    throw InputError(fmt::format("{} holds a run of another model", folder_.root().string()), changes,
                     "give the model it was started with, choose another folder with --run, or --fresh to start over");
  }
  // A chosen microbatch size stays, so that the run goes on bit for bit where other memory is free.
  const std::int64_t replicas = std::max<std::int64_t>(world_.size() / ranks_per_replica(config_.parallel), 1);
  if (config_.parallel.microbatch_size == 0 && stored->train.batch_size == config_.train.batch_size &&
      stored->train.sequence_length == config_.train.sequence_length &&
      stored->parallel.stages == config_.parallel.stages && stored->parallel.shards == config_.parallel.shards &&
      (config_.train.batch_size / replicas) % std::max<std::int64_t>(stored->parallel.microbatch_size, 1) == 0) {
    config_.parallel.microbatch_size = stored->parallel.microbatch_size;
  }
  for (const std::string& change : changed_keys(*stored, config_)) {
    log_warning("the configuration changed since the run was started: {}", change);
  }
}

void Trainer::open_data() {
  data_ = std::make_unique<TrainingData>(config_);
  config_.model.tokenizer = data_->tokenizer();
  if (!config_.data.val.empty()) validation_ = std::make_unique<ValidationData>(config_, data_->tokenizer_hash());
}

MemoryPlan Trainer::make_plan_with(const ParallelConfig& parallel, std::int64_t available_bytes) {
  RunConfig config = config_;
  config.parallel = parallel;
  const std::vector<StagePlan> layout = cut_stages(config);
  const auto arena = [&](std::int64_t sequences) {
    std::int64_t most = 0;
    for (std::int64_t stage = 0; stage < config.parallel.stages; ++stage) {
      const bool splits = config.parallel.split_backward == SplitBackward::on;
      const std::int64_t in_flight = config.parallel.stages - (splits ? 0 : stage);
      most = std::max(most, plan_memory(config, layout, stage, in_flight, sequences, place_).arena);
    }
    return most;
  };
  plan_ = make_plan(config, world_.size(), arena_budget(config, available_bytes, place_), arena);
  const RankRole& role = plan_.role(world_.rank());
  MemoryPlan memory = plan_memory(config, layout, role.stage, plan_.max_in_flight(role.stage, plan_.num_microbatches()),
                                  plan_.microbatch_size, place_);
  if (plan_.zero) {
    const std::vector<ParameterSpec> specs = hosted_parameters(config.model, plan_.stage_of(world_.rank()).layers);
    memory.optimizer = 2 * 4 * num_owned(specs, owned_ranges(buckets_of(config.model, plan_, world_.rank(), specs)));
  }
  return memory;
}

MemoryPlan Trainer::choose_plan(std::int64_t available_bytes) {
  ParallelConfig parallel = config_.parallel;
  const bool splits = parallel.split_backward == SplitBackward::on;  // which excludes recomputation
  if (parallel.recompute != Recompute::automatic || splits) return make_plan_with(parallel, available_bytes);
  parallel.recompute = Recompute::none;
  const MemoryPlan keeping = make_plan_with(parallel, available_bytes);
  const std::int64_t most = world_.all().all_reduce(keeping.total(), Reduction::max);
  if (most <= available_bytes) return keeping;
  parallel.recompute = Recompute::layers;
  const MemoryPlan memory = make_plan_with(parallel, available_bytes);
  log_info("activations are computed again in the backward (parallel.recompute=layers): keeping them takes {} a rank",
           bytes_text(most));
  return memory;
}

MemoryPlan Trainer::choose_split(const MemoryPlan& memory, std::int64_t available_bytes) {
  if (config_.parallel.split_backward != SplitBackward::automatic || plan_.stages == 1) return memory;
  const std::int64_t each = world_.all().all_reduce(std::int64_t{world_.local_size()}, Reduction::max);
  const Cluster cluster = usual_cluster(world_.size(), each, place_.space == Space::device);
  if (!splitting_pays(config_, cluster, plan_)) return memory;
  const Plan whole = plan_;
  ParallelConfig parallel = config_.parallel;
  parallel.recompute = Recompute::none;
  parallel.split_backward = SplitBackward::on;
  parallel.microbatch_size = whole.microbatch_size;
  const MemoryPlan split = make_plan_with(parallel, available_bytes);
  if (world_.all().all_reduce(split.total(), Reduction::max) > available_bytes) {
    plan_ = whole;
    return memory;
  }
  log_info("stages pass gradients on before they compute those of weights (parallel.split_backward=on)");
  return split;
}

Trainer::Sizes Trainer::plan_layout() {
  // Ranks of one host share its memory; all must choose alike, so the one with the least decides.
  const bool on_gpu = place_.space == Space::device;
  const std::int64_t sharing = on_gpu ? 1 : world_.local_size();  // each rank has a GPU of its own
  const std::int64_t available = world_.all().all_reduce(available_bytes(place_) / sharing, Reduction::min);
  const MemoryPlan memory = choose_split(choose_plan(available), available);
  config_.parallel.microbatch_size = plan_.microbatch_size;
  log_info(
      "{}memory a rank: {} = weights {} + gradients {} + optimizer {} + activations {} (microbatch {}){}{}; {} "
      "available",
      on_gpu ? "GPU " : "", bytes_text(memory.total()), bytes_text(memory.weights), bytes_text(memory.gradients),
      bytes_text(memory.optimizer), bytes_text(memory.arena), plan_.microbatch_size,
      memory.gathered > 0 ? " + gathered weights " + bytes_text(memory.gathered) : "",
      memory.scratch > 0 ? " + workspaces " + bytes_text(memory.scratch) : "", bytes_text(available));
  require_fit(memory, available, plan_.microbatch_size, place_);
  // Weights and moments of a checkpoint, and the weights folder; one more of each exists while it is replaced.
  const std::int64_t save_bytes = memory.saved_copies() + memory.gradients;
  const auto free = static_cast<std::int64_t>(std::min<std::uint64_t>(free_bytes(folder_.root()), INT64_MAX));
  if (free < 2 * save_bytes) {
    log_warning("{} has {} free, and a save takes {} make room or lower train.keep_checkpoints",
                folder_.root().string(), bytes_text(free), bytes_text(save_bytes));
  }
  log_info("{} parameters; a step is {} sequences of {} tokens: {} replica{}, {} microbatch{} of {} each",
           num_parameters(config_.model), plan_.batch_size, config_.train.sequence_length, plan_.replicas,
           plan_.replicas == 1 ? "" : "s", plan_.num_microbatches(), plan_.num_microbatches() == 1 ? "" : "es",
           plan_.microbatch_size);
  return {memory, available};
}

void Trainer::make_buffers(const Sizes& sizes) {
  const bool on_gpu = place_.space == Space::device;
  compute_ = std::make_unique<Compute>(
      place_.space, config_.train.deterministic ? Numerics::deterministic : Numerics::tuned,
      training_scratch_bytes(config_.model, plan_.microbatch_size, config_.train.sequence_length, place_.dtype));
  ctx_ = compute_->context();
  if (world_.size() > 1) {
    pipeline_ = std::make_unique<PipelineRank>(config_, plan_, world_.all(), data_->start_token(config_.model), ctx_,
                                               place_.dtype);
    for (std::size_t s = 0; s < plan_.layout.size() && plan_.stages > 1; ++s) {
      const StagePlan& stage = plan_.layout[s];
      log_info("stage {} of {}: {}{}", s + 1, plan_.stages, fmt::join(part_names(config_.model, stage.layers), ", "),
               stage.shards == 1 ? "" : fmt::format(", {} shards", stage.shards));
    }
  } else {
    model_ = factory_(config_.model, place_.space, data_->start_token(config_.model), place_.dtype);
    model_->set_pass_options(plan_.passes);
  }
  gradients_ = std::make_unique<Parameters>(weights().specs(), place_.space, "gradients");
  losses_ = std::make_unique<GatheredLosses>(config_.model, place_.space);
  pipeline_ ? pipeline_->gather_losses_in(losses_->view()) : model_->gather_losses_in(losses_->view());
  sums_ = std::make_unique<GradientSums>(config_.model, plan_, world_.all(), weights().specs(), ctx_);
  owned_ = owned_pieces(weights().specs(), sums_->owned());
  optimizer_ = plan_.zero ? std::make_unique<AdamWOptimizer>(owned_, config_.train, place_.space)
                          : std::make_unique<AdamWOptimizer>(weights().specs(), config_.train, place_.space);
  // On the host copies need memory that the run could do without; all ranks save in one way.
  const std::int64_t with_copies = sizes.memory.total() + sizes.memory.saved_copies();
  if (on_gpu || world_.all().all_reduce(with_copies, Reduction::max) <= sizes.available) {
    staging_ = std::make_unique<StateStaging>(weights(), *optimizer_);
  } else {
    log_info("training waits for its saves: another {} a rank for copies of the state is more than is available",
             bytes_text(sizes.memory.saved_copies()));
  }
  console_ = std::make_unique<Console>(config_.train.steps, config_.train.log_every, world_.rank() != 0);
}

void Trainer::restore_or_initialize() {
  if (const int count = products_.restore(); count > 0) {
    log_info("{} algorithms of matrix products are those that the run chose before", count);
  }
  std::vector<TensorTarget> targets = targets_of(parameter_group, stored_weights());
  const auto add = [&](const char* group, const Parameters& moments) {
    for (TensorTarget& target :
         plan_.zero ? targets_of(group, owned_, moments.flat(), PieceLayout::compact) : targets_of(group, moments)) {
      targets.push_back(std::move(target));
    }
  };
  add(first_moment_group, stored_mean());
  add(second_moment_group, stored_variance());
  if (const std::optional<TrainState> state = load_latest_checkpoint(folder_.root(), config_.model, targets)) {
    state_ = *state;
    saved_step_ = state_.step;
    if (staging_) staging_->upload(weights(), *optimizer_);
    const auto extra = nlohmann::json::parse(state_.extra_json);
    bad_in_row_ = extra.value("bad_in_row", std::int64_t{0});
    spikes_ = SpikeGuard(config_.train.spike_factor, extra.value("log_norm_mean", 0.0),
                         extra.value("norm_count", std::int64_t{0}));
    log_info("continuing after step {} of {}", state_.step, config_.train.steps);
    if (!options_.init_from.empty()) log_info("--init-from is not used: the run has begun already");
  } else {
    spikes_ = SpikeGuard(config_.train.spike_factor, 0, 0);
    initialize_weights();
  }
  const std::int64_t newest = world_.all().all_reduce(state_.step, Reduction::max);
  const std::int64_t oldest = world_.all().all_reduce(state_.step, Reduction::min);
  if (newest != oldest) {
    throw Error(fmt::format("ranks found different checkpoints in {}", folder_.root().string()),
                fmt::format("of steps {} and {}", oldest, newest), "give every rank the same file system");
  }
  if (world_.rank() == 0) {
    folder_.store_config(config_);
    metrics_ = std::make_unique<MetricsFile>(folder_.metrics_file(), state_.step);
  }
}

void Trainer::initialize_weights() {
  if (options_.init_from.empty()) {
    initialize(weights(), config_.train.seed);
    log_info("starting with fresh weights, seed {}", config_.train.seed);
    return;
  }
  const LoadedModel loaded = model_to_start_from();
  for (const ParameterSpec& spec : weights().specs()) {
    copy(loaded.parameters.view(spec.name), weights().view(spec.name));
  }
  weights().refresh_working_copy();
  log_info("starting from the weights in {}", options_.init_from.string());
}

LoadedModel Trainer::model_to_start_from() const {
  LoadedModel loaded = resolve_model(options_.init_from);
  // Names and files may differ; the arithmetic and the shapes may not.
  loaded.config.tokenizer = config_.model.tokenizer;
  loaded.config.start_token = config_.model.start_token;
  if (!same_model(loaded.config, config_.model)) {
    throw InputError(
        fmt::format("{} holds another model than the configuration describes", options_.init_from.string()),
        "their config.json and `model` section differ", "give --init-from weights of this model");
  }
  return loaded;
}

void Trainer::find_peak() {
  if (place_.space == Space::host) return;
  const DevicePeak peak = device_peak(device::name(world_.local_rank() % device::count()), config_.train.precision);
  // Where one rank's is not known, there is no denominator.
  if (world_.all().all_reduce(std::int64_t{peak.flops > 0 ? 1 : 0}, Reduction::min) == 0) return;
  peak_flops_ = world_.all().all_reduce(peak.flops, Reduction::sum);
  log_info("MFU is the model's FLOPs a second over {:.1f} TFLOP/s in {} ({}{})", peak_flops_ / 1e12,
           name_of(config_.train.precision), peak.source, world_.size() > 1 ? "; all ranks" : "");
}

void Trainer::record_start() {
  const std::int64_t rank = world_.rank();
  StartRecord record;
  record.step = state_.step;
  record.discarded_steps = metrics_ ? metrics_->num_discarded() : 0;
  record.threads = omp_get_max_threads();
  if (place_.space == Space::device) record.device = device::name(world_.local_rank() % device::count());
  for (const auto& host : gather_bytes(world_.all(), {world_.host().begin(), world_.host().end()})) {
    record.hosts.emplace_back(host.begin(), host.end());
  }
  if (rank == 0) {
    try {
      append_line(folder_.starts_file(), to_json_line(record, config_, plan_));
    } catch (const Error& error) {
      log_warning("this start is not recorded: {}", error.what());
    }
  }
  if (ctx_.space == Space::device) clock_.follow(ctx_.stream);
  if (options_.trace.empty()) return;
  const StepRange steps = options_.trace_steps.value_or(StepRange{state_.step + 2, state_.step + 4});
  trace_ = std::make_unique<RunTrace>(options_.trace, steps, hosted_text(config_.model, plan_, rank), world_.host());
}

}  // namespace photon
