// A group of ranks and what they do together, on host memory. Operations are collective unless they say otherwise: all
// ranks of the group call them with equal sizes, in the same order.
//
// Every wait polls and has a deadline; on expiry the operation throws an Error naming rank, host, operation and phase.
// A message may then still be under way, so the caller has to end the process (World::run does).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tensor/view.hpp"

namespace photon {

enum class Reduction : std::uint8_t { sum, max, min };

// What a rank is doing, for messages, and how long it waits for others before it gives up. Shared by a world and all
// its communicators.
struct Phase {
  std::string name = "set-up";
  double deadline_seconds = 600;
};

// Messages under way. Their memory must stay unchanged until wait() returns.
class Sending {
 public:
  Sending();
  ~Sending();
  Sending(Sending&& other) noexcept;
  Sending& operator=(Sending&& other) noexcept;
  // Returns when the receiver has them, or they were copied. Errors: Error at the phase's deadline.
  void wait();

 private:
  friend class Communicator;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

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

  // Element by element over the ranks, in place, in rank order with one order of summation whatever the number of
  // elements around it; every rank receives the same bits. f32 is summed in f64 and rounded once. Contiguous f32, f64,
  // i32, i64, u8, u32 or u64 of any length. Traffic a rank: 2 (n - 1) / n times the bytes, each way.
  void all_reduce(const TensorView& data, Reduction op);
  // The root's bytes for everyone, in place.
  void broadcast(const TensorView& data, int root);
  // all = every rank's `mine` behind each other in rank order: size() times as many elements. They may not overlap.
  void all_gather(const ConstTensorView& mine, const TensorView& all);
  // Returns when every rank has arrived.
  void barrier();

  // Messages between two ranks; not collective. Messages of equal sender, receiver and tag arrive in the order they
  // were sent; the receiver names the number of elements. Contiguous, any dtype and length. Tags run from 0 to max_tag.
  // The communicator must outlive what send() returns.
  static constexpr int max_tag = 32767;  // what every MPI allows
  Sending send(const ConstTensorView& data, int to, int tag);
  void receive(const TensorView& data, int from, int tag);

  // One number of each rank reduced; convenience over all_reduce.
  double all_reduce(double value, Reduction op);
  std::int64_t all_reduce(std::int64_t value, Reduction op);

  // The ranks that give the same `color` form a communicator, ordered by their rank here.
  Communicator split(int color, const std::string& name);

  struct Impl;

 private:
  friend class World;
  explicit Communicator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace photon
