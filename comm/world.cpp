#include "comm/world.hpp"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>

#include "comm/impl.hpp"
#include "support/log.hpp"

namespace photon {
namespace {

std::int64_t environment_number(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? 0 : std::strtoll(value, nullptr, 10);
}

std::string host_name() {
  char text[256] = {};
  if (gethostname(text, sizeof text - 1) != 0) return "unknown";
  return text;
}

}  // namespace

bool launched_by_mpi() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) return environment_number("OMPI_COMM_WORLD_SIZE") > 1;
  // An `srun` step also sets these inside a batch script's own shell, with one task.
  if (std::getenv("PMIX_RANK") != nullptr || std::getenv("PMI_RANK") != nullptr) return true;
  return std::getenv("SLURM_PROCID") != nullptr && environment_number("SLURM_STEP_NUM_TASKS") > 1;
}

World::World() : phase_(std::make_shared<Phase>()), host_(host_name()) {
  auto impl = std::make_unique<Communicator::Impl>();
  impl->name = "world";
  impl->host = host_;
  impl->phase = phase_;
  if (launched_by_mpi()) {
    int initialized = 0;
    MPI_Initialized(&initialized);
    PHOTON_EXPECT(initialized == 0, "a second World in one process");
    int provided = MPI_THREAD_SINGLE;
    impl->check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    mpi_ = true;
    impl->comm = MPI_COMM_WORLD;
    impl->check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "set-up");
    impl->check(MPI_Comm_rank(MPI_COMM_WORLD, &impl->rank), "set-up");
    impl->check(MPI_Comm_size(MPI_COMM_WORLD, &impl->size), "set-up");
    MPI_Comm local = MPI_COMM_NULL;
    impl->check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, impl->rank, MPI_INFO_NULL, &local), "set-up");
    impl->check(MPI_Comm_size(local, &local_size_), "set-up");
    impl->check(MPI_Comm_free(&local), "set-up");
    const std::int64_t tasks = environment_number("SLURM_STEP_NUM_TASKS");
    if (impl->size == 1 && std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr && tasks > 1) {
      MPI_Finalize();
      mpi_ = false;
      throw Error(fmt::format("srun started {} tasks, but MPI sees one rank", tasks),
                  "the step was started without an MPI plugin that this MPI knows", "use srun --mpi=pmix, or mpirun");
    }
  }
  all_ = Communicator(std::move(impl));
}

World::~World() {
  if (!mpi_) return;
  if (std::uncaught_exceptions() > 0 && !agreed_) {
    // Another rank may wait for this one for ever: no orderly end is possible.
    std::fprintf(stderr, "rank %d of %d on %s ends by an exception\n", rank(), size(), host_.c_str());
    MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitCode::failed));
  }
  all_ = Communicator();
  MPI_Finalize();
}

void World::enter(const std::string& phase, double deadline_seconds) {
  phase_->name = phase;
  phase_->deadline_seconds = deadline_seconds;
}

void World::abort(const std::string& message, int exit_code) {
  // An error that every rank meets (a bad configuration) is rank 0's to tell; it gets the time to do so and to end the
  // rest.
  if (rank() != 0) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  log_local(LogLevel::error, "{} (rank {} of {} on host {}, in phase '{}')", message, rank(), size(), host_,
            phase_->name);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

void World::run(const std::function<void()>& work) {
  if (size() == 1) {
    agreed_ = true;
    return work();
  }
  try {
    work();
  } catch (const Preempted&) {
    agreed_ = true;
    throw;
  } catch (const InputError& error) {
    abort(error.what(), static_cast<int>(ExitCode::bad_input));
  } catch (const std::exception& error) {
    abort(error.what(), static_cast<int>(ExitCode::failed));
  }
}

}  // namespace photon
