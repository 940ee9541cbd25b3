// What every processor runs: four lanes, no assumptions.
#define PHOTON_ISA baseline
#define PHOTON_ISA_NAME "baseline"
#define PHOTON_LANES 4
#include "kernels/cpu/loops_table.hpp"
