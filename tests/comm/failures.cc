// One rank of a job in which something goes wrong: mpirun -np N comm_failures SCENARIO FOLDER. Started by
// failure_test.cpp.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "comm/world.hpp"
#include "support/log.hpp"

namespace {

using photon::Communicator;
using photon::Reduction;
using photon::World;

void on_sigterm(int) {
  World::write_operations("SIGTERM");
}

void sum(Communicator& group) {
  std::vector<float> data(1000, 1.0F);
  group.all_reduce(photon::host_view(data.data(), {1000}), Reduction::sum);
}

// The rank at fault is always 1.
void work(World& world, const std::string& scenario) {
  Communicator line = world.all().split(0, "line");
  world.enter("step 7", scenario == "dies" ? 100 : 3);
  sum(world.all());
  sum(line);
  if (world.rank() != 1) {
    if (scenario == "loses-a-message" && world.rank() == 2) {
      float value = 0;
      line.receive(photon::host_view(&value, {1}), 1, 11);
    }
    return sum(line);
  }
  if (scenario == "sleeps") std::this_thread::sleep_for(std::chrono::seconds(100));
  if (scenario == "dies") raise(SIGKILL);
  if (scenario == "throws") throw std::runtime_error("rank 1 cannot go on");
  sum(line);
}

}  // namespace

int main(int, char** argv) {
  const std::string scenario = argv[1];
  const std::string folder = argv[2];
  struct sigaction action = {};
  action.sa_handler = on_sigterm;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  World world;
  photon::init_logging(world.rank(), world.size());
  world.keep_operations(folder + "/operations-rank-" + std::to_string(world.rank()) + ".jsonl");
  world.run([&] {
    work(world, scenario);
    if (scenario == "stops" && world.rank() == 2) raise(SIGTERM);
  });
  return 0;
}
