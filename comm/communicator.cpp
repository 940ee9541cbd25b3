#include "comm/communicator.hpp"

#include <utility>

#include "comm/collectives.hpp"
#include "comm/device_group.hpp"
#include "comm/impl.hpp"

namespace photon {
namespace {

void expect_contiguous(const ConstTensorView& view, const char* operation) {
  PHOTON_EXPECT(view.contiguous(), "{} of a tensor {} that is not contiguous", operation, view.shape().str());
}

// `part` is one of the equal parts of `whole`, of which there are `ranks`; it lies outside it or is the one of `rank`.
void expect_part(const ConstTensorView& part, const ConstTensorView& whole, int rank, int ranks,
                 const char* operation) {
  expect_contiguous(part, operation);
  expect_contiguous(whole, operation);
  PHOTON_EXPECT(part.space() == whole.space() && part.dtype() == whole.dtype() && whole.numel() == part.numel() * ranks,
                "{} with {} {} elements as the part of one of {} ranks of {} {}", operation, part.numel(),
                name_of(part.dtype()), ranks, whole.numel(), name_of(whole.dtype()));
  const auto* one = static_cast<const std::byte*>(part.data());
  const auto* all = static_cast<const std::byte*>(whole.data());
  PHOTON_EXPECT(
      part.numel() == 0 || one == all + rank * part.bytes() || one + part.bytes() <= all || all + whole.bytes() <= one,
      "{} on overlapping memory", operation);
}

// A wait of a caller that knows itself when it is over.
class Until : public comm::Progress {
 public:
  Until(const comm::Group& group, comm::DeviceGroup* device, const std::string& operation, int from,
        const std::function<bool()>& done)
      : group_(group), device_(device), operation_(operation), from_(from), done_(done) {}
  bool advance() override {
    if (done_()) return true;
    if (device_ != nullptr) device_->check();
    return false;
  }
  std::string missing() const override {
    if (from_ < 0) return {};
    return group_.job->name_of_rank(group_.world_ranks[static_cast<std::size_t>(from_)]);
  }
  std::string describe() const override { return group_.describe(operation_, "did not come"); }

 private:
  const comm::Group& group_;
  comm::DeviceGroup* device_;
  const std::string& operation_;
  int from_;
  const std::function<bool()>& done_;
};

}  // namespace

Pending::Pending() = default;
Pending::~Pending() = default;
Pending::Pending(Pending&& other) noexcept = default;
Pending& Pending::operator=(Pending&& other) noexcept = default;

bool Pending::done() {
  if (impl_ && impl_->started->done()) impl_.reset();
  return !impl_;
}

void Pending::wait() {
  if (!impl_) return;
  impl_->started->wait();
  impl_.reset();
}

Communicator::Communicator() : impl_(std::make_unique<Impl>()) {}
Communicator::Communicator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Communicator::~Communicator() = default;
Communicator::Communicator(Communicator&& other) noexcept = default;
Communicator& Communicator::operator=(Communicator&& other) noexcept = default;

int Communicator::rank() const {
  return impl_->group->rank;
}
int Communicator::size() const {
  return impl_->group->size;
}
const std::string& Communicator::name() const {
  return impl_->group->name;
}

Pending Communicator::begin(std::shared_ptr<comm::Started> started) {
  Pending pending;
  pending.impl_ = std::make_unique<Pending::Impl>();
  pending.impl_->started = std::move(started);
  return pending;
}

Pending Communicator::begin(std::shared_ptr<comm::Operation> operation) {
  operation->start();
  return begin(std::shared_ptr<comm::Started>(std::move(operation)));
}

comm::DeviceGroup* Communicator::device_of(const ConstTensorView& view, const char* operation) const {
  if (view.space() == Space::host) return nullptr;
  PHOTON_EXPECT(impl_->uses_device, "{} of a device tensor in '{}', which does not use the GPU", operation, name());
  return impl_->device.get();
}

Pending Communicator::copy_alone(const ConstTensorView& from, const TensorView& to) {
  if (from.data() != to.data() && from.numel() > 0) {
    const Shape flat{from.numel()};
    copy(impl_->compute, from.reshape(flat), to.reshape(flat));
  }
  return {};
}

Pending Communicator::start_all_reduce(const TensorView& data, Reduction op) {
  expect_contiguous(data, "all_reduce");
  comm::DeviceGroup* device = device_of(data, "all_reduce");
  if (size() == 1 || data.numel() == 0) return {};
  if (device != nullptr) return begin(device->all_reduce(data, op));
  return begin(comm::make_all_reduce(impl_->group, data, op));
}

Pending Communicator::start_reduce_scatter(const ConstTensorView& all, const TensorView& mine, Reduction op) {
  expect_part(mine, all, rank(), size(), "reduce_scatter");
  comm::DeviceGroup* device = device_of(all, "reduce_scatter");
  if (size() == 1 || all.numel() == 0) return copy_alone(all, mine);
  if (device != nullptr) return begin(device->reduce_scatter(all, mine, op));
  return begin(comm::make_reduce_scatter(impl_->group, all, mine, op));
}

Pending Communicator::start_all_gather(const ConstTensorView& mine, const TensorView& all) {
  expect_part(mine, all, rank(), size(), "all_gather");
  comm::DeviceGroup* device = device_of(all, "all_gather");
  if (size() == 1 || all.numel() == 0) return copy_alone(mine, all);
  if (device != nullptr) return begin(device->all_gather(mine, all));
  return begin(comm::make_all_gather(impl_->group, mine, all));
}

Pending Communicator::start_all_to_all(const ConstTensorView& from, const TensorView& to) {
  expect_contiguous(from, "all_to_all");
  expect_contiguous(to, "all_to_all");
  PHOTON_EXPECT(from.space() == to.space() && from.dtype() == to.dtype() && from.numel() == to.numel() &&
                    from.numel() % size() == 0,
                "all_to_all of {} {} elements into {} {} on {} ranks", from.numel(), name_of(from.dtype()), to.numel(),
                name_of(to.dtype()), size());
  const auto* source = static_cast<const std::byte*>(from.data());
  const auto* target = static_cast<const std::byte*>(to.data());
  PHOTON_EXPECT(from.numel() == 0 || source + from.bytes() <= target || target + to.bytes() <= source,
                "all_to_all on overlapping memory");
  comm::DeviceGroup* device = device_of(from, "all_to_all");
  if (size() == 1 || from.numel() == 0) return copy_alone(from, to);
  if (device != nullptr) return begin(device->all_to_all(from, to));
  return begin(comm::make_all_to_all(impl_->group, from, to));
}

Pending Communicator::start_broadcast(const TensorView& data, int root) {
  expect_contiguous(data, "broadcast");
  PHOTON_EXPECT(root >= 0 && root < size(), "broadcast from rank {} of {}", root, size());
  comm::DeviceGroup* device = device_of(data, "broadcast");
  if (size() == 1 || data.numel() == 0) return {};
  if (device != nullptr) return begin(device->broadcast(data, root));
  return begin(comm::make_broadcast(impl_->group, data, root));
}

Pending Communicator::send(const ConstTensorView& data, int to, int tag) {
  expect_contiguous(data, "send");
  PHOTON_EXPECT(to >= 0 && to < size() && to != rank(), "send from rank {} to {} of {}", rank(), to, size());
  PHOTON_EXPECT(tag >= 0 && tag <= max_tag, "send with tag {}", tag);
  comm::DeviceGroup* device = device_of(data, "send");
  if (data.numel() == 0) return {};
  if (device != nullptr) return begin(device->send(data, to, tag));
  auto transfer = std::make_shared<comm::Transfer>(impl_->group, "send to", to, tag, data.bytes());
  transfer->messages.send(static_cast<const std::byte*>(data.data()), data.bytes(), to, tag, transfer->name());
  return begin(std::shared_ptr<comm::Operation>(std::move(transfer)));
}

Pending Communicator::start_receive(const TensorView& data, int from, int tag) {
  expect_contiguous(data, "receive");
  PHOTON_EXPECT(from >= 0 && from < size() && from != rank(), "receive on rank {} from {} of {}", rank(), from, size());
  PHOTON_EXPECT(tag >= 0 && tag <= max_tag, "receive with tag {}", tag);
  comm::DeviceGroup* device = device_of(data, "receive");
  if (data.numel() == 0) return {};
  if (device != nullptr) return begin(device->receive(data, from, tag));
  auto transfer = std::make_shared<comm::Transfer>(impl_->group, "receive from", from, tag, data.bytes());
  transfer->messages.receive(static_cast<std::byte*>(data.data()), data.bytes(), from, tag, transfer->name());
  return begin(std::shared_ptr<comm::Operation>(std::move(transfer)));
}

void Communicator::use_device(Stream compute, const std::vector<Route>& routes) {
  PHOTON_EXPECT(!impl_->uses_device, "'{}' already uses the GPU", name());
  impl_->compute = compute;
  if (size() > 1) impl_->device = comm::make_device_group(impl_->group, *this, compute, routes);
  impl_->uses_device = true;
}

void Communicator::synchronize() {
  PHOTON_EXPECT(impl_->uses_device, "'{}' does not use the GPU", name());
  if (impl_->device) return impl_->device->synchronize();
  device::synchronize(impl_->compute);
}

void Communicator::wait_until(const std::string& operation, int from, const std::function<bool()>& done) {
  PHOTON_EXPECT(from < size(), "a wait for rank {} of {}", from, size());
  Until until(*impl_->group, impl_->device.get(), operation, from, done);
  impl_->group->job->wait(until);
}

void Communicator::all_reduce(const TensorView& data, Reduction op) {
  start_all_reduce(data, op).wait();
}
void Communicator::reduce_scatter(const ConstTensorView& all, const TensorView& mine, Reduction op) {
  start_reduce_scatter(all, mine, op).wait();
}
void Communicator::all_gather(const ConstTensorView& mine, const TensorView& all) {
  start_all_gather(mine, all).wait();
}
void Communicator::all_to_all(const ConstTensorView& from, const TensorView& to) {
  start_all_to_all(from, to).wait();
}
void Communicator::broadcast(const TensorView& data, int root) {
  start_broadcast(data, root).wait();
}
void Communicator::receive(const TensorView& data, int from, int tag) {
  start_receive(data, from, tag).wait();
}
void Communicator::barrier() {
  if (size() > 1) begin(comm::make_barrier(impl_->group)).wait();
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
  const comm::Group& parent = *impl_->group;
  auto impl = std::make_unique<Impl>();
  comm::Group& group = *impl->group;
  group.name = name;
  group.job = parent.job;
  group.world_ranks = {parent.world_ranks[static_cast<std::size_t>(parent.rank)]};
  if (parent.comm != MPI_COMM_NULL) {
    PHOTON_EXPECT(color >= 0, "split by colour {}", color);
    // MPI's own split waits without a limit, so it begins when everyone is here. The colours tell who will be inside.
    std::vector<std::int32_t> colors(static_cast<std::size_t>(parent.size), color);
    const std::int32_t mine = color;
    all_gather(host_view(&mine, {1}), host_view(colors.data(), {parent.size}));
    const comm::Watchdog watchdog = parent.job->limit("split");
    parent.check(MPI_Comm_split(parent.comm, color, parent.rank, &group.comm), "split");
    parent.check(MPI_Comm_set_errhandler(group.comm, MPI_ERRORS_RETURN), "split");
    group.world_ranks.clear();
    for (int r = 0; r < parent.size; ++r) {
      if (colors[static_cast<std::size_t>(r)] != color) continue;
      if (r == parent.rank) group.rank = static_cast<int>(group.world_ranks.size());
      group.world_ranks.push_back(parent.world_ranks[static_cast<std::size_t>(r)]);
    }
    group.size = static_cast<int>(group.world_ranks.size());
  }
  return Communicator(std::move(impl));
}

}  // namespace photon
