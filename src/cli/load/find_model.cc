#include "cli/load/find_model.h"

#include <fmt/format.h>

#include "cli/load/chunk.h"
#include "cli/load/fetch.h"

namespace penstock::cli::load {

Result<std::string> find_model(const net::Url& server, const std::string& api_key, Nanos timeout) {
  Fetcher fetcher(server, api_key);
  const Result<Fetched> answer = fetcher.get("/v1/models", timeout);
  const std::string remedy =
      fmt::format("--model was not given, and GET {}/v1/models did not name one", server.path);
  if (!answer) {
    return fail(answer.error().code,
                fmt::format("{}; is a server running there? (--url)", answer.error().message));
  }
  ChunkParser parser;
  if (answer->status != 200) {
    const Result<Chunk> chunk = parser.parse(answer->body, Endpoint::kChat, false);
    return fail(
        Code::kUnavailable,
        fmt::format("{}: status {}{}{}", remedy, answer->status, chunk && chunk->error ? ", " : "",
                    chunk && chunk->error ? *chunk->error : std::string()));
  }
  Result<std::string> model = parser.parse_first_model(answer->body);
  if (!model) return fail(Code::kNotFound, fmt::format("{}: {}", remedy, model.error().message));
  return model;
}

}  // namespace penstock::cli::load
