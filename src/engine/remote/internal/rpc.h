#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace penstock::engine::rpc {

/// What calls show of the secret that both sides share: who listens does not learn the secret, nor
/// what else is derived from it. Empty without one.
[[nodiscard]] std::string bearer_of(const std::string& secret);

/// What every call carries (penstock.proto).
void add_headers(grpc::ClientContext& context, const std::string& bearer,
                 const std::string& instance);
/// OK, or why the call is refused: it may be meant for another life of the worker.
[[nodiscard]] grpc::Status check_instance(const grpc::ServerContextBase& context,
                                          std::string_view instance);
/// The value of a header; empty if there is none.
[[nodiscard]] std::string_view header(const grpc::ServerContextBase& context, const char* name);

/// An error of ours as a status and back. A status that is not ours is told as what it means for
/// whoever asked: the other side was lost, was too slow, or refuses.
[[nodiscard]] grpc::Status to_status(const Error& error);
[[nodiscard]] Error to_error(const grpc::Status& status);

/// A connection of its own, opened with the first call and again after a loss, at most one second
/// later.
[[nodiscard]] std::shared_ptr<grpc::Channel> open_channel(const std::string& address);

/// The host of what gRPC calls a peer: "[::1]" of "ipv6:%5B::1%5D:4000". Empty: it has none.
[[nodiscard]] std::string host_of_peer(std::string_view peer);

/// Of what is sent to a worker and by one: a prompt of a million tokens takes 3 MiB.
inline constexpr int kMessageBytesMax = 64 << 20;

/// Listens on HOST:PORT (port 0: any free one, told in `port`). A call that does not show
/// bearer_of(secret) is refused before any message of it is taken in; empty: whoever can connect
/// may call. Fails with kUnavailable when it cannot listen, kInvalidArgument when that is no
/// address.
Result<std::unique_ptr<grpc::Server>> start_server(const std::string& address,
                                                   const std::string& secret,
                                                   const std::vector<grpc::Service*>& services,
                                                   int message_bytes_max, int& port);

}  // namespace penstock::engine::rpc
