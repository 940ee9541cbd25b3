#include "storage/publish.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <system_error>
#include <thread>

#include "support/error.hpp"

namespace photon {
namespace fs = std::filesystem;
namespace {

// What PHOTON_FAULT asks for, and how often the point was met under the present value of the variable.
struct Fault {
  std::string text;
  std::string point;
  long count = 1;
  long arrivals = 0;
  bool disk_full = false;
  bool slow = false;
};

Fault parse_fault(const std::string& text) {
  Fault fault;
  fault.text = text;
  fault.point = text;
  constexpr std::string_view disk_full = "enospc@";
  if (constexpr std::string_view slow = "slow@"; text.starts_with(slow)) {
    fault.slow = true;
    fault.point = text.substr(slow.size());
  }
  if (text.starts_with(disk_full)) {
    fault.disk_full = true;
    fault.point = text.substr(disk_full.size());
  }
  if (const auto colon = fault.point.find(':'); colon != std::string::npos) {
    fault.count = std::strtol(fault.point.c_str() + colon + 1, nullptr, 10);
    fault.point.resize(colon);
  }
  return fault;
}

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, mode_t mode = 0)
      : path_(path), fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {
    if (fd_ < 0) throw_io_error("open", path, errno);
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  void write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0) {
        if (errno == EINTR) continue;
        throw_io_error("write", path_, errno);
      }
      bytes.remove_prefix(static_cast<std::size_t>(written));
    }
  }

  void sync(bool folder) {
    // Some network file systems do not offer fsync of a folder and say EINVAL: their renames are synchronous.
    if (::fsync(fd_) != 0 && !(folder && errno == EINVAL)) throw_io_error("fsync", path_, errno);
  }

  void close() {
    const int fd = fd_;
    fd_ = -1;
    if (::close(fd) != 0) throw_io_error("close", path_, errno);
  }

 private:
  fs::path path_;
  int fd_;
};

fs::path parent_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

void rename_path(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw_io_error("rename", from, errno);
}

void sync_tree(const fs::path& path) {
  if (fs::is_directory(path)) {
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      if (entry.is_regular_file() || entry.is_directory()) sync_path(entry.path());
    }
  }
  sync_path(path);
}

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw_io_error("remove", path, error.value());
}

// The trash name of a path, with nothing there.
fs::path make_trash_name(const fs::path& path) {
  fs::path trash = parent_of(path) / std::string(trash_prefix).append(path.filename().string());
  remove_tree(trash);  // left by a crash
  return trash;
}

std::string point_name(std::string_view label, std::string_view stage) {
  return std::string(label).append(stage);
}

}  // namespace

void throw_io_error(std::string_view action, const fs::path& path, int error_number) {
  const std::string problem = fmt::format("cannot {} {}", action, path.string());
  const std::string why = std::generic_category().message(error_number);
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      throw Error(problem, why, "free space on that file system and try again");
    case EACCES:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case ENOENT:
    case ENOTDIR:
    case EPERM:
    case EROFS:
      throw InputError(problem, why, "check the path and its permissions, or choose another");
    default:
      throw Error(problem, why, "check the file system");
  }
}

void fault_point(std::string_view point) {
  const char* value = std::getenv("PHOTON_FAULT");
  if (value == nullptr || *value == '\0') return;
  static std::mutex mutex;
  static Fault fault;
  const std::lock_guard lock(mutex);
  if (fault.text != value) fault = parse_fault(value);
  if (fault.point != point) return;
  if (fault.slow) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return;
  }
  if (++fault.arrivals != fault.count) return;
  if (fault.disk_full) throw_io_error("write", fs::path("at fault point ").concat(point), ENOSPC);
  ::kill(::getpid(), SIGKILL);
}

void sync_path(const fs::path& path) {
  const bool folder = fs::is_directory(path);
  Descriptor(path, O_RDONLY | (folder ? O_DIRECTORY : 0)).sync(folder);
}

void publish_file(const fs::path& path, std::string_view bytes, std::string_view label) {
  fs::path temporary = path;
  temporary += ".tmp";
  try {
    Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    fault_point(point_name(label, ".write"));
    file.write(bytes);
    file.sync(false);
    file.close();
    fault_point(point_name(label, ".rename"));
    rename_path(temporary, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  sync_path(parent_of(path));
  fault_point(point_name(label, ".done"));
}

void publish_path(const fs::path& from, const fs::path& to, std::string_view label) {
  if (fs::is_directory(fs::symlink_status(to))) {
    throw Error(fmt::format("cannot publish {}", to.string()), "a folder of that name exists",
                "remove it or name another output");
  }
  sync_tree(from);
  fault_point(point_name(label, ".rename"));
  rename_path(from, to);
  sync_path(parent_of(to));
  fault_point(point_name(label, ".done"));
}

void replace_folder(const fs::path& from, const fs::path& to, std::string_view label) {
  if (!fs::exists(fs::symlink_status(to))) {
    publish_path(from, to, label);
    return;
  }
  sync_tree(from);
  fault_point(point_name(label, ".rename"));
  fs::path old = from;  // where the exchange puts the old folder
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0) {
    if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) throw_io_error("rename", from, errno);
    old = make_trash_name(to);
    rename_path(to, old);
    rename_path(from, to);
  }
  sync_path(parent_of(to));
  fault_point(point_name(label, ".done"));
  remove_tree(old);
}

void remove_published(const fs::path& path) {
  if (!fs::exists(fs::symlink_status(path))) return;
  const fs::path trash = make_trash_name(path);
  rename_path(path, trash);
  fault_point("trash");
  remove_tree(trash);
}

std::uint64_t free_bytes(const fs::path& path) {
  fs::path existing = fs::absolute(path);
  while (!fs::exists(existing) && existing.has_relative_path()) existing = existing.parent_path();
  struct statvfs status {};
  if (::statvfs(existing.c_str(), &status) != 0) throw_io_error("ask for the free space of", existing, errno);
  return static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize;
}

std::string read_text_file(const fs::path& path) {
  const auto fail = [&](const std::string& why) {
    throw InputError(fmt::format("cannot read {}", path.string()), why, "check the path and its permissions");
  };
  if (fs::is_directory(path)) fail("it is a folder");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(std::generic_category().message(errno));
  std::ostringstream text;
  // Inserting an empty stream buffer sets failbit, which is no failure here.
  if (file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
  if (file.bad() || text.bad()) fail("reading failed");
  return std::move(text).str();
}

}  // namespace photon
