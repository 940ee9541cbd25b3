// Random numbers as pure functions of what they are for: no generator state that depends on ranks, batches or time.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace photon {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): 128 random bits of
// (key, counter).
std::array<std::uint32_t, 4> philox(std::uint64_t key, std::array<std::uint32_t, 4> counter);

// A 64-bit hash (FNV-1a, finished by a mixer) that names a stream, e.g. a tensor's name or a request's id.
std::uint64_t hash_name(std::string_view name);

// A uniform 64-bit value, a double in [0, 1) with 53 random bits, a standard normal value (Box-Muller, in double).
std::uint64_t random_bits(std::uint64_t seed, std::uint64_t stream, std::uint64_t index);
double random_uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t index);
double random_normal(std::uint64_t seed, std::uint64_t stream, std::uint64_t index);

// The image of `index` under a pseudo-random permutation of [0, size) that is a function of (seed, stream): O(1)
// memory, so that an epoch's order needs no table. Errors: index outside [0, size).
std::uint64_t permute_index(std::uint64_t seed, std::uint64_t stream, std::uint64_t size, std::uint64_t index);

}  // namespace photon
