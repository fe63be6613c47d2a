// The threads of one step: OpenMP's, which PyTorch's operations use as well. Separate threads would compete for cores
// with PyTorch's, which spin for a while after each operation.
#pragma once
#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>

// Adapts the number of threads of a step. If another process occupies a core, a thread is descheduled for milliseconds
// and all others wait for it at the next barrier: with hundreds of barriers, a step can be slower than on one thread. So
// if steps wait long, fewer threads are tried for a window of steps, and kept for more windows if these were faster.
class ThreadLimit {
  public:
    int64_t threads(int64_t max) {
        int64_t allowed = max;
        for (int i = 0; i < level; i++) allowed = fewer(allowed);
        return allowed;
    }

    // Record a step of `rows` rows that took `seconds`, a fraction `share` of which was spent waiting for late threads.
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
    static constexpr int WINDOW = 8, LONGEST = 8;  // steps of a window; maximum number of windows until the next trial
    int level = 0, hold = 0, pause = 1, steps = 0, late = 0;
    bool trial = false;
    double sum = 0, before = 0;
    int64_t of = 0;

    static int64_t fewer(int64_t threads) { return std::max<int64_t>(1, threads - std::max<int64_t>(1, threads / 4)); }
};

class ThreadTeam {
  public:
    int size = 1;

    // Run work(thread index) on at most `max` threads, for a step of `rows` rows.
    template <class Work>
    void run(int64_t max, int64_t rows, Work&& work) {
        static ThreadLimit thread_limit;
        static std::mutex mutex;  // steps of two models may run at once
        std::unique_lock lock(mutex);
        const int64_t threads = thread_limit.threads(max);
        lock.unlock();
        const int64_t begin = nanoseconds();
#pragma omp parallel num_threads(int(threads))
        {
#pragma omp single
            size = omp_get_num_threads();
            work(omp_get_thread_num());
            barrier();  // before OpenMP's own, which spins for milliseconds
        }
        const double time = double(nanoseconds() - begin);
        lock.lock();
        thread_limit.note(threads, rows, time, double(late.load()) / time / std::max(1, size - 1));
    }

    // Wait for all threads: spin first, since on an idle machine the others arrive at once, then sleep, so that a late
    // thread can run on this core.
    void barrier() {
        if (size == 1) return;
        const int now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
            round.notify_all();  // no system call if no thread sleeps
            return;
        }
        for (int i = 0; i < SPINS; i++) {
            if (round.load(std::memory_order_acquire) != now) return;
            _mm_pause();
        }
        const int64_t begin = nanoseconds();
        while (round.load(std::memory_order_acquire) == now && nanoseconds() - begin < YIELD_NANOSECONDS) std::this_thread::yield();
        round.wait(now, std::memory_order_acquire);
        late += nanoseconds() - begin;
    }

  private:
    static constexpr int SPINS = 1000;             // about 40 microseconds
    static constexpr int64_t YIELD_NANOSECONDS = 500'000;  // before sleeping
    std::atomic<int> arrived{0};
    std::atomic<int> round{0};  // int, so that waiting uses a futex
    std::atomic<int64_t> late{0};  // total nanoseconds that threads have waited beyond SPINS

    static int64_t nanoseconds() {
        return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
    }
};
