#include <cstddef>
#include <cstdint>
#include <string_view>
#include <tuple>

#include "base/check.h"
#include "cli/load/answer.h"

// What a server may answer. The first byte says how it was asked, what status came and how long the
// pieces are: what is read must be the same as in one piece.

namespace {

using penstock::cli::load::AnswerReader;
using penstock::cli::load::ChunkParser;
using penstock::cli::load::Endpoint;
using penstock::cli::load::kMessageBytesMax;

auto read(std::uint8_t how, std::string_view bytes, std::size_t piece_bytes) {
  ChunkParser parser;
  AnswerReader reader(parser, (how & 1) != 0 ? Endpoint::kChat : Endpoint::kCompletions,
                      (how & 2) != 0, true, {.prompt_tokens = 100, .output_tokens = 20});
  reader.on_status((how & 4) != 0 ? 200 : 500);
  std::size_t content_events = 0;
  for (std::size_t at = 0; at < bytes.size(); at += piece_bytes) {
    content_events += reader.on_body(bytes.substr(at, piece_bytes));
  }
  AnswerReader::Verdict verdict = reader.judge({});
  CHECK_LE(verdict.message.size(), kMessageBytesMax);
  return std::tuple(content_events, verdict.outcome, verdict.message, reader.text());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  CHECK(read(data[0], bytes, 1 + (data[0] >> 3)) == read(data[0], bytes, bytes.size()));
  return 0;
}
