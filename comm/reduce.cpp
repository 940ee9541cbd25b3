#include "comm/reduce.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace photon::comm {
namespace {

// NaN wins over every number, so that no rank's trouble is lost.
template <class T>
T pick(Reduction op, T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a)) return a;
    if (std::isnan(b)) return b;
  }
  return op == Reduction::max ? std::max(a, b) : std::min(a, b);
}

template <class T>
void reduce(Reduction op, const std::byte* bytes, std::int64_t num_rows, std::int64_t count, std::byte* result) {
  const T* rows = reinterpret_cast<const T*>(bytes);
  T* out = reinterpret_cast<T*>(result);
  using Sum = std::conditional_t<std::is_same_v<T, float>, double, T>;
  for (std::int64_t i = 0; i < count; ++i) {
    if (op == Reduction::sum) {
      Sum sum = rows[i];
      for (std::int64_t r = 1; r < num_rows; ++r) sum = static_cast<Sum>(sum + rows[r * count + i]);
      out[i] = static_cast<T>(sum);
    } else {
      T best = rows[i];
      for (std::int64_t r = 1; r < num_rows; ++r) best = pick(op, best, rows[r * count + i]);
      out[i] = best;
    }
  }
}

}  // namespace

void reduce_rows(DType dtype, Reduction op, const std::byte* rows, std::int64_t num_rows, std::int64_t count,
                 std::byte* result) {
  switch (dtype) {
    case DType::f32:
      return reduce<float>(op, rows, num_rows, count, result);
    case DType::f64:
      return reduce<double>(op, rows, num_rows, count, result);
    case DType::i32:
      return reduce<std::int32_t>(op, rows, num_rows, count, result);
    case DType::i64:
      return reduce<std::int64_t>(op, rows, num_rows, count, result);
    case DType::u8:
      return reduce<std::uint8_t>(op, rows, num_rows, count, result);
    case DType::u32:
      return reduce<std::uint32_t>(op, rows, num_rows, count, result);
    case DType::u64:
      return reduce<std::uint64_t>(op, rows, num_rows, count, result);
    case DType::f16:
    case DType::bf16:
    case DType::u16:
      break;
  }
  PHOTON_EXPECT(false, "a reduction of {} elements", name_of(dtype));
}

}  // namespace photon::comm
