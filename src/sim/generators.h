#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"
#include "sim/trace.h"

namespace penstock::sim {

struct GeneratorEntry {
  std::string_view name;
  std::string_view description;  // one line
};

/// What can be generated instead of read.
[[nodiscard]] std::span<const GeneratorEntry> generators() noexcept;

/// Whether `spec` names one: NAME or NAME:SETTING=VALUE,...
[[nodiscard]] bool is_generator(std::string_view spec) noexcept;

/// Makes up a trace of at most `requests_max` requests; the same spec and seed give the same. Fails
/// with what is wrong with a setting, listing those there are.
Result<Trace> generate(std::string_view spec, std::uint64_t seed, std::size_t requests_max);

}  // namespace penstock::sim
