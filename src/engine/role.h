#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace penstock::engine {

/// Which part of a request a worker takes.
enum class Role : std::uint8_t {
  kBoth,
  kPrefill,  // prompts of others
  kDecode,   // answers, with prompts of their own or of others
  kWhole,    // whole requests only: its KV cannot go to the others, nor theirs to it
};

[[nodiscard]] constexpr std::string_view to_string(Role role) noexcept {
  switch (role) {
    case Role::kBoth: return "both";
    case Role::kPrefill: return "prefill";
    case Role::kDecode: return "decode";
    case Role::kWhole: return "whole";
  }
  return {};
}

/// Of those that can be asked for by name: kWhole is what becomes of them where nothing else will
/// do.
[[nodiscard]] constexpr std::optional<Role> find_role(std::string_view name) noexcept {
  for (const Role role : std::array{Role::kBoth, Role::kPrefill, Role::kDecode}) {
    if (name == to_string(role)) return role;
  }
  return std::nullopt;
}

}  // namespace penstock::engine
