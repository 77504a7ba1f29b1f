#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

/// Counts what a program takes with `new`, on all its threads. For tests and benchmarks: it
/// replaces operator new, so one file of a program includes it. The thread sanitizer's operator new
/// cannot be replaced; there its hook counts, what is taken with `malloc` too.
namespace penstock {
inline std::atomic<std::uint64_t> allocations{0};
}

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PENSTOCK_HOOKED_NEW
#endif
#endif

#ifdef PENSTOCK_HOOKED_NEW
#include <sanitizer/allocator_interface.h>
namespace penstock {
inline const int allocation_hook = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, std::size_t) { allocations.fetch_add(1, std::memory_order_relaxed); },
    [](const volatile void*) {});
}  // namespace penstock
#else
// NOLINTBEGIN(misc-definitions-in-headers): of a program's one test file
// Not inlined: GCC would see malloc and delete, or new and free, and warn.
[[gnu::noinline]] void* operator new(std::size_t size) {
  penstock::allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*size*/) noexcept {
  std::free(memory);
}
// NOLINTEND(misc-definitions-in-headers)
#endif
