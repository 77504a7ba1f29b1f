#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace penstock::cli::load {

/// Appends `count` words, each with a space before it. Most vocabularies have one token for each
/// of them (with its space), so `count` is about the number of tokens.
///
/// The same stream gives the same words, and fewer words are a prefix of more. Two streams differ
/// within their first eight words.
void append_words(std::string& out, std::uint64_t stream, std::size_t count);

/// The words of `stream`, cut or continued to exactly `size_bytes` bytes of ASCII.
[[nodiscard]] std::string words_of_size(std::uint64_t stream, std::size_t size_bytes);

/// Streams for what a run says. Distinct arguments give distinct streams while session < 2^40,
/// turn < 2^16; so no two prompts of a run share more than the few words they begin with by chance.
enum class Stream : std::uint8_t { kTurn = 1, kPrefix, kPrefixDraw, kTraceBlock, kTraceTail };
[[nodiscard]] std::uint64_t stream_of(std::uint64_t seed, Stream kind, std::uint64_t session,
                                      std::uint32_t turn = 0) noexcept;

}  // namespace penstock::cli::load
