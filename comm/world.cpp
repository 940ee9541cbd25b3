#include "comm/world.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <numeric>
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

// How late the kernel may wake a thread that sleeps, ns. Its default, 50 microseconds, would be most of the short
// sleeps in which Job::wait polls.
constexpr unsigned long timer_slack = 1000;

// Of the world of this process, where it keeps its operations: for signal handlers.
const comm::OperationLog* volatile the_log = nullptr;

}  // namespace

bool launched_by_mpi() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) return environment_number("OMPI_COMM_WORLD_SIZE") > 1;
  // An `srun` step also sets these inside a batch script's own shell, with one task.
  if (std::getenv("PMIX_RANK") != nullptr || std::getenv("PMI_RANK") != nullptr) return true;
  return std::getenv("SLURM_PROCID") != nullptr && environment_number("SLURM_STEP_NUM_TASKS") > 1;
}

World::World() : job_(std::make_shared<comm::Job>()) {
  prctl(PR_SET_TIMERSLACK, timer_slack);
  job_->host = host_name();
  auto impl = std::make_unique<Communicator::Impl>();
  comm::Group& group = *impl->group;
  group.name = "world";
  group.job = job_;
  if (launched_by_mpi()) {
    // Read when CUDA starts: a GPU that is busy with a kernel that waits for another rank must not have to load code
    // for the next one.
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    int initialized = 0;
    MPI_Initialized(&initialized);
    PHOTON_EXPECT(initialized == 0, "a second World in one process");
    int provided = MPI_THREAD_SINGLE;
    {
      const comm::Watchdog watchdog = job_->limit("MPI_Init_thread");
      group.check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    }
    mpi_ = true;
    group.comm = MPI_COMM_WORLD;
    group.check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "set-up");
    group.check(MPI_Comm_rank(MPI_COMM_WORLD, &group.rank), "set-up");
    group.check(MPI_Comm_size(MPI_COMM_WORLD, &group.size), "set-up");
    job_->rank = group.rank;
    group.world_ranks.resize(static_cast<std::size_t>(group.size));
    std::iota(group.world_ranks.begin(), group.world_ranks.end(), 0);
    const std::int64_t tasks = environment_number("SLURM_STEP_NUM_TASKS");
    if (group.size == 1 && std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr && tasks > 1) {
      MPI_Finalize();
      mpi_ = false;
      throw Error(fmt::format("srun started {} tasks, but MPI sees one rank", tasks),
                  "the step was started without an MPI plugin that this MPI knows", "use srun --mpi=pmix, or mpirun");
    }
    comm::expect_tags(group);
  }
  all_ = Communicator(std::move(impl));
  if (size() > 1) meet();
}

void World::meet() {
  struct Card {
    char host[64];
    std::int64_t pid;
    std::uint64_t started;
    std::uint64_t space;
  };
  Card mine{};
  job_->host.copy(mine.host, sizeof mine.host - 1);
  mine.pid = getpid();
  mine.started = comm::start_time_of(getpid());
  mine.space = comm::process_space();
  std::vector<Card> cards(static_cast<std::size_t>(size()));
  const auto view = [](Card* card, std::int64_t count) {
    return host_view(reinterpret_cast<std::uint8_t*>(card), {count * static_cast<std::int64_t>(sizeof(Card))});
  };
  all_.all_gather(view(&mine, 1), view(cards.data(), size()));
  local_size_ = 0;
  for (int r = 0; r < size(); ++r) {
    const Card& card = cards[static_cast<std::size_t>(r)];
    const auto pid = static_cast<pid_t>(card.pid);
    const bool visible = card.space == mine.space && card.started != 0 && comm::start_time_of(pid) == card.started;
    job_->peers.push_back({card.host, pid, card.started, visible});
    if (job_->peers.back().host != job_->host) continue;
    if (r < rank()) ++local_rank_;
    ++local_size_;
  }
}

World::~World() {
  const bool failing = std::uncaught_exceptions() > 0 && !agreed_;
  if (!failing) job_->log.discard();
  if (!mpi_) return;
  if (failing) {
    // Another rank may wait for this one for ever: no orderly end is possible.
    std::fprintf(stderr, "rank %d of %d on %s ends by an exception\n", rank(), size(), host().c_str());
    job_->log.write("an exception");
    MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitCode::failed));
  }
  the_log = nullptr;
  all_ = Communicator();
  job_->abandon();
  const comm::Watchdog watchdog = job_->limit("MPI_Finalize");
  MPI_Finalize();
}

const std::string& World::host() const {
  return job_->host;
}

std::string World::name_of_rank(int rank) const {
  return job_->name_of_rank(rank);
}

void World::check_ranks() const {
  for (int r = 0; r < size(); ++r) {
    if (job_->may_live(r)) continue;
    throw RankError(
        fmt::format("the job cannot go on on rank {} of {}, in phase '{}'", rank(), size(), job_->phase.name),
        fmt::format("{}, process {}, has died", name_of_rank(r), job_->peers[static_cast<std::size_t>(r)].pid),
        "look at what that rank said last");
  }
}

void World::enter(const std::string& phase, double deadline_seconds) {
  job_->phase.name = phase;
  job_->phase.deadline_seconds = deadline_seconds;
}

void World::keep_operations(const std::string& file) {
  job_->log.set_file(file, job_->host, rank(), size());
  the_log = &job_->log;
}

void World::write_operations(const char* reason) noexcept {
  const comm::OperationLog* log = the_log;
  if (log != nullptr) log->write(reason);
}

void World::set_stop_request(bool (*requested)()) {
  job_->stop_requested = requested;
}

void World::abort(const std::string& message, int exit_code) {
  the_log = nullptr;  // the signal that ends the rest must not write over this
  job_->log.write("this rank gave up");
  // An error that every rank meets (a bad configuration) is rank 0's to tell; it gets the time to do so and to end the
  // rest.
  if (rank() != 0 && job_->may_live(0)) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  log_local(LogLevel::error, "{} (rank {} of {} on host {}, in phase '{}')", message, rank(), size(), host(),
            job_->phase.name);
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
