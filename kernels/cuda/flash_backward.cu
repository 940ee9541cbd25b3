// A block a (128 keys, key head) walks the queries that see them, 64 at a time: dk and dv stay in its registers, dq
// goes from block to block (flash_relay.cuh).
#include "kernels/cuda/flash_relay.cuh"

namespace photon::cuda {
namespace {

using namespace flash;

constexpr int threads = backward_threads;
constexpr int num_warps = backward_warps;
constexpr int keys = backward_keys;
constexpr int rows = backward_rows;

// How the warps share out a product: each takes 32 rows of it.
struct Warps {
  int row;     // the first of this warp's rows
  int column;  // the first of its columns
};
template <int Rows, int Columns>
constexpr int warp_columns = Columns / (num_warps / (Rows / 32));
template <int Rows, int Columns>
__device__ Warps own_part() {
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  constexpr int across = Rows / 32;
  return {warp % across * 32, warp / across * warp_columns<Rows, Columns>};
}

template <int Width>
struct Shared {
  static constexpr int key_tile = keys * Width * 2;
  static constexpr int query_tile = rows * Width * 2;
  static constexpr int score_tile = rows * keys * 2;
  static constexpr int statistics_tile = 2 * rows * 4;  // the log-sum-exps, then the others
  static constexpr int k = 0;
  static constexpr int v = k + key_tile;
  static constexpr int q = v + key_tile;              // two stages
  static constexpr int dout = q + 2 * query_tile;     // two stages
  static constexpr int p = dout + 2 * query_tile;     // probabilities
  static constexpr int ds = p + score_tile;           // d loss / d score
  static constexpr int statistics = ds + score_tile;  // two stages
  static constexpr int bytes = statistics + 2 * statistics_tile;
};

template <int Across, int Down>
__device__ void store_scores(mma::Tile<keys> to, Warps part, const mma::Sum<Across, Down>& x) {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
#pragma unroll
  for (int i = 0; i < Across; ++i) {
#pragma unroll
    for (int j = 0; j < 2 * Down; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mma::store_word(to.at(part.row + 16 * i + 8 * half + lane / 4, part.column / 8 + j) + lane % 4 * 4,
                        mma::pack(x[i][j][2 * half], x[i][j][2 * half + 1]));
      }
    }
  }
}

// One tile of queries against the block's keys: leaves the probabilities and d loss / d score in shared memory.
template <int Width>
__device__ void score(unsigned base, int stage, int first_row, int first_key, const Sizes& s) {
  using At = Shared<Width>;
  constexpr int columns = warp_columns<rows, keys>;
  constexpr int down = columns / 16;
  const Warps part = own_part<rows, keys>();
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int own_row = first_row + part.row;
  const int own_key = first_key + part.column;
  mma::Sum<2, down> p;
  mma::Sum<2, down> dp;
  mma::clear<2, down>(p);
  mma::clear<2, down>(dp);
  if (!none_seen(own_row, own_row + 31, own_key, own_key + columns - 1, s)) {
    mma::add_product<2, down, Width, mma::Lies::along, mma::Lies::along>(
        p, mma::Tile<Width>{base + At::q + stage * At::query_tile}, part.row, mma::Tile<Width>{base + At::k},
        part.column);
    mma::add_product<2, down, Width, mma::Lies::along, mma::Lies::along>(
        dp, mma::Tile<Width>{base + At::dout + stage * At::query_tile}, part.row, mma::Tile<Width>{base + At::v},
        part.column);
    const bool whole = all_seen(own_row, own_row + 31, own_key, own_key + columns - 1, s);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = part.row + 16 * i + 8 * half + lane / 4;
        const unsigned statistics = base + At::statistics + stage * At::statistics_tile + row * 4;
        float lse;
        float delta;
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(lse) : "r"(statistics));
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(delta) : "r"(statistics + rows * 4));
#pragma unroll
        for (int j = 0; j < 2 * down; ++j) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            const bool seen = whole || sees(first_row + row, own_key + 8 * j + lane % 4 * 2 + e % 2, s);
            p[i][j][e] = seen ? mma::exp2_fast(fmaf(p[i][j][e], s.scale_log2, -lse)) : 0.0F;
            dp[i][j][e] = p[i][j][e] * (dp[i][j][e] - delta);
          }
        }
      }
    }
  }
  store_scores<2, down>({base + At::p}, part, p);
  store_scores<2, down>({base + At::ds}, part, dp);
}

// Writes a product of [keys, Width], shared out among the warps, by way of a tile in shared memory.
template <int Width>
__device__ void write_rows(unsigned char* shared, int tile, const mma::Sum<2, warp_columns<keys, Width> / 16>& x,
                           float factor, bf16* __restrict__ to, std::int64_t stride, int first, const Sizes& s) {
  const Warps part = own_part<keys, Width>();
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const mma::Tile<Width> staged{mma::shared_address(shared) + tile};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < warp_columns<keys, Width> / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mma::store_word(staged.at(part.row + 16 * i + 8 * half + lane / 4, part.column / 8 + j) + lane % 4 * 4,
                        mma::pack(x[i][j][2 * half] * factor, x[i][j][2 * half + 1] * factor));
      }
    }
  }
  __syncthreads();
  constexpr int chunks = mma::Tile<Width>::chunks;
  for (int i = static_cast<int>(threadIdx.x); i < keys * chunks; i += threads) {
    const int row = i / chunks;
    const int chunk = i % chunks;
    if (first + row >= s.positions) break;
    const unsigned from = staged.at(row, chunk) - mma::shared_address(shared);
    store_pack(to + (std::int64_t{first} + row) * stride + chunk * mma::chunk_elements,
               load_pack<mma::chunk_elements>(reinterpret_cast<const bf16*>(shared + from)));
  }
}

template <int Width>
__global__ void __launch_bounds__(threads, 1) backward_kernel(Backward a) {
  using At = Shared<Width>;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ int own_ticket;
  const Sizes& s = a.s;
  const unsigned base = mma::shared_address(shared);
  if (threadIdx.x == 0) own_ticket = atomicAdd(a.relay.ticket, 1);
  __syncthreads();
  const Work work(own_ticket, a.num_key_heads, s);
  const int num_steps = work.a_head * s.heads_a_key;

  const auto load = [&](int step) {
    const int h = work.head(step, s);
    const int first = work.tile(step) * rows;
    const int stage = step & 1;
    mma::load_rows<rows, Width, threads>({base + At::q + stage * At::query_tile}, a.q.at(work.b, h), a.q.position,
                                         first, s.positions);
    mma::load_rows<rows, Width, threads>({base + At::dout + stage * At::query_tile}, a.dout.at(work.b, h),
                                         a.dout.position, first, s.positions);
    constexpr int chunks = rows / 4;
    const int chunk = static_cast<int>(threadIdx.x);
    if (chunk < 2 * chunks) {
      const float* const from = (chunk < chunks ? a.lse_log2 : a.delta) +
                                (std::int64_t{work.b} * work.num_heads + h) * a.padded + first + chunk % chunks * 4;
      mma::copy_chunk(base + At::statistics + stage * At::statistics_tile + chunk * 16, from, true);
    }
  };
  mma::load_rows<keys, Width, threads>({base + At::k}, a.k.at(work.b, work.kh), a.k.position, work.first_key,
                                       s.positions);
  mma::load_rows<keys, Width, threads>({base + At::v}, a.v.at(work.b, work.kh), a.v.position, work.first_key,
                                       s.positions);
  load(0);
  mma::commit_copies();

  constexpr int down = warp_columns<keys, Width> / 16;
  constexpr int query_down = warp_columns<rows, Width> / 16;
  const Warps own_keys = own_part<keys, Width>();
  const Warps own_queries = own_part<rows, Width>();
  mma::Sum<2, down> key_sum;
  mma::Sum<2, down> value_sum;
  mma::clear<2, down>(key_sum);
  mma::clear<2, down>(value_sum);
  int* passed = nullptr;
  int passed_rank = 0;
  for (int step = 0; step < num_steps; ++step) {
    mma::wait_copies<0>();
    __syncthreads();  // this tile is there, and nobody reads the one before any more
    if (step + 1 < num_steps) load(step + 1);
    mma::commit_copies();
    const int stage = step & 1;
    const int h = work.head(step, s);
    const int tile = work.tile(step);
    score<Width>(base, stage, tile * rows, work.first_key, s);
    if (passed != nullptr) pass_turn(passed, passed_rank);  // by now the stores have arrived: this takes no time
    passed = nullptr;
    __syncthreads();

    const int rank = work.rank(tile, s);
    const std::int64_t place = work.place(h, tile);
    float* const sums = a.relay.sums + place * (rows * Width / num_warps);
    constexpr int half = rows * Width / num_warps / 2;
    if (rank > 0) wait_for_turn(a.relay.turns + place, rank);
    mma::Sum<2, query_down> query_sum;
    receive(query_sum[0], sums, rank == 0);
    receive(query_sum[1], sums + half, rank == 0);
    const mma::Tile<keys> p{base + At::p};
    const mma::Tile<keys> ds{base + At::ds};
    const mma::Tile<Width> queries{base + At::q + stage * At::query_tile};
    const mma::Tile<Width> grads{base + At::dout + stage * At::query_tile};
    mma::add_product<2, down, rows, mma::Lies::crossed, mma::Lies::crossed>(value_sum, p, own_keys.row, grads,
                                                                            own_keys.column);
    mma::add_product<2, down, rows, mma::Lies::crossed, mma::Lies::crossed>(key_sum, ds, own_keys.row, queries,
                                                                            own_keys.column);
    mma::add_product<2, query_down, keys, mma::Lies::along, mma::Lies::crossed>(
        query_sum, ds, own_queries.row, mma::Tile<Width>{base + At::k}, own_queries.column);
    if (work.last(tile, s)) {
      const int first_row = tile * rows + own_queries.row;
      finish(query_sum[0], a.dq.at(work.b, h), a.dq.position, first_row, own_queries.column, s);
      finish(query_sum[1], a.dq.at(work.b, h), a.dq.position, first_row + 16, own_queries.column, s);
    } else {
      pass_on(query_sum[0], sums);
      pass_on(query_sum[1], sums + half);
      passed = a.relay.turns + place;
      passed_rank = rank + 1;
    }
  }
  if (passed != nullptr) pass_turn(passed, passed_rank);
  __syncthreads();
  write_rows<Width>(shared, At::k, key_sum, s.scale, a.dk.at(work.b, work.kh), a.dk.position, work.first_key, s);
  write_rows<Width>(shared, At::v, value_sum, 1.0F, a.dv.at(work.b, work.kh), a.dv.position, work.first_key, s);
}

// Width / 8 lanes a row, rows in the order they lie in memory, and `padded` positions a sequence.
template <int Width>
__global__ void __launch_bounds__(threads)
    statistics_kernel(Heads<const bf16> out, Heads<const bf16> dout, const float* __restrict__ lse,
                      float* __restrict__ lse_log2, float* __restrict__ delta, unsigned num_heads, unsigned padded,
                      unsigned num_rows, Sizes s) {
  constexpr int lanes = Width / mma::chunk_elements;
  const unsigned row = (blockIdx.x * threads + threadIdx.x) / lanes;  // 32 bits: their division is several times faster
  const int chunk = static_cast<int>(threadIdx.x) % lanes;
  if (row >= num_rows) return;  // whole warps, or whole rows of one: the lanes of a row stay together
  const std::int64_t h = row % num_heads;
  const std::int64_t n = row / num_heads % padded;
  const std::int64_t b = row / num_heads / padded;
  const std::int64_t to = (b * num_heads + h) * padded + n;
  if (n >= s.positions) {
    if (chunk == 0) lse_log2[to] = delta[to] = 0;
    return;
  }
  const auto x = load_pack<mma::chunk_elements>(out.at(b, h) + n * out.position + chunk * mma::chunk_elements);
  const auto y = load_pack<mma::chunk_elements>(dout.at(b, h) + n * dout.position + chunk * mma::chunk_elements);
  float sum = 0;
#pragma unroll
  for (int e = 0; e < mma::chunk_elements; ++e) sum = fmaf(to_f32(x.v[e]), to_f32(y.v[e]), sum);
  const unsigned together = ((1U << lanes) - 1U) << (threadIdx.x % warp_width / lanes * lanes);
#pragma unroll
  for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(together, sum, step);
  if (chunk != 0) return;
  lse_log2[to] = lse[(b * num_heads + h) * s.positions + n] * static_cast<float>(1.0 / ln2);
  delta[to] = sum;
}

template <int Width>
void launch(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
            const ConstTensorView& out, const ConstTensorView& lse, const ConstTensorView& dout, std::int64_t window,
            const TensorView& dq, const TensorView& dk, const TensorView& dv, const RopeTable* table) {
  const Sizes s = sizes_of(q, k, window);
  const std::int64_t num_heads = q.size(0) * q.size(2);
  const std::int64_t padded = ceil_div(q.size(1), flash_query_tile(Width)) * flash_query_tile(Width);
  const std::int64_t num_rows = num_heads * padded;
  const std::int64_t query_tiles = num_rows / rows;
  const std::int64_t num_blocks = q.size(0) * k.size(2) * ceil_div(q.size(1), keys);
  constexpr int lanes_a_row = Width / mma::chunk_elements;
  PHOTON_EXPECT(std::max(num_blocks, num_rows * lanes_a_row) < std::numeric_limits<int>::max(),
                "attention on a GPU over {}", q.shape().str());
  Workspace workspace(ctx);
  auto* const lse_log2 = device_data<float>(workspace.take(DType::f32, {num_rows}));
  auto* const delta = device_data<float>(workspace.take(DType::f32, {num_rows}));
  auto* const sums = device_data<float>(workspace.take(DType::f32, {num_rows * Width}));
  const TensorView counters = workspace.take(DType::i32, {query_tiles * num_warps + 1});
  auto* const turns = device_data<std::int32_t>(counters);
  PHOTON_CUDA_CHECK(cudaMemsetAsync(turns, 0, static_cast<std::size_t>(counters.bytes()), stream_of(ctx)));
  const std::int64_t statistics_blocks = ceil_div(num_rows * lanes_a_row, threads);
  statistics_kernel<Width><<<static_cast<unsigned>(statistics_blocks), threads, 0, stream_of(ctx)>>>(
      heads_of(out), heads_of(dout), device_data<float>(lse), lse_log2, delta, static_cast<unsigned>(q.size(2)),
      static_cast<unsigned>(padded), static_cast<unsigned>(num_rows), s);
  PHOTON_CUDA_CHECK(cudaGetLastError());
  const Backward a{heads_of(q),
                   heads_of(k),
                   heads_of(v),
                   heads_of(dout),
                   lse_log2,
                   delta,
                   heads_of(dq),
                   heads_of(dk),
                   heads_of(dv),
                   table != nullptr ? device_data<float>(table->cosines()) : nullptr,
                   table != nullptr ? device_data<float>(table->sines()) : nullptr,
                   Relay{sums, turns, turns + query_tiles * num_warps},
                   static_cast<int>(k.size(2)),
                   static_cast<int>(padded),
                   s};
  if (backward_on_hopper<Width>(ctx, a, q, k, v, dout)) return;
  allow_shared_memory(backward_kernel<Width>, Shared<Width>::bytes);
  backward_kernel<Width><<<static_cast<unsigned>(num_blocks), threads, Shared<Width>::bytes, stream_of(ctx)>>>(a);
  PHOTON_CUDA_CHECK(cudaGetLastError());
  if (table == nullptr) return;
  cuda::rope(ctx, *table, dq, Rotation::backward);
  cuda::rope(ctx, *table, dk, Rotation::backward);
}

}  // namespace

void flash_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                    const ConstTensorView& out, const ConstTensorView& lse, const ConstTensorView& dout,
                    std::int64_t window, const TensorView& dq, const TensorView& dk, const TensorView& dv,
                    const RopeTable* table) {
  if (q.size(3) == 64) {
    launch<64>(ctx, q, k, v, out, lse, dout, window, dq, dk, dv, table);
  } else {
    launch<128>(ctx, q, k, v, out, lse, dout, window, dq, dk, dv, table);
  }
}

}  // namespace photon::cuda
