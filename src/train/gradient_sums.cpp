#include "train/gradient_sums.hpp"

#include <algorithm>

#include "kernels/optimizer.hpp"

namespace photon {

GradientSums::GradientSums(const ModelConfig& config, const Plan& plan, Communicator& all,
                           const std::vector<ParameterSpec>& specs, const Context& ctx)
    : all_(all),
      stage_(all.split(static_cast<int>(plan.role(all.rank()).stage), "stage")),
      embedding_(all.split(plan.holds_embedding(plan.role(all.rank()).stage) ? 0 : 1, "embedding")),
      buckets_(buckets_of(config, plan, all.rank(), specs)),
      owned_(owned_ranges(buckets_)) {
  for (const Bucket& bucket : buckets_) {
    const Communicator& comm = bucket.module == Instruction::embedding ? embedding_ : stage_;
    PHOTON_EXPECT(comm.size() == bucket.holders && comm.rank() == bucket.index, "{} of {} ranks for {} of {}",
                  comm.rank(), comm.size(), bucket.index, bucket.holders);
  }
  if (ctx.space == Space::host) return;
  stage_.use_device(ctx.stream);
  embedding_.use_device(ctx.stream);
}

void GradientSums::start(const Instruction& instruction, const Parameters& values) {
  const auto bucket =
      std::find_if(buckets_.begin(), buckets_.end(), [&](const Bucket& b) { return b.module == instruction.module; });
  PHOTON_EXPECT(bucket != buckets_.end(), "this rank cannot {}", instruction.str());
  Communicator& comm = bucket->module == Instruction::embedding ? embedding_ : stage_;
  for (const FlatRange& range : bucket->ranges) {
    const TensorView flat = values.flat();
    if (instruction.op == Op::all_reduce) {
      pending_.push_back(comm.start_all_reduce(flat.slice(0, range.begin, range.count), Reduction::sum));
      continue;
    }
    const Division parts = divide(range, bucket->holders);
    const TensorView rest = flat.slice(0, range.end() - parts.rest, parts.rest);
    if (parts.share > 0) {
      const TensorView even = flat.slice(0, range.begin, range.count - parts.rest);
      const TensorView mine = even.slice(0, bucket->index * parts.share, parts.share);
      pending_.push_back(instruction.op == Op::reduce_scatter ? comm.start_reduce_scatter(even, mine, Reduction::sum)
                                                              : comm.start_all_gather(mine, even));
    }
    if (parts.rest == 0) continue;
    pending_.push_back(instruction.op == Op::reduce_scatter ? comm.start_all_reduce(rest, Reduction::sum)
                                                            : comm.start_broadcast(rest, comm.size() - 1));
  }
}

void GradientSums::advance() {
  for (Pending& pending : pending_) pending.done();
}

void GradientSums::wait() {
  for (Pending& pending : pending_) pending.wait();
  pending_.clear();
}

double GradientSums::sum_of_squares(const Context& ctx, const Parameters& gradients) {
  // On a GPU the ranges add up there: the host waits once.
  if (!total_.view() || total_.view().space() != ctx.space) total_ = Tensor(ctx.space, DType::f64, {1}, "a norm");
  double sum = 0;
  copy(ctx.stream, host_view(&sum, {1}), total_);
  for (const FlatRange& range : owned_) {
    add_sum_of_squares(ctx, gradients.flat().slice(0, range.begin, range.count), total_);
  }
  copy(ctx.stream, total_, host_view(&sum, {1}));
  return all_.all_reduce(sum, Reduction::sum);
}

}  // namespace photon
