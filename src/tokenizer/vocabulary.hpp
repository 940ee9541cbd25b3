// Making a vocabulary from text.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace photon {

// Trains a SentencePiece BPE model of `size` ids on the lines that `next_line` gives (without line ends; it returns
// false after the last one) and returns the model's bytes. The same lines give the same bytes. Nothing is normalised,
// spaces are kept, no space is put before a text, and characters without a piece fall back to bytes: any UTF-8 text
// survives it unchanged. Ids: unknown 0, bos 1, eos 2, then 256 bytes, then pieces. Errors: InputError when `size` is
// too small for that or larger than the text supports, or there is no text.
std::string train_vocabulary(std::int64_t size, const std::function<bool(std::string&)>& next_line);

}  // namespace photon
