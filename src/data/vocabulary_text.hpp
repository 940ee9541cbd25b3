// The text a vocabulary is trained on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace photon {

// Trains a vocabulary of `size` ids (tokenizer/vocabulary.hpp) on the lines of the files' documents. Of more than
// `max_bytes` of input an even, deterministic sample is taken, since the trainer holds its text in memory. Lines of
// JSONL files that hold no document are passed over here; prepare reports them. Returns the model's bytes.
std::string train_vocabulary_on(const std::vector<std::filesystem::path>& files, std::int64_t size,
                                std::uint64_t max_bytes = std::uint64_t{256} << 20);

}  // namespace photon
