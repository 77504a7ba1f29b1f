#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

/// Counts what a program takes with `new`, on all its threads. For tests and benchmarks: it
/// replaces operator new, so one file of a program includes it.
namespace penstock {
inline std::atomic<std::uint64_t> allocations{0};
}

void* operator new(std::size_t size) {
  penstock::allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t /*size*/) noexcept { std::free(memory); }
