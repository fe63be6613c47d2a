// Threads that sleep between steps and wait for each other, awake, within one.
#pragma once
#include <immintrin.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

class Team {
  public:
    explicit Team(int size) : size(size) {
        for (int i = 1; i < size; i++) std::thread([this, i] { serve(i); }).detach();
    }
    const int size;
    void run(const std::function<void(int)>& work) {
        if (size == 1) return work(0);
        {
            std::lock_guard lock(mutex);
            task = &work;
            left = size - 1;
            turn++;
        }
        wake.notify_all();
        work(0);
        while (left.load(std::memory_order_acquire)) pause(0);
    }
    void meet() {
        if (size == 1) return;
        uint64_t now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
        } else {
            for (int i = 0; round.load(std::memory_order_acquire) == now; i++) pause(i);
        }
    }

  private:
    static void pause(int i) { i < 4000 ? _mm_pause() : std::this_thread::yield(); }
    void serve(int index) {
        for (uint64_t seen = 0;;) {
            std::unique_lock lock(mutex);
            wake.wait(lock, [&] { return turn != seen; });
            seen = turn;
            const auto* work = task;
            lock.unlock();
            (*work)(index);
            left.fetch_sub(1, std::memory_order_release);
        }
    }
    std::mutex mutex;
    std::condition_variable wake;
    const std::function<void(int)>* task = nullptr;
    uint64_t turn = 0;
    std::atomic<int> left{0}, arrived{0};
    std::atomic<uint64_t> round{0};
};
