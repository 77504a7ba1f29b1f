#pragma once

#include <string>

#include "cli/load/options.h"
#include "cli/load/run.h"

namespace penstock::cli::load {

/// What `--json` prints: one object on one line, no newline at its end. README.md documents each
/// field. What was not measured is null, never 0.
[[nodiscard]] std::string json_report(const LoadOptions& options, const RunResult& result);

/// The same for people: a few lines and a table, each line ended. Says plainly what makes the
/// numbers doubtful (a generator that was late, a run cut short, tokens the server did not count).
[[nodiscard]] std::string text_report(const LoadOptions& options, const RunResult& result);

/// Requests that ended neither well nor by the user's will, warm-up included.
[[nodiscard]] std::uint64_t failures(const RunResult& result) noexcept;

/// False if more than 1 % of the sends were over Statistics::kLateSend late by this program's own
/// fault: then the server saw another load than was asked for.
[[nodiscard]] bool kept_up(const Statistics& statistics) noexcept;

}  // namespace penstock::cli::load
