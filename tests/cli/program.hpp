// Runs the photon program as a user would and keeps what it said.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace photon::testing {

struct Outcome {
  int code = -1;  // exit code; -1: ended by a signal
  std::string out;
  std::string err;
};

// A folder of the running test's own, gone afterwards.
class ProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(::testing::TempDir()) /
              (std::string("photon_cli_") + info->test_suite_name() + "_" + info->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
  }

  static std::string read(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }

  // `arguments` as a shell reads them; `redirect` replaces the capture of stdout.
  Outcome photon(const std::string& arguments, const std::string& redirect = "") const {
    return program("'" PHOTON_BINARY "' " + arguments, redirect);
  }
  // The same of any command line.
  Outcome program(const std::string& words, const std::string& redirect = "") const {
    const std::string out = redirect.empty() ? " >'" + path(".out") + "'" : " " + redirect;
    const std::string command = "cd '" + folder_.string() + "' && " + words + out + " 2>'" + path(".err") + "'";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(path(".out")), read(path(".err"))};
  }

  std::filesystem::path folder_;
};

}  // namespace photon::testing
