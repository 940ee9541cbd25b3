#include "data/split.hpp"

#include <algorithm>
#include <cmath>

#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::size_t max_line_ends = 1 << 16;

void cut_lone_document(std::vector<RawDocument>& documents, double fraction, const LineEnds& line_ends) {
  const RawDocument whole = documents.front();
  const double target = (1 - fraction) * static_cast<double>(whole.bytes);
  const LineEnd* best = nullptr;
  const auto distance = [&](const LineEnd& end) { return std::abs(static_cast<double>(end.bytes) - target); };
  for (const LineEnd& end : line_ends.ends()) {
    if (end.bytes == 0 || end.bytes >= whole.bytes) continue;
    if (best == nullptr || distance(end) < distance(*best)) best = &end;
  }
  if (best == nullptr) {
    throw InputError("cannot hold out a part for validation", "the only document is a single line",
                     "give more documents or lines, or leave out --val-fraction");
  }
  RawDocument first = whole;
  first.tokens = best->tokens;
  first.bytes = best->bytes;
  first.lacks_eos = true;
  RawDocument second = whole;
  second.begin += best->tokens;
  second.tokens -= best->tokens;
  second.bytes -= best->bytes;
  second.validation = true;
  documents = {first, second};
}

}  // namespace

void LineEnds::add(LineEnd end) {
  if (seen_++ % stride_ != 0) return;
  ends_.push_back(end);
  if (ends_.size() < max_line_ends) return;
  for (std::size_t i = 0; 2 * i < ends_.size(); ++i) ends_[i] = ends_[2 * i];
  ends_.resize(ends_.size() / 2);
  stride_ *= 2;
}

void LineEnds::clear() {
  *this = {};
}

void mark_validation(std::vector<RawDocument>& documents, double fraction, const LineEnds& lone_document) {
  if (fraction <= 0 || documents.empty()) return;
  if (documents.size() == 1) return cut_lone_document(documents, fraction, lone_document);
  for (RawDocument& document : documents) {
    document.validation = static_cast<double>(document.hash) * 0x1p-64 < fraction;
  }
  const auto by_hash = [](const RawDocument& a, const RawDocument& b) { return a.hash < b.hash; };
  const auto [lowest, highest] = std::minmax_element(documents.begin(), documents.end(), by_hash);
  highest->validation = false;
  lowest->validation = true;
}

}  // namespace photon
