#include "transfer/tcp_server.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <list>
#include <system_error>

#include "base/check.h"
#include "transfer/internal/tcp_socket.h"

namespace penstock::transfer {
namespace {

constexpr auto kGreetWithin = std::chrono::seconds(5);
constexpr int kTickMs = 1000;
constexpr int kNoDescriptorMs = 100;                       // then asks again whether there is one
constexpr auto kTakenWithin = std::chrono::seconds(10);    // an answer by its reader, and as much
constexpr auto kTakenEach = std::chrono::microseconds(1);  // more for each byte: at least 1 MB/s

TimePoint now() { return std::chrono::steady_clock::now(); }

/// One reader's connection, on a thread of its own.
class Connection final {
 public:
  Connection(Fd socket, Arena& arena, const TcpServer::Options& options,
             const wire::Compatibility& key, const std::atomic<bool>& stopping, int stop,
             TcpServer::Counts& counts)
      : socket_(std::move(socket)),
        arena_(arena),
        options_(options),
        key_(key),
        stopping_(stopping),
        stop_(stop),
        counts_(counts),
        thread_([this] { work(); }) {}
  // The thread uses the rest: it is the last member to come and the first to go.

  [[nodiscard]] bool over() const noexcept { return over_.load(std::memory_order_acquire); }
  [[nodiscard]] bool is_stranger() const noexcept {
    return standing_.load() == Standing::kStranger;
  }
  /// False: it proved the secret meanwhile, and stays.
  bool push_out() noexcept {
    if (!becomes(Standing::kPushedOut)) return false;
    shutdown(socket_.get(), SHUT_RDWR);
    return true;
  }

 private:
  enum class Standing : std::uint8_t { kStranger, kReader, kPushedOut };
  /// False: it is no stranger any more.
  bool becomes(Standing standing) noexcept {
    Standing expected = Standing::kStranger;
    return standing_.compare_exchange_strong(expected, standing);
  }
  void work();
  bool greet();
  [[nodiscard]] wire::Answer judge(const wire::Challenge& challenge,
                                   const wire::Response& response);
  bool read_request();
  bool answer();
  [[nodiscard]] bool names_a_slot(std::span<const BlockRef> granted,
                                  std::uint32_t position) const noexcept {
    return position < granted.size() && granted[position].slot < arena_.layout().slots;
  }
  [[nodiscard]] wire::BlockAnswer look_at(std::span<const BlockRef> granted,
                                          std::uint32_t position) const;

  Fd socket_;
  Arena& arena_;
  const TcpServer::Options& options_;
  const wire::Compatibility& key_;
  const std::atomic<bool>& stopping_;
  const int stop_;  // readable once that is so
  TcpServer::Counts& counts_;

  ReaderPage page_;
  wire::Request request_;
  std::array<std::uint32_t, wire::kBlocksMax> take_{};
  std::array<wire::BlockAnswer, wire::kBlocksMax> answers_{};
  std::vector<Checksum> checksums_;
  wire::Pieces pieces_;
  std::atomic<Standing> standing_{Standing::kStranger};
  std::atomic<bool> over_{false};
  std::jthread thread_;
};

/// If kWelcome, it is a reader from here on.
wire::Answer Connection::judge(const wire::Challenge& challenge, const wire::Response& response) {
  const bool speaks = response.magic == wire::kMagic && response.version == wire::kVersion;
  if (!speaks ||
      !wire::equal(response.proof, wire::reader_proof(options_.secret, challenge, response))) {
    return wire::Answer::kNotAllowed;
  }
  if (response.compatibility != key_) return wire::Answer::kOtherBuild;
  if (counts_.readers.fetch_add(1) < options_.readers_max && becomes(Standing::kReader)) {
    return wire::Answer::kWelcome;
  }
  counts_.readers.fetch_sub(1);
  return wire::Answer::kFull;
}

bool Connection::greet() {
  const TimePoint start = now();
  const auto stop = [&] { return stopping_.load() || now() - start > kGreetWithin; };
  const auto nonce = wire::draw_nonce();
  if (!nonce) return false;
  wire::Challenge challenge;
  challenge.nonce = *nonce;
  wire::Response response;
  if (!send_object(socket_.get(), challenge, stop) ||
      !receive_object(socket_.get(), response, stop)) {
    return false;
  }
  wire::Verdict verdict;
  verdict.answer = judge(challenge, response);
  if (verdict.answer == wire::Answer::kWelcome) {
    verdict.offer = {arena_.table().epoch(), arena_.layout()};
    verdict.proof = wire::owner_proof(options_.secret, challenge, response, verdict);
  } else if (standing_.load() != Standing::kPushedOut) {  // that has been counted
    counts_.refused.fetch_add(1);                         // by the time the reader knows
  }
  return send_object(socket_.get(), verdict, stop) && verdict.answer == wire::Answer::kWelcome;
}

bool Connection::read_request() {
  const auto stop = [&] { return stopping_.load(); };
  std::array<pollfd, 2> waiting{{{socket_.get(), POLLIN, 0}, {stop_, POLLIN, 0}}};
  poll(waiting.data(), waiting.size(), -1);  // idle readers cost nothing
  pieces_.clear();
  pieces_.add(&request_, sizeof request_);
  if (!receive_all(socket_.get(), pieces_, stop)) return false;
  if (request_.blocks == 0 || request_.blocks > wire::kBlocksMax ||
      request_.first_part >= request_.last_part || request_.last_part > arena_.layout().parts) {
    return false;
  }
  pieces_.clear();
  pieces_.add(take_.data(), request_.blocks * sizeof take_[0]);
  return receive_all(socket_.get(), pieces_, stop);
}

wire::BlockAnswer Connection::look_at(std::span<const BlockRef> granted,
                                      std::uint32_t position) const {
  wire::BlockAnswer answer;
  if (!names_a_slot(granted, position)) {
    answer.status = BlockStatus::kOutOfRange;
    return answer;
  }
  const BlockHead head = arena_.table().block(granted[position].slot);
  answer.key = head.key;
  answer.generation = static_cast<std::uint32_t>(head.generation);
  answer.length_bytes = head.length_bytes;
  if (!head.readable() || answer.generation != granted[position].generation) {
    answer.status = BlockStatus::kStale;
  } else if (head.length_bytes != arena_.layout().block_bytes()) {
    answer.status = BlockStatus::kTruncated;
  }
  return answer;
}

bool Connection::answer() {
  const ReadGuard guard(page_, arena_.table(), request_.grant, now());
  const auto granted = guard ? arena_.grants().blocks(request_.grant) : std::span<const BlockRef>();
  checksums_.clear();
  for (std::uint32_t i = 0; i < request_.blocks; ++i) {
    if (names_a_slot(granted, take_[i])) arena_.table().prefetch(granted[take_[i]].slot);
  }
  for (std::uint32_t i = 0; i < request_.blocks; ++i) {
    answers_[i] = look_at(granted, take_[i]);
    if (!guard) answers_[i].status = BlockStatus::kRevoked;
    if (answers_[i].status != BlockStatus::kPending) continue;
    const BlockRef& named = granted[take_[i]];
    const std::size_t before = checksums_.size();
    for (std::uint32_t part = request_.first_part; part < request_.last_part; ++part) {
      checksums_.push_back(arena_.table().checksum(named.slot, part));
    }
    // Key and checksums are of one block only if the slot has not been written again meanwhile:
    // else the new block's bytes would come with sums that fit them, under the old one's name.
    std::atomic_thread_fence(std::memory_order_acquire);
    if (static_cast<std::uint32_t>(arena_.table().generation(named.slot)) != named.generation) {
      answers_[i].status = BlockStatus::kStale;
      checksums_.resize(before);
    }
  }
  pieces_.clear();
  pieces_.add(answers_.data(), request_.blocks * sizeof answers_[0]);
  pieces_.add(checksums_.data(), checksums_.size() * sizeof checksums_[0]);
  for (std::uint32_t i = 0; i < request_.blocks; ++i) {
    if (answers_[i].status != BlockStatus::kPending) continue;
    for (std::uint32_t part = request_.first_part; part < request_.last_part; ++part) {
      pieces_.add(arena_.part(granted[take_[i]].slot, part), arena_.layout().part_bytes);
    }
  }
  const std::uint64_t bytes = checksums_.size() * arena_.layout().part_bytes;
  const TimePoint late = now() + kTakenWithin + bytes * kTakenEach;
  const bool sent = send_all(socket_.get(), pieces_, [&] {
    return stopping_.load() || !arena_.table().grant_is_live(request_.grant, now()) || now() > late;
  });
  if (sent) counts_.bytes_sent.fetch_add(bytes, std::memory_order_relaxed);
  return sent;
}

void Connection::work() {
  pieces_.reserve(2 * wire::kBlocksMax);
  if (greet()) {
    arena_.grants().attach(&page_);
    // Who asks all the time never has `read_request` wait a tick, which looks at `stopping_` too.
    while (!stopping_.load() && read_request() && answer()) {
    }
    arena_.grants().detach(&page_);
  }
  if (standing_.load() == Standing::kReader) counts_.readers.fetch_sub(1);
  shutdown(socket_.get(), SHUT_RDWR);
  over_.store(true, std::memory_order_release);
}

}  // namespace

struct TcpServer::State {
  Arena* arena = nullptr;
  Options options;
  wire::Compatibility key;
  Fd listener;
  Fd stop;
};

TcpServer::TcpServer(std::unique_ptr<State> state, std::uint16_t port)
    : state_(std::move(state)), port_(port), thread_([this] { accept_all(); }) {}

Result<std::unique_ptr<TcpServer>> TcpServer::open(Arena& arena, const Options& options) {
  if (options.secret.size() < kSecretBytesMin) {
    return fail(Code::kInvalidArgument, fmt::format("the secret has {} bytes: at least {}",
                                                    options.secret.size(), kSecretBytesMin));
  }
  const auto key = wire::compatibility(options.compatibility);
  if (!key) return std::unexpected(key.error());
  auto listener = listen_tcp(options.host, options.port);
  if (!listener) return std::unexpected(listener.error());
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  auto state = std::make_unique<State>(
      State{&arena, options, *key, std::move(*listener), Fd(eventfd(0, EFD_CLOEXEC))});
  if (!state->stop.valid() ||
      getsockname(state->listener.get(), reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
    return fail(Code::kUnavailable, "the server's socket cannot be asked for its port");
  }
  // The port is at the same place for IPv4 and IPv6.
  const auto port = ntohs(reinterpret_cast<const sockaddr_in*>(&bound)->sin_port);
  return std::unique_ptr<TcpServer>(new TcpServer(std::move(state), port));
}

TcpServer::~TcpServer() {
  stopping_.store(true);
  const std::uint64_t one = 1;
  CHECK_EQ(write(state_->stop.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
}

void TcpServer::accept_all() {
  std::list<Connection> connections;
  bool accepts = true;
  while (!stopping_.load()) {
    std::array<pollfd, 2> waiting{
        {{state_->stop.get(), POLLIN, 0}, {accepts ? state_->listener.get() : -1, POLLIN, 0}}};
    poll(waiting.data(), waiting.size(), accepts ? kTickMs : kNoDescriptorMs);
    accepts = true;
    connections.remove_if([](const Connection& connection) { return connection.over(); });
    if (waiting[1].revents == 0) continue;
    Fd socket(accept4(state_->listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    accepts = socket.valid();
    if (!accepts) continue;
    while (std::ranges::count_if(connections, &Connection::is_stranger) >= kStrangersMax) {
      const auto oldest = std::ranges::find_if(connections, &Connection::is_stranger);
      if (oldest == connections.end() || !oldest->push_out()) continue;
      counts_.refused.fetch_add(1);
      connections.erase(oldest);  // its thread ends at once
    }
    tune_tcp(socket.get());
    try {
      connections.emplace_back(std::move(socket), *state_->arena, state_->options, state_->key,
                               stopping_, state_->stop.get(), counts_);
    } catch (const std::system_error&) {  // no thread is left: as if there was no descriptor
      accepts = false;
    }
  }
}

}  // namespace penstock::transfer
