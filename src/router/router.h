#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/rng.h"
#include "fleet/ledger.h"
#include "kv/prefix_index.h"
#include "router/policy.h"
#include "router/time_model.h"

namespace penstock::router {

/// Where one prompt lies in memory below the workers' own (tiers/).
class LowerTiers {
 public:
  virtual ~LowerTiers() = default;
  /// engine::Engine::foresee_load() of that prompt.
  [[nodiscard]] virtual tiers::LoadChoice foresee_load(Slot slot, std::size_t have) const = 0;
};

/// What has to be known of a request to place it.
struct RouteRequest {
  Stage stage = Stage::kWhole;
  TimePoint now{};
  std::uint32_t prompt_tokens = 0;  // >= 1
  std::uint32_t block_tokens = 1;
  std::uint32_t output_tokens_max = kTokensUnlimited;  // that its client wants at most
  std::span<const std::uint64_t> locals;               // hash of each full block's own tokens
  std::uint64_t prefix_key = 0;  // hash of the prompt's first characters or tokens
  std::span<const Slot> among;   // who may take it, ascending; empty: every worker
  std::optional<Slot> twin_at;   // a request with the same prompt was just sent there
  /// kWhole: the answer may be made elsewhere than the prompt, if that is better. What is placed
  /// may then be the kPrefill of it. kDecode: Question::transfer.
  std::optional<TransferCost> split;
  std::uint32_t tail_tokens = 1;      // Split::tail_tokens
  std::optional<Slot> prompt_at;      // kDecode: who has computed its prompt
  const LowerTiers* tiers = nullptr;  // null: nothing is loaded from there
  /// A first token later than that is of no use: whoever is predicted to give it in time goes
  /// before others, with policies that predict times.
  double ttft_max_ms = kInfinity;
};

/// KV of a prompt that its worker takes from elsewhere before it computes the rest.
struct KvSource {
  std::optional<Slot> worker;  // a peer, which has computed it for this; absent: lower tiers
  tiers::Tier tier{};          // of those, the slowest that any of it lies in
  std::uint32_t blocks = 0;
  double load_ms = 0;       // predicted
  double recompute_ms = 0;  // instead of that, as the worker says; of a peer's: 0, not known
};

/// Where a request runs, and the charge for it.
struct Placement {
  Slot worker = 0;
  std::uint32_t cached_blocks = 0;  // leading blocks believed to be cached there; kDecode: 0
  std::uint32_t told_blocks = 0;    // of those, what does not depend on requests taken there
  std::optional<KvSource> fetch;    // what comes behind those, before it computes
  std::string_view rule;
  std::uint32_t ties = 1;
  double ttft_ms = std::numeric_limits<double>::quiet_NaN();  // predicted, see Choice
  Stage stage = Stage::kWhole;                                // of the request, that it is
  fleet::Lease lease;  // the worker's load counts the request while it lives
};

/// What is said when no worker may be given a request now; to be tried again in a moment.
[[nodiscard]] std::unexpected<Error> nobody_ready();

/// Looks up where the prefix is, lets the policy choose, and charges the chosen worker, in one
/// step. Owns policy and randomness; ledger and index are its surroundings and outlive it. Owned by
/// the ledger's thread. Cost: O(workers + matched blocks); allocates nothing once it has seen the
/// fleet.
class Router final {
 public:
  Router(std::unique_ptr<Policy> policy, fleet::Ledger& ledger, kv::PrefixIndex& index,
         std::uint64_t seed);

  /// Fails with kUnavailable when no worker of the needed role, among those asked for, takes
  /// requests. `why`, if not null,
  /// gets every candidate with every term.
  Result<Placement> place(const RouteRequest& request, Explanation* why = nullptr);

  /// Places requests of one stage that came together: `placements[i]` is for requests[i], and
  /// `order` has the indices in the order in which to hand them to the workers. All or none. Their
  /// `among` and `twin_at` must be empty.
  Result<void> place_together(std::span<const RouteRequest> requests,
                              std::span<Placement> placements, std::span<std::uint32_t> order);

  /// A worker's report: corrects the ledger and teaches the worker's time model. Stale ones are
  /// dropped.
  void report(Slot slot, const fleet::WorkerReport& report);
  /// A pass of the worker has taken so long: teaches its time model. report() does so with the pass
  /// it names; this is for those that a report has no room for.
  void observe(Slot slot, const fleet::PassWork& pass, Nanos took);
  /// KV that `from` computed for an answer at `to` was there when that began, or was not: then,
  /// after some in a row, they are not used together for a while.
  void handed_over(Slot from, Slot to, bool well, TimePoint now) {
    hand_overs_.ended(from, to, well, now);
  }
  /// Another worker has the slot now: what was learned of the one before is not its.
  void forget(Slot slot);
  /// A request ended well.
  void finished(double ttft_ms, double decode_ms, std::uint32_t tokens) noexcept {
    policy_->finished(ttft_ms, decode_ms, tokens);
  }

  /// Whether any worker has shown what its passes take. Until then times are predicted from guesses
  /// and from what workers say: good enough to choose by, not to refuse by.
  [[nodiscard]] bool knows_times() const noexcept { return any_model_.observed(); }

  [[nodiscard]] Policy& policy() noexcept { return *policy_; }
  [[nodiscard]] const Policy::Needs& needs() const noexcept { return needs_; }
  /// Of the last place(): leading cached blocks by slot.
  [[nodiscard]] std::span<const std::uint32_t> last_cached() const noexcept { return cached_; }

 private:
  static constexpr std::size_t kStages = 3;
  struct Candidates {
    std::uint64_t membership = ~std::uint64_t{0};  // that `slots` are of
    std::vector<Slot> slots;
    bool ready = false;  // they are; else suspect
  };

  std::span<const Slot> candidates(const fleet::FleetView& fleet, Stage stage);
  [[nodiscard]] Choice pick(const RouteRequest& request, const Question& question,
                            Explanation* why);
  std::span<const Slot> allowed(const RouteRequest& request, const fleet::FleetView& fleet,
                                std::span<const Slot> slots);
  std::span<const Slot> in_reach(const RouteRequest& request, std::span<const Slot> slots);
  std::optional<Split> split(const RouteRequest& request, const Question& question);
  void match(const RouteRequest& request, std::span<std::uint32_t> depths);
  static void look_up(const RouteRequest& request, std::span<const std::uint32_t> cached,
                      std::span<tiers::LoadChoice> loads);
  [[nodiscard]] Question question(const RouteRequest& request, const fleet::FleetView& fleet,
                                  std::span<const Slot> slots);
  [[nodiscard]] static std::optional<KvSource> fetch(const Question& question, Slot slot);
  [[nodiscard]] Placement charge(const RouteRequest& request, const Question& question,
                                 const Choice& choice);
  void believe(Slot slot, Nanos prompt_token_cost);
  void share_model();
  void set_cost(Slot slot, fleet::PassCost cost);

  const std::unique_ptr<Policy> policy_;
  const Policy::Needs needs_;
  fleet::Ledger& ledger_;
  kv::PrefixIndex& index_;
  Rng rng_;
  std::array<std::uint64_t, kStages> ordinals_{};
  std::array<Candidates, kStages> candidates_;
  std::vector<Slot> allowed_;   // of all, those a request asked for
  std::vector<Slot> in_reach_;  // of some, those that KV comes to, or from
  HandOvers hand_overs_;
  std::vector<std::uint32_t> cached_;
  std::vector<std::uint32_t> active_;
  std::vector<tiers::LoadChoice> loads_;
  std::vector<TimeModel> models_;  // by slot, where the policy needs them
  TimeModel any_model_;            // of all workers' passes; until there are any, of no meaning
  std::uint64_t passes_ = 0;       // that it has seen
  std::vector<Question> questions_;
  std::vector<Choice> choices_;
};

}  // namespace penstock::router
