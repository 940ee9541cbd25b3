#include "train/pipeline.hpp"

#include <algorithm>
#include <utility>

#include "kernels/elementwise.hpp"
#include "model/photon_model.hpp"
#include "train/memory_plan.hpp"
#include "train/message_routes.hpp"

namespace photon {

namespace {

Parameters weights_of_stage(const RunConfig& config, const StagePlan& stage, Space space, DType dtype) {
  Parameters weights(hosted_parameters(config.model, stage.layers), space, "parameters");
  weights.make_working_copy(dtype);
  return weights;
}

// Elements of the largest X(l) of a microbatch whose gradient this stage receives.
std::int64_t largest_received(const RunConfig& config, const Plan& plan, std::int64_t stage) {
  const ModelConfig& model = config.model;
  std::int64_t most = 0;
  for (const Crossing& crossing : plan.crossings) {
    if (crossing.from != stage || crossing.tensor.kind != Boundary::Kind::encoder_state || !crossing.returns) continue;
    const std::int64_t l = crossing.tensor.level;
    const std::int64_t units = model.padded_length(config.train.sequence_length) / model.cumulative_chunk(l);
    most = std::max(most, plan.microbatch_size * units * model.width(l));
  }
  return most;
}

}  // namespace

PipelineRank::PipelineRank(const RunConfig& config, const Plan& plan, Communicator& all, std::int32_t start_token,
                           const Context& ctx, DType dtype)
    : config_(config.model),
      plan_(plan),
      rank_(all.rank()),
      role_(plan.role(rank_)),
      space_(ctx.space),
      stream_(ctx.stream),
      all_(all),
      messages_(all.split(0, "stages")),
      parameters_(weights_of_stage(config, plan.stage_of(rank_), ctx.space, dtype)),
      part_(make_model_part(config.model, plan.stage_of(rank_).layers, parameters_, start_token, dtype, plan.passes)) {
  PHOTON_EXPECT(all.size() == static_cast<int>(plan.ranks.size()), "{} ranks for a plan of {}", all.size(),
                plan.ranks.size());
  if (rank_ == 0 && plan.stages > 1) gathered_.emplace(config_, Space::host, "the gathered weights");
  flights_.resize(static_cast<std::size_t>(plan.max_in_flight(role_.stage, plan.num_microbatches())));
  const std::int64_t bytes = stage_arena_bytes(config, plan.stage_of(rank_), plan.microbatch_size, dtype, plan.passes);
  for (Flight& flight : flights_) flight.arena = Arena(space_, bytes, "the activations of a microbatch");
  if (plan.stages == 1) return;
  if (const std::int64_t largest = largest_received(config, plan, role_.stage); largest > 0) {
    received_ = Tensor(space_, dtype, {largest}, "received gradients");
  }
  if (space_ == Space::device) messages_.use_device(ctx.stream, message_routes(plan));
}

void PipelineRank::begin_step(BatchOf batch_of) {
  finish();
  batch_of_ = std::move(batch_of);
}

PipelineRank::Flight& PipelineRank::flight(const Context& ctx, std::int64_t microbatch) {
  Flight& flight = flights_[static_cast<std::size_t>(microbatch) % flights_.size()];
  if (flight.microbatch == microbatch) return flight;
  for (Sending& sending : flight.sendings) sending.wait();
  flight.sendings.clear();
  flight.pass.reset();
  flight.backward_begun = false;
  flight.arena.rewind(0);
  const Batch batch = batch_of_(microbatch);
  flight.microbatch = microbatch;
  flight.sequences = batch.tokens.size(0);
  flight.groups_per_sequence = config_.num_groups(batch.tokens.size(1));
  flight.groups = plan_.groups(rank_, flight.sequences, flight.groups_per_sequence);
  if (flight.groups.count > 0) flight.pass = part_->begin(ctx, flight.arena, batch, flight.groups);
  return flight;
}

void PipelineRank::forward(const Context& ctx, std::int64_t microbatch) {
  Flight& f = flight(ctx, microbatch);
  if (f.pass) part_->forward(ctx, f.arena, *f.pass);
}

void PipelineRank::begin_backward(const Context& ctx, Flight& flight) {
  if (flight.backward_begun || !flight.pass) return;
  part_->begin_backward(ctx, flight.arena, *flight.pass);
  flight.backward_begun = true;
}

LossSums PipelineRank::backward(const Context& ctx, std::int64_t microbatch, const LossScales& scales,
                                const RecLossOptions& rec, Parameters& gradients, std::int64_t only) {
  Flight& f = flight(ctx, microbatch);
  PHOTON_EXPECT(f.pass.has_value(), "rank {} has no groups of microbatch {}", rank_, microbatch);
  begin_backward(ctx, f);
  f.pass->losses = gathered_losses_;
  f.pass->write = microbatch == 0 ? Write::replace : Write::accumulate;
  LossSums sums = no_sums();
  const std::vector<HostedModule>& modules = plan_.stage_of(rank_).modules;
  for (auto hosted = modules.rbegin(); hosted != modules.rend(); ++hosted) {
    if (only >= 0 && only != hosted->module) continue;
    sums += part_->backward(ctx, f.arena, gradients, *f.pass, hosted->module, scales, rec);
  }
  return sums;
}

void PipelineRank::backward_weights(const Context& ctx, std::int64_t microbatch, Parameters& gradients,
                                    std::int64_t only) {
  Flight& f = flights_[static_cast<std::size_t>(microbatch) % flights_.size()];
  PHOTON_EXPECT(f.microbatch == microbatch && f.pass && f.backward_begun,
                "rank {} has no input part of the backward of microbatch {}", rank_, microbatch);
  for (const HostedModule& hosted : plan_.stage_of(rank_).modules) {
    if (only >= 0 && only != hosted.module) continue;
    part_->backward_weights(ctx, f.arena, gradients, *f.pass, hosted.module);
  }
}

int PipelineRank::tag_of(const Instruction& instruction) {
  const Boundary& tensor = instruction.tensor;
  // Between two ranks there is one stream at most.
  const std::int64_t level = tensor.kind == Boundary::Kind::stream ? 0 : tensor.level;
  PHOTON_EXPECT(level < 64, "a message of level {}", level);
  const std::int64_t what = static_cast<std::int64_t>(tensor.kind) * 2 + (tensor.gradient ? 1 : 0);
  return static_cast<int>(((instruction.microbatch % 32) * 16 + what) * 64 + level);
}

LossSums PipelineRank::no_sums() const {
  LossSums sums;
  sums.rec.resize(static_cast<std::size_t>(std::max<std::int64_t>(config_.num_levels() - 1, 0)));
  sums.num_units.resize(sums.rec.size());
  return sums;
}

TensorView PipelineRank::tensor_of(const StagePass& pass, const Boundary& tensor) const {
  if (tensor.kind == Boundary::Kind::stream) {
    const bool into = tensor.level == plan_.stage_of(rank_).layers.begin;
    if (into) return tensor.gradient ? pass.din : pass.in;
    return tensor.gradient ? pass.dout : pass.out;
  }
  const bool state = tensor.kind == Boundary::Kind::encoder_state;
  const std::vector<TensorView>& tensors =
      state ? (tensor.gradient ? pass.dx : pass.x) : (tensor.gradient ? pass.dy : pass.y);
  return tensors[static_cast<std::size_t>(tensor.level)];
}

TensorView PipelineRank::shared_rows(const Flight& flight, const Boundary& tensor, std::int64_t peer) const {
  if (!flight.pass) return {};
  const GroupRange theirs = plan_.groups(peer, flight.sequences, flight.groups_per_sequence);
  const GroupRange& mine = flight.groups;
  const std::int64_t begin = std::max(mine.begin, theirs.begin);
  const std::int64_t end = std::min(mine.begin + mine.count, theirs.begin + theirs.count);
  if (end <= begin) return {};
  const TensorView view = tensor_of(*flight.pass, tensor);
  PHOTON_EXPECT(static_cast<bool>(view), "rank {} has no {}", rank_, tensor.str());
  const TensorView all = rows(view);
  const std::int64_t each = all.size(0) / mine.count;
  return all.slice(0, (begin - mine.begin) * each, (end - begin) * each);
}

void PipelineRank::send(const Instruction& instruction) {
  Flight& f = flight({}, instruction.microbatch);
  const TensorView view = shared_rows(f, instruction.tensor, instruction.peer);
  if (view) f.sendings.push_back(messages_.send(view, static_cast<int>(instruction.peer), tag_of(instruction)));
}

void PipelineRank::receive(const Context& ctx, const Instruction& instruction) {
  Flight& f = flight(ctx, instruction.microbatch);
  if (instruction.tensor.gradient) begin_backward(ctx, f);
  const TensorView view = shared_rows(f, instruction.tensor, instruction.peer);
  if (!view) return;
  const int from = static_cast<int>(instruction.peer);
  if (!instruction.tensor.gradient || instruction.tensor.kind != Boundary::Kind::encoder_state) {
    messages_.receive(view, from, tag_of(instruction));
    return;
  }
  // X(l) has several readers: their gradients add up.
  const TensorView received = received_.view().slice(0, 0, view.numel()).reshape(view.shape());
  messages_.receive(received, from, tag_of(instruction));
  copy_elements(ctx, received, view, Write::accumulate);
}

void PipelineRank::finish() {
  for (Flight& flight : flights_) {
    for (Sending& sending : flight.sendings) sending.wait();
    flight.sendings.clear();
    flight.microbatch = -1;
  }
}

LossSums PipelineRank::evaluate(const Context& ctx, const Batch& batch, const RecLossOptions& rec) {
  begin_step([&](std::int64_t) { return batch; });
  if (Flight& f = flight(ctx, 0); f.pass) f.pass->options.fp8 = false;  // as on one rank
  for (const Instruction& instruction : forward_program(plan_, rank_, 0)) {
    if (instruction.op == Op::receive) receive(ctx, instruction);
    if (instruction.op == Op::forward) forward(ctx, 0);
    if (instruction.op == Op::send) send(instruction);
  }
  Flight& f = flight(ctx, 0);
  LossSums sums = no_sums();
  if (f.pass) sums += part_->losses(ctx, f.arena, *f.pass, rec);
  finish();
  return sums;
}

std::int64_t PipelineRank::activation_peak() const {
  std::int64_t bytes = received_.view() ? received_.view().bytes() : 0;
  for (const Flight& flight : flights_) bytes += flight.arena.peak();
  return bytes;
}

const Parameters* PipelineRank::gather_weights() {
  constexpr int tag = Communicator::max_tag;
  // The embedding comes from the first stage that holds it.
  const auto take = [&](const ParameterSpec& spec, std::int64_t stage) {
    return !plan_.holds_embedding(stage) || stage == plan_.embedding_stages.front() ||
           spec.name != embedding_name(config_);
  };
  if (plan_.stages == 1) return rank_ == 0 ? &parameters_ : nullptr;
  if (space_ == Space::device) device::synchronize(stream_);  // the weights are what the queued updates leave
  if (rank_ != 0) {
    if (role_.replica != 0 || role_.shard != 0) return nullptr;
    for (const ParameterSpec& spec : specs()) {
      if (!take(spec, role_.stage)) continue;
      const TensorView mine = parameters_.view(spec.name);
      if (space_ == Space::host) {
        all_.send(mine, 0, tag).wait();
        continue;
      }
      const Tensor on_host(Space::host, mine.dtype(), mine.shape(), "a weight on its way to rank 0");
      copy(mine, on_host);
      all_.send(on_host, 0, tag).wait();
    }
    return nullptr;
  }
  for (const ParameterSpec& spec : specs()) copy(parameters_.view(spec.name), gathered_->view(spec.name));
  for (std::int64_t stage = 1; stage < plan_.stages; ++stage) {
    const auto from = static_cast<int>(plan_.rank_of({0, stage, 0}));
    for (const ParameterSpec& spec : hosted_parameters(config_, plan_.layout[static_cast<std::size_t>(stage)].layers)) {
      if (take(spec, stage)) all_.receive(gathered_->view(spec.name), from, tag);
    }
  }
  return &*gathered_;
}

}  // namespace photon
