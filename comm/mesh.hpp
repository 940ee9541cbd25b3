// The process mesh: a pure enumeration of ranks along named axes. No MPI here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace photon {

// From the slowest to the fastest: neighbours on `sequence` and `shard` have neighbouring ranks, so they share a node
// where they can; replicas lie furthest apart.
enum class Axis : std::uint8_t { data, stage, shard, sequence };
inline constexpr std::array<Axis, 4> all_axes{Axis::data, Axis::stage, Axis::shard, Axis::sequence};

std::string_view name_of(Axis axis);  // "data", ...

// A number for each axis: a mesh's extents, or one rank's place in it.
class MeshPoint {
 public:
  constexpr MeshPoint() = default;
  constexpr MeshPoint(int data, int stage, int shard, int sequence) : values_{data, stage, shard, sequence} {}
  constexpr int operator[](Axis axis) const { return values_[static_cast<std::size_t>(axis)]; }
  constexpr int& operator[](Axis axis) { return values_[static_cast<std::size_t>(axis)]; }
  constexpr bool operator==(const MeshPoint&) const = default;

 private:
  std::array<int, 4> values_{};
};

class Mesh {
 public:
  // Extents of at least 1 each. Errors: ContractError otherwise.
  explicit Mesh(const MeshPoint& extents);

  int size() const { return size_; }  // ranks
  const MeshPoint& extents() const { return extents_; }
  // Errors: ContractError for a rank or a point outside the mesh.
  MeshPoint point(int rank) const;
  int rank(const MeshPoint& point) const;
  // The ranks that differ from `rank` at most along `axis`, in the axis's order: those that share a communicator.
  std::vector<int> line(int rank, Axis axis) const;
  // A number shared by exactly the ranks of one line along `axis` (the lowest of them).
  int line_color(int rank, Axis axis) const;

 private:
  MeshPoint extents_;
  int size_ = 1;
};

}  // namespace photon
