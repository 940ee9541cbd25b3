#include "support/random.hpp"

#include <cmath>
#include <numbers>

#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::uint32_t low(std::uint64_t x) {
  return static_cast<std::uint32_t>(x);
}
constexpr std::uint32_t high(std::uint64_t x) {
  return static_cast<std::uint32_t>(x >> 32);
}

// splitmix64's finisher: every input bit reaches every output bit.
constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

constexpr double to_unit(std::uint64_t bits) {
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

std::array<std::uint32_t, 4> block(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  return philox(seed, {low(index), high(index), low(stream), high(stream)});
}

}  // namespace

std::array<std::uint32_t, 4> philox(std::uint64_t key, std::array<std::uint32_t, 4> c) {
  std::uint32_t k0 = low(key);
  std::uint32_t k1 = high(key);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * c[2];
    c = {high(p1) ^ c[1] ^ k0, low(p1), high(p0) ^ c[3] ^ k1, low(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return c;
}

std::uint64_t hash_name(std::string_view name) {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (const char ch : name) h = (h ^ static_cast<unsigned char>(ch)) * 0x100000001b3ULL;
  return mix(h);
}

std::uint64_t random_bits(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  const auto b = block(seed, stream, index);
  return (std::uint64_t{b[1]} << 32) | b[0];
}

double random_uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  return to_unit(random_bits(seed, stream, index));
}

double random_normal(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  const auto b = block(seed, stream, index);
  const double u1 = 1.0 - to_unit((std::uint64_t{b[1]} << 32) | b[0]);  // in (0, 1], so its logarithm is finite
  const double u2 = to_unit((std::uint64_t{b[3]} << 32) | b[2]);
  return std::sqrt(-2.0 * std::log(u1)) * std::cos(2.0 * std::numbers::pi * u2);
}

std::uint64_t permute_index(std::uint64_t seed, std::uint64_t stream, std::uint64_t size, std::uint64_t index) {
  PHOTON_EXPECT(index < size, "permute_index: index {} of {}", index, size);
  // A four-round Feistel network over the next even power of two, walked until it lands inside [0, size): at most four
  // steps on average, and a bijection on [0, size) because the network is one on its whole domain.
  int half_bits = 1;
  while ((std::uint64_t{1} << (2 * half_bits)) < size) ++half_bits;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  std::uint64_t x = index;
  do {
    std::uint64_t left = x >> half_bits;
    std::uint64_t right = x & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      const std::uint64_t f = random_bits(seed, mix(stream + round), right) & mask;
      left ^= f;
      std::swap(left, right);
    }
    x = (left << half_bits) | right;
  } while (x >= size);
  return x;
}

}  // namespace photon
