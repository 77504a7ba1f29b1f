#pragma once

#include <atomic>
#include <string>

#include "base/result.h"

namespace penstock::cli {

/// What `--model` means as a file: "demo" (and "simulated", which borrows its tokenizer) is the
/// demo model, fetched once into the cache; a folder is the only .gguf in it; else the path itself.
/// Fails with what to do. May take minutes; once `give_up` is true, no more than moments.
Result<std::string> resolve_model(const std::string& model, const std::atomic<bool>& give_up);

/// The same without fetching anything: "demo" and "simulated" stay what they are.
Result<std::string> find_model(const std::string& model);

/// What clients call a model: "demo", "simulated", or the file's name without .gguf.
std::string model_name(const std::string& model);

}  // namespace penstock::cli
