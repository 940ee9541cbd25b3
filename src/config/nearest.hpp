// "Did you mean": the nearest known word to one that is not known.
#pragma once

#include <string>
#include <vector>

namespace photon {

// The candidate with the least edit distance to `word` (transpositions count one); the first of equals; "" for none.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace photon
