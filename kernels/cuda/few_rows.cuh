// A product of a weight with a handful of rows. A block asks for all of its weight rows at once, by the copy engine
// into shared memory, before it waits for the kernel in front: memory streams on while products end and begin. Then
// tensor cores multiply them with all rows of x, as wide as one row or eight.
#pragma once

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/tma.cuh"

namespace photon::cuda::few {

inline constexpr int pack = 8;             // bf16 elements of 16 bytes
inline constexpr int depth = 32;           // elements of a row that a warp multiplies at once
inline constexpr int most_tile = 16;       // weight rows a block
inline constexpr int columns = 8;          // rows of x that the tensor cores take at once
inline constexpr int long_rows = 2048;     // blocks for longer rows have more warps
inline constexpr int most_width = 8192;    // of rows
inline constexpr int barrier_bytes = 128;  // at the start of shared memory; what follows stays aligned

// What a product is fused with: the norm of its rows before it; that, and SwiGLU behind it; a residual behind it.
enum class Around { norm, norm_swiglu, residual };

struct Few {
  const bf16* x;
  std::int64_t x_stride;
  const float* norm;
  float eps;
  const bf16* w;
  const bf16* residual;
  std::int64_t residual_stride;
  void* y;
  std::int64_t y_stride;
  int num_rows;
  int width;    // K
  int outputs;  // weight rows, or F for SwiGLU
  int tile;     // outputs a block
  int stride;   // bytes between rows in shared memory
};

template <Around A>
inline constexpr int rows_an_output = A == Around::norm_swiglu ? 2 : 1;

// Rows lie so far apart in shared memory that two of them side by side fill the banks once.
inline int stride_bytes(std::int64_t width) {
  return static_cast<int>(ceil_div(width * 2, 128) * 128 + 64);
}
template <int Warps>
inline constexpr int sums_bytes = Warps*(most_tile + 1) * columns* static_cast<int>(sizeof(float));
// Of a block: barrier, sums, rows of x, weight rows.
template <Around A, int Warps>
std::int64_t shared_bytes(const Few& f) {
  return barrier_bytes + sums_bytes<Warps> + (f.num_rows + rows_an_output<A> * f.tile) * std::int64_t{f.stride};
}

// Outputs a block, such that no multiprocessor has many more than others; every block costs a little besides.
template <Around A>
int tile_of(const Few& f, int num_multiprocessors) {
  constexpr int fixed_cost = A == Around::norm_swiglu ? 1 : 2;
  constexpr std::int64_t most_shared = 200 * 1024;
  int best = 1;
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (int tile = most_tile / rows_an_output<A>; tile >= 1; --tile) {
    if (std::int64_t{f.stride} * (rows_an_output<A> * tile + f.num_rows) > most_shared && tile > 1) continue;
    const std::int64_t waves = ceil_div(ceil_div(f.outputs, tile), num_multiprocessors);
    const std::int64_t cost = waves * (tile + fixed_cost);
    if (cost >= least) continue;
    least = cost;
    best = tile;
  }
  return best;
}

__device__ inline uint4 shared_pack(unsigned from) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "r"(from));
  return x;
}
__device__ inline void store_shared(unsigned to, const uint4& x) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

// The block's weight rows on their way into shared memory: for SwiGLU the gate's, then up's. By one warp.
template <Around A>
__device__ void fetch_weights(const Few& f, int begin, int count, unsigned weights, unsigned barrier) {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int rows = rows_an_output<A> * count;
  const int bytes = f.width * static_cast<int>(sizeof(bf16));
  if (lane == 0) tma::expect(barrier, rows * bytes);
  __syncwarp();
  if (lane >= rows) return;
  const bool up = lane >= count;
  const std::int64_t row = up ? std::int64_t{f.outputs} + begin + lane - count : std::int64_t{begin} + lane;
  const int place = up ? f.tile + lane - count : lane;
  tma::copy_bytes(weights + place * f.stride, f.w + row * f.width, bytes, barrier);
}

// What a warp of a block works on: elements from .. to - 1 of every row.
struct Share {
  int from;
  int to;

  __device__ Share(const Few& f, int warps) {
    const int steps = (f.width + depth - 1) / depth;
    const int chunk = (steps + warps - 1) / warps * depth;
    from = static_cast<int>(threadIdx.x) / warp_width * chunk;
    to = min(from + chunk, f.width);
  }
};

// Brings x into shared memory; `M` rows at most. A norm's weights are multiplied in at once, its factor, one a row,
// waits for the sums' end.
template <int M, bool Normalised, int Warps>
struct StagedRows {
  static constexpr int rounds = most_width / pack / warp_width / (Warps > 4 ? Warps : 16);  // packs of a row, a lane
  static constexpr int at_once = M * rounds <= 8 ? M : 8 / rounds;  // rows whose loads are under way at once
  float factor[Normalised ? rounds : 1][pack];
  float squares[M];

  __device__ static int place(const Share& share, int round) {
    return share.from + (round * warp_width + static_cast<int>(threadIdx.x) % warp_width) * pack;
  }
  // Before the kernel in front has ended.
  __device__ void prepare(const Few& f, const Share& share) {
    if constexpr (Normalised) {
#pragma unroll
      for (int i = 0; i < rounds; ++i) {
        if (place(share, i) >= share.to) continue;
        const Pack<float, pack> p = load_pack<pack>(f.norm + place(share, i));
#pragma unroll
        for (int e = 0; e < pack; ++e) factor[i][e] = p.v[e];
      }
    }
  }
  __device__ void stage(const Few& f, const Share& share, unsigned staged) {
#pragma unroll
    for (int first = 0; first < M; first += at_once) {
      uint4 loaded[at_once][rounds];
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
#pragma unroll
        for (int i = 0; i < rounds; ++i) {
          const int d = place(share, i);
          loaded[j][i] = make_uint4(0, 0, 0, 0);
          if (first + j < f.num_rows && d < share.to)
            loaded[j][i] = *reinterpret_cast<const uint4*>(f.x + (first + j) * f.x_stride + d);
        }
      }
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        squares[first + j] = 0;
#pragma unroll
        for (int i = 0; i < rounds; ++i) {
          const int d = place(share, i);
          if (first + j >= f.num_rows || d >= share.to) continue;
          uint4 value = loaded[j][i];
          if constexpr (Normalised) {
            float x[pack];
            unpack(value, x);
#pragma unroll
            for (int e = 0; e < pack; ++e) {
              squares[first + j] += x[e] * x[e];
              x[e] *= factor[i][e];
            }
            value =
                make_uint4(mma::pack(x[0], x[1]), mma::pack(x[2], x[3]), mma::pack(x[4], x[5]), mma::pack(x[6], x[7]));
          }
          store_shared(staged + (first + j) * f.stride + d * 2, value);
        }
      }
    }
  }
};

// The body of a kernel of `Warps` warps. In a step of `depth` elements, lane (g, t) holds elements 8 t .. 8 t + 7 of
// weight rows g and g + 8 and of row g of x: which elements stand where in the operands of a product does not matter,
// as long as both agree.
template <int M, Around A, class T, int Warps, class Source>
__device__ void multiply(const Few& f, Source& source) {
  constexpr bool normalised = A != Around::residual;
  extern __shared__ __align__(128) unsigned char memory[];
  auto* const partial = reinterpret_cast<float(*)[most_tile + 1][columns]>(memory + barrier_bytes);  // of each warp
  const unsigned barrier = mma::shared_address(memory);
  const unsigned staged = barrier + barrier_bytes + sums_bytes<Warps>;
  const unsigned weights = staged + f.num_rows * f.stride;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  const int begin = static_cast<int>(blockIdx.x) * f.tile;
  const int count = min(f.tile, f.outputs - begin);
  let_next_kernel_start();
  if (warp == 0) {
    if (lane == 0) {
      tma::make_barrier(barrier, 1);
      tma::publish_barriers();
    }
    __syncwarp();
    fetch_weights<A>(f, begin, count, weights, barrier);
  }
  const Share share(f, Warps);
  source.prepare(f, share);
  __syncthreads();  // the barrier is known to all
  wait_for_earlier_kernels();

  // The thread's own element of the result: its residual is on the way while the product is computed.
  const int own = static_cast<int>(threadIdx.x) % most_tile;
  const int r = static_cast<int>(threadIdx.x) / most_tile;
  const bool writes = r < f.num_rows && own < count;
  float residual = 0;
  if constexpr (A == Around::residual) {
    if (writes && f.residual != nullptr) residual = to_f32(f.residual[r * f.residual_stride + begin + own]);
  }
  source.stage(f, share, staged);
  __syncwarp();
  tma::wait(barrier, 0);
  const int g = lane / 4;
  const int t = lane % 4;
  const int low = min(g, f.tile - 1);
  const int high = A == Around::norm_swiglu ? f.tile + low : min(g + 8, f.tile - 1);
  const unsigned low_row = weights + low * f.stride;
  const unsigned high_row = weights + high * f.stride;
  const unsigned x_row = staged + g * f.stride;
  const bool has_row = g < f.num_rows;
  float sums[2][4] = {};
#pragma unroll 4
  for (int k = share.from; k < share.to; k += depth) {
    const int at = (k + t * pack) * 2;
    uint4 a{0, 0, 0, 0};
    uint4 b{0, 0, 0, 0};
    uint4 x{0, 0, 0, 0};
    if (k + t * pack < share.to) {
      a = shared_pack(low_row + at);
      b = shared_pack(high_row + at);
      if (has_row) x = shared_pack(x_row + at);
    }
    mma::multiply_add(sums[0], {a.x, b.x, a.y, b.y}, x.x, x.y);
    mma::multiply_add(sums[1], {a.z, b.z, a.w, b.w}, x.z, x.w);
  }
  if (2 * t < f.num_rows) {
#pragma unroll
    for (int i = 0; i < 4; ++i) partial[warp][g + i / 2 * 8][2 * t + i % 2] = sums[0][i] + sums[1][i];
  }
  if constexpr (normalised) {
#pragma unroll
    for (int j = 0; j < M; ++j) {
      if (j >= f.num_rows) break;
      const float sum = warp_sum(source.squares[j]);
      if (lane == 0) partial[warp][most_tile][j] = sum;
    }
  }
  __syncthreads();
  if (!writes) return;
  float sum = 0;
  float second = 0;
  float total = 0;
#pragma unroll
  for (int w = 0; w < Warps; ++w) {
    sum += partial[w][own][r];
    if constexpr (A == Around::norm_swiglu) second += partial[w][own + 8][r];
    if constexpr (normalised) total += partial[w][most_tile][r];
  }
  if constexpr (normalised) {
    const float scale = rsqrtf(total / static_cast<float>(f.width) + f.eps);
    sum *= scale;
    second *= scale;
  }
  if constexpr (A == Around::norm_swiglu) sum = sum / (1.0F + __expf(-sum)) * second;
  static_cast<T*>(f.y)[r * f.y_stride + begin + own] = from_f32<T>(sum + residual);
}

inline int num_multiprocessors() {
  static const int count = [] {
    int device = 0;
    int value = 0;
    PHOTON_CUDA_CHECK(cudaGetDevice(&device));
    PHOTON_CUDA_CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device));
    return value;
  }();
  return count;
}

// Launches a kernel of f and `more` that calls multiply<..., A, ..., Warps>.
template <Around A, int Warps, class Kernel, class... More>
void launch(const Context& ctx, Kernel kernel, Few f, const More&... more) {
  f.tile = tile_of<A>(f, num_multiprocessors());
  const std::int64_t shared = shared_bytes<A, Warps>(f);
  allow_shared_memory(kernel, shared);
  launch_dependent(kernel, dim3(static_cast<unsigned>(ceil_div(f.outputs, f.tile))), Warps * warp_width, shared,
                   stream_of(ctx), f, more...);
}

inline Few few_of(const ConstTensorView& x, const ConstTensorView& w, const TensorView& y) {
  PHOTON_EXPECT(packs(x) && packs(w), "rows of few_rows that do not begin at 16 bytes");
  Few f{};
  f.x = device_data<bf16>(x);
  f.x_stride = x.stride(0);
  f.w = device_data<bf16>(w);
  f.y = y.data();
  f.y_stride = y.stride(0);
  f.num_rows = static_cast<int>(x.size(0));
  f.width = static_cast<int>(x.size(1));
  f.outputs = static_cast<int>(w.size(0));
  f.stride = stride_bytes(x.size(1));
  return f;
}

}  // namespace photon::cuda::few
