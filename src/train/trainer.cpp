#include "train/trainer.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "blueprint/flops.hpp"
#include "blueprint/parameters.hpp"
#include "checkpoint/weights.hpp"
#include "comm/share_cores.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/optimizer.hpp"
#include "support/log.hpp"
#include "train/evaluation.hpp"
#include "train/learning_rate.hpp"
#include "train/memory_plan.hpp"
#include "train/replica_check.hpp"

namespace photon {

Trainer::Trainer(World& world, RunConfig config, TrainOptions options, ModelFactory factory)
    : world_(world),
      config_(std::move(config)),
      options_(std::move(options)),
      factory_(std::move(factory)),
      folder_(options_.run),
      products_(folder_.products_file(world_.rank()), folder_.products_file(0)),
      clock_(world_.rank()) {
  place_ = train_place(config_.train);
  if (place_.space == Space::host) return;
  world_.use_gpu();
}

void Trainer::run() {
  world_.set_stop_request([] { return StopSignal::received() != 0; });
  world_.enter("set-up", static_cast<double>(config_.parallel.setup_deadline));
  share_cores(world_.local_size());
  if (options_.check) return check();
  if (options_.fresh) open_data();  // what is wrong with it must not put the old run aside
  open_folder();
  adopt_stored_config();
  if (!data_) open_data();
  make_buffers(plan_layout());
  restore_or_initialize();
  complete_evaluation();
  if (state_.step >= config_.train.steps) {
    log_info("{} is finished: step {} of {}; set train.steps higher to go on", folder_.root().string(), state_.step,
             config_.train.steps);
    return;
  }
  record_start();
  find_peak();
  while (state_.step < config_.train.steps) {
    if (stopping_ || stop_agreed()) preempt();
    run_step();
  }
  if (trace_) trace_->finish(world_.all());
  if (stopping_) preempt();
  finish_save();
  if (saved_step_ != state_.step) {
    throw Error(fmt::format("step {}, the last one, could not be saved", state_.step), "see the message above",
                "make room and start the same command again: it continues from the last good checkpoint");
  }
  log_info("finished {} steps; weights are in {}", state_.step, folder_.model().string());
}

void Trainer::check() {
  if (!options_.fresh) adopt_stored_config();
  open_data();
  plan_layout();
  if (!options_.init_from.empty()) model_to_start_from();
  log_info("configuration, data and memory are in order; nothing was changed");
}

bool Trainer::out_of_time() const {
  return options_.time_limit > 0 &&
         std::chrono::duration<double>(Clock::now() - started_).count() >= options_.time_limit;
}

bool Trainer::stop_agreed() {
  const auto flag = [](bool set) { return std::int64_t{set ? 1 : 0}; };
  const bool busy = saving_ && saving_->busy();
  std::array<std::int64_t, 3> flags{flag(asked_to_stop()), flag(busy), flag(saving_ && saving_->failed())};
  world_.all().all_reduce(host_view(flags.data(), {3}), Reduction::max);
  if (flags[0] != 0) stopping_ = true;
  if (saving_ && saving_->advance(flags[1] != 0, flags[2] != 0)) end_save(saving_->outcome());
  return stopping_;
}

bool Trainer::evaluation_due(std::int64_t step) const {
  if (!validation_ || step == 0) return false;
  const std::int64_t every = config_.train.eval_every;
  return step == config_.train.steps || (every > 0 && step % every == 0);
}

bool Trainer::save_due(std::int64_t step) const {
  const std::int64_t every = config_.train.checkpoint_every;
  return step == config_.train.steps || (every > 0 && step % every == 0);
}

void Trainer::run_step() {
  world_.enter(fmt::format("step {}", state_.step + 1), static_cast<double>(config_.parallel.step_deadline));
  if (trace_) trace_->before_step(state_.step + 1, world_.all());
  clock_.begin_step(state_.step + 1, trace_ && trace_->wants(state_.step + 1));
  Step step(state_.step + 1, config_.model);
  const TrainConfig& train = config_.train;

  // This replica's sequences, and how many tokens count over all replicas: what the mean is taken over.
  const std::int64_t mine = plan_.sequences_per_replica();
  {
    const auto measure = clock_.measure("load", Activity::compute);
    data_->load(state_.samples + plan_.first_sequence(world_.rank(), 0), mine, sequences_);
  }
  const RankRole& role = plan_.role(world_.rank());
  const bool counts = role.stage == 0 && role.shard == 0;  // one rank of each replica
  const std::int64_t counted = [&] {
    const auto measure = clock_.measure("count tokens", Activity::wait);
    return world_.all().all_reduce(counts ? count_tokens(sequences_.part(0, mine)) : 0, Reduction::sum);
  }();
  step.scales.ce = counted == 0 ? 0 : 1.0 / static_cast<double>(counted);
  for (const std::int64_t units : unpadded_units(config_.model, plan_.batch_size, train.sequence_length)) {
    step.scales.rec.push_back(units == 0 ? 0 : train.alpha / static_cast<double>(units));
  }

  pipeline_ ? pipeline_->weights_changed(ctx_) : model_->weights_changed(ctx_);
  begin_gradients(ctx_, *gradients_);
  losses_->clear(ctx_);
  if (pipeline_) pipeline_->begin_step([this](std::int64_t i) { return microbatch(i); });
  const Program program = program_of(plan_, world_.rank(), plan_.num_microbatches(),
                                     {.evaluate = evaluation_due(step.number), .save = save_due(step.number)});
  for (const Instruction& instruction : program) execute(instruction, step);
  finish_record(step);
  store_products();
  if (const std::int64_t every = train.check_replicas_every; every > 0 && step.number % every == 0) {
    check_replicas(ctx_, world_.all(), plan_, weights(), step.number, world_.host());
  }
  if (trace_) trace_->after_step(step.number, clock_.take_spans(), world_.all());
}

void Trainer::execute(const Instruction& instruction, Step& step) {
  const auto measure = clock_.measure(instruction);
  sums_->advance();
  switch (instruction.op) {
    case Op::forward:
      if (pipeline_) return pipeline_->forward(ctx_, instruction.microbatch);
      // A rank that hosts the whole model runs both halves as one call, at the backward.
      PHOTON_EXPECT(forwarded_ < 0, "{} before the backward of microbatch {}", instruction.str(), forwarded_);
      forwarded_ = instruction.microbatch;
      return;
    case Op::backward:
      if (pipeline_) return backward(instruction, step);
      if (forwarded_ < 0 && instruction.module >= 0) return;  // done with the first of its modules
      PHOTON_EXPECT(forwarded_ == instruction.microbatch, "{} after the forward of {}", instruction.str(), forwarded_);
      forwarded_ = -1;
      return backward(instruction, step);
    case Op::backward_input:
      if (pipeline_) return backward(instruction, step);
      break;
    case Op::backward_weight:
      if (!pipeline_) break;
      return pipeline_->backward_weights(ctx_, instruction.microbatch, *gradients_, instruction.module);
    case Op::all_reduce:
      if (instruction.module == -1) return reduce(step);
      return sums_->start(instruction, *gradients_);
    case Op::reduce_scatter:
      return sums_->start(instruction, *gradients_);
    case Op::all_gather:
      gathering_ = true;
      return sums_->start(instruction, weights());
    case Op::wait:
      return wait_for_sums();
    case Op::clip_norm:
      return clip(step);
    case Op::step:
      return update(step);
    case Op::evaluate:
      step.record.validation = evaluate();
      return;
    case Op::save:
      finish_record(step);
      if (!stopping_) save();  // else preempt() does
      return;
    case Op::send:
      if (pipeline_) return pipeline_->send(instruction);
      break;
    case Op::receive:
      if (pipeline_) return pipeline_->receive(ctx_, instruction);
      break;
  }
  PHOTON_EXPECT(false, "rank {} cannot {}", world_.rank(), instruction.str());
}

void Trainer::wait_for_sums() {
  sums_->wait();
  // Other ranks' shares of the weights have come in fp32.
  if (gathering_ && place_.dtype != DType::f32) copy_elements(ctx_, weights().flat(), weights().working());
  gathering_ = false;
}

Batch Trainer::microbatch(std::int64_t index) const {
  return sequences_.part(index * plan_.microbatch_size, plan_.microbatch_size);
}

void Trainer::backward(const Instruction& instruction, Step& step) {
  const RecLossOptions rec = rec_loss_options(config_.train);
  const std::int64_t index = instruction.microbatch;
  if (pipeline_) {
    step.totals.add(pipeline_->backward(ctx_, index, step.scales, rec, *gradients_, instruction.module));
  } else {
    const Write write = index == 0 ? Write::replace : Write::accumulate;
    step.totals.add(model_->forward_backward(ctx_, microbatch(index), step.scales, rec, *gradients_, write));
  }
}

void Trainer::reduce(Step& step) {
  if (pipeline_) pipeline_->finish();
  step.totals.add(losses_->fetch(ctx_));
  step.totals.all_reduce(world_.all());
  clock_.arrived();
}

void Trainer::clip(Step& step) {
  StepRecord& record = step.record;
  record.ce = step.totals.ce();
  record.rec_levels = step.totals.rec_levels();
  record.rec = step.totals.rec();
  record.loss = record.ce + config_.train.alpha * record.rec;
  record.grad_norm = std::sqrt(sums_->sum_of_squares(ctx_, *gradients_));
  // Every rank holds the same bits of both, so all decide alike.
  step.finite = std::isfinite(record.loss) && std::isfinite(record.grad_norm);
  const double usual = std::exp(spikes_.log_mean());
  step.spike = step.finite && spikes_.skips(record.grad_norm);
  if (step.spike) {
    console_->clear();
    log_warning("step {} is skipped: its gradient norm {:.4g} is {:.1f} times the mean of the steps before",
                step.number, record.grad_norm, record.grad_norm / usual);
  }
  const double limit = config_.train.grad_clip;
  step.gradient_scale = limit > 0 && record.grad_norm > limit ? limit / record.grad_norm : 1;
}

void Trainer::update(Step& step) {
  StepRecord& record = step.record;
  record.lr = learning_rate(config_.train, step.number);
  record.skipped = !step.finite || step.spike;
  if (!record.skipped) {
    const std::int64_t update = step.number - state_.skipped_steps;  // updates made so far, and this one
    if (staging_) staging_->hold(ctx_);                              // a save may still copy what is updated here
    optimizer_->step(ctx_, weights(), *gradients_, record.lr, step.gradient_scale, update);
  } else {
    ++state_.skipped_steps;
  }
  bad_in_row_ = step.finite ? 0 : bad_in_row_ + 1;
  if (!step.finite) {
    console_->clear();
    log_warning("step {} is skipped: loss {}, gradient norm {} ({} in a row, {} so far)", step.number, record.loss,
                record.grad_norm, bad_in_row_, state_.skipped_steps);
  }
  state_.step = step.number;
  state_.samples += plan_.batch_size;
  state_.tokens += plan_.batch_size * config_.train.sequence_length;
  record.step = step.number;
  record.num_skipped = state_.skipped_steps;
  record.tokens = state_.tokens;
  record.seconds = std::chrono::duration<double>(Clock::now() - step.begin).count();
  record.tokens_per_second =
      static_cast<double>(plan_.batch_size * config_.train.sequence_length) / std::max(record.seconds, 1e-9);
  if (peak_flops_ > 0) {
    const double flops = training_flops(config_.model, config_.train.sequence_length);
    record.mfu = static_cast<double>(plan_.batch_size) * flops / std::max(record.seconds, 1e-9) / peak_flops_;
  }
  console_->show(record);
}

void Trainer::finish_record(Step& step) {
  if (step.recorded) return;
  step.recorded = true;
  const auto measure = clock_.measure("record", Activity::other);
  if (world_.size() > 1) step.record.ranks = clock_.gather(world_.all());
  if (metrics_) {
    try {
      metrics_->append(step.record);
    } catch (const Error& error) {
      console_->clear();
      log_warning("the metrics of step {} are lost: {}", step.number, error.what());
    }
  }
  if (bad_in_row_ < config_.train.max_bad_steps) return;
  throw Error(
      fmt::format("training stopped at step {}", step.number),
      fmt::format("{} steps in a row had a loss or gradient that is not finite, and train.max_bad_steps is {}",
                  bad_in_row_, config_.train.max_bad_steps),
      "lower train.learning_rate or train.grad_clip, or look at the data there; checkpoints before it are kept");
}

void Trainer::store_products() {
  try {
    products_.store();
  } catch (const Error& error) {
    console_->clear();
    log_warning("the algorithms chosen for products are not stored, tried again after the next step: {}", error.what());
  }
}

std::optional<ValidationResult> Trainer::evaluate() {
  const auto wish = [this] { return asked_to_stop(); };
  world_.enter(fmt::format("evaluation after step {}", state_.step),
               static_cast<double>(config_.parallel.step_deadline));
  const RecLossOptions rec = rec_loss_options(config_.train);
  const auto measure = [&](const Batch& batch) {
    return pipeline_ ? pipeline_->evaluate(ctx_, batch, rec) : model_->evaluate(ctx_, batch, rec, {}, {});
  };
  const std::optional<ValidationResult> result =
      evaluate_validation(measure, *validation_, config_, plan_.microbatch_size, plan_.role(world_.rank()).replica,
                          plan_.replicas, world_.all(), wish);
  if (result) {
    console_->show_validation(state_.step, *result);
  } else {
    stopping_ = true;
  }
  return result;
}

void Trainer::complete_evaluation() {
  const bool missing = metrics_ && metrics_->lacks_validation(state_.step) && evaluation_due(state_.step);
  if (world_.all().all_reduce(std::int64_t{missing ? 1 : 0}, Reduction::max) == 0) return;
  log_info("making up for the evaluation after step {}, which was interrupted", state_.step);
  const std::optional<ValidationResult> result = evaluate();
  if (!result) preempt();
  if (metrics_) metrics_->complete_last(*result);
}

std::vector<TensorPiece> Trainer::pieces_to_save() {
  const PieceLayout moments = plan_.zero ? PieceLayout::compact : PieceLayout::flat;
  std::vector<TensorPiece> pieces;
  const auto take = [&](const char* group, const Parameters& values, PieceLayout layout) {
    for (TensorPiece& piece : pieces_of(group, owned_, values.flat(), layout)) pieces.push_back(std::move(piece));
  };
  take(parameter_group, stored_weights(), PieceLayout::flat);
  take(first_moment_group, stored_mean(), moments);
  take(second_moment_group, stored_variance(), moments);
  return pieces;
}

void Trainer::save() {
  finish_save();
  world_.enter(fmt::format("save of step {}", state_.step), static_cast<double>(config_.parallel.save_deadline));
  console_->clear();
  state_.extra_json = nlohmann::json{
      {"bad_in_row", bad_in_row_},
      {"log_norm_mean", spikes_.log_mean()},
      {"norm_count",
       spikes_.count()}}.dump();
  if (staging_) staging_->begin_download(ctx_, weights(), *optimizer_);
  const Parameters* const whole = plan_.stages > 1 ? pipeline_->gather_weights() : &stored_weights();
  const bool first = world_.rank() == 0;
  const std::int64_t keep = config_.train.keep_checkpoints;
  CheckpointSave checkpoint(folder_.root(), config_.model, state_, pieces_to_save(),
                            {.keep = keep == 0 ? std::numeric_limits<std::int64_t>::max() : keep,
                             .tokenizer_file = data_->tokenizer_file(),
                             .rank = world_.rank(),
                             .num_ranks = world_.size(),
                             .all_succeed = {}});
  std::string problem;
  try {
    if (metrics_) metrics_->sync();  // no older than the state that is saved beside them
    if (first) checkpoint.prepare();
  } catch (const Error& error) {
    problem = error.what();
  }
  if (world_.all().all_reduce(std::int64_t{problem.empty() ? 0 : 1}, Reduction::max) != 0) {
    if (first) checkpoint.abandon();
    return end_save({state_.step, "", problem.empty() ? "rank 0 cannot save" : problem});
  }
  saving_ = std::make_unique<BackgroundSave>(
      std::move(checkpoint), state_.step, first, staging_ != nullptr, [this, whole, first] {
        if (staging_) staging_->wait();
        if (!first) return;
        save_weights_folder(folder_.model(), config_.model, *whole, DType::f32, data_->tokenizer_file());
      });
  if (!staging_) finish_save();
}

void Trainer::finish_save() {
  if (!saving_) return;
  world_.enter(fmt::format("end of the save of step {}", saving_->outcome().step),
               static_cast<double>(config_.parallel.save_deadline));
  while (saving_) {
    saving_->wait();
    const std::int64_t failed = world_.all().all_reduce(std::int64_t{saving_->failed() ? 1 : 0}, Reduction::max);
    if (saving_->advance(false, failed != 0)) end_save(saving_->outcome());
  }
}

void Trainer::end_save(const BackgroundSave::Outcome& outcome) {
  if (outcome.problem.empty()) {
    saved_step_ = outcome.step;
    console_->clear();
    log_info("saved {}", outcome.folder);
  } else {
    log_text(LogLevel::error, false,
             fmt::format("step {} is not saved: {}; {}", outcome.step, outcome.problem,
                         saved_step_ < 0 ? std::string("no checkpoint exists yet")
                                         : fmt::format("the checkpoint of step {} is kept", saved_step_)));
  }
  saving_.reset();  // `outcome` may be its
}

void Trainer::preempt() {
  StopSignal::stop_here();
  const int signal = StopSignal::received();
  const std::string reason = signal != 0     ? StopSignal::name(signal)
                             : out_of_time() ? "--time-limit"
                                             : "the wish of another rank";
  finish_save();
  if (saved_step_ != state_.step) save();
  finish_save();
  const bool saved = saved_step_ == state_.step;
  if (trace_) trace_->finish(world_.all());
  console_->clear();
  throw Preempted(
      saved
          ? fmt::format("stopped by {} after step {} of {}, which is saved; start the same command again to go on",
                        reason, state_.step, config_.train.steps)
          : fmt::format("stopped by {} after step {} of {}, which could not be saved; the same command goes on from {}",
                        reason, state_.step, config_.train.steps,
                        saved_step_ < 0 ? std::string("the beginning") : fmt::format("step {}", saved_step_)));
}

}  // namespace photon
