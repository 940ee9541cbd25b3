#include "comm/operation_log.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "testing/temporary.hpp"

namespace photon::comm {
namespace {

TEST(OperationLog, KeepsTheLastOperations) {
  const testing::TemporaryFolder folder;
  const auto log = std::make_unique<OperationLog>();
  log->set_file((folder / "log").string(), "a\"b", 3, 8);
  const std::uint64_t total = OperationLog::capacity + 10;
  for (std::uint64_t i = 1; i <= total; ++i) {
    const std::uint64_t number = log->begin("broadcast", "data", static_cast<std::int64_t>(i), -1, -1, "step 1");
    EXPECT_EQ(number, i);
    if (i != total) log->end(number);
  }
  log->end(1);  // long overwritten
  EXPECT_TRUE(log->write("a test"));
  const std::string text = testing::read_bytes(folder / "log");
  EXPECT_EQ(static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')), OperationLog::capacity + 1);
  EXPECT_EQ(text.rfind("{\"rank\": 3, \"ranks\": 8, \"host\": \"a?b\", \"process\": ", 0), 0U) << text.substr(0, 200);
  EXPECT_NE(text.find("\n{\"number\": 11, \"operation\": \"broadcast\", \"communicator\": \"data\", \"bytes\": 11, "
                      "\"phase\": \"step 1\", \"begin\": "),
            std::string::npos);
  EXPECT_EQ(text.find("\"number\": 10,"), std::string::npos);
  // Only the last one is under way.
  EXPECT_EQ(text.find("\"end\": null"), text.rfind("\"end\": null"));
  EXPECT_GT(text.find("\"end\": null"), text.find("\"number\": " + std::to_string(total)));
  log->discard();
  EXPECT_FALSE(std::filesystem::exists(folder / "log"));
}

TEST(OperationLog, NeedsAFileThatCanBeWritten) {
  const auto log = std::make_unique<OperationLog>();
  EXPECT_TRUE(log->write("nobody asked for a file"));
  log->set_file("/nowhere/log", "host", 0, 1);
  EXPECT_FALSE(log->write("a test"));
}

TEST(OperationLog, LeavesAFileOfAnEarlierProcess) {
  const testing::TemporaryFolder folder;
  testing::write_bytes(folder / "log", "earlier\n");
  const auto log = std::make_unique<OperationLog>();
  log->set_file((folder / "log").string(), "host", 0, 1);
  log->discard();
  EXPECT_EQ(testing::read_bytes(folder / "log"), "earlier\n");
}

}  // namespace
}  // namespace photon::comm
