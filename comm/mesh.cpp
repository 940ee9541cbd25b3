#include "comm/mesh.hpp"

#include "support/error.hpp"

namespace photon {

std::string_view name_of(Axis axis) {
  switch (axis) {
    case Axis::data:
      return "data";
    case Axis::stage:
      return "stage";
    case Axis::shard:
      return "shard";
    case Axis::sequence:
      return "sequence";
  }
  return "?";
}

Mesh::Mesh(const MeshPoint& extents) : extents_(extents) {
  for (const Axis axis : all_axes) {
    PHOTON_EXPECT(extents[axis] >= 1, "the mesh has extent {} along {}", extents[axis], name_of(axis));
    size_ *= extents[axis];
  }
}

MeshPoint Mesh::point(int rank) const {
  PHOTON_EXPECT(rank >= 0 && rank < size_, "rank {} of a mesh of {}", rank, size_);
  MeshPoint point;
  for (auto axis = all_axes.rbegin(); axis != all_axes.rend(); ++axis) {
    point[*axis] = rank % extents_[*axis];
    rank /= extents_[*axis];
  }
  return point;
}

int Mesh::rank(const MeshPoint& point) const {
  int rank = 0;
  for (const Axis axis : all_axes) {
    PHOTON_EXPECT(point[axis] >= 0 && point[axis] < extents_[axis], "place {} of {} along {}", point[axis],
                  extents_[axis], name_of(axis));
    rank = rank * extents_[axis] + point[axis];
  }
  return rank;
}

std::vector<int> Mesh::line(int rank, Axis axis) const {
  MeshPoint place = point(rank);
  std::vector<int> ranks;
  for (int i = 0; i < extents_[axis]; ++i) {
    place[axis] = i;
    ranks.push_back(this->rank(place));
  }
  return ranks;
}

int Mesh::line_color(int rank, Axis axis) const {
  MeshPoint place = point(rank);
  place[axis] = 0;
  return this->rank(place);
}

}  // namespace photon
