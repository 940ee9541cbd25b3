// The one World of an MPI test program; made by tests/testing/mpi_main.cpp.
#pragma once

#include "comm/world.hpp"

namespace photon::testing {

World& world();

}  // namespace photon::testing
