#include "checkpoint/safetensors.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "storage/publish.hpp"
#include "support/error.hpp"
#include "tensor/half.hpp"

namespace photon {
namespace fs = std::filesystem;
namespace {
using Json = nlohmann::json;

constexpr std::uint64_t max_header_bytes = 100'000'000;  // the limit of the format's own library
constexpr std::int64_t block_elements = std::int64_t{1} << 20;

[[noreturn]] void fail(const fs::path& path, const std::string& why) {
  throw InputError(fmt::format("cannot read weights from {}", path.string()), why,
                   "check that the file is complete and a safetensors file");
}

std::uint64_t element_bytes(const std::string& dtype) {
  static const std::map<std::string, std::uint64_t> sizes = {
      {"F64", 8}, {"I64", 8}, {"U64", 8}, {"F32", 4}, {"I32", 4},  {"U32", 4},     {"F16", 2},    {"BF16", 2},
      {"I16", 2}, {"U16", 2}, {"I8", 1},  {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

// Parses JSON and refuses keys that appear twice, which the parser alone would let the last one win.
Json parse_strict(const std::string& text, const fs::path& path) {
  std::vector<std::set<std::string>> keys;
  std::string twice;
  const Json::parser_callback_t watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      twice = value.get<std::string>();
    return true;
  };
  try {
    Json parsed = Json::parse(text, watch);
    if (!twice.empty()) fail(path, fmt::format("the name '{}' appears twice", twice));
    return parsed;
  } catch (const Json::exception& error) {
    fail(path, fmt::format("its JSON is damaged: {}", error.what()));
  }
}

std::uint64_t unsigned_of(const Json& value, const fs::path& path, const std::string& what) {
  if (!value.is_number_unsigned()) fail(path, fmt::format("{} is not a count", what));
  return value.get<std::uint64_t>();
}

SafetensorsEntry parse_entry(const std::string& name, const Json& json, const fs::path& path) {
  SafetensorsEntry entry;
  entry.name = name;
  const std::string what = fmt::format("tensor '{}'", name);
  if (!json.is_object() || json.size() != 3 || !json.contains("dtype") || !json.contains("shape") ||
      !json.contains("data_offsets")) {
    fail(path, what + " must have exactly dtype, shape and data_offsets");
  }
  if (!json["dtype"].is_string()) fail(path, what + " has a dtype that is no string");
  entry.dtype = json["dtype"].get<std::string>();
  std::uint64_t bytes = element_bytes(entry.dtype);
  if (bytes == 0) fail(path, fmt::format("{} has the unknown dtype '{}'", what, entry.dtype));
  if (!json["shape"].is_array()) fail(path, what + " has a shape that is no list");
  for (const Json& size : json["shape"]) {
    const std::uint64_t n = unsigned_of(size, path, "a size of " + what);
    constexpr auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (n > limit || (n != 0 && bytes > limit / n)) fail(path, what + " is larger than any file");
    bytes *= n;
    entry.shape.push_back(static_cast<std::int64_t>(n));
  }
  const Json& offsets = json["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) fail(path, what + " needs two data_offsets");
  entry.begin = unsigned_of(offsets[0], path, "an offset of " + what);
  entry.end = unsigned_of(offsets[1], path, "an offset of " + what);
  if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
    fail(path, fmt::format("{} has offsets {} .. {}, its shape needs {} bytes", what, entry.begin, entry.end, bytes));
  }
  return entry;
}

void read_at(int fd, const fs::path& path, std::uint64_t offset, void* out, std::uint64_t bytes) {
  auto* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t count = ::pread(fd, to, bytes, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(path, std::generic_category().message(errno));
    if (count == 0) fail(path, "the file ends early");
    to += count;
    offset += static_cast<std::uint64_t>(count);
    bytes -= static_cast<std::uint64_t>(count);
  }
}

class Hasher {
 public:
  Hasher() : state_(XXH3_createState(), XXH3_freeState) { XXH3_64bits_reset(state_.get()); }
  void add(const void* data, std::uint64_t bytes) { XXH3_64bits_update(state_.get(), data, bytes); }
  std::uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
};

// Calls use(bytes, count) for the tensor's bytes as `dtype`, block by block.
template <class Use>
void for_each_block(const NamedTensor& tensor, std::int64_t numel, DType dtype, const Use& use) {
  std::vector<bfloat16> block;
  for (std::int64_t at = 0; at < numel; at += block_elements) {
    const std::int64_t n = std::min(block_elements, numel - at);
    if (dtype == DType::f32) {
      use(tensor.data + at, static_cast<std::uint64_t>(n) * sizeof(float));
      continue;
    }
    block.resize(static_cast<std::size_t>(n));
    std::transform(tensor.data + at, tensor.data + at + n, block.begin(), to_bfloat16);
    use(block.data(), static_cast<std::uint64_t>(n) * sizeof(bfloat16));
  }
}

std::int64_t product(const std::vector<std::int64_t>& shape) {
  std::int64_t n = 1;
  for (const std::int64_t size : shape) n *= size;
  return n;
}

}  // namespace

std::int64_t SafetensorsEntry::numel() const {
  return product(shape);
}

SafetensorsFile::SafetensorsFile(const fs::path& path) : path_(path) {
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) fail(path, std::generic_category().message(errno));
  try {
    struct stat status {};
    if (::fstat(fd_, &status) != 0) fail(path, std::generic_category().message(errno));
    if (!S_ISREG(status.st_mode)) fail(path, "it is not a regular file");
    const auto size = static_cast<std::uint64_t>(status.st_size);
    std::uint64_t header = 0;
    if (size < sizeof(header)) fail(path, "the file is too short");
    read_at(fd_, path, 0, &header, sizeof(header));
    if (header > max_header_bytes)
      fail(path, fmt::format("its header claims {} bytes, more than {}", header, max_header_bytes));
    if (header > size - sizeof(header)) fail(path, "its header is longer than the file");
    std::string text(header, '\0');
    read_at(fd_, path, sizeof(header), text.data(), header);
    parse_header(text, size - sizeof(header) - header);
    for (SafetensorsEntry& entry : entries_) {
      entry.begin += sizeof(header) + header;
      entry.end += sizeof(header) + header;
    }
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      entries_(std::move(other.entries_)),
      metadata_(std::move(other.metadata_)) {}

SafetensorsFile::~SafetensorsFile() {
  if (fd_ >= 0) ::close(fd_);
}

void SafetensorsFile::parse_header(const std::string& text, std::uint64_t data_bytes) {
  if (text.empty() || text.front() != '{') fail(path_, "its header does not begin with '{'");
  const Json header = parse_strict(text, path_);
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries_.push_back(parse_entry(name, value, path_));
      continue;
    }
    if (!value.is_object()) fail(path_, "__metadata__ is no object");
    for (const auto& [key, text_value] : value.items()) {
      if (!text_value.is_string()) fail(path_, fmt::format("__metadata__ '{}' is no string", key));
      metadata_[key] = text_value.get<std::string>();
    }
  }
  std::sort(entries_.begin(), entries_.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  std::uint64_t next = 0;
  for (const SafetensorsEntry& entry : entries_) {
    if (entry.begin < next) fail(path_, fmt::format("tensor '{}' overlaps another", entry.name));
    if (entry.begin > next) fail(path_, fmt::format("there is a gap before tensor '{}'", entry.name));
    if (entry.end > data_bytes) fail(path_, fmt::format("tensor '{}' lies beyond the end of the file", entry.name));
    next = entry.end;
  }
  if (next != data_bytes) fail(path_, fmt::format("{} bytes follow the last tensor", data_bytes - next));
}

std::uint64_t SafetensorsFile::read(const SafetensorsEntry& entry, float* out) const {
  const std::int64_t numel = entry.numel();
  Hasher hash;
  if (entry.dtype == "F32") {
    const std::uint64_t bytes = entry.end - entry.begin;
    read_at(fd_, path_, entry.begin, out, bytes);
    hash.add(out, bytes);
    return hash.value();
  }
  if (entry.dtype != "F16" && entry.dtype != "BF16") {
    fail(path_, fmt::format("tensor '{}' is {}, photon reads F32, F16 and BF16", entry.name, entry.dtype));
  }
  const bool brain = entry.dtype == "BF16";
  std::vector<std::uint16_t> block;
  for (std::int64_t at = 0; at < numel; at += block_elements) {
    const std::int64_t n = std::min(block_elements, numel - at);
    block.resize(static_cast<std::size_t>(n));
    const std::uint64_t bytes = static_cast<std::uint64_t>(n) * 2;
    read_at(fd_, path_, entry.begin + static_cast<std::uint64_t>(at) * 2, block.data(), bytes);
    hash.add(block.data(), bytes);
    std::transform(block.begin(), block.end(), out + at,
                   [brain](std::uint16_t bits) { return brain ? to_float(bfloat16{bits}) : to_float(float16{bits}); });
  }
  return hash.value();
}

std::uint64_t SafetensorsFile::checksum_of(const SafetensorsEntry& entry) const {
  Hasher hash;
  std::vector<char> block(std::size_t{4} << 20);
  for (std::uint64_t at = entry.begin; at < entry.end;) {
    const std::uint64_t n = std::min<std::uint64_t>(block.size(), entry.end - at);
    read_at(fd_, path_, at, block.data(), n);
    hash.add(block.data(), n);
    at += n;
  }
  return hash.value();
}

std::string checksum_key(const std::string& tensor_name) {
  return "xxh3:" + tensor_name;
}

void write_safetensors(const fs::path& path, const std::vector<NamedTensor>& tensors, DType dtype,
                       const std::map<std::string, std::string>& metadata) {
  PHOTON_EXPECT(dtype == DType::f32 || dtype == DType::bf16, "weights are written as f32 or bf16, not {}",
                name_of(dtype));
  nlohmann::ordered_json header;
  Json extended = metadata;
  extended["format"] = "pt";  // readers of the Hugging Face libraries ask for it
  std::uint64_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    const std::int64_t numel = product(tensor.shape);
    const std::uint64_t bytes = static_cast<std::uint64_t>(numel) * size_of(dtype);
    Hasher hash;
    for_each_block(tensor, numel, dtype, [&](const void* data, std::uint64_t count) { hash.add(data, count); });
    extended[checksum_key(tensor.name)] = checksum_text(hash.value());
    header[tensor.name] = {{"dtype", dtype == DType::f32 ? "F32" : "BF16"},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  header["__metadata__"] = extended;
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // keeps the tensors aligned
  const std::uint64_t length = text.size();

  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) throw_io_error("create", path, errno);
  const auto write_all = [&](const void* data, std::uint64_t bytes) {
    const auto* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t count = ::write(fd, from, bytes);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw_io_error("write", path, errno);
      from += count;
      bytes -= static_cast<std::uint64_t>(count);
    }
  };
  try {
    write_all(&length, sizeof(length));
    write_all(text.data(), length);
    for (const NamedTensor& tensor : tensors) for_each_block(tensor, product(tensor.shape), dtype, write_all);
  } catch (...) {
    ::close(fd);
    throw;
  }
  if (::close(fd) != 0) throw_io_error("close", path, errno);
}

}  // namespace photon
