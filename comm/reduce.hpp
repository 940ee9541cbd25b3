// The arithmetic of a reduction. Internal to this room.
#pragma once

#include <cstddef>
#include <cstdint>

#include "comm/communicator.hpp"

namespace photon::comm {

// result[i] = rows[0][i] op rows[1][i] op ..., in this order; rows [num_rows, count] of `dtype`. f32 sums run in f64.
void reduce_rows(DType dtype, Reduction op, const std::byte* rows, std::int64_t num_rows, std::int64_t count,
                 std::byte* result);

}  // namespace photon::comm
