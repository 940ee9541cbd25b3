#include "comm/communicator.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <utility>

#include "comm/impl.hpp"
#include "comm/reduce.hpp"

namespace photon {
namespace {

// Messages are cut into pieces of this many bytes: MPI counts are ints, and a reduction's scratch memory stays small.
constexpr std::int64_t piece_bytes = std::int64_t{16} << 20;
// The same of messages between two ranks, which need no scratch.
constexpr std::int64_t message_bytes = std::int64_t{1} << 30;
// Below this many bytes in all, one all-gather and a reduction on every rank beats two exchanges.
constexpr std::int64_t gather_bytes = 1 << 16;

std::byte* bytes_of(const TensorView& view) {
  return static_cast<std::byte*>(view.data());
}
const std::byte* bytes_of(const ConstTensorView& view) {
  return static_cast<const std::byte*>(view.data());
}

void expect_host(const ConstTensorView& view, const char* operation) {
  PHOTON_EXPECT(view.space() == Space::host && view.contiguous(), "{} of a {} tensor {} through host memory", operation,
                name_of(view.space()), view.shape().str());
}

}  // namespace

Communicator::Impl::~Impl() {
  if (comm == MPI_COMM_NULL || comm == MPI_COMM_WORLD) return;
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized == 0) MPI_Comm_free(&comm);
}

void Communicator::Impl::check(int result, const char* operation) const {
  if (result == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(result, text, &length);
  throw Error(fmt::format("{} failed on rank {} of {} ({}), host {}, in phase '{}'", operation, rank, size, name, host,
                          phase->name),
              std::string(text, static_cast<std::size_t>(length)), "see what the other ranks report");
}

void Communicator::Impl::wait(MPI_Request request, const char* operation) const {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  for (std::int64_t polls = 0;; ++polls) {
    int done = 0;
    check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), operation);
    if (done != 0) return;
    if (polls < 100) continue;
    const double waited = std::chrono::duration<double>(Clock::now() - begin).count();
    if (waited > phase->deadline_seconds) {
      throw Error(fmt::format("{} did not finish on rank {} of {} ({}), host {}, in phase '{}'", operation, rank, size,
                              name, host, phase->name),
                  fmt::format("waited {:.1f} s for other ranks, the limit is {:g} s", waited, phase->deadline_seconds),
                  "look for a rank that stopped, hangs or is much slower");
    }
    // Short waits stay responsive; long ones leave the core to ranks that compute.
    const timespec pause{0, waited < 0.002 ? 1000 : waited < 1 ? 20'000 : 500'000};
    nanosleep(&pause, nullptr);
  }
}

Communicator::Communicator() : impl_(std::make_unique<Impl>()) {}
Communicator::Communicator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Communicator::~Communicator() = default;
Communicator::Communicator(Communicator&& other) noexcept = default;
Communicator& Communicator::operator=(Communicator&& other) noexcept = default;

int Communicator::rank() const {
  return impl_->rank;
}
int Communicator::size() const {
  return impl_->size;
}
const std::string& Communicator::name() const {
  return impl_->name;
}

void Communicator::barrier() {
  if (impl_->comm == MPI_COMM_NULL) return;
  MPI_Request request = MPI_REQUEST_NULL;
  impl_->check(MPI_Ibarrier(impl_->comm, &request), "barrier");
  impl_->wait(request, "barrier");
}

void Communicator::broadcast(const TensorView& data, int root) {
  expect_host(data, "broadcast");
  PHOTON_EXPECT(root >= 0 && root < size(), "broadcast from rank {} of {}", root, size());
  if (impl_->comm == MPI_COMM_NULL) return;
  for (std::int64_t begin = 0; begin < data.bytes(); begin += piece_bytes) {
    const int count = static_cast<int>(std::min(piece_bytes, data.bytes() - begin));
    MPI_Request request = MPI_REQUEST_NULL;
    impl_->check(MPI_Ibcast(bytes_of(data) + begin, count, MPI_BYTE, root, impl_->comm, &request), "broadcast");
    impl_->wait(request, "broadcast");
  }
}

void Communicator::all_gather(const ConstTensorView& mine, const TensorView& all) {
  expect_host(mine, "all_gather");
  expect_host(all, "all_gather");
  PHOTON_EXPECT(mine.dtype() == all.dtype() && all.numel() == mine.numel() * size(),
                "all_gather of {} {} elements of each of {} ranks into {} {}", mine.numel(), name_of(mine.dtype()),
                size(), all.numel(), name_of(all.dtype()));
  if (mine.numel() == 0) return;
  if (impl_->comm == MPI_COMM_NULL) {
    std::memcpy(all.data(), mine.data(), static_cast<std::size_t>(mine.bytes()));
    return;
  }
  // A piece of every rank lands with a stride of one rank's bytes: gathered into scratch, then placed.
  const std::int64_t total = mine.bytes();
  const std::int64_t step = std::max<std::int64_t>(1, piece_bytes / size());
  for (std::int64_t begin = 0; begin < total; begin += step) {
    const std::int64_t count = std::min(step, total - begin);
    const bool whole = count == total;
    if (!whole) impl_->scratch.resize(static_cast<std::size_t>(count * size()));
    std::byte* to = whole ? bytes_of(all) : impl_->scratch.data();
    MPI_Request request = MPI_REQUEST_NULL;
    impl_->check(MPI_Iallgather(bytes_of(mine) + begin, static_cast<int>(count), MPI_BYTE, to, static_cast<int>(count),
                                MPI_BYTE, impl_->comm, &request),
                 "all_gather");
    impl_->wait(request, "all_gather");
    if (whole) return;
    for (std::int64_t r = 0; r < size(); ++r) {
      std::memcpy(bytes_of(all) + r * total + begin, to + r * count, static_cast<std::size_t>(count));
    }
  }
}

void Communicator::all_reduce(const TensorView& data, Reduction op) {
  expect_host(data, "all_reduce");
  if (size() == 1 || data.numel() == 0) return;
  const std::int64_t ranks = size();
  const auto element = static_cast<std::int64_t>(size_of(data.dtype()));
  const std::int64_t piece = piece_bytes / element;
  for (std::int64_t begin = 0; begin < data.numel(); begin += piece) {
    const std::int64_t count = std::min(piece, data.numel() - begin);
    std::byte* mine = bytes_of(data) + begin * element;
    MPI_Request request = MPI_REQUEST_NULL;
    if (count * element * ranks <= gather_bytes) {
      impl_->scratch.resize(static_cast<std::size_t>(count * element * ranks));
      const int bytes = static_cast<int>(count * element);
      impl_->check(MPI_Iallgather(mine, bytes, MPI_BYTE, impl_->scratch.data(), bytes, MPI_BYTE, impl_->comm, &request),
                   "all_reduce");
      impl_->wait(request, "all_reduce");
      comm::reduce_rows(data.dtype(), op, impl_->scratch.data(), ranks, count, mine);
      continue;
    }
    // Rank r reduces block r of everyone's piece, then all ranks collect the blocks.
    std::vector<int> counts, offsets;  // bytes
    for (std::int64_t r = 0; r < ranks; ++r) {
      const std::int64_t first = count * r / ranks;
      offsets.push_back(static_cast<int>(first * element));
      counts.push_back(static_cast<int>((count * (r + 1) / ranks - first) * element));
    }
    const auto me = static_cast<std::size_t>(rank());
    const std::int64_t block = counts[me] / element;
    std::vector<int> block_counts(static_cast<std::size_t>(ranks), counts[me]);
    std::vector<int> block_offsets;
    for (int r = 0; r < ranks; ++r) block_offsets.push_back(r * counts[me]);
    impl_->scratch.resize(static_cast<std::size_t>((ranks + 1) * block * element));
    std::byte* rows = impl_->scratch.data();
    std::byte* reduced = rows + ranks * block * element;
    impl_->check(MPI_Ialltoallv(mine, counts.data(), offsets.data(), MPI_BYTE, rows, block_counts.data(),
                                block_offsets.data(), MPI_BYTE, impl_->comm, &request),
                 "all_reduce");
    impl_->wait(request, "all_reduce");
    comm::reduce_rows(data.dtype(), op, rows, ranks, block, reduced);
    impl_->check(MPI_Iallgatherv(reduced, counts[me], MPI_BYTE, mine, counts.data(), offsets.data(), MPI_BYTE,
                                 impl_->comm, &request),
                 "all_reduce");
    impl_->wait(request, "all_reduce");
  }
}

struct Sending::Impl {
  const Communicator::Impl* from = nullptr;
  std::vector<MPI_Request> requests;
  std::string operation;  // "send to rank 3"
};

Sending::Sending() = default;
Sending::~Sending() = default;
Sending::Sending(Sending&& other) noexcept = default;
Sending& Sending::operator=(Sending&& other) noexcept = default;

void Sending::wait() {
  if (!impl_) return;
  for (const MPI_Request request : impl_->requests) impl_->from->wait(request, impl_->operation.c_str());
  impl_.reset();
}

Sending Communicator::send(const ConstTensorView& data, int to, int tag) {
  expect_host(data, "send");
  PHOTON_EXPECT(to >= 0 && to < size() && to != rank(), "send from rank {} to {} of {}", rank(), to, size());
  PHOTON_EXPECT(tag >= 0 && tag <= max_tag, "send with tag {}", tag);
  Sending sending;
  sending.impl_ = std::make_unique<Sending::Impl>();
  sending.impl_->from = impl_.get();
  sending.impl_->operation = fmt::format("send to rank {}", to);
  for (std::int64_t begin = 0; begin < data.bytes(); begin += message_bytes) {
    const int count = static_cast<int>(std::min(message_bytes, data.bytes() - begin));
    MPI_Request request = MPI_REQUEST_NULL;
    impl_->check(MPI_Isend(bytes_of(data) + begin, count, MPI_BYTE, to, tag, impl_->comm, &request),
                 sending.impl_->operation.c_str());
    sending.impl_->requests.push_back(request);
  }
  return sending;
}

void Communicator::receive(const TensorView& data, int from, int tag) {
  expect_host(data, "receive");
  PHOTON_EXPECT(from >= 0 && from < size() && from != rank(), "receive on rank {} from {} of {}", rank(), from, size());
  PHOTON_EXPECT(tag >= 0 && tag <= max_tag, "receive with tag {}", tag);
  const std::string operation = fmt::format("receive from rank {}", from);
  for (std::int64_t begin = 0; begin < data.bytes(); begin += message_bytes) {
    const int count = static_cast<int>(std::min(message_bytes, data.bytes() - begin));
    MPI_Request request = MPI_REQUEST_NULL;
    impl_->check(MPI_Irecv(bytes_of(data) + begin, count, MPI_BYTE, from, tag, impl_->comm, &request),
                 operation.c_str());
    impl_->wait(request, operation.c_str());
  }
}

double Communicator::all_reduce(double value, Reduction op) {
  all_reduce(host_view(&value, {1}), op);
  return value;
}

std::int64_t Communicator::all_reduce(std::int64_t value, Reduction op) {
  all_reduce(host_view(&value, {1}), op);
  return value;
}

Communicator Communicator::split(int color, const std::string& name) {
  auto impl = std::make_unique<Impl>();
  impl->name = name;
  impl->host = impl_->host;
  impl->phase = impl_->phase;
  if (impl_->comm != MPI_COMM_NULL) {
    PHOTON_EXPECT(color >= 0, "split by colour {}", color);
    impl_->check(MPI_Comm_split(impl_->comm, color, impl_->rank, &impl->comm), "split");
    impl->check(MPI_Comm_set_errhandler(impl->comm, MPI_ERRORS_RETURN), "split");
    impl->check(MPI_Comm_rank(impl->comm, &impl->rank), "split");
    impl->check(MPI_Comm_size(impl->comm, &impl->size), "split");
  }
  return Communicator(std::move(impl));
}

}  // namespace photon
