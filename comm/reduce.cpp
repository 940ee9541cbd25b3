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

// Elements that are reduced together: few enough that the sums stay in the cache while row after row is added.
constexpr std::int64_t block_elements = 1024;

template <class T>
void reduce(Reduction op, const std::vector<const std::byte*>& rows, std::int64_t count, std::byte* result) {
  using Sum = std::conditional_t<std::is_same_v<T, float>, double, T>;
  T* out = reinterpret_cast<T*>(result);
  Sum block[block_elements];
  for (std::int64_t begin = 0; begin < count; begin += block_elements) {
    const std::int64_t size = std::min(block_elements, count - begin);
    const T* first = reinterpret_cast<const T*>(rows[0]) + begin;
    for (std::int64_t i = 0; i < size; ++i) block[i] = static_cast<Sum>(first[i]);
    for (std::size_t r = 1; r < rows.size(); ++r) {
      const T* row = reinterpret_cast<const T*>(rows[r]) + begin;
      if (op == Reduction::sum) {
        for (std::int64_t i = 0; i < size; ++i) block[i] = static_cast<Sum>(block[i] + static_cast<Sum>(row[i]));
      } else {
        for (std::int64_t i = 0; i < size; ++i) block[i] = pick<Sum>(op, block[i], static_cast<Sum>(row[i]));
      }
    }
    for (std::int64_t i = 0; i < size; ++i) out[begin + i] = static_cast<T>(block[i]);
  }
}

}  // namespace

void reduce_rows(DType dtype, Reduction op, const std::vector<const std::byte*>& rows, std::int64_t count,
                 std::byte* result) {
  switch (dtype) {
    case DType::f32:
      return reduce<float>(op, rows, count, result);
    case DType::f64:
      return reduce<double>(op, rows, count, result);
    case DType::i32:
      return reduce<std::int32_t>(op, rows, count, result);
    case DType::i64:
      return reduce<std::int64_t>(op, rows, count, result);
    case DType::u8:
      return reduce<std::uint8_t>(op, rows, count, result);
    case DType::u32:
      return reduce<std::uint32_t>(op, rows, count, result);
    case DType::u64:
      return reduce<std::uint64_t>(op, rows, count, result);
    case DType::f16:
    case DType::bf16:
    case DType::u16:
      break;
  }
  PHOTON_EXPECT(false, "a reduction of {} elements", name_of(dtype));
}

}  // namespace photon::comm
