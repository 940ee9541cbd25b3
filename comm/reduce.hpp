// The arithmetic of a reduction. Internal to this room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"

namespace photon::comm {

// result[i] = rows[0][i] op rows[1][i] op ..., in this order; each row holds `count` elements of `dtype`, and the
// result may be one of them. f32 sums run in f64.
void reduce_rows(DType dtype, Reduction op, const std::vector<const std::byte*>& rows, std::int64_t count,
                 std::byte* result);

}  // namespace photon::comm
