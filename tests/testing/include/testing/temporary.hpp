// What tests of files share: folders that go away, environment variables that are put back, and processes that are
// killed.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

namespace photon::testing {

// A new folder, removed with all it holds.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    // In memory where there is such a file system: fsync costs nothing there, and no test depends on a disk.
    const std::filesystem::path memory = "/dev/shm";
    const std::filesystem::path root =
        ::access(memory.c_str(), W_OK) == 0 ? memory : std::filesystem::temp_directory_path();
    std::string name = (root / "photon-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::system_error(errno, std::generic_category(), name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// Sets a variable, and puts back what was there.
class Environment {
 public:
  Environment(const std::string& name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name.c_str())) before_ = before;
    ::setenv(name.c_str(), value.c_str(), 1);
  }
  ~Environment() { before_ ? ::setenv(name_.c_str(), before_->c_str(), 1) : ::unsetenv(name_.c_str()); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  std::string name_;
  std::optional<std::string> before_;
};

// Runs `body` in a child process whose PHOTON_FAULT is `fault`, and expects that SIGKILL ends it there.
inline void run_with_fault(const std::string& fault, const std::function<void()>& body) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::setenv("PHOTON_FAULT", fault.c_str(), 1);
    try {
      body();
    } catch (const std::exception&) {
      ::_exit(3);
    }
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
      << "fault point " << fault << " was not met, status " << status;
}

// Names of what a folder holds, sorted.
inline std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// Inverts the bits of one byte; negative positions count from the end.
inline void flip_byte(const std::filesystem::path& path, std::ptrdiff_t position) {
  std::string bytes = read_bytes(path);
  const auto at =
      static_cast<std::size_t>(position < 0 ? static_cast<std::ptrdiff_t>(bytes.size()) + position : position);
  ASSERT_LT(at, bytes.size());
  bytes[at] = static_cast<char>(~bytes[at]);
  write_bytes(path, bytes);
}

}  // namespace photon::testing

// Expects exactly this exception type, or one derived of it, with `part` in its message.
#define EXPECT_ERROR(statement, type, part)                                                             \
  do {                                                                                                  \
    try {                                                                                               \
      statement;                                                                                        \
      ADD_FAILURE() << "no error was thrown";                                                           \
    } catch (const type& photon_error) {                                                                \
      EXPECT_NE(std::string(photon_error.what()).find(part), std::string::npos) << photon_error.what(); \
    }                                                                                                   \
  } while (false)
