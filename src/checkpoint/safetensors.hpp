// The safetensors format: 8 bytes of header length (little-endian), a JSON header that names every tensor's dtype,
// shape and place, then the tensors' bytes. Reading trusts nothing: lengths, bounds, overlaps, gaps and names are
// checked before use.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tensor/types.hpp"

namespace photon {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as the format writes it: "F32", "BF16", ...
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  // first byte in the file
  std::uint64_t end = 0;    // one past the last

  std::int64_t numel() const;
};

// A file open for reading.
class SafetensorsFile {
 public:
  // Errors: InputError naming the file and what is wrong with it.
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in the order of their bytes
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // The tensor in fp32 (F32 bit for bit, F16 and BF16 exactly) into out[numel]. Returns the checksum of its bytes in
  // the file. Errors: InputError for another dtype or when the file cannot be read.
  std::uint64_t read(const SafetensorsEntry& entry, float* out) const;
  // The checksum of a tensor's bytes alone.
  std::uint64_t checksum_of(const SafetensorsEntry& entry) const;

 private:
  void parse_header(const std::string& text, std::uint64_t data_bytes);

  std::filesystem::path path_;
  int fd_ = -1;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

// A tensor to be written: fp32 on the host.
struct NamedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  const float* data = nullptr;
};

// Metadata key that holds the checksum of a tensor's bytes: "xxh3:<name>".
std::string checksum_key(const std::string& tensor_name);

// Writes one file, tensors in the given order, as f32 or bf16 (rounded to nearest even), with `metadata` and the
// checksum of every tensor in the header. No fsync. Errors: Error when it cannot be written.
void write_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors, DType dtype,
                       const std::map<std::string, std::string>& metadata);

// Files above this many bytes of tensors are split, as the folders of the Hugging Face hub are.
inline constexpr std::uint64_t default_shard_bytes = 5'000'000'000;

// Writes `folder`/model.safetensors, or, above `shard_bytes`, model-00001-of-0000N.safetensors ... and
// model.safetensors.index.json.
void write_sharded(const std::filesystem::path& folder, const std::vector<NamedTensor>& tensors, DType dtype,
                   const std::map<std::string, std::string>& metadata, std::uint64_t shard_bytes = default_shard_bytes);

// The tensors of a folder in either form.
class WeightFiles {
 public:
  // Errors: InputError when there is no weights file, when index and shards disagree, or as SafetensorsFile.
  explicit WeightFiles(const std::filesystem::path& folder);

  struct Place {
    std::size_t file = 0;
    SafetensorsEntry entry;
  };
  const std::map<std::string, Place>& tensors() const { return tensors_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  // Reads a tensor into out[numel] and checks it against the checksum that the file records, if it records one. Errors:
  // InputError naming the tensor and the file.
  void read(const std::string& name, float* out) const;
  // Forgets a tensor that the reader has no use for.
  void ignore(const std::string& name) { tensors_.erase(name); }
  // Tensors whose bytes do not have the checksum that their file records; `num_checked` counts those that record one.
  std::vector<std::string> damaged(std::int64_t& num_checked) const;

 private:
  void add(const std::filesystem::path& path);

  std::vector<SafetensorsFile> files_;
  std::map<std::string, Place> tensors_;
};

}  // namespace photon
