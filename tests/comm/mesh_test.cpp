#include "comm/mesh.hpp"

#include <gtest/gtest.h>

#include <set>

#include "support/error.hpp"

namespace photon {
namespace {

TEST(Mesh, PlacesAndRanksAreInverse) {
  for (const MeshPoint& extents : {MeshPoint(2, 1, 3, 1), MeshPoint(1, 5, 1, 1), MeshPoint(3, 2, 2, 1),
                                   MeshPoint(1, 1, 1, 1), MeshPoint(2, 3, 2, 2)}) {
    const Mesh mesh(extents);
    int size = 1;
    for (const Axis axis : all_axes) size *= extents[axis];
    ASSERT_EQ(mesh.size(), size);
    for (int rank = 0; rank < size; ++rank) {
      const MeshPoint point = mesh.point(rank);
      EXPECT_EQ(mesh.rank(point), rank);
      for (const Axis axis : all_axes) {
        EXPECT_GE(point[axis], 0);
        EXPECT_LT(point[axis], extents[axis]);
      }
    }
  }
}

TEST(Mesh, EnumeratesTwoReplicasOfThreeShards) {
  const Mesh mesh(MeshPoint(2, 1, 3, 1));
  EXPECT_EQ(mesh.point(0), MeshPoint(0, 0, 0, 0));
  EXPECT_EQ(mesh.point(2), MeshPoint(0, 0, 2, 0));
  EXPECT_EQ(mesh.point(4), MeshPoint(1, 0, 1, 0));
  EXPECT_EQ(mesh.line(4, Axis::shard), (std::vector<int>{3, 4, 5}));
  EXPECT_EQ(mesh.line(4, Axis::data), (std::vector<int>{1, 4}));
  EXPECT_EQ(mesh.line(4, Axis::stage), (std::vector<int>{4}));
}

TEST(Mesh, EnumeratesFiveStages) {
  const Mesh mesh(MeshPoint(1, 5, 1, 1));
  EXPECT_EQ(mesh.line(3, Axis::stage), (std::vector<int>{0, 1, 2, 3, 4}));
  EXPECT_EQ(mesh.line(3, Axis::data), (std::vector<int>{3}));
}

TEST(Mesh, EnumeratesReplicasStagesAndShards) {
  const Mesh mesh(MeshPoint(3, 2, 2, 1));
  EXPECT_EQ(mesh.point(11), MeshPoint(2, 1, 1, 0));
  EXPECT_EQ(mesh.line(6, Axis::data), (std::vector<int>{2, 6, 10}));
  EXPECT_EQ(mesh.line(6, Axis::stage), (std::vector<int>{4, 6}));
  EXPECT_EQ(mesh.line(6, Axis::shard), (std::vector<int>{6, 7}));
}

TEST(Mesh, LinesPartitionTheRanksAndShareAColor) {
  const Mesh mesh(MeshPoint(3, 2, 2, 1));
  for (const Axis axis : all_axes) {
    for (int rank = 0; rank < mesh.size(); ++rank) {
      const std::vector<int> line = mesh.line(rank, axis);
      const std::set<int> members(line.begin(), line.end());
      for (int other = 0; other < mesh.size(); ++other) {
        EXPECT_EQ(members.count(other) == 1, mesh.line_color(rank, axis) == mesh.line_color(other, axis));
      }
    }
  }
}

TEST(Mesh, RefusesWhatIsOutside) {
  EXPECT_THROW(Mesh(MeshPoint(1, 0, 1, 1)), ContractError);
  const Mesh mesh(MeshPoint(2, 1, 3, 1));
  EXPECT_THROW(mesh.point(6), ContractError);
  EXPECT_THROW(mesh.rank(MeshPoint(2, 0, 0, 0)), ContractError);
}

}  // namespace
}  // namespace photon
