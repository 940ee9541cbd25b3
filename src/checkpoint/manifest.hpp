// manifest.json of a checkpoint: what is in which file, with checksums; and the file's own form.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"

namespace photon {

inline constexpr std::int64_t checkpoint_format_version = 1;
inline constexpr const char* manifest_name = "manifest.json";

// A stored piece of a logical tensor: the data set of that name in its file.
struct StoredPiece {
  std::string name;     // of the logical tensor, "<group>/<tensor>"
  std::string dataset;  // in the HDF5 file
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0;
  std::int64_t count = 0;
  std::string checksum;  // XXH3 of the elements' bytes
};

struct StoredFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::string checksum;  // XXH3 of the file
  std::vector<StoredPiece> pieces;
};

struct Manifest {
  ModelConfig config;
  TrainState state;
  std::int64_t num_ranks = 1;
  std::vector<StoredFile> files;
};

// The text of a file's part, which each rank leaves for rank 0, and back.
std::string to_json_text(const StoredFile& file);
StoredFile stored_file_from_json(const std::string& text, const std::filesystem::path& where);

std::string to_json_text(const Manifest& manifest);
// Reads <folder>/manifest.json. Errors: DamagedCheckpoint when it is missing or any byte of it changed; InputError for
// a newer format_version.
Manifest read_manifest(const std::filesystem::path& folder);

// Errors: InputError naming what is damaged, and the checkpoint.
[[noreturn]] void throw_damaged(const std::filesystem::path& folder, const std::string& why);

std::int64_t numel_of(const std::vector<std::int64_t>& shape);

}  // namespace photon
