#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/internal/json_reader.h"

namespace penstock::api {

/// A field of a JSON object and what reads its value into `State`.
template <class State>
struct Field {
  std::string_view name;
  void (*read)(JsonReader& json, State& state) = nullptr;  // null: known, and of no effect
};

/// Which fields of one table an object has had so far; a bit each.
using FieldsSeen = std::uint64_t;

/// The fields of one kind of object, found by a hash made at compile time. The policies of every
/// object live here: null is the same as absent, and a field given twice is an error (two readers
/// of one body could otherwise see two different requests).
template <class State, std::size_t N>
class FieldTable final {
 public:
  consteval explicit FieldTable(const std::array<Field<State>, N>& fields) : fields_(fields) {
    static_assert(N <= 64, "FieldsSeen has a bit a field");
    for (std::size_t i = 0; i < N; ++i) {
      std::size_t slot = hash(fields[i].name);
      while (slots_[slot] != 0) slot = (slot + 1) % kSlots;
      slots_[slot] = static_cast<std::uint8_t>(i + 1);
    }
  }

  /// Reads the value under the cursor if `key` is one of ours; false: it is not.
  bool read(JsonReader& json, std::string_view key, State& state, FieldsSeen& seen) const {
    const std::size_t found = find(key);
    if (found == N) return false;
    const FieldsSeen bit = FieldsSeen{1} << found;
    if ((seen & bit) != 0) {
      json.fail("given more than once");
      return true;
    }
    seen |= bit;
    const Field<State>& field = fields_[found];
    if (field.read != nullptr && json.type() != JsonType::kNull) field.read(json, state);
    return true;
  }

  /// Reads the object under the cursor; members that are not ours are passed over.
  void read_object(JsonReader& json, State& state) const {
    if (json.type() != JsonType::kObject) {
      json.expected_unseen("an object");
      return;
    }
    json.enter_object();
    FieldsSeen seen = 0;
    std::string_view key;
    while (json.next_field(key)) read(json, key, state, seen);
  }

 private:
  static constexpr std::size_t kSlots = 256;  // few enough in use that probes stay short

  static constexpr std::size_t hash(std::string_view name) noexcept {
    if (name.empty()) return 0;
    const auto at = [&](std::size_t i) { return static_cast<unsigned char>(name[i]); };
    return (name.size() * 5 + at(0) * 7U + at(name.size() / 2) * 17U + at(name.size() - 1) * 31U) %
           kSlots;
  }

  [[nodiscard]] std::size_t find(std::string_view key) const noexcept {
    for (std::size_t slot = hash(key); slots_[slot] != 0; slot = (slot + 1) % kSlots) {
      const std::size_t i = slots_[slot] - 1U;
      if (fields_[i].name == key) return i;
    }
    return N;
  }

  std::array<Field<State>, N> fields_;
  std::array<std::uint8_t, kSlots> slots_{};
};

}  // namespace penstock::api
