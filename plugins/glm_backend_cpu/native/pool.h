// A few threads that share the pieces of one job at a time with the caller.
#pragma once
#include <stdint.h>

namespace glm {

// Runs function(context, first, last, thread) over [0, count) in pieces of `grain`, on at most `threads`
// threads, the caller being thread 0. Pieces are taken from a common counter, so a thread that the
// system holds up delays nobody; results must not depend on who computes a piece.
//
// Between jobs a worker spins for a few tens of microseconds, then sleeps. The caller must hold
// `Serial`; the pool survives fork(): a child begins with none.
void parallel(int threads, int64_t count, int64_t grain, void (*function)(void*, int64_t, int64_t, int), void* context);

// One job at a time, whichever thread asks.
class Serial {
 public:
  Serial();
  ~Serial();
  Serial(const Serial&) = delete;
  Serial& operator=(const Serial&) = delete;

 private:
  void* owner_;
};

// Memory that is kept between jobs, at least `bytes`, aligned to 64; only for who holds `Serial`.
// Null where the system has no more.
void* scratch(int64_t bytes);

template <class T>
struct Plain { using type = T; };
template <class T>
struct Plain<T&> { using type = T; };

template <class Function>
void parallel(int threads, int64_t count, int64_t grain, Function&& function) {
  parallel(
      threads, count, grain,
      [](void* context, int64_t first, int64_t last, int thread) {
        (*static_cast<typename Plain<Function>::type*>(context))(first, last, thread);
      },
      &function);
}

}  // namespace glm
