// A group of ranks and what they do together, on host memory and on the memory of GPUs. Operations are collective
// unless they say otherwise: all ranks of the group call them with equal sizes, in the same order.
//
// Every wait polls and has a deadline; on expiry, or when a rank that this process can see has died, it throws a
// RankError naming rank, host, operation, phase and whom it waited for. Messages may then still be under way, so the
// caller has to end the process (World::run does).
//
// Reductions add in rank order, element by element: one order of summation whatever the operation and the number of
// elements around one, so all_reduce and reduce_scatter give the same bits, on every rank. f32 is summed in f64 and
// rounded once. They take f32, f64, i32, i64, u8, u32 and u64. Sizes are 64 bits wide: long messages are cut.
//
// Device tensors travel by NCCL, after use_device(). Operations on them are queued behind the work of a compute stream
// and return when they are queued; what is queued on that stream behind the operation, or behind wait() of one that was
// started, sees the result; the host waits in synchronize() alone. There, NCCL chooses the order of summation, f16 and
// bf16 are reduced too, and max and min may lose a NaN.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "support/error.hpp"
#include "tensor/device.hpp"
#include "tensor/view.hpp"

namespace photon {

namespace comm {
class DeviceGroup;
class Operation;
class Started;
}  // namespace comm

// A way for messages on device memory between two ranks of a communicator.
struct Route {
  int from = 0;
  int to = 0;
};

// Another rank cannot be reached: it died, hangs, or its host is lost. Messages may still be under way, so nobody may
// go on after it: who catches Errors lets it pass.
class RankError : public Error {
 public:
  using Error::Error;
};

enum class Reduction : std::uint8_t { sum, max, min };

// What a rank is doing, for messages, and how long it waits for others before it gives up. Shared by a world and all
// its communicators.
struct Phase {
  std::string name = "set-up";
  double deadline_seconds = 600;
};

// An operation that has begun. Its memory must stay, what it reads unchanged and what it writes unread, until done() or
// wait() says that it has finished. Operations go on while their process is inside any call of this room, and at
// done(); there is no thread behind them. Several may be under way, and be waited for in any order.
class Pending {
 public:
  Pending();  // finished
  ~Pending();
  Pending(Pending&& other) noexcept;
  Pending& operator=(Pending&& other) noexcept;
  // Carries on, without waiting.
  bool done();
  // Errors: Error at the phase's deadline.
  void wait();

 private:
  friend class Communicator;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

using Sending = Pending;

class Communicator {
 public:
  // One rank, without MPI.
  Communicator();
  ~Communicator();
  Communicator(Communicator&& other) noexcept;
  Communicator& operator=(Communicator&& other) noexcept;

  int rank() const;
  int size() const;
  const std::string& name() const;  // for messages, e.g. "world" or "data"

  // Traffic below: bytes that a rank sends, and as many that it receives, with n = size() and S the bytes of the larger
  // argument.

  // Element by element over the ranks, in place; every rank receives the same bits. Traffic: 2 (n - 1) / n S.
  void all_reduce(const TensorView& data, Reduction op);
  // The ranks' `all`, of size() equal parts, reduced; each rank receives the part of its number, with the bits that
  // all_reduce would give. `mine` lies outside `all`, or is the part of this rank in it. Traffic: (n - 1) / n S.
  void reduce_scatter(const ConstTensorView& all, const TensorView& mine, Reduction op);
  // all = every rank's `mine` behind each other in rank order: size() times as many elements. `mine` lies outside
  // `all`, or is the part of this rank in it. Traffic: (n - 1) / n S.
  void all_gather(const ConstTensorView& mine, const TensorView& all);
  // Both of size() equal parts: part r of `from` goes to rank r, part r of `to` comes from rank r. They may not
  // overlap. Traffic: (n - 1) / n S.
  void all_to_all(const ConstTensorView& from, const TensorView& to);
  // The root's bytes for everyone, in place. Traffic: at most 2 S; S (n - 1) from the root where S is small.
  void broadcast(const TensorView& data, int root);
  // Returns when every rank has arrived.
  void barrier();

  // The same operations, begun here and finished by the result. All ranks begin them in the same order.
  [[nodiscard]] Pending start_all_reduce(const TensorView& data, Reduction op);
  [[nodiscard]] Pending start_reduce_scatter(const ConstTensorView& all, const TensorView& mine, Reduction op);
  [[nodiscard]] Pending start_all_gather(const ConstTensorView& mine, const TensorView& all);
  [[nodiscard]] Pending start_all_to_all(const ConstTensorView& from, const TensorView& to);
  [[nodiscard]] Pending start_broadcast(const TensorView& data, int root);

  // Messages between two ranks; not collective. Messages of equal sender, receiver and tag arrive in the order they
  // were sent and are received in the order the receives began; the receiver names the number of elements. Contiguous,
  // any dtype and length. Tags run from 0 to max_tag. A send has finished when the receiver has the message, or it was
  // copied.
  static constexpr int max_tag = 32767;
  [[nodiscard]] Pending send(const ConstTensorView& data, int to, int tag);
  [[nodiscard]] Pending start_receive(const TensorView& data, int from, int tag);
  void receive(const TensorView& data, int from, int tag);

  // Makes device tensors known to this communicator; collective. Each rank's are on the GPU that is current. Messages
  // between two ranks take a route each way: there, tags are not looked at, so messages must be received in the order
  // in which they were sent. All ranks name the same routes in the same order. Errors: NotConfigured in a build without
  // CUDA; Error at the phase's deadline.
  void use_device(Stream compute, const std::vector<Route>& routes = {});
  // Waits until the device operations of this communicator, and what the compute stream holds, are done. Polls, with
  // the phase's deadline; a wait of CUDA's own would last for ever where another rank has died.
  void synchronize();

  // Polls until `done` holds, and carries on whatever is under way: for a caller that waits for one of several things.
  // `operation` and `from`, the rank whose turn it is (below 0: any), stand in the message. Errors: Error at the
  // phase's deadline, and what the GPUs' communication has found.
  void wait_until(const std::string& operation, int from, const std::function<bool()>& done);

  // One number of each rank reduced; convenience over all_reduce.
  double all_reduce(double value, Reduction op);
  std::int64_t all_reduce(std::int64_t value, Reduction op);

  // The ranks that give the same `color` form a communicator, ordered by their rank here.
  Communicator split(int color, const std::string& name);

  struct Impl;

 private:
  friend class World;
  explicit Communicator(std::unique_ptr<Impl> impl);
  static Pending begin(std::shared_ptr<comm::Started> started);
  static Pending begin(std::shared_ptr<comm::Operation> operation);
  // Where an operation on this tensor goes on; null: host memory, or nobody else is there.
  comm::DeviceGroup* device_of(const ConstTensorView& view, const char* operation) const;
  Pending copy_alone(const ConstTensorView& from, const TensorView& to);
  std::unique_ptr<Impl> impl_;
};

}  // namespace photon
