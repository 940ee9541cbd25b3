#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {

std::uint64_t checksum(const void* data, std::uint64_t bytes) {
  return XXH3_64bits(data, bytes);
}

Checksum128 checksum_128(const void* data, std::uint64_t bytes) {
  const XXH128_hash_t sum = XXH3_128bits(data, bytes);
  return {sum.high64, sum.low64};
}

std::uint64_t checksum_file(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw_io_error("read", path, errno);
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  XXH3_64bits_reset(state.get());
  std::vector<char> block(std::size_t{4} << 20);
  ssize_t count = 0;
  while ((count = ::read(fd, block.data(), block.size())) != 0) {
    if (count < 0) {
      if (errno == EINTR) continue;
      const int reason = errno;
      ::close(fd);
      throw_io_error("read", path, reason);
    }
    XXH3_64bits_update(state.get(), block.data(), static_cast<std::size_t>(count));
  }
  ::close(fd);
  return XXH3_64bits_digest(state.get());
}

std::string checksum_text(std::uint64_t value) {
  return fmt::format("{:016x}", value);
}

}  // namespace photon
