// Hopper's copy engine and the barriers in shared memory that tell when its copies have arrived.
#pragma once

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/tma.hpp"

namespace photon::cuda::tma {

// A barrier passes when `arrivals` threads have arrived and all announced bytes have come; then it starts over. Waiting
// threads name the parity of the pass they wait for: 0 for the first.
__device__ inline void make_barrier(unsigned barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// After the barriers of a block are made, by the thread that made them; then the block synchronises.
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// As `count` threads.
__device__ inline void arrive(unsigned barrier, int count) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// Arrives, and announces bytes that copies will bring.
__device__ inline void expect(unsigned barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void wait(unsigned barrier, int parity) {
  asm volatile(
      "{ .reg .pred done; again_%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @done bra passed_%=; "
      "bra again_%=; passed_%=: }" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// Queues the copy of a tile; see head_map.
__device__ inline void copy(unsigned to, const CUtensorMap& map, int column, int head, int position, int sequence,
                            unsigned barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(to),
      "l"(&map), "r"(column), "r"(head), "r"(position), "r"(sequence), "r"(barrier)
      : "memory");
}

// Queues the copy of `bytes` bytes from global memory, both 16-byte aligned.
__device__ inline void copy_bytes(unsigned to, const void* from, int bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
// Queues the copy of `bytes` bytes to global memory, or their addition as floats to what is there.
__device__ inline void store_bytes(void* to, unsigned from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes)
               : "memory");
}
__device__ inline void add_floats(float* to, unsigned from, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to), "r"(from),
               "r"(bytes)
               : "memory");
}
__device__ inline void commit_stores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until the calling thread's stores have read shared memory; until they have been made.
__device__ inline void wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
__device__ inline void wait_stored() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
// Between ordinary accesses of global memory and those of the copy engine.
__device__ inline void order_global() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

}  // namespace photon::cuda::tma
