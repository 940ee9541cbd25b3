#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

#include "data/ordered_pipeline.hpp"
#include "data/progress.hpp"

namespace photon {
namespace {

TEST(RunInOrder, KeepsTheOrderAndBoundsWhatIsInFlight) {
  for (const int workers : {1, 2, 5}) {
    int read = 0;
    std::atomic<int> written = 0;
    std::atomic<int> most = 0;
    std::vector<int> results;
    run_in_order<int, int>(
        workers,
        [&](int& item) {
          if (read == 300) return false;
          item = read++;
          most = std::max(most.load(), read - written.load());
          return true;
        },
        [](int&& item) {
          if (item % 7 == 0) std::this_thread::yield();
          return item * item;
        },
        [&](int&& result) {
          results.push_back(result);
          ++written;
        });
    ASSERT_EQ(results.size(), 300U);
    for (int i = 0; i < 300; ++i) EXPECT_EQ(results[static_cast<std::size_t>(i)], i * i);
    EXPECT_LE(most, 2 * workers + 4);
  }
}

TEST(RunInOrder, ErrorsComeAfterTheResultsBeforeThem) {
  for (const std::string where : {"read", "work", "write"}) {
    std::vector<int> results;
    int read = 0;
    const auto run = [&] {
      run_in_order<int, int>(
          3,
          [&](int& item) {
            item = read++;
            if (item == 20 && where == "read") throw std::runtime_error("read");
            return item < 100;
          },
          [&](int&& item) {
            if (item >= 20 && where == "work") throw std::runtime_error("work");
            return item;
          },
          [&](int&& result) {
            if (result == 20 && where == "write") throw std::runtime_error("write");
            results.push_back(result);
          });
    };
    EXPECT_THROW(run(), std::runtime_error) << where;
    EXPECT_EQ(results.size(), 20U) << where;
  }
}

TEST(RunInOrder, NothingToDo) {
  run_in_order<int, int>(
      2, [](int&) { return false; }, [](int&& item) { return item; }, [](int&&) { ADD_FAILURE(); });
}

TEST(Progress, NamesTheShareTheRateAndTheTimeLeft) {
  EXPECT_EQ(progress_text(0, 2'500'000'000, 0), "0% (0 B of 2.5 GB)");
  EXPECT_EQ(progress_text(500'000'000, 2'000'000'000, 10), "25% (500.0 MB of 2.0 GB), 50.0 MB/s, 0:30 left");
  EXPECT_EQ(progress_text(5'000, 4'000, 1), "100% (4.0 kB of 4.0 kB), 4.0 kB/s, 0:00 left");
  EXPECT_EQ(progress_text(0, 0, 1), "100% (0 B of 0 B)");
  EXPECT_EQ(bytes_text(999'990), "1.0 MB");
}

}  // namespace
}  // namespace photon
