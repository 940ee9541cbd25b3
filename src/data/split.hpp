// Which documents are held out.
#pragma once

#include <cstdint>
#include <vector>

#include "data/token_file_writer.hpp"

namespace photon {

// A place between two lines of a document.
struct LineEnd {
  std::uint64_t tokens = 0;  // before it, from the document's start
  std::uint64_t bytes = 0;
};

// Line ends of one document, thinned out evenly so that there are never more than a fixed number.
class LineEnds {
 public:
  void add(LineEnd end);
  void clear();
  const std::vector<LineEnd>& ends() const { return ends_; }

 private:
  std::vector<LineEnd> ends_;
  std::uint64_t stride_ = 1;
  std::uint64_t seen_ = 0;
};

// Marks the documents of the validation split: those whose hash, read as a number in [0, 1), is below `fraction`, so
// that a document stays on its side whatever is prepared with it. Both splits get at least one: the document with the
// lowest hash is always held out, that with the highest never. A lone document is cut in two at the line end nearest to
// `1 - fraction` of its bytes. Errors: InputError when the lone document has no line end.
void mark_validation(std::vector<RawDocument>& documents, double fraction, const LineEnds& lone_document);

}  // namespace photon
