// The threads of one step. They are OpenMP's, on which PyTorch's operations run as well: threads of our own would have to
// share the cores with PyTorch's, which stay awake for a while after each operation, waiting for the next.
#pragma once
#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>

// How many threads a step takes. Where another program has a core, a thread waits behind it for milliseconds, and all
// others at the next barrier for that thread: with hundreds of barriers, a step can be slower than on one thread. So
// where steps wait long, fewer threads are tried for some steps, and kept for more if these were faster.
class Allowance {
  public:
    int64_t threads(int64_t most) {
        int64_t allowed = most;
        for (int i = 0; i < level; i++) allowed = fewer(allowed);
        return allowed;
    }

    // A step of so many rows took `seconds`, and waited long for late threads in this share of it.
    void note(int64_t threads, int64_t rows, double seconds, double share) {
        if (rows != of) of = rows, steps = late = 0, sum = 0;
        steps++, late += share > LONG, sum += seconds;
        if (steps < WINDOW) return;
        const double mean = sum / steps;
        const bool crowded = 2 * late >= steps && threads > 1;
        steps = late = 0, sum = 0;
        if (trial) {
            trial = false;
            if (mean > before) level--, hold = pause;  // fewer were slower
            else hold = pause = std::min(2 * pause, LONGEST);
        } else if (hold > 0) {
            hold--;
        } else if (crowded) {
            before = mean, trial = true, level++;
        } else if (level > 0) {
            level--;
        } else {
            pause = 1;
        }
    }

  private:
    static constexpr double LONG = 0.5;
    static constexpr int WINDOW = 8, LONGEST = 8;  // steps that are judged together; windows until the next trial
    int level = 0, hold = 0, pause = 1, steps = 0, late = 0;
    bool trial = false;
    double sum = 0, before = 0;
    int64_t of = 0;

    static int64_t fewer(int64_t threads) { return std::max<int64_t>(1, threads - std::max<int64_t>(1, threads / 4)); }
};

class Team {
  public:
    int size = 1;

    // work(index) by at most so many threads at once, for a step of so many rows.
    template <class Work>
    void run(int64_t most, int64_t rows, Work&& work) {
        static Allowance allowance;
        static std::mutex mutex;  // steps of two models may run at once
        std::unique_lock lock(mutex);
        const int64_t threads = allowance.threads(most);
        lock.unlock();
        const int64_t begin = nanoseconds();
#pragma omp parallel num_threads(int(threads))
        {
#pragma omp single
            size = omp_get_num_threads();
            work(omp_get_thread_num());
            barrier();  // OpenMP's own, at the end, would keep its core busy for milliseconds
        }
        const double time = double(nanoseconds() - begin);
        lock.lock();
        allowance.note(threads, rows, time, double(late.load()) / time / std::max(1, size - 1));
    }

    // Each waits for all: awake at first, since on a quiet machine the next piece of work comes at once, then asleep, so
    // that the system can let a late thread run on this core.
    void barrier() {
        if (size == 1) return;
        const int now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
            round.notify_all();  // no system call where nobody sleeps
            return;
        }
        for (int i = 0; i < SPINS; i++) {
            if (round.load(std::memory_order_acquire) != now) return;
            _mm_pause();
        }
        const int64_t begin = nanoseconds();
        while (round.load(std::memory_order_acquire) == now && nanoseconds() - begin < PATIENCE) std::this_thread::yield();
        round.wait(now, std::memory_order_acquire);
        late += nanoseconds() - begin;
    }

  private:
    static constexpr int SPINS = 1000;             // some 40 microseconds
    static constexpr int64_t PATIENCE = 500'000;  // nanoseconds until it sleeps
    std::atomic<int> arrived{0};
    std::atomic<int> round{0};  // of the size of a futex, on which a thread can sleep
    std::atomic<int64_t> late{0};  // nanoseconds that were waited beyond SPINS, of all threads together

    static int64_t nanoseconds() {
        return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
    }
};
