#include "serve/live_request.h"

#include <chrono>
#include <utility>

#include "serve/desk.h"

namespace penstock::serve {

LiveRequest::LiveRequest(Desk& desk, std::string_view endpoint, std::string id, TimePoint arrived,
                         Permit permit)
    : desk_(desk),
      endpoint_(endpoint),
      id_(std::move(id)),
      arrived_(arrived),
      deadline_(arrived + desk.options().request_timeout),
      permit_(std::move(permit)) {
  desk_.live_.insert(this);
}

LiveRequest::~LiveRequest() { desk_.live_.erase(this); }

void LiveRequest::ended(int status) {
  if (std::exchange(ended_, true)) return;
  const api::UsageCounts counts = usage();
  desk_.metrics().tokens(counts.prompt_tokens, counts.cached_tokens, counts.completion_tokens);
  desk_.metrics().request_done(endpoint_, status, to_seconds(desk_.clock().now() - arrived_));
}

void LiveRequest::fail_with(const Error& error) {
  // `error` may be ours, and we are about to go.
  const Error copy = error;  // NOLINT(performance-unnecessary-copy-initialization)
  if (copy.code == Code::kDeadlineExceeded) desk_.metrics().cancelled("deadline");
  if (copy.code == Code::kCancelled) desk_.metrics().cancelled("client_gone");
  ended(http_status(copy.code));
  send(copy);
}

void LiveRequest::send(const Error& error) { answer_error(*exchange_, error); }

bool LiveRequest::sweep(TimePoint now) {
  // The engine ends what is past its deadline; this is for an engine that does not.
  constexpr Nanos kGrace = std::chrono::seconds(10);
  if (deadline_.at() == TimePoint::max() || now < deadline_.at() + kGrace) return true;
  fail_with({Code::kDeadlineExceeded, "the worker did not answer in time", "", 0});
  return false;
}

void LiveRequest::on_client_gone() {
  if (ended_) return;
  desk_.metrics().cancelled("client_gone");
  ended(499);
}

}  // namespace penstock::serve
