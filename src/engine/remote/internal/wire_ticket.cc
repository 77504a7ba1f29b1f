// Tickets for KV on the wire.
#include "engine/remote/internal/wire.h"

namespace penstock::engine::wire {
namespace {

constexpr std::string_view kBackend = "penstock";
constexpr std::size_t kSocketPathBytesMax = 107;  // of sockaddr_un
constexpr std::size_t kHostBytesMax = 64;         // an address by number
constexpr int kEndpointsMax = 4;

Result<void> read_endpoint(const oe::KvEndpoint& in, KvAddress& out) {
  if (in.protocol() == "unix") {
    const bool fits = !in.host().empty() && in.host().size() <= kSocketPathBytesMax &&
                      in.host().find('\0') == std::string::npos;
    if (!fits) return invalid("a KV session's socket is none");
    out.socket_path = in.host();
  } else if (in.protocol() == "tcp") {
    if (in.host().size() > kHostBytesMax || in.port() == 0 || in.port() > 65535) {
      return invalid("a KV session's address is none");
    }
    out.tcp_host = in.host();
    out.tcp_port = static_cast<std::uint16_t>(in.port());
  }
  return {};
}

}  // namespace

void write(const KvTicket& ticket, oe::KvSessionRef& out) {
  out.set_transfer_backend(std::string(kBackend));
  const auto add = [&out](const char* protocol, const std::string& host, std::uint16_t port) {
    oe::KvEndpoint& endpoint = *out.add_endpoints();
    endpoint.set_protocol(protocol);
    endpoint.set_host(host);
    endpoint.set_port(port);
  };
  if (!ticket.at.socket_path.empty()) add("unix", ticket.at.socket_path, 0);
  if (ticket.at.tcp_port != 0) add("tcp", ticket.at.tcp_host, ticket.at.tcp_port);
  ps::KvTicket opaque;
  opaque.set_source(ticket.source);
  opaque.set_grant_cell(ticket.grant.cell);
  opaque.set_grant_generation(ticket.grant.generation);
  for (const transfer::BlockRef& block : ticket.blocks) {
    opaque.add_slots(block.slot);
    opaque.add_generations(block.generation);
  }
  out.set_opaque(opaque.SerializeAsString());
}

/// What it says is looked up nowhere before the blocks are: they answer to their keys or not.
Result<KvTicket> read(const oe::KvSessionRef& in, std::uint32_t blocks_max) {
  if (in.transfer_backend() != kBackend) {
    return fail(Code::kUnimplemented, "KV is taken over from Penstock's workers only");
  }
  ps::KvTicket opaque;
  if (!opaque.ParseFromString(in.opaque()) || in.endpoints_size() > kEndpointsMax ||
      opaque.slots_size() != opaque.generations_size() ||
      static_cast<std::uint32_t>(opaque.slots_size()) > blocks_max) {
    return invalid("a KV session is not what a worker makes");
  }
  KvTicket ticket{.source = opaque.source(),
                  .grant = {opaque.grant_cell(), opaque.grant_generation()},
                  .blocks = {},
                  .at = {}};
  if (ticket.grant.cell >= transfer::BlockTable::kGrantsMax) {
    return invalid("a KV session is not what a worker makes");
  }
  ticket.blocks.reserve(static_cast<std::size_t>(opaque.slots_size()));
  for (int i = 0; i < opaque.slots_size(); ++i) {
    ticket.blocks.push_back({opaque.slots(i), opaque.generations(i)});
  }
  for (const oe::KvEndpoint& endpoint : in.endpoints()) {
    if (Result<void> fine = read_endpoint(endpoint, ticket.at); !fine) {
      return std::unexpected(fine.error());
    }
  }
  return ticket;
}

}  // namespace penstock::engine::wire
