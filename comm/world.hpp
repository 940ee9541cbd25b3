// The job this process belongs to: one process alone, or one of the ranks that mpirun or srun started.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.hpp"

namespace photon {

namespace comm {
class Job;
}

// Whether a launcher's environment (Open MPI, PMIx, PMI, a Slurm step of several tasks) says that this process is one
// of several ranks, or may be.
bool launched_by_mpi();

class World {
 public:
  // Starts MPI only under a launcher. At most one a process. Errors: Error when a launcher started several processes
  // that MPI does not join.
  World();
  // Ends MPI together with the other ranks; an exception that is not a common decision (see run) aborts the job
  // instead.
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const { return all_.rank(); }
  int size() const { return all_.size(); }
  int local_size() const { return local_size_; }  // ranks on this host
  int local_rank() const { return local_rank_; }  // of this one among them
  const std::string& host() const;
  Communicator& all() { return all_; }

  // Makes the GPU of this rank's number on its host the current one, or the only one that the process sees; returns its
  // index. Collective. Errors: InputError, on all ranks, when a host has more ranks than GPUs.
  int use_gpu();

  std::string name_of_rank(int rank) const;  // "rank 3 on host a"
  // For ranks that work long without waiting for each other. Errors: RankError when one that this process can see has
  // died.
  void check_ranks() const;

  // Names what comes next and how long to wait for other ranks in it.
  void enter(const std::string& phase, double deadline_seconds);

  // Where this rank's last operations are written, as JSON lines, when a wait expires or a peer dies, when the job is
  // aborted, and by write_operations(): the first line says who writes and why, each other one is an operation
  // (operation, communicator, bytes, peer, phase, begin and end in seconds since 1970; an end of null: under way). An
  // orderly end removes the file. Its folder must exist.
  void keep_operations(const std::string& file);
  // For handlers of signals that end a job; safe there. Does nothing without keep_operations().
  static void write_operations(const char* reason) noexcept;

  // Tells whether this process was asked to stop, e.g. by SIGTERM. Launchers also ask so when another rank has died,
  // which this process may be unable to see: waits then end with an error after a minute, whatever the phase's
  // deadline.
  void set_stop_request(bool (*requested)());

  // Calls `work`. Alone, exceptions pass through. With others, Preempted (which all ranks throw together) passes
  // through, and any other exception is reported by this rank and ends every rank of the job (MPI_Abort with the exit
  // code of the error).
  void run(const std::function<void()>& work);

 private:
  [[noreturn]] void abort(const std::string& message, int exit_code);

  void meet();  // learns who the other ranks are

  std::shared_ptr<comm::Job> job_;
  Communicator all_;
  int local_size_ = 1;
  int local_rank_ = 0;
  bool mpi_ = false;
  bool agreed_ = false;  // an exception in flight is one that all ranks throw
};

}  // namespace photon
