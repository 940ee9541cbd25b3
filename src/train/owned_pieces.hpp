// What one of several ranks that hold the same tensors answers for: runs of elements of logical tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "partition/sharing.hpp"

namespace photon {

struct OwnedPiece {
  std::string name;
  std::vector<std::int64_t> shape;  // of the whole tensor
  bool decays = false;
  std::int64_t offset = 0;   // first element within the tensor
  std::int64_t count = 0;    // elements
  std::int64_t flat = 0;     // where it begins in a buffer of all tensors,
  std::int64_t compact = 0;  // and in one of these pieces alone, behind each other
};

// The tensors' elements inside the ranges (ascending), in the order of the flat buffers.
std::vector<OwnedPiece> owned_pieces(const std::vector<ParameterSpec>& specs, const std::vector<FlatRange>& ranges);
// A buffer of these pieces alone, by the tensors' names.
std::vector<ParameterSpec> compact_specs(const std::vector<OwnedPiece>& pieces);

// They as a checkpoint's pieces, of a buffer of all tensors or of these pieces alone.
enum class PieceLayout : std::uint8_t { flat, compact };
std::vector<TensorPiece> pieces_of(const std::string& group, const std::vector<OwnedPiece>& pieces,
                                   const TensorView& buffer, PieceLayout layout);
std::vector<TensorTarget> targets_of(const std::string& group, const std::vector<OwnedPiece>& pieces,
                                     const TensorView& buffer, PieceLayout layout);

}  // namespace photon
