// The job this process belongs to: one process alone, or one of the ranks that mpirun or srun started.
#pragma once

#include <functional>
#include <string>

#include "comm/communicator.hpp"

namespace photon {

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
  const std::string& host() const { return host_; }
  Communicator& all() { return all_; }

  // Names what comes next and how long to wait for other ranks in it.
  void enter(const std::string& phase, double deadline_seconds);

  // Calls `work`. Alone, exceptions pass through. With others, Preempted (which all ranks throw together) passes
  // through, and any other exception is reported by this rank and ends every rank of the job (MPI_Abort with the exit
  // code of the error).
  void run(const std::function<void()>& work);

 private:
  [[noreturn]] void abort(const std::string& message, int exit_code);

  std::shared_ptr<Phase> phase_;
  Communicator all_;
  int local_size_ = 1;
  std::string host_;
  bool mpi_ = false;
  bool agreed_ = false;  // an exception in flight is one that all ranks throw
};

}  // namespace photon
