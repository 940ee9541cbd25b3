// The table of one instruction set; included by its loops_<isa>.cpp alone.
#pragma once

#include "kernels/cpu/attention_loops.hpp"
#include "kernels/cpu/gemm_loops.hpp"
#include "kernels/cpu/row_loops.hpp"

namespace photon::cpu::PHOTON_ISA {

extern const Loops table;
const Loops table = {
    PHOTON_ISA_NAME,
    &dot_direct,
    &dot_panel,
    &rms_norm_row,
    &rms_norm_backward_row,
    &swiglu_forward,
    &swiglu_backward,
    &rotate,
    &add,
    &add_scaled,
    &largest,
    &sum_exp,
    &write_exp,
    &sum_of_squares,
    &dots,
    &adamw,
    &attend,
    &attend_backward,
    &group_forward,
    &group_backward,
};

}  // namespace photon::cpu::PHOTON_ISA
