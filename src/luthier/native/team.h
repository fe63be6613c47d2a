// The threads of one step. They are OpenMP's, on which PyTorch's operations run as well: threads of our own would have to
// share the cores with PyTorch's, which stay awake for a while after each operation, waiting for the next.
#pragma once
#include <immintrin.h>
#include <omp.h>

#include <atomic>
#include <cstdint>
#include <thread>

class Team {
  public:
    int size = 1;

    // work(index) by so many threads at once, or by as many as there are.
    template <class Work>
    void run(int64_t threads, Work&& work) {
#pragma omp parallel num_threads(int(threads))
        {
#pragma omp single
            size = omp_get_num_threads();
            work(omp_get_thread_num());
        }
    }

    // Each waits for all, awake: the next piece of work comes at once.
    void meet() {
        if (size == 1) return;
        const uint64_t now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
        } else {
            for (int i = 0; round.load(std::memory_order_acquire) == now; i++)
                i < 4000 ? _mm_pause() : std::this_thread::yield();
        }
    }

  private:
    std::atomic<int> arrived{0};
    std::atomic<uint64_t> round{0};
};
