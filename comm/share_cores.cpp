#include "comm/share_cores.hpp"

#include <omp.h>

#include <algorithm>
#include <cstdlib>

namespace photon {

void share_cores(int num_local_ranks) {
  if (num_local_ranks <= 1 || std::getenv("OMP_NUM_THREADS") != nullptr) return;
  omp_set_num_threads(std::max(1, omp_get_num_procs() / num_local_ranks));
}

}  // namespace photon
