#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

#include "base/clock.h"
#include "base/result.h"
#include "transfer/block_table.h"
#include "transfer/layout.h"
#include "transfer/memory.h"

/// What owners and readers say to each other. Numbers are little-endian, as on every machine that
/// we build for; a change of any struct is a new kVersion.
namespace penstock::transfer::wire {

inline constexpr std::uint64_t kMagic = 0x73666e7274736e50;  // "Pnstrnfs"
inline constexpr std::uint32_t kVersion = 1;

/// Which build, model, cache type and layout of heads the blocks are of; both sides say the same or
/// they have nothing to say to each other.
struct Compatibility {
  std::array<char, 248> text{};
  std::uint64_t size = 0;
  friend bool operator==(const Compatibility&, const Compatibility&) = default;
};
Result<Compatibility> compatibility(std::string_view text);

enum class Answer : std::uint32_t { kWelcome = 0, kOtherBuild = 1, kFull = 2, kNotAllowed = 3 };
/// The refusal in words.
Error refusal(Answer answer);

/// A reader's first message on the local socket.
struct Hello {
  std::uint64_t magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t unused = 0;
  Compatibility compatibility;
};

/// What is owned: the same for every way to it.
struct Offer {
  std::uint64_t epoch = 0;
  Layout layout;
};

/// The owner's answer; with it go the descriptors of the table, the reader's page and, if the
/// memory is kShared, the memory.
struct Welcome {
  std::uint64_t magic = kMagic;
  std::uint32_t version = kVersion;
  Answer answer = Answer::kWelcome;
  Offer offer;
  std::uint64_t memory_bytes = 0;
  std::uint64_t memory_address = 0;  // in the owner's process, for CMA
  std::uint64_t table_bytes = 0;
  MemoryKind kind = MemoryKind::kShared;
};

static_assert(std::is_trivially_copyable_v<Hello> && std::is_trivially_copyable_v<Welcome>);

/// Sends one message with descriptors over a SOCK_SEQPACKET socket.
Result<void> send_message(int socket, std::span<const std::byte> message,
                          std::span<const int> descriptors);
/// Receives one message of exactly `message`'s size, and at most descriptors.size() descriptors;
/// returns how many. Waits up to `timeout`.
Result<std::size_t> receive_message(int socket, std::span<std::byte> message,
                                    std::span<Fd> descriptors, std::chrono::milliseconds timeout);

}  // namespace penstock::transfer::wire
