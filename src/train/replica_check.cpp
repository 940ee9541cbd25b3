#include "train/replica_check.hpp"

#include <algorithm>
#include <cstring>
#include <map>

#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

std::uint64_t checksum_of(const Context& ctx, const Parameters& weights) {
  const TensorView flat = weights.flat();
  if (flat.space() == Space::host) return checksum(flat.host<float>(), static_cast<std::uint64_t>(flat.bytes()));
  // Through a block of host memory.
  constexpr std::int64_t block = std::int64_t{1} << 24;  // elements
  std::vector<float> values(static_cast<std::size_t>(std::min(block, flat.numel())));
  std::vector<std::uint64_t> parts;
  for (std::int64_t begin = 0; begin < flat.numel(); begin += block) {
    const std::int64_t count = std::min(block, flat.numel() - begin);
    copy(ctx.stream, flat.slice(0, begin, count), host_view(values.data(), {count}));
    parts.push_back(checksum(values.data(), static_cast<std::uint64_t>(count) * sizeof(float)));
  }
  return checksum(parts.data(), parts.size() * sizeof(std::uint64_t));
}

}  // namespace

std::vector<std::int64_t> differing_ranks(const std::vector<std::uint64_t>& checksums,
                                          const std::vector<std::int64_t>& groups) {
  std::map<std::int64_t, std::map<std::uint64_t, std::int64_t>> counts;  // of each group's checksums
  for (std::size_t i = 0; i < checksums.size(); ++i) ++counts[groups[i]][checksums[i]];
  std::vector<std::int64_t> ranks;
  for (std::size_t i = 0; i < checksums.size(); ++i) {
    const auto& group = counts[groups[i]];
    std::int64_t most_others = 0;
    for (const auto& [value, count] : group) {
      if (value != checksums[i]) most_others = std::max(most_others, count);
    }
    if (most_others >= group.at(checksums[i])) ranks.push_back(static_cast<std::int64_t>(i));
  }
  return ranks;
}

void check_replicas(const Context& ctx, Communicator& all, const Plan& plan, const Parameters& weights,
                    std::int64_t step, const std::string& host) {
  // Sums of one value and zeros: what each rank has, on every rank.
  constexpr std::size_t longest = 64;
  const auto size = static_cast<std::size_t>(all.size());
  const auto mine = static_cast<std::size_t>(all.rank());
  std::vector<std::int64_t> values(size, 0);
  const std::uint64_t own = checksum_of(ctx, weights);
  std::memcpy(&values[mine], &own, sizeof own);
  all.all_reduce(host_view(values.data(), {all.size()}), Reduction::sum);
  std::vector<std::uint64_t> checksums(size);
  std::memcpy(checksums.data(), values.data(), size * sizeof(std::uint64_t));
  std::vector<std::int64_t> stages(size);
  for (std::size_t rank = 0; rank < size; ++rank) stages[rank] = plan.role(static_cast<std::int64_t>(rank)).stage;
  const std::vector<std::int64_t> ranks = differing_ranks(checksums, stages);
  if (ranks.empty()) return;

  std::vector<std::int64_t> letters(size * longest, 0);
  for (std::size_t i = 0; i < std::min(longest, host.size()); ++i) letters[mine * longest + i] = host[i];
  all.all_reduce(host_view(letters.data(), {static_cast<std::int64_t>(letters.size())}), Reduction::sum);
  std::vector<std::string> names;
  for (const std::int64_t rank : ranks) {
    std::string name;
    for (std::size_t i = 0; i < longest && letters[static_cast<std::size_t>(rank) * longest + i] != 0; ++i)
      name += static_cast<char>(letters[static_cast<std::size_t>(rank) * longest + i]);
    names.push_back(fmt::format("{} on {}", rank, name));
  }
  throw Error(fmt::format("the weights differ after step {}: rank{} {}", step, ranks.size() == 1 ? "" : "s",
                          fmt::join(names, ", ")),
              "ranks that hold the same layers must hold the same bits; memory, a link or photon is at fault",
              "start the same command again without that machine: it goes on from the newest checkpoint");
}

}  // namespace photon
