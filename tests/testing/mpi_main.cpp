// main of the test programs that run on several ranks: every rank runs every test, between barriers; rank 0 prints, the
// others print failures; the program fails on every rank when it fails on one, and when no test ran.
#include <gtest/gtest.h>

#include <cstdio>

#include "testing/world.hpp"

namespace photon::testing {
namespace {

World* the_world = nullptr;

class Listener : public ::testing::EmptyTestEventListener {
  void OnTestStart(const ::testing::TestInfo&) override { world().all().barrier(); }
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed() || world().rank() == 0) return;
    std::fprintf(stderr, "[rank %d] %s:%d: %s\n", world().rank(), result.file_name(), result.line_number(),
                 result.summary());
  }
  void OnTestEnd(const ::testing::TestInfo&) override {
    world().enter("test", 30);
    world().all().barrier();
  }
};

}  // namespace

World& world() {
  return *the_world;
}

}  // namespace photon::testing

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  photon::World world;
  photon::testing::the_world = &world;
  world.enter("test", 30);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (world.rank() != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new photon::testing::Listener);
  std::int64_t result = 1;
  world.run([&] {
    result = RUN_ALL_TESTS();
    if (testing::UnitTest::GetInstance()->test_to_run_count() == 0) {
      std::fprintf(stderr, "no test ran\n");
      result = 1;
    }
    result = world.all().all_reduce(result, photon::Reduction::max);
  });
  return static_cast<int>(result);
}
