#include "engine/remote/internal/rpc.h"

#include <fmt/format.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>

#include <algorithm>
#include <charconv>
#include <mutex>
#include <span>
#include <utility>

#include "base/host_port.h"
#include "base/log.h"
#include "base/secret.h"
#include "engine/derived_secret.h"
#include "engine/remote/internal/wire.h"
#include "engine/remote/penstock.pb.h"

namespace penstock::engine::rpc {

namespace ps = ::penstock::v1;

namespace {

constexpr const char* kSecret = "penstock-secret";
constexpr const char* kInstance = "penstock-instance";
constexpr int kKeepaliveMs = 5000;

/// What a caller was given is kept for so long while it does not answer at all: it may be a front
/// end that was stopped for a moment. The calls of one that ends or is killed end at once.
constexpr int kCallerSilentMs = 30'000;
constexpr int kHandshakeMs = 5000;  // from a connection to its first frame
constexpr int kIdleMs = 30'000;     // without a call

std::string_view text_of(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

/// Looks at a call's headers; its messages are read only after that.
void look_at(void* bearer, grpc_auth_context* /*context*/, const grpc_metadata* headers,
             std::size_t count, grpc_process_auth_metadata_done_cb done, void* call) {
  const bool shown = std::ranges::any_of(std::span(headers, count), [&](const auto& header) {
    return text_of(header.key) == kSecret &&
           same_secret(text_of(header.value), *static_cast<const std::string*>(bearer));
  });
  done(call, nullptr, 0, nullptr, 0, shown ? GRPC_STATUS_OK : GRPC_STATUS_UNAUTHENTICATED,
       shown ? nullptr : "the secret is missing or wrong, or of another build");
}

/// Connections in the clear, on which each call shows the bearer first. gRPC's own for connections
/// in the clear have no place for it, its core has.
class ShownBearer final : public grpc::ServerCredentials {
 public:
  explicit ShownBearer(std::string bearer) : bearer_(std::move(bearer)) {}
  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    grpc_server_credentials* plain = grpc_insecure_server_credentials_create();
    if (!bearer_.empty()) {
      grpc_server_credentials_set_auth_metadata_processor(
          plain, {.process = look_at,
                  .destroy = [](void* bearer) { delete static_cast<std::string*>(bearer); },
                  .state = new std::string(bearer_)});
    }
    const int port = grpc_server_add_http2_port(server, address.c_str(), plain);
    grpc_server_credentials_release(plain);
    return port;
  }

  const std::string bearer_;
};

grpc::StatusCode status_code(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
    case Code::kContextLength:
    case Code::kUnprocessable: return grpc::StatusCode::INVALID_ARGUMENT;
    case Code::kUnauthorized: return grpc::StatusCode::UNAUTHENTICATED;
    case Code::kNotFound:
    case Code::kModelNotFound: return grpc::StatusCode::NOT_FOUND;
    case Code::kOverloaded: return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case Code::kUnimplemented: return grpc::StatusCode::UNIMPLEMENTED;
    case Code::kUnavailable: return grpc::StatusCode::UNAVAILABLE;
    case Code::kTimeout:
    case Code::kDeadlineExceeded: return grpc::StatusCode::DEADLINE_EXCEEDED;
    case Code::kCancelled: return grpc::StatusCode::CANCELLED;
    default: return grpc::StatusCode::INTERNAL;
  }
}

Code code_of(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::INVALID_ARGUMENT: return Code::kInvalidArgument;
    case grpc::StatusCode::UNAUTHENTICATED: return Code::kUnauthorized;
    case grpc::StatusCode::NOT_FOUND: return Code::kNotFound;
    case grpc::StatusCode::RESOURCE_EXHAUSTED: return Code::kOverloaded;
    case grpc::StatusCode::UNIMPLEMENTED: return Code::kUnimplemented;
    case grpc::StatusCode::DEADLINE_EXCEEDED: return Code::kDeadlineExceeded;
    case grpc::StatusCode::CANCELLED: return Code::kCancelled;
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::FAILED_PRECONDITION: return Code::kUnavailable;
    default: return Code::kInternal;
  }
}

/// What gRPC says of its own goes where ours goes, as what only a developer wants to read.
void adopt_log() {
  static std::once_flag once;
  std::call_once(once, [] {
    gpr_set_log_function([](gpr_log_func_args* line) { log::debug("gRPC: {}", line->message); });
  });
}

}  // namespace

std::string bearer_of(const std::string& secret) { return derived_secret(secret, "penstock gRPC"); }

void add_headers(grpc::ClientContext& context, const std::string& bearer,
                 const std::string& instance) {
  if (!bearer.empty()) context.AddMetadata(kSecret, bearer);
  if (!instance.empty()) context.AddMetadata(kInstance, instance);
}

std::string_view header(const grpc::ServerContextBase& context, const char* name) {
  const auto found = context.client_metadata().find(name);
  if (found == context.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

grpc::Status check_instance(const grpc::ServerContextBase& context, std::string_view instance) {
  const std::string_view meant = header(context, kInstance);
  if (!meant.empty() && meant != instance) {
    return {grpc::StatusCode::FAILED_PRECONDITION, "another life of this worker is meant"};
  }
  return grpc::Status::OK;
}

grpc::Status to_status(const Error& error) {
  ps::ErrorDetail detail;
  detail.set_code(std::string(openai_code(error.code)));
  detail.set_param(error.param);
  detail.set_retry_after_s(error.retry_after_s);
  return {status_code(error.code), error.message, detail.SerializeAsString()};
}

Error to_error(const grpc::Status& status) {
  ps::ErrorDetail detail;
  if (!status.error_details().empty() && detail.ParseFromString(status.error_details())) {
    return {wire::code_of(detail.code()), status.error_message(), detail.param(),
            std::clamp(detail.retry_after_s(), 0, 3600)};
  }
  const Code code = code_of(status.error_code());
  return {code, status.error_message(), "", code == Code::kUnavailable ? 1 : 0};
}

std::string host_of_peer(std::string_view peer) {
  peer.remove_prefix(std::min(peer.find(':') + 1, peer.size()));
  std::string address;
  for (std::size_t i = 0; i < peer.size(); ++i) {
    unsigned byte = 0;
    const char* const hex = peer.data() + i + 1;
    if (peer[i] == '%' && i + 2 < peer.size() &&
        std::from_chars(hex, hex + 2, byte, 16).ptr == hex + 2) {
      address += static_cast<char>(byte);
      i += 2;
    } else {
      address += peer[i];
    }
  }
  const Result<HostPort> at = parse_host_port(address);
  return at ? at->host : "";
}

std::shared_ptr<grpc::Channel> open_channel(const std::string& address) {
  adopt_log();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  // Another life of a worker at the same address has nothing to do with this one's failures.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

Result<std::unique_ptr<grpc::Server>> start_server(const std::string& address,
                                                   const std::string& secret,
                                                   const std::vector<grpc::Service*>& services,
                                                   int message_bytes_max, int& port) {
  adopt_log();
  if (const Result<HostPort> at = parse_host_port(address); !at) {
    return std::unexpected(at.error());
  }
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, std::make_shared<ShownBearer>(bearer_of(secret)), &port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kKeepaliveMs / 2);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kCallerSilentMs);
  // Who says nothing holds a descriptor: workers and front ends have something under way.
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleMs);
  builder.SetMaxReceiveMessageSize(message_bytes_max);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return fail(Code::kUnavailable, fmt::format("cannot listen on {}", address));
  }
  return server;
}

}  // namespace penstock::engine::rpc
