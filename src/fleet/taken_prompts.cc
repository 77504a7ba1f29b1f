#include "fleet/taken_prompts.h"

#include <algorithm>

namespace penstock::fleet {

TakenPrompts::Entry TakenPrompts::add(kv::Slot slot, std::span<const std::uint64_t> locals,
                                      std::uint32_t held) {
  // What the worker holds by another of these only is not held when that one ends uncomputed.
  for (const Prompt& other : prompts_) {
    if (other.slot == slot && other.shares_new(locals)) held = std::min(held, other.first_new);
  }
  if (held >= locals.size()) return kNone;
  Entry entry = unused_;
  if (entry == kNone) {
    entry = static_cast<Entry>(places_.size());
    places_.emplace_back();
  } else {
    unused_ = places_[entry];
  }
  places_[entry] = static_cast<std::uint32_t>(prompts_.size());
  prompts_.push_back({.locals = locals.data(),
                      .size = static_cast<std::uint32_t>(locals.size()),
                      .first_new = held,
                      .local = locals[held],
                      .slot = slot,
                      .entry = entry});
  return entry;
}

void TakenPrompts::remove(Entry entry) noexcept {
  const std::uint32_t place = places_[entry];
  prompts_[place] = prompts_.back();
  places_[prompts_[place].entry] = place;
  prompts_.pop_back();
  places_[entry] = unused_;
  unused_ = entry;
}

void TakenPrompts::clear(kv::Slot slot) noexcept {
  for (std::size_t place = prompts_.size(); place-- > 0;) {
    if (prompts_[place].slot == slot) remove(prompts_[place].entry);
  }
}

void TakenPrompts::raise(std::span<const std::uint64_t> locals,
                         std::span<std::uint32_t> depths) const noexcept {
  for (const Prompt& prompt : prompts_) {
    if (!prompt.shares_new(locals)) continue;
    std::uint32_t& depth = depths[prompt.slot];
    const std::size_t most = std::min<std::size_t>(prompt.size, locals.size());
    // Of a family the first says it all: the others differ where it ends.
    if (depth >= most || prompt.locals[depth] != locals[depth]) continue;
    std::uint32_t same = 0;
    while (same < most && prompt.locals[same] == locals[same]) ++same;
    depth = std::max(depth, same);
  }
}

std::uint32_t TakenPrompts::told(kv::Slot slot, std::span<const std::uint64_t> locals,
                                 std::uint32_t depth) const noexcept {
  for (const Prompt& prompt : prompts_) {
    if (prompt.slot == slot && prompt.shares_new(locals)) depth = std::min(depth, prompt.first_new);
  }
  return depth;
}

}  // namespace penstock::fleet
