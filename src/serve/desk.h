#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "api/openai.h"
#include "base/complaint.h"
#include "net/http_server.h"
#include "serve/mailbox.h"
#include "serve/service.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace penstock::serve {

class Generation;
class LiveRequest;

/// What one event loop keeps for its requests: the caches of the text side, the mailbox that
/// engines deliver to, and who waits for what. Loop thread only, but for the constructor.
class Desk final {
 public:
  Desk(Service& service, net::Loop& loop, std::size_t segment_bytes_max);
  ~Desk();

  // Answer now or later; on an error nothing was answered, and nothing of the request is left.
  Result<void> chat(net::Exchange& exchange, ServedModel& model);
  Result<void> complete(net::Exchange& exchange, ServedModel& model);
  Result<void> embed(net::Exchange& exchange, ServedModel& model);

  /// Ends what is under way: the server will not wait for it.
  void shut_down(const Error& error);

  /// One JSON object a live request, joined by commas (for /debug/requests).
  [[nodiscard]] std::string describe() const;

  [[nodiscard]] Service& service() noexcept { return service_; }
  [[nodiscard]] const ServiceOptions& options() const noexcept { return service_.options_; }
  [[nodiscard]] Metrics& metrics() noexcept { return service_.metrics_; }
  [[nodiscard]] const Clock& clock() const noexcept { return service_.clock_; }
  [[nodiscard]] net::Loop& loop() noexcept { return loop_; }
  [[nodiscard]] engine::OutputSink& sink() noexcept { return mailbox_; }
  [[nodiscard]] std::uint64_t random() noexcept { return random_(); }

 private:
  friend class Generation;
  friend class LiveRequest;

  void hand_out(std::vector<engine::Output>& outputs);
  void sweep();
  void sweep_later();
  Result<Permit> admit();
  [[nodiscard]] std::vector<Token> encode(const text::Tokenizer& tokenizer,
                                          std::span<const text::Piece> pieces);
  Result<void> check_model(std::string_view name, std::span<const std::string> unknown_fields,
                           const ServedModel& model);
  Result<void> check_fields(const api::GenerationParams& params, const ServedModel& model);
  api::AnswerHead head_of(net::Exchange& exchange, std::string_view prefix,
                          const ServedModel& model);
  void launch(net::Exchange& exchange, std::unique_ptr<LiveRequest> request);

  Service& service_;
  net::Loop& loop_;
  Mailbox mailbox_;
  text::TokenizerCache tokenizer_cache_;
  std::vector<Token> encoded_;  // where prompts come to be: what requests keep fits exactly
  bool large_seen_ = false;     // since memory was last given back
  text::TemplateCache template_cache_;
  std::unordered_set<LiveRequest*> live_;
  std::unordered_map<RequestId, Generation*> by_leg_;
  std::vector<Generation*> receivers_;  // of the outputs being handed out; null: nobody any more
  std::vector<Generation*> touched_;
  std::unique_ptr<net::Loop::Timer> sweep_timer_;
  Complaint moves_;  // requests given to another worker
  std::mt19937_64 random_;
};

}  // namespace penstock::serve
