// What a communicator holds, and messages under way. Internal to this room: the only header that sees MPI.
#pragma once

#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/device_group.hpp"
#include "comm/job.hpp"

namespace photon::comm {

// A group of ranks; shared by its communicator and by the operations under way in it.
struct Group {
  MPI_Comm comm = MPI_COMM_NULL;  // null: one rank without MPI
  int rank = 0;
  int size = 1;
  std::vector<int> world_ranks{0};  // of each rank here
  std::string name = "alone";
  std::shared_ptr<Job> job = std::make_shared<Job>();
  std::uint64_t num_pieces = 0;  // collective pieces begun so far: equal on all ranks, so it names their messages
  std::vector<std::vector<std::byte>> free_scratch;  // memory of finished pieces, to be used again

  Group() = default;
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group();

  // Throws an Error that names rank, host, operation and phase unless `result` is MPI_SUCCESS.
  void check(int result, const char* operation) const;
  // "<operation> <what> on rank 1 of 4 (data), host a, in phase 'step 3'"
  std::string describe(const std::string& operation, const char* what) const;
  std::vector<std::byte> take_scratch(std::int64_t bytes);
};

// Errors: Error where MPI has fewer tags than collective operations need.
void expect_tags(const Group& world);

// Messages to and from other ranks of a group, under way together. Long ones are cut.
class Messages {
 public:
  explicit Messages(Group& group) : group_(&group) {}
  void send(const std::byte* data, std::int64_t bytes, int to, int tag, const char* operation);
  void receive(std::byte* data, std::int64_t bytes, int from, int tag, const char* operation);
  // Whether all have arrived and left. Errors: Error when a message has another length than expected.
  bool poll(const char* operation);
  std::string missing() const;  // the senders of what has not arrived, else the receivers of what has not left

 private:
  struct Message {
    int peer = 0;
    bool incoming = false;
    std::int64_t bytes = 0;
  };
  Group* group_;
  std::vector<MPI_Request> requests_;
  std::vector<Message> messages_;
  std::vector<int> finished_;  // memory of poll()
  std::vector<MPI_Status> statuses_;
  std::size_t num_open_ = 0;
};

// An operation that has begun.
class Operation : public Progress, public Started, public std::enable_shared_from_this<Operation> {
 public:
  Operation(std::shared_ptr<Group> group, std::string name, std::int64_t bytes, int peer = -1, int tag = -1);
  bool advance() final;  // also ends it in the job's list and the log
  std::string describe() const final { return group_->describe(name_, "did not finish"); }
  void start();  // registers it and polls once
  bool done() final { return advance(); }
  void wait() final;

 protected:
  virtual bool poll() = 0;
  std::shared_ptr<Group> group_;
  std::string name_;  // "all_reduce", "receive from rank 3"

 private:
  std::uint64_t number_;
  bool done_ = false;
};

// One exchange after another: each step does its arithmetic on what the last one brought, then posts messages with the
// tag it is given. The last step may post none.
struct Piece {
  std::vector<std::function<void(Messages&, int tag)>> steps;  // at most two that post
  std::vector<std::byte> scratch;
};

// A collective operation: pieces, each with its own tags, a few of them under way at once.
class Collective : public Operation {
 public:
  using MakePiece = std::function<Piece(std::int64_t index)>;
  Collective(std::shared_ptr<Group> group, const char* name, std::int64_t bytes, std::int64_t num_pieces,
             MakePiece make);
  std::string missing() const override;

 private:
  struct Flight {
    Piece piece;
    Messages messages;
    int tag = 0;
    std::size_t next = 0;
  };
  bool poll() override;
  void begin_piece();
  MakePiece make_;
  std::int64_t num_pieces_;
  std::int64_t num_begun_ = 0;
  std::uint64_t first_number_;  // of the group's pieces
  std::deque<Flight> flights_;
};

// A message to or from another rank.
class Transfer : public Operation {
 public:
  Transfer(std::shared_ptr<Group> group, const char* verb, int peer, int tag, std::int64_t bytes)
      : Operation(std::move(group), std::string(verb) + " rank " + std::to_string(peer), bytes, peer, tag),
        messages(*group_) {}
  std::string missing() const override { return messages.missing(); }
  const char* name() const { return name_.c_str(); }
  Messages messages;

 private:
  bool poll() override { return messages.poll(name()); }
};

}  // namespace photon::comm

namespace photon {

struct Communicator::Impl {
  std::shared_ptr<comm::Group> group = std::make_shared<comm::Group>();
  bool uses_device = false;
  Stream compute;
  std::unique_ptr<comm::DeviceGroup> device;  // null where the group is one rank
};

struct Pending::Impl {
  std::shared_ptr<comm::Started> started;
};

}  // namespace photon
