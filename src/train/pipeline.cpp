#include "train/pipeline.hpp"

#include <algorithm>
#include <utility>

#include "kernels/elementwise.hpp"
#include "kernels/optimizer.hpp"
#include "model/photon_model.hpp"
#include "train/memory_plan.hpp"

namespace photon {

PipelineRank::PipelineRank(const RunConfig& config, const Plan& plan, Communicator& all)
    : config_(config.model),
      plan_(plan),
      rank_(all.rank()),
      role_(plan.role(rank_)),
      all_(all),
      stage_(all.split(static_cast<int>(role_.stage), "stage")),
      shared_(all.split(role_.stage == 0 || role_.stage == plan.stages - 1 ? 0 : 1, "embedding")),
      part_(config.model, plan.stage_of(rank_).modules),
      parameters_(hosted_parameters(config.model, part_.modules()), Space::host, "parameters"),
      weights_(part_.bind(parameters_)) {
  PHOTON_EXPECT(all.size() == static_cast<int>(plan.ranks.size()), "{} ranks for a plan of {}", all.size(),
                plan.ranks.size());
  if (rank_ == 0) gathered_.emplace(config_, Space::host, "the gathered weights");
  flights_.resize(static_cast<std::size_t>(plan.max_in_flight(role_.stage, plan.num_microbatches())));
  const std::int64_t bytes = stage_arena_bytes(config, plan.stage_of(rank_), plan.microbatch_size);
  for (Flight& flight : flights_) flight.arena = Arena(Space::host, bytes, "the activations of a microbatch");
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
  flight.groups_per_sequence = padded_length(config_, batch.tokens.size(1)) / config_.group_tokens();
  flight.groups = plan_.groups(rank_, flight.sequences, flight.groups_per_sequence);
  if (flight.groups.count > 0) flight.pass = part_.begin(ctx, flight.arena, batch, flight.groups);
  return flight;
}

void PipelineRank::forward(const Context& ctx, std::int64_t microbatch) {
  Flight& f = flight(ctx, microbatch);
  if (f.pass) part_.forward(ctx, f.arena, weights_, *f.pass);
}

void PipelineRank::begin_backward(const Context& ctx, Flight& flight) {
  if (flight.backward_begun || !flight.pass) return;
  part_.begin_backward(ctx, flight.arena, *flight.pass);
  flight.backward_begun = true;
}

LossSums PipelineRank::backward(const Context& ctx, std::int64_t microbatch, const LossScales& scales,
                                const RecLossOptions& rec, Parameters& gradients) {
  Flight& f = flight(ctx, microbatch);
  PHOTON_EXPECT(f.pass.has_value(), "rank {} has no groups of microbatch {}", rank_, microbatch);
  begin_backward(ctx, f);
  return part_.backward(ctx, f.arena, weights_, part_.bind(gradients), *f.pass, scales, rec);
}

int PipelineRank::tag_of(const Instruction& instruction) {
  PHOTON_EXPECT(instruction.tensor.level < 64, "a message of level {}", instruction.tensor.level);
  const std::int64_t what =
      static_cast<std::int64_t>(instruction.tensor.kind) * 2 + (instruction.tensor.gradient ? 1 : 0);
  return static_cast<int>(((instruction.microbatch % 64) * 8 + what) * 64 + instruction.tensor.level);
}

TensorView PipelineRank::shared_rows(const Flight& flight, const Boundary& tensor, std::int64_t peer) const {
  if (!flight.pass) return {};
  const GroupRange theirs = plan_.groups(peer, flight.sequences, flight.groups_per_sequence);
  const GroupRange& mine = flight.groups;
  const std::int64_t begin = std::max(mine.begin, theirs.begin);
  const std::int64_t end = std::min(mine.begin + mine.count, theirs.begin + theirs.count);
  if (end <= begin) return {};
  const PhotonStage::Pass& pass = *flight.pass;
  const bool state = tensor.kind == Boundary::Kind::encoder_state;
  const std::vector<TensorView>& tensors =
      state ? (tensor.gradient ? pass.dx : pass.x) : (tensor.gradient ? pass.dy : pass.y);
  const TensorView& view = tensors[static_cast<std::size_t>(tensor.level)];
  PHOTON_EXPECT(static_cast<bool>(view), "rank {} has no {}", rank_, tensor.str());
  const std::int64_t each = config_.group_tokens() / config_.cumulative_chunk(tensor.level);
  return rows(view).slice(0, (begin - mine.begin) * each, (end - begin) * each);
}

void PipelineRank::send(const Instruction& instruction) {
  Flight& f = flight({}, instruction.microbatch);
  const TensorView view = shared_rows(f, instruction.tensor, instruction.peer);
  if (view) f.sendings.push_back(all_.send(view, static_cast<int>(instruction.peer), tag_of(instruction)));
}

void PipelineRank::receive(const Context& ctx, const Instruction& instruction) {
  Flight& f = flight(ctx, instruction.microbatch);
  if (instruction.tensor.gradient) begin_backward(ctx, f);
  const TensorView view = shared_rows(f, instruction.tensor, instruction.peer);
  if (!view) return;
  const int from = static_cast<int>(instruction.peer);
  if (!instruction.tensor.gradient || instruction.tensor.kind != Boundary::Kind::encoder_state) {
    all_.receive(view, from, tag_of(instruction));
    return;
  }
  // X(l) has several readers: their gradients add up.
  received_.resize(static_cast<std::size_t>(view.numel()));
  const TensorView received = host_view(received_.data(), view.shape());
  all_.receive(received, from, tag_of(instruction));
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
  for (const Instruction& instruction : forward_program(plan_, rank_, 0)) {
    if (instruction.op == Op::receive) receive(ctx, instruction);
    if (instruction.op == Op::forward) forward(ctx, 0);
    if (instruction.op == Op::send) send(instruction);
  }
  Flight& f = flight(ctx, 0);
  LossSums sums;
  if (f.pass) {
    sums = part_.losses(ctx, f.arena, weights_, *f.pass, rec);
  } else {
    sums.rec.resize(static_cast<std::size_t>(config_.num_levels() - 1));
    sums.num_units.resize(sums.rec.size());
  }
  finish();
  return sums;
}

std::vector<TensorView> PipelineRank::own_ranges(const Parameters& values) const {
  const TensorView flat = values.flat();
  if (!values.has(shared_tensor)) return {flat};
  std::vector<TensorView> ranges;
  for (const ParameterSpec& spec : values.specs()) {
    if (spec.name != shared_tensor) continue;
    const std::int64_t end = spec.offset + spec.numel();
    if (spec.offset > 0) ranges.push_back(flat.slice(0, 0, spec.offset));
    if (end < flat.numel()) ranges.push_back(flat.slice(0, end, flat.numel() - end));
  }
  return ranges;
}

void PipelineRank::all_reduce(Parameters& gradients) {
  for (const TensorView& range : own_ranges(gradients)) stage_.all_reduce(range, Reduction::sum);
  if (!gradients.has(shared_tensor)) return;
  const TensorView shared = gradients.view(shared_tensor);
  shared_.all_reduce(shared.reshape({shared.numel()}), Reduction::sum);
}

double PipelineRank::sum_of_squares(const Context& ctx, const Parameters& gradients) {
  double sum = 0;
  if (stage_.rank() == 0) {
    for (const TensorView& range : own_ranges(gradients)) sum += photon::sum_of_squares(ctx, range);
    if (role_.stage == 0) {
      const TensorView shared = gradients.view(shared_tensor);
      sum += photon::sum_of_squares(ctx, shared.reshape({shared.numel()}));
    }
  }
  return all_.all_reduce(sum, Reduction::sum);
}

const Parameters* PipelineRank::gather_weights() {
  constexpr int tag = Communicator::max_tag;
  const auto take = [&](const ParameterSpec& spec, std::int64_t stage) {
    return stage == 0 || spec.name != shared_tensor;
  };
  if (rank_ != 0) {
    if (role_.replica != 0 || role_.shard != 0) return nullptr;
    for (const ParameterSpec& spec : specs()) {
      if (take(spec, role_.stage)) all_.send(parameters_.view(spec.name), 0, tag).wait();
    }
    return nullptr;
  }
  for (const ParameterSpec& spec : specs()) copy(parameters_.view(spec.name), gathered_->view(spec.name));
  for (std::int64_t stage = 1; stage < plan_.stages; ++stage) {
    const auto from = static_cast<int>(plan_.rank_of({0, stage, 0}));
    for (const ParameterSpec& spec :
         hosted_parameters(config_, plan_.layout[static_cast<std::size_t>(stage)].modules)) {
      if (take(spec, stage)) all_.receive(gathered_->view(spec.name), from, tag);
    }
  }
  return &*gathered_;
}

}  // namespace photon
