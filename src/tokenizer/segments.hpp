// How a text is cut before it is tokenised. A segment is one line with the line feeds that end it (all of a run of
// them), or 64 KiB of a longer line. Every tokenizer encodes a text segment by segment, so that its ids do not depend
// on the blocks in which the text was read: a text of any size can be tokenised in pieces of bounded size, in parallel.
#pragma once

#include <cstddef>
#include <string_view>

namespace photon {

inline constexpr std::size_t max_segment_bytes = 64 * 1024;

// Length of the first segment of `text`, which begins at a segment's start and ends where the whole text ends. Longer
// lines are cut before a UTF-8 character, never inside one. 0 only for an empty text.
std::size_t first_segment(std::string_view text);

// The last place at which the text read so far can be cut without looking at what follows; 0 when there is none. `text`
// begins at a segment's start; the result is less than its size.
std::size_t last_segment_boundary(std::string_view text);

}  // namespace photon
