#include "train/gather_bytes.hpp"

namespace photon {

std::vector<std::vector<std::uint8_t>> gather_bytes(Communicator& all, const std::vector<std::uint8_t>& mine) {
  constexpr int tag = Communicator::max_tag;
  const auto length = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(all.size()));
  all.all_gather(host_view(&length, {1}), host_view(lengths.data(), {std::int64_t{all.size()}}));
  if (all.rank() != 0) {
    if (length > 0) all.send(host_view(mine.data(), {length}), 0, tag).wait();
    return {};
  }
  std::vector<std::vector<std::uint8_t>> everyone{mine};
  for (int rank = 1; rank < all.size(); ++rank) {
    const std::int64_t count = lengths[static_cast<std::size_t>(rank)];
    std::vector<std::uint8_t> theirs(static_cast<std::size_t>(count));
    if (count > 0) all.receive(host_view(theirs.data(), {count}), rank, tag);
    everyone.push_back(std::move(theirs));
  }
  return everyone;
}

}  // namespace photon
