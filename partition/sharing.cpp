#include "partition/sharing.hpp"

#include <algorithm>

#include "partition/schedule.hpp"
#include "support/error.hpp"

namespace photon {

std::int64_t Bucket::num_elements() const {
  std::int64_t elements = 0;
  for (const FlatRange& range : ranges) elements += range.count;
  return elements;
}

std::vector<Bucket> buckets_of(const ModelConfig& config, const Plan& plan, std::int64_t rank,
                               const std::vector<ParameterSpec>& specs) {
  const RankRole& role = plan.role(rank);
  const StagePlan& stage = plan.stage_of(rank);
  const bool shared = plan.holds_embedding(role.stage);
  std::vector<Bucket> buckets;
  const std::int64_t replicas = plan.num_ranks / plan.ranks_per_replica();
  for (const HostedModule& hosted : stage.modules) {
    buckets.push_back({hosted.module, {}, plan.holders(role.stage), role.replica * stage.shards + role.shard});
  }
  if (shared) {
    std::int64_t before = 0;  // holders of this replica that come first
    for (const std::int64_t s : plan.embedding_stages) {
      if (s < role.stage) before += plan.layout[static_cast<std::size_t>(s)].shards;
    }
    buckets.push_back({Instruction::embedding,
                       {},
                       replicas * plan.embedding_holders(),
                       role.replica * plan.embedding_holders() + before + role.shard});
  }
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const bool embedding = shared && specs[i].name == embedding_name(config);
    const std::int64_t module = embedding ? Instruction::embedding : module_of_parameter(config, specs[i].name);
    const auto bucket =
        std::find_if(buckets.begin(), buckets.end(), [&](const Bucket& b) { return b.module == module; });
    PHOTON_EXPECT(bucket != buckets.end(), "{} belongs to no module of stage {}", specs[i].name, role.stage);
    const std::int64_t begin = specs[i].offset;
    const std::int64_t end = i + 1 < specs.size() ? specs[i + 1].offset : begin + specs[i].numel();
    if (!bucket->ranges.empty() && bucket->ranges.back().end() == begin) {
      bucket->ranges.back().count += end - begin;
    } else {
      bucket->ranges.push_back({begin, end - begin});
    }
  }
  return buckets;
}

Division divide(const FlatRange& range, std::int64_t holders) {
  const std::int64_t share = range.count / holders / parameter_alignment * parameter_alignment;
  return {share, range.count - share * holders};
}

std::vector<FlatRange> owned_ranges(const std::vector<Bucket>& buckets) {
  std::vector<FlatRange> owned;
  for (const Bucket& bucket : buckets) {
    for (const FlatRange& range : bucket.ranges) {
      const Division parts = divide(range, bucket.holders);
      const bool last = bucket.index + 1 == bucket.holders;
      const std::int64_t count = parts.share + (last ? parts.rest : 0);
      if (count > 0) owned.push_back({range.begin + bucket.index * parts.share, count});
    }
  }
  std::sort(owned.begin(), owned.end(), [](const FlatRange& a, const FlatRange& b) { return a.begin < b.begin; });
  return owned;
}

std::int64_t num_owned(const std::vector<ParameterSpec>& specs, const std::vector<FlatRange>& ranges) {
  std::int64_t elements = 0;
  for (const FlatRange& range : ranges) {
    for (const ParameterSpec& spec : specs) {
      const std::int64_t begin = std::max(spec.offset, range.begin);
      const std::int64_t end = std::min(spec.offset + spec.numel(), range.end());
      elements += std::max<std::int64_t>(end - begin, 0);
    }
  }
  return elements;
}

}  // namespace photon
