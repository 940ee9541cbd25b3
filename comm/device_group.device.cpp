// Communication between GPUs by NCCL.
#include "comm/device_group.hpp"

#include <cuda_runtime.h>

#include <cstring>
#include <map>
#include <utility>

#include "comm/impl.hpp"
#include "comm/nccl_link.hpp"
#include "tensor/cuda_check.hpp"

namespace photon::comm {
namespace {

// Messages of a pipeline are small beside its compute, and a kernel that waits for one holds its multiprocessors: few
// thread blocks leave the GPU to the passes. On NVLink 4 reach 129 GB/s, 16 would reach 352 (bench/RESULTS.md).
constexpr int route_blocks = 4;

ncclRedOp_t nccl_operation(Reduction op) {
  switch (op) {
    case Reduction::sum:
      return ncclSum;
    case Reduction::max:
      return ncclMax;
    case Reduction::min:
      return ncclMin;
  }
  return ncclSum;
}

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::f64:
      return ncclFloat64;
    case DType::f16:
      return ncclFloat16;
    case DType::bf16:
      return ncclBfloat16;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    case DType::u8:
      return ncclUint8;
    case DType::u32:
      return ncclUint32;
    case DType::u64:
      return ncclUint64;
    case DType::u16:
      break;
  }
  PHOTON_EXPECT(false, "a reduction of {} elements", name_of(dtype));
}

ncclUniqueId new_id() {
  ncclUniqueId id{};
  const ncclResult_t result = ncclGetUniqueId(&id);
  if (result == ncclSuccess) return id;
  throw Error("NCCL cannot be set up", ncclGetErrorString(result), "NCCL_DEBUG=INFO tells more");
}

TensorView view_of(ncclUniqueId& id) {
  return host_view(reinterpret_cast<std::uint8_t*>(&id), {static_cast<std::int64_t>(sizeof id)});
}

class NcclGroup : public DeviceGroup {
 public:
  NcclGroup(std::shared_ptr<Group> group, Communicator& members, Stream compute, const std::vector<Route>& routes)
      : group_(std::move(group)), compute_(static_cast<cudaStream_t>(compute.handle())) {
    ncclUniqueId id{};
    if (members.rank() == 0) id = new_id();
    members.broadcast(view_of(id), 0);
    all_ = std::make_unique<NcclLink>(group_, id, group_->rank, group_->size, NcclLink::Calls::polled, 0);
    for (const Route& route : routes) connect(members, route);
  }

  std::shared_ptr<Started> all_reduce(const TensorView& data, Reduction op) override {
    return queue("all_reduce", data, [=, this] {
      return ncclAllReduce(data.data(), data.data(), count(data), nccl_type(data.dtype()), nccl_operation(op),
                           all_->handle(), all_->stream());
    });
  }
  std::shared_ptr<Started> reduce_scatter(const ConstTensorView& all, const TensorView& mine, Reduction op) override {
    return queue("reduce_scatter", all, [=, this] {
      return ncclReduceScatter(all.data(), mine.data(), count(mine), nccl_type(mine.dtype()), nccl_operation(op),
                               all_->handle(), all_->stream());
    });
  }
  std::shared_ptr<Started> all_gather(const ConstTensorView& mine, const TensorView& all) override {
    return queue("all_gather", all, [=, this] {
      return ncclAllGather(mine.data(), all.data(), bytes(mine), ncclUint8, all_->handle(), all_->stream());
    });
  }
  std::shared_ptr<Started> all_to_all(const ConstTensorView& from, const TensorView& to) override {
    return queue("all_to_all", from, [=, this] {
      const std::size_t part = bytes(from) / static_cast<std::size_t>(group_->size);
      ncclResult_t result = ncclGroupStart();
      for (int r = 0; r < group_->size && result == ncclSuccess; ++r) {
        const std::size_t offset = static_cast<std::size_t>(r) * part;
        result = ncclSend(static_cast<const std::byte*>(from.data()) + offset, part, ncclUint8, r, all_->handle(),
                          all_->stream());
        if (result != ncclSuccess) break;
        result =
            ncclRecv(static_cast<std::byte*>(to.data()) + offset, part, ncclUint8, r, all_->handle(), all_->stream());
      }
      const ncclResult_t end = ncclGroupEnd();
      return result == ncclSuccess ? end : result;
    });
  }
  std::shared_ptr<Started> broadcast(const TensorView& data, int root) override {
    return queue("broadcast", data, [=, this] {
      return ncclBroadcast(data.data(), data.data(), bytes(data), ncclUint8, root, all_->handle(), all_->stream());
    });
  }
  std::shared_ptr<Started> send(const ConstTensorView& data, int to, int tag) override {
    NcclLink& link = route(group_->rank, to);
    return link.queue(fmt::format("send to rank {}", to), data.bytes(), to, tag, compute_,
                      [&] { return ncclSend(data.data(), bytes(data), ncclUint8, 1, link.handle(), link.stream()); });
  }
  std::shared_ptr<Started> receive(const TensorView& data, int from, int tag) override {
    NcclLink& link = route(from, group_->rank);
    return link.queue(fmt::format("receive from rank {}", from), data.bytes(), from, tag, compute_,
                      [&] { return ncclRecv(data.data(), bytes(data), ncclUint8, 0, link.handle(), link.stream()); });
  }

  void synchronize() override {
    all_->wait_for(record(all_->stream()));
    for (const auto& [ends, link] : routes_) link->wait_for(record(link->stream()));
    all_->wait_for(record(compute_));
  }

  void check() override {
    all_->check_state("communication");
    for (const auto& [ends, link] : routes_) link->check_state("messages");
  }

 private:
  static std::size_t count(const ConstTensorView& view) { return static_cast<std::size_t>(view.numel()); }
  static std::size_t bytes(const ConstTensorView& view) { return static_cast<std::size_t>(view.bytes()); }

  std::shared_ptr<Started> queue(const char* operation, const ConstTensorView& data,
                                 const std::function<ncclResult_t()>& call) {
    return all_->queue(operation, data.bytes(), -1, -1, compute_, call);
  }

  // The ranks go through the routes in the same order, so two that wait for each other wait for the same route.
  void connect(Communicator& members, const Route& route) {
    PHOTON_EXPECT(route.from != route.to && route.from >= 0 && route.to >= 0 && route.from < group_->size &&
                      route.to < group_->size,
                  "a route from rank {} to {} of {}", route.from, route.to, group_->size);
    const bool sends = route.from == group_->rank;
    if (!sends && route.to != group_->rank) return;
    PHOTON_EXPECT(!routes_.contains({route.from, route.to}), "a second route from rank {} to {}", route.from, route.to);
    ncclUniqueId id{};
    if (sends) {
      id = new_id();
      members.send(view_of(id), route.to, Communicator::max_tag).wait();
    } else {
      members.receive(view_of(id), route.from, Communicator::max_tag);
    }
    routes_[{route.from, route.to}] =
        std::make_unique<NcclLink>(group_, id, sends ? 0 : 1, 2, NcclLink::Calls::direct, route_blocks);
  }

  NcclLink& route(int from, int to) const {
    const auto found = routes_.find({from, to});
    PHOTON_EXPECT(found != routes_.end(), "no route for device memory from rank {} to {}", from, to);
    return *found->second;
  }

  std::shared_ptr<Group> group_;
  cudaStream_t compute_;
  std::unique_ptr<NcclLink> all_;
  std::map<std::pair<int, int>, std::unique_ptr<NcclLink>> routes_;
};

}  // namespace

std::unique_ptr<DeviceGroup> make_device_group(const std::shared_ptr<Group>& group, Communicator& members,
                                               Stream compute, const std::vector<Route>& routes) {
  return std::make_unique<NcclGroup>(group, members, compute, routes);
}

std::string gpu_identity(int index) {
  cudaDeviceProp properties{};
  PHOTON_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  std::string text;
  for (const char byte : properties.uuid.bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

}  // namespace photon::comm
