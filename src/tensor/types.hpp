// Element types and memory spaces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace photon {

enum class DType : std::uint8_t { f32, f64, f16, bf16, i32, i64, u8, u16, u32, u64 };
enum class Space : std::uint8_t { host, device };

// bfloat16 and IEEE half as storage: the bits only. Conversions are in tensor/half.hpp.
struct bfloat16 {
  std::uint16_t bits;
};
struct float16 {
  std::uint16_t bits;
};

std::size_t size_of(DType dtype);       // bytes an element
std::string_view name_of(DType dtype);  // "f32", "bf16", ...
std::string_view name_of(Space space);  // "host", "device"

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<float16> {
  static constexpr DType value = DType::f16;
};
template <>
struct DTypeOf<bfloat16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct DTypeOf<std::uint16_t> {
  static constexpr DType value = DType::u16;
};
template <>
struct DTypeOf<std::uint32_t> {
  static constexpr DType value = DType::u32;
};
template <>
struct DTypeOf<std::uint64_t> {
  static constexpr DType value = DType::u64;
};
template <class T>
inline constexpr DType dtype_of = DTypeOf<T>::value;

// An address in GPU memory. It cannot be dereferenced or mistaken for a host pointer; raw() is for CUDA calls.
template <class T>
class DevicePtr {
 public:
  explicit DevicePtr(T* address) : address_(address) {}
  T* raw() const { return address_; }

 private:
  T* address_;
};

}  // namespace photon
