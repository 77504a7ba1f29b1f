#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "router/policy.h"

/// Well-known rules and re-implementations of other projects' policies, with their published
/// defaults, to compare with and for those who want them. The rules are described where each is
/// defined; none shares code with the original.
namespace penstock::router {

/// The fewest requests in flight among `slots`, ties at random. Explained by that number and the
/// blocks cached.
Choice fewest_requests(const Question& q, std::span<const Slot> slots, Rng& rng, Explanation* why,
                       std::string_view rule);

std::unique_ptr<Policy> make_round_robin();
std::unique_ptr<Policy> make_random();
std::unique_ptr<Policy> make_least_loaded();
std::unique_ptr<Policy> make_power_of_two();
std::unique_ptr<Policy> make_prefix_sticky();
std::unique_ptr<Policy> make_llm_d_weighted();
std::unique_ptr<Policy> make_dynamo();
std::unique_ptr<Policy> make_smg_cache_aware();
std::unique_ptr<Policy> make_bounded_hash();
std::unique_ptr<Policy> make_aibrix_prefix();

}  // namespace penstock::router
