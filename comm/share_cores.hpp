#pragma once

namespace photon {

// Ranks of one host share its cores, unless the user says how many threads each takes (OMP_NUM_THREADS).
void share_cores(int num_local_ranks);

}  // namespace photon
