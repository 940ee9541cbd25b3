// What every CUDA body uses: typed device pointers, launches, 16-byte packs, and reductions in a fixed order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "tensor/context.hpp"
#include "tensor/cuda_check.hpp"

namespace photon::cuda {

using bf16 = __nv_bfloat16;
inline constexpr int warp_width = 32;
inline constexpr unsigned full_warp = 0xffffffffU;

inline cudaStream_t stream_of(const Context& ctx) {
  return static_cast<cudaStream_t>(ctx.stream.handle());
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// A grid of `blocks`, cut off where a kernel's loop over its work takes over.
inline unsigned grid_of(std::int64_t blocks, std::int64_t most = std::int64_t{1} << 20) {
  return static_cast<unsigned>(std::clamp<std::int64_t>(blocks, 1, most));
}

// The CUDA type in which a kernel reads elements that a tensor stores as T.
template <class T>
struct StoredAs {
  using type = T;
};
template <>
struct StoredAs<bf16> {
  using type = bfloat16;
};

// The address of a tensor's first element on the GPU. Errors: ContractError when dtype or space differ.
template <class T>
const T* device_data(const ConstTensorView& view) {
  return reinterpret_cast<const T*>(view.device<typename StoredAs<T>::type>().raw());
}
template <class T>
T* device_data(const TensorView& view) {
  return reinterpret_cast<T*>(view.device<typename StoredAs<T>::type>().raw());
}
// The same, nullptr for an empty view.
template <class T>
T* optional_data(const TensorView& view) {
  return view ? device_data<T>(view) : nullptr;
}
template <class T>
const T* optional_data(const ConstTensorView& view) {
  return view ? device_data<T>(view) : nullptr;
}

// Strides of heads [outer, positions, heads, hd], in elements.
struct Strides {
  std::int64_t outer;
  std::int64_t position;
  std::int64_t head;
};
inline Strides strides_of(const ConstTensorView& x) {
  return {x.stride(0), x.stride(1), x.stride(2)};
}

// Calls body(float{}) or body(bf16{}).
template <class Body>
void with_float_type(DType dtype, Body&& body) {
  PHOTON_EXPECT(dtype == DType::f32 || dtype == DType::bf16, "a CUDA kernel on {} elements (f32 and bf16 only)",
                name_of(dtype));
  if (dtype == DType::f32) {
    body(float{});
  } else {
    body(bf16{});
  }
}

// Lets `kernel` use `bytes` of shared memory; above 48 KB a kernel must be told before its launch.
template <class Kernel>
void allow_shared_memory(Kernel kernel, std::int64_t bytes) {
  if (bytes <= 48 * 1024) return;
  PHOTON_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

// Workspace of one call, taken from the context's arena and given back when the scope ends. Work already queued may
// still use it then: the next user queues behind it on the same stream.
class Workspace {
 public:
  explicit Workspace(const Context& ctx) : arena_(expect_arena(ctx)), mark_(arena_.mark()) {}
  ~Workspace() { arena_.rewind(mark_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  TensorView take(DType dtype, const Shape& shape) { return arena_.allocate(dtype, shape); }

 private:
  static Arena& expect_arena(const Context& ctx) {
    PHOTON_EXPECT(ctx.scratch != nullptr && ctx.scratch->space() == Space::device,
                  "an op that needs workspace was called without a scratch arena in device memory");
    return *ctx.scratch;
  }
  Arena& arena_;
  std::int64_t mark_;
};

__device__ inline float to_f32(float x) {
  return x;
}
__device__ inline float to_f32(bf16 x) {
  return __bfloat162float(x);
}
template <class T>
__device__ inline T from_f32(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    return __float2bfloat16_rn(x);
  }
}

// A pair of elements half a head apart, turned by an angle: written with explicit roundings, so that every kernel that
// rotates gives the same bits.
__device__ inline float rotated_low(float low, float high, float cosine, float sine) {
  return __fmaf_rn(low, cosine, -__fmul_rn(high, sine));
}
__device__ inline float rotated_high(float low, float high, float cosine, float sine) {
  return __fmaf_rn(high, cosine, __fmul_rn(low, sine));
}

// N neighbouring elements, read and written in one access, or in several of 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T v[N];
};
template <class T>
inline constexpr int full_pack = 16 / static_cast<int>(sizeof(T));

template <int N, class T>
__device__ inline Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <class T, int N>
__device__ inline void store_pack(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// Eight bf16 elements, read past the first-level cache: nobody else of this multiprocessor will ask for them.
__device__ inline uint4 load_once(const bf16* from) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(from));
  return x;
}
__device__ inline void unpack(const uint4& from, float (&to)[8]) {
  const unsigned words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
  }
}

// The two bf16 elements of a word, the lower half first.
__device__ inline float2 unpack(std::uint32_t x) {
  return {__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000U)};
}

// A full pack of T that stays in registers: as words, for a bf16 element by itself would take a whole register.
template <class T>
struct alignas(16) HeldPack {
  static constexpr int num_pairs = full_pack<T> / 2;
  std::uint32_t words[4];

  __device__ float2 pair(int i) const {
    if constexpr (std::is_same_v<T, float>) {
      return {__uint_as_float(words[2 * i]), __uint_as_float(words[2 * i + 1])};
    } else {
      return unpack(words[i]);
    }
  }
  __device__ void set_pair(int i, float2 x) {
    if constexpr (std::is_same_v<T, float>) {
      words[2 * i] = __float_as_uint(x.x);
      words[2 * i + 1] = __float_as_uint(x.y);
    } else {
      const __nv_bfloat162 both = __floats2bfloat162_rn(x.x, x.y);
      words[i] = *reinterpret_cast<const std::uint32_t*>(&both);
    }
  }
};
template <class T>
__device__ inline HeldPack<T> load_held(const T* from) {
  const uint4 x = *reinterpret_cast<const uint4*>(from);
  return {{x.x, x.y, x.z, x.w}};
}
template <class T>
__device__ inline void store_held(T* to, const HeldPack<T>& pack) {
  *reinterpret_cast<uint4*>(to) = make_uint4(pack.words[0], pack.words[1], pack.words[2], pack.words[3]);
}

// Whether rows of `view` (all but the last dim) may be read in 16-byte packs.
inline bool packs(const ConstTensorView& view) {
  const auto pack = static_cast<std::int64_t>(16 / size_of(view.dtype()));
  if (reinterpret_cast<std::uintptr_t>(view.data()) % 16 != 0) return false;
  if (view.rank() > 0 && view.size(view.rank() - 1) % pack != 0) return false;
  for (int i = 0; i + 1 < view.rank(); ++i) {
    if (view.size(i) > 1 && view.stride(i) % pack != 0) return false;
  }
  return true;
}
template <class... Views>
bool all_pack(const Views&... views) {
  return ((!views || packs(views)) && ...);
}

// Which pack of which row a thread has, when rows of `packs_a_row` packs are dealt out one after another. Indices fit
// 32 bits, whose division is several times faster: num_packs_of() checks it.
struct PackPlace {
  unsigned row;
  unsigned pack;
};
__device__ inline PackPlace pack_place(unsigned index, unsigned packs_a_row) {
  const unsigned row = index / packs_a_row;
  return {row, index - row * packs_a_row};
}
inline unsigned num_packs_of(std::int64_t elements, int pack) {
  const std::int64_t num_packs = elements / pack;
  PHOTON_EXPECT(num_packs < std::int64_t{1} << 31,
                "{} elements in one call of a CUDA kernel that counts them in 32 bits", elements);
  return static_cast<unsigned>(num_packs);
}

// Calls body(std::integral_constant<int, N>) with N = a full pack of T or 1.
template <class T, class Body>
void with_pack(bool full, Body&& body) {
  if (full) {
    body(std::integral_constant<int, full_pack<T>>{});
  } else {
    body(std::integral_constant<int, 1>{});
  }
}

template <class T>
__device__ inline T warp_sum(T x) {
  for (int step = warp_width / 2; step > 0; step /= 2) x += __shfl_xor_sync(full_warp, x, step);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int step = warp_width / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(full_warp, x, step));
  return x;
}

// The sum over a block of up to 1024 threads, known to all of them. Every thread must call it.
template <class T>
__device__ T block_sum(T x) {
  __shared__ T partial[warp_width];
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int num_warps = static_cast<int>(blockDim.x) / warp_width;
  x = warp_sum(x);
  __syncthreads();  // the last call's readers are done
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  return warp_sum(lane < num_warps ? partial[lane] : T{0});
}

}  // namespace photon::cuda
