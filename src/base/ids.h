#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace penstock {

/// Vocabulary index of a model's tokenizer, as the engine counts it.
using Token = std::int32_t;

/// An integer that cannot be passed where another kind of integer is meant.
/// `Tag` is any type unique to the id; a value has no identity beyond its number.
template <class Tag, class Int = std::uint64_t>
struct StrongId {
  Int value = 0;
  friend constexpr auto operator<=>(const StrongId&, const StrongId&) = default;
};

using RequestId = StrongId<struct RequestIdTag>;               // unique within one process life
using WorkerId = StrongId<struct WorkerIdTag, std::uint32_t>;  // dense, from 0

}  // namespace penstock

template <class Tag, class Int>
struct std::hash<penstock::StrongId<Tag, Int>> {
  std::size_t operator()(const penstock::StrongId<Tag, Int>& id) const noexcept {
    return std::hash<Int>{}(id.value);
  }
};
