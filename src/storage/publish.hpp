// One way to make bytes last: write beside, checksum, fsync, rename, publish last; never update in place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace photon {

// Named points in the protocol where tests kill the process: when PHOTON_FAULT=<point>[:<count>] is set, the count-th
// arrival (default 1) at `point` ends the process by SIGKILL. A point of the form "enospc@<point>" throws the disk-full
// error instead, and one of the form "slow@<point>" waits 20 ms at every arrival.
void fault_point(std::string_view point);

// fsync of a file or folder. Errors: Error with path and reason.
void sync_path(const std::filesystem::path& path);

// Writes `bytes` to `path` so that at every instant the path holds either what it held before or all of `bytes`:
// temporary file "<path>.tmp", fsync, rename, fsync of the folder. Fault points: "<label>.write", "<label>.rename",
// "<label>.done". Errors: Error, with the temporary file removed.
void publish_file(const std::filesystem::path& path, std::string_view bytes, std::string_view label);

// Publishes a finished temporary file or folder under its final name: fsync of all it holds, rename, fsync of the
// parent. An existing folder at `to` is an Error; an existing file is replaced. Fault points: "<label>.rename",
// "<label>.done".
void publish_path(const std::filesystem::path& from, const std::filesystem::path& to, std::string_view label);

// publish_path, but a folder at `to` is replaced: the two change places in one step where the file system can do that,
// and the old one is deleted after. Elsewhere the old one becomes trash first: a crash between leaves `to` absent and
// both folders complete. Fault points as publish_path.
void replace_folder(const std::filesystem::path& from, const std::filesystem::path& to, std::string_view label);

// Renames `path` to a trash name beside it (trash_prefix + its name), then deletes that: a crash leaves either all of
// it or none under its name. Fault point between the two: "trash". No such path: nothing to do.
void remove_published(const std::filesystem::path& path);
inline constexpr std::string_view trash_prefix = ".trash-";

// Free bytes of the file system that holds `path` (or its nearest existing parent).
std::uint64_t free_bytes(const std::filesystem::path& path);

// 64-bit XXH3 of bytes, of a file; as 16 hexadecimal digits.
std::uint64_t checksum(const void* data, std::uint64_t bytes);
std::uint64_t checksum_file(const std::filesystem::path& path);
std::string checksum_text(std::uint64_t value);

// 128-bit XXH3.
struct Checksum128 {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
};
Checksum128 checksum_128(const void* data, std::uint64_t bytes);

std::string read_text_file(const std::filesystem::path& path);  // Errors: InputError when it cannot be read

// The error of a failed system call: "cannot <action> <path> (<reason of the errno>) ..."; InputError where such a path
// cannot be used at all, Error where the disk is full or fails.
[[noreturn]] void throw_io_error(std::string_view action, const std::filesystem::path& path, int error_number);

}  // namespace photon
