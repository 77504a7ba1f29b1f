#pragma once

#include <string>

#include "base/result.h"
#include "engine/kv_exchange.h"

namespace penstock::cli {

/// How workers of this process are to share KV with those of others, of what `--kv-transfer` says
/// (auto, shm, tcp, none). `listen` is the HOST:PORT at which this process is asked; TCP goes by
/// the same interface. Touches nothing. Fails with what is missing for what was asked for by name.
[[nodiscard]] Result<engine::KvSharing> kv_sharing(const std::string& transfer,
                                                   const std::string& listen,
                                                   const std::string& secret);

/// Before it is used: makes the folder for sockets, and clears it of what killed workers left. KV
/// is shared without them if that fails, unless they were asked for by name: then this fails.
[[nodiscard]] Result<void> open_kv_sharing(const std::string& transfer, engine::KvSharing& sharing);

}  // namespace penstock::cli
