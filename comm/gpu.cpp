// Which GPU a rank takes.
#include <algorithm>
#include <string>
#include <vector>

#include "comm/device_group.hpp"
#include "comm/job.hpp"
#include "comm/world.hpp"

namespace photon {

int World::use_gpu() {
  const int count = device::count();
  // Launchers that give each rank a GPU of its own show it only that one.
  const int index = count == 1 ? 0 : local_rank_;
  constexpr std::int64_t bytes = 32;
  std::vector<std::uint8_t> mine(bytes, 0);
  if (index < count) {
    const std::string card = comm::gpu_identity(index);
    std::copy_n(card.begin(), std::min(card.size(), mine.size()), mine.begin());
  }
  std::vector<std::uint8_t> all(static_cast<std::size_t>(bytes * size()));
  all_.all_gather(host_view(mine.data(), {bytes}), host_view(all.data(), {bytes * size()}));
  const auto card_of = [&](int r) { return std::string(all.begin() + r * bytes, all.begin() + (r + 1) * bytes); };
  const auto refuse = [&](int r, const std::string& why) {
    throw InputError(fmt::format("{} has no GPU of its own", job_->name_of_rank(r)), why,
                     "start at most one rank for each GPU of a host");
  };
  for (int r = 0; r < size(); ++r) {
    if (card_of(r) == std::string(bytes, '\0')) refuse(r, "the host has more ranks than GPUs that they see");
    for (int other = 0; other < r; ++other) {
      if (card_of(r) == card_of(other)) refuse(r, fmt::format("it sees only the one that rank {} has", other));
    }
  }
  device::use(index);
  return index;
}

}  // namespace photon
