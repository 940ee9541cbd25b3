// Prompts that arrive when they please.
#include "decode/prompt_feed.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "support/error.hpp"
#include "testing/temporary.hpp"

namespace photon {
namespace {

std::string row(int id) {
  return "{\"id\": " + std::to_string(id) + ", \"prompt\": \"a\"}\n";
}

// A pipe under the name of a file, whose reader is a PromptFeed.
class FedByAPipe : public ::testing::Test {
 protected:
  FedByAPipe() {
    int ends[2];
    if (::pipe(ends) != 0) throw std::runtime_error("no pipe");
    read_end_ = ends[0];
    write_end_ = ends[1];
    feed_ = std::make_unique<PromptFeed>("/dev/fd/" + std::to_string(read_end_), InputFormat::automatic, Shard{});
  }
  ~FedByAPipe() override {
    feed_.reset();  // while the pipe is open: this must not wait
    close_writer();
    ::close(read_end_);
  }
  void write(const std::string& text) const {
    ASSERT_EQ(::write(write_end_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void close_writer() {
    if (write_end_ >= 0) ::close(write_end_);
    write_end_ = -1;
  }
  // The next row, however slow the machine.
  PromptLine wait_for_row() const {
    while (true) {
      if (std::optional<PromptLine> line = feed_->next()) return *line;
      if (feed_->ended()) throw std::runtime_error("the rows ended");
      feed_->wait(1);
    }
  }
  void wait_for_end() const {
    while (!feed_->ended()) {
      ASSERT_FALSE(feed_->next());
      feed_->wait(1);
    }
  }

  int read_end_ = -1;
  int write_end_ = -1;
  std::unique_ptr<PromptFeed> feed_;
};

TEST_F(FedByAPipe, RowsComeWhenTheyAreWhole) {
  EXPECT_FALSE(feed_->next());
  EXPECT_FALSE(feed_->ended());
  write(row(7));
  EXPECT_EQ(wait_for_row().text + "\n", row(7));
  // Half a row is none, however long one looks.
  const std::string next = row(8) + row(9);
  write(next.substr(0, 10));
  feed_->wait(0.05);
  EXPECT_FALSE(feed_->next());
  EXPECT_FALSE(feed_->ended());
  write(next.substr(10));
  EXPECT_EQ(wait_for_row().line, 1);
  EXPECT_EQ(wait_for_row().line, 2);
  EXPECT_FALSE(feed_->next());
  EXPECT_FALSE(feed_->ended());
  close_writer();
  wait_for_end();
  EXPECT_FALSE(feed_->next());
}

TEST_F(FedByAPipe, MoreRowsThanAreReadAheadComeInOrder) {
  constexpr int count = 10000;
  std::thread writer([this] {
    for (int i = 0; i < count; ++i) write(row(i));
    close_writer();
  });
  for (int i = 0; i < count; ++i) ASSERT_EQ(wait_for_row().line, i);
  writer.join();
  wait_for_end();
}

TEST_F(FedByAPipe, DamageIsAnErrorOfNext) {
  write("\x1f\x8b\x08 this is no gzip");
  close_writer();
  EXPECT_THROW(
      while (!feed_->ended()) {
        feed_->next();
        feed_->wait(1);
      },
      InputError);
}

TEST_F(FedByAPipe, NobodyWaitsForASilentPipe) {
  write(row(1) + "{\"id\": 2, ");  // and it is left like that
  EXPECT_EQ(wait_for_row().line, 0);
}

TEST(PromptFeedTest, AFileIsReadAsRowsAreAskedFor) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "rows") << row(1) << "\n" << row(2);
  PromptFeed feed(folder / "rows", InputFormat::automatic, Shard{});
  EXPECT_FALSE(feed.ended());
  EXPECT_EQ(feed.next()->line, 0);
  EXPECT_EQ(feed.next()->line, 2);
  EXPECT_FALSE(feed.ended());
  EXPECT_FALSE(feed.next());
  EXPECT_TRUE(feed.ended());
  EXPECT_THROW(PromptFeed(folder / "missing", InputFormat::automatic, Shard{}), InputError);
}

}  // namespace
}  // namespace photon
