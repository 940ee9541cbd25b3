#include "train/owned_pieces.hpp"

#include <algorithm>

namespace photon {
namespace {

template <class View>
std::vector<BasicPiece<View>> cut(const std::string& group, const std::vector<OwnedPiece>& pieces,
                                  const TensorView& buffer, PieceLayout layout) {
  std::vector<BasicPiece<View>> result;
  for (const OwnedPiece& piece : pieces) {
    const std::int64_t begin = layout == PieceLayout::flat ? piece.flat : piece.compact;
    result.push_back({group + "/" + piece.name, piece.shape, piece.offset, buffer.slice(0, begin, piece.count)});
  }
  return result;
}

}  // namespace

std::vector<OwnedPiece> owned_pieces(const std::vector<ParameterSpec>& specs, const std::vector<FlatRange>& ranges) {
  std::vector<OwnedPiece> pieces;
  std::int64_t compact = 0;
  for (const FlatRange& range : ranges) {
    for (const ParameterSpec& spec : specs) {
      const std::int64_t begin = std::max(spec.offset, range.begin);
      const std::int64_t end = std::min(spec.offset + spec.numel(), range.end());
      if (begin >= end) continue;
      pieces.push_back({spec.name, spec.shape, spec.decays, begin - spec.offset, end - begin, begin, compact});
      compact += end - begin;
    }
  }
  return pieces;
}

std::vector<ParameterSpec> compact_specs(const std::vector<OwnedPiece>& pieces) {
  std::vector<ParameterSpec> specs;
  for (const OwnedPiece& piece : pieces) {
    ParameterSpec spec;
    spec.name = piece.name;
    spec.shape = {piece.count};
    spec.decays = piece.decays;
    spec.offset = piece.compact;
    specs.push_back(std::move(spec));
  }
  return specs;
}

std::vector<TensorPiece> pieces_of(const std::string& group, const std::vector<OwnedPiece>& pieces,
                                   const TensorView& buffer, PieceLayout layout) {
  return cut<ConstTensorView>(group, pieces, buffer, layout);
}

std::vector<TensorTarget> targets_of(const std::string& group, const std::vector<OwnedPiece>& pieces,
                                     const TensorView& buffer, PieceLayout layout) {
  return cut<TensorView>(group, pieces, buffer, layout);
}

}  // namespace photon
