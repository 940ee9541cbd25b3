// One reader, many workers, one writer: results are written in the order in which their inputs were read, whatever the
// number of workers, and only a bounded number of items is in flight.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <queue>
#include <thread>
#include <utility>
#include <vector>

namespace photon {

// `read` fills an item and returns false at the end (called on one thread of its own); `work` turns an item into a
// result (on `num_workers` threads); `write` takes the results in order (on the calling thread). What any of them
// throws is thrown here, after the results before it were written: an error, too, does not depend on the number of
// workers.
template <class Item, class Result>
void run_in_order(int num_workers, const std::function<bool(Item&)>& read, const std::function<Result(Item&&)>& work,
                  const std::function<void(Result&&)>& write) {
  struct Outcome {
    std::optional<Result> result;
    std::exception_ptr error;
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::queue<std::pair<std::uint64_t, Item>> items;
  std::map<std::uint64_t, Outcome> outcomes;
  std::uint64_t num_read = 0;
  std::uint64_t num_written = 0;
  bool read_all = false;
  bool stop = false;
  const std::uint64_t max_in_flight = 2 * static_cast<std::uint64_t>(num_workers) + 2;

  const auto reader = [&] {
    for (;;) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stop || num_read - num_written < max_in_flight; });
        if (stop) return;
      }
      Item item;
      bool more = false;
      std::exception_ptr error;
      try {
        more = read(item);
      } catch (...) {
        error = std::current_exception();
      }
      const std::scoped_lock lock(mutex);
      if (more) {
        items.emplace(num_read++, std::move(item));
      } else {
        if (error) outcomes[num_read++] = {std::nullopt, error};
        read_all = true;
      }
      changed.notify_all();
      if (!more) return;
    }
  };
  const auto worker = [&] {
    for (;;) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stop || read_all || !items.empty(); });
      if (stop || items.empty()) return;
      auto [index, item] = std::move(items.front());
      items.pop();
      lock.unlock();
      Outcome outcome;
      try {
        outcome.result.emplace(work(std::move(item)));
      } catch (...) {
        outcome.error = std::current_exception();
      }
      lock.lock();
      outcomes[index] = std::move(outcome);
      changed.notify_all();
    }
  };

  std::vector<std::thread> threads;
  const auto finish = [&] {
    {
      const std::scoped_lock lock(mutex);
      stop = true;
    }
    changed.notify_all();
    for (std::thread& thread : threads) thread.join();
  };
  try {
    threads.emplace_back(reader);
    for (int i = 0; i < num_workers; ++i) threads.emplace_back(worker);
    for (;;) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return outcomes.contains(num_written) || (read_all && num_written == num_read); });
      if (!outcomes.contains(num_written)) break;
      Outcome outcome = std::move(outcomes.extract(num_written).mapped());
      lock.unlock();
      if (outcome.error) std::rethrow_exception(outcome.error);
      write(std::move(*outcome.result));
      lock.lock();
      ++num_written;
      changed.notify_all();
    }
  } catch (...) {
    finish();
    throw;
  }
  finish();
}

}  // namespace photon
