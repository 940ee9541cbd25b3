// What a communicator holds. Internal to this room: the only header that sees MPI.
#pragma once

#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.hpp"

namespace photon {

struct Communicator::Impl {
  MPI_Comm comm = MPI_COMM_NULL;  // null: one rank without MPI
  int rank = 0;
  int size = 1;
  std::string name = "alone";
  std::string host;
  std::shared_ptr<Phase> phase = std::make_shared<Phase>();
  std::vector<std::byte> scratch;  // of reductions; kept, so that a message under way never loses its memory

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl();

  // Throws an Error that names rank, host, operation and phase unless `result` is MPI_SUCCESS.
  void check(int result, const char* operation) const;
  // Polls until the request is done; throws when the phase's deadline passes.
  void wait(MPI_Request request, const char* operation) const;
};

}  // namespace photon
