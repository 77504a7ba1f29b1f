#pragma once

#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "net/http_client.h"

namespace penstock::cli::load {

/// Asks the server for its models and returns the first one's id. Blocks, at most `timeout`. Fails
/// with what is wrong and what to do about it. `server.path` goes before /v1/models; an empty key
/// is not sent.
Result<std::string> find_model(const net::Url& server, const std::string& api_key, Nanos timeout);

}  // namespace penstock::cli::load
