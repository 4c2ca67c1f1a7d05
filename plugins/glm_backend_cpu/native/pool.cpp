#include "pool.h"

#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

namespace glm {
namespace {

constexpr auto kSpin = std::chrono::microseconds(40);

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits a short time for a condition without giving up the processor.
template <class Condition>
bool spin(Condition&& condition) {
  const auto begin = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 64; i++) {
      if (condition()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() - begin < kSpin);
  return condition();
}

// A counter that threads can sleep on until it changes.
class Signal {
 public:
  uint32_t value() const { return value_.load(std::memory_order_seq_cst); }

  void wait(uint32_t seen) {
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
#ifdef __linux__
    while (value() == seen) syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return value() != seen; });
#endif
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }

  void raise() {
    value_.fetch_add(1, std::memory_order_seq_cst);
    if (!sleepers_.load(std::memory_order_seq_cst)) return;
#ifdef __linux__
    syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, 1 << 30, nullptr, nullptr, 0);
#else
    { std::lock_guard<std::mutex> lock(mutex_); }
    changed_.notify_all();
#endif
  }

 private:
  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleepers_{0};
#ifndef __linux__
  std::mutex mutex_;
  std::condition_variable changed_;
#endif
};
static_assert(sizeof(std::atomic<uint32_t>) == 4, "a futex is 32 bits");

class Pool {
 public:
  explicit Pool(int workers) {
    for (int id = 1; id <= workers; id++) {
      try {
        threads_.emplace_back([this, id] { work(id); });
      } catch (const std::system_error&) {
        break;  // the system has no more threads: the callers do what is left
      }
    }
  }

  ~Pool() {
    stop_.store(true, std::memory_order_seq_cst);
    posted_.raise();
    for (auto& thread : threads_) thread.join();
  }

  void run(int64_t count, int64_t grain, void (*function)(void*, int64_t, int64_t, int), void* context) {
    const auto pieces = static_cast<uint32_t>((count + grain - 1) / grain);
    // No piece is claimable now, so nobody reads these.
    function_ = function, context_ = context, count_ = count, grain_ = grain, pieces_ = pieces;
    unfinished_.store(pieces, std::memory_order_relaxed);
    const uint64_t job = (state_.load(std::memory_order_relaxed) >> 32) + 1;
    state_.store(job << 32 | pieces, std::memory_order_seq_cst);
    posted_.raise();
    help(0);
    const auto done = [this] { return unfinished_.load(std::memory_order_acquire) == 0; };
    while (!spin(done)) {
      const uint32_t seen = finished_.value();
      if (!done()) finished_.wait(seen);
    }
  }

 private:
  // Claims pieces until none is left. The state holds the number of the job and of unclaimed pieces:
  // a successful exchange proves that the job is still the one that was seen, and it cannot end
  // before the claimed piece is finished, so its fields may be read after it.
  void help(int thread) {
    uint64_t state = state_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(state)) {
      if (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel)) continue;
      const int64_t piece = pieces_ - static_cast<uint32_t>(state);
      const int64_t first = piece * grain_, last = first + grain_ < count_ ? first + grain_ : count_;
      function_(context_, first, last, thread);
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) finished_.raise();
      state = state_.load(std::memory_order_acquire);
    }
  }

  void work(int id) {
    for (;;) {
      const uint32_t seen = posted_.value();
      help(id);
      if (stop_.load(std::memory_order_seq_cst)) return;
      if (!spin([&] { return posted_.value() != seen; })) posted_.wait(seen);
    }
  }

  std::atomic<uint64_t> state_{0};
  void (*function_)(void*, int64_t, int64_t, int) = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0, grain_ = 1, pieces_ = 0;
  std::atomic<uint32_t> unfinished_{0};
  std::atomic<bool> stop_{false};
  Signal posted_, finished_;
  std::vector<std::thread> threads_;
};

struct Owner {
  std::mutex mutex;
  Pool* pool = nullptr;
  int workers = 0;
  void* memory = nullptr;
  int64_t bytes = 0;
};

// Never destroyed: threads may still sleep in it when the process ends.
std::atomic<Owner*> owner{nullptr};

Owner& current() {
  Owner* found = owner.load(std::memory_order_acquire);
  if (found) return *found;
  auto* fresh = new Owner;
  if (owner.compare_exchange_strong(found, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;
  return *found;
}

#ifndef _WIN32
// The child has none of the threads, and a lock that another thread held would stay locked for ever:
// it begins anew and leaves the old owner alone.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { owner.store(nullptr); });
#endif

}  // namespace

Serial::Serial() {
  Owner& held = current();
  held.mutex.lock();
  owner_ = &held;
}

Serial::~Serial() { static_cast<Owner*>(owner_)->mutex.unlock(); }

void parallel(int threads, int64_t count, int64_t grain, void (*function)(void*, int64_t, int64_t, int), void* context) {
  if (count <= 0) return;
  if (threads <= 1 || count <= grain) return function(context, 0, count, 0);
  Owner& held = current();
  if (!held.pool || held.workers != threads - 1) {
    delete held.pool;
    held.pool = new Pool(threads - 1);
    held.workers = threads - 1;
  }
  held.pool->run(count, grain, function, context);
}

void* scratch(int64_t bytes) {
  Owner& held = current();
  if (held.bytes < bytes) {
    free(held.memory);
    held.memory = malloc(static_cast<size_t>(bytes) + 64);
    held.bytes = held.memory ? bytes : 0;
  }
  if (!held.memory) return nullptr;
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(held.memory) + 63) / 64 * 64);
}

}  // namespace glm
