// Which ranks hold the same tensors, what of them is summed at once, and how they divide it: for the sums of gradients,
// for the optimizer's moments (parallel.zero) and for checkpoints.
#pragma once

#include <cstdint>
#include <vector>

#include "blueprint/parameters.hpp"
#include "partition/plan.hpp"

namespace photon {

// Elements begin .. begin+count-1 of a flat buffer.
struct FlatRange {
  std::int64_t begin = 0;
  std::int64_t count = 0;
  std::int64_t end() const { return begin + count; }
  bool operator==(const FlatRange&) const = default;
};

// Tensors that are summed over the same ranks, and complete at the same time: those of a module, or the embedding where
// several stages hold it (module = Instruction::embedding).
struct Bucket {
  std::int64_t module = 0;
  std::vector<FlatRange> ranges;  // ascending; alignment gaps go with what lies before them
  std::int64_t holders = 1;       // ranks that hold these tensors
  std::int64_t index = 0;         // of this rank among them, in the order of ranks
  std::int64_t num_elements() const;
};

// Of a rank that holds `specs`, the hosted_parameters() of its stage. Together they are the whole flat buffer.
std::vector<Bucket> buckets_of(const ModelConfig& config, const Plan& plan, std::int64_t rank,
                               const std::vector<ParameterSpec>& specs);

// A range divided into equal shares, and a rest that is too small to divide, which goes with the last one.
struct Division {
  std::int64_t share = 0;  // elements of each
  std::int64_t rest = 0;
};
Division divide(const FlatRange& range, std::int64_t holders);

// The elements that this rank answers for, of all holders the only one: ascending.
std::vector<FlatRange> owned_ranges(const std::vector<Bucket>& buckets);
// Elements of tensors in them, without alignment gaps.
std::int64_t num_owned(const std::vector<ParameterSpec>& specs, const std::vector<FlatRange>& ranges);

}  // namespace photon
