// Peers that lie or talk nonsense: they get nothing, break nothing, and others are served as
// before.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "transfer/checksum.h"
#include "transfer/host_server.h"
#include "transfer/internal/tcp_path.h"
#include "transfer/internal/wire.h"
#include "transfer/tcp_server.h"
#include "transfer/test_blocks.h"

namespace penstock::transfer {
namespace {

using namespace std::chrono_literals;
using testing::kClock;
using testing::kSecret;

const Layout kHostileLayout = Layout::by_block(16, 2, 500);
bool never() { return false; }
/// What a liar has granted.
std::vector<BlockRef> hostile_refs() {
  std::vector<BlockRef> refs;
  for (std::uint32_t slot = 0; slot < kHostileLayout.slots; ++slot) refs.push_back({slot, 2});
  return refs;
}

PeerAddress tcp_address(std::uint16_t port) {
  PeerAddress address;
  address.tcp_host = "127.0.0.1";
  address.tcp_port = port;
  address.secret = kSecret;
  return address;
}

std::uint16_t port_of(const Fd& listener) {
  sockaddr_in bound{};
  socklen_t size = sizeof bound;
  CHECK_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&bound), &size), 0);
  return ntohs(bound.sin_port);
}

std::string hostile_path() {
  return ::testing::TempDir() + "penstock-hostile-" + std::to_string(getpid());
}

sockaddr_un local(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

std::size_t arrived(Peer& peer, std::span<const BlockRef> refs, GrantId grant) {
  const auto to = testing::make_arena(kHostileLayout);
  testing::Order order(kHostileLayout.slots);
  order.granted.assign(refs.begin(), refs.end());
  Transfer transfer;
  if (!peer.pull(transfer, order.pull(grant), *to)) return 0;
  EXPECT_TRUE(transfer.wait(Deadline(kClock.now() + 20s), kClock));
  for (std::size_t i = 0; i < order.take.size(); ++i) {
    EXPECT_EQ(testing::holds(*to, order.to[i], order.take[i]),
              order.status[i] == BlockStatus::kArrived);
  }
  return transfer.arrived();
}

TEST(Hostile, ReadersThatTalkNonsenseToATcpServer) {
  const auto arena = testing::make_arena(kHostileLayout);
  const auto refs = testing::fill_all(*arena);
  const GrantId grant = *arena->grants().open(refs, kClock.now() + 1h);
  const auto server = TcpServer::open(*arena, {.secret = kSecret}).value();
  CopyPool pool;
  const auto good = Peer::connect(tcp_address(server->port()), pool, kClock).value();
  Rng rng(1);
  for (int round = 0; round < 40; ++round) {
    std::array<std::uint64_t, 200> noise{};
    for (auto& word : noise) word = rng.next();
    if (round % 2 == 0) {  // before it has proved anything
      const Fd socket = connect_tcp("127.0.0.1", server->port(), never).value();
      send_object(socket.get(), noise, never);
    } else {  // after: small numbers, so that some of it looks like a request
      const auto link = TcpLink::connect(tcp_address(server->port())).value();
      for (auto& word : noise) word &= 0x0000'0003'0000'0003;
      send_object(link->socket(), noise, never);
    }
  }
  EXPECT_EQ(arrived(*good, refs, grant), kHostileLayout.slots);
  EXPECT_TRUE(arena->grants().close(grant, Deadline(kClock.now() + 20s), kClock).has_value());
}

TEST(Hostile, ReadersThatTalkNonsenseToAHostServer) {
  const auto arena = testing::make_arena(kHostileLayout, MemoryKind::kShared);
  const auto refs = testing::fill_all(*arena);
  const GrantId grant = *arena->grants().open(refs, kClock.now() + 1h);
  const auto server = HostServer::open(*arena, hostile_path(), "").value();
  const sockaddr_un address = local(hostile_path());
  Rng rng(2);
  for (int round = 0; round < 40; ++round) {
    const Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    std::vector<std::byte> noise(1 + rng.below(2 * sizeof(wire::Hello)));
    testing::write_block(noise.data(), noise.size(), round, 0);
    if (round % 3 == 0) continue;  // says nothing at all
    const int descriptor = fd.get();
    ASSERT_TRUE(wire::send_message(fd.get(), noise, std::span(&descriptor, round % 2)));
  }
  CopyPool pool;
  PeerAddress there;
  there.socket_path = hostile_path();
  const auto good = Peer::connect(there, pool, kClock).value();
  EXPECT_EQ(arrived(*good, refs, grant), kHostileLayout.slots);
  while (server->readers() != 1) std::this_thread::yield();
}

bool is_closed(int socket) {
  std::byte next{};
  const ssize_t got = recv(socket, &next, 1, MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno != EAGAIN);
}

TEST(Hostile, StrangersWhoSayNothingGiveWayToOthersAndReadersDoNot) {
  const auto arena = testing::make_arena(kHostileLayout);
  const auto refs = testing::fill_all(*arena);
  const GrantId grant = *arena->grants().open(refs, kClock.now() + 1h);
  constexpr std::uint32_t kFew = 8;
  const auto server = TcpServer::open(*arena, {.secret = kSecret, .readers_max = kFew}).value();
  const auto early = TcpLink::connect(tcp_address(server->port())).value();
  std::vector<Fd> strangers;
  for (std::uint32_t i = 0; i < 2 * (TcpServer::kStrangersMax + kFew); ++i) {
    strangers.push_back(connect_tcp("127.0.0.1", server->port(), never).value());
    wire::Challenge challenge;
    ASSERT_TRUE(receive_object(strangers.back().get(), challenge, never)) << i;  // it was let in
    if (i % 2 == 1) send_object(strangers.back().get(), wire::kMagic, never);    // and no more
  }
  EXPECT_TRUE(is_closed(strangers.front().get()));
  CopyPool pool;
  const auto late = Peer::connect(tcp_address(server->port()), pool, kClock).value();
  EXPECT_EQ(arrived(*late, refs, grant), kHostileLayout.slots);
  EXPECT_FALSE(is_closed(early->socket()));
}

TEST(Hostile, ReadersOfATcpServerAreAsManyAsItSays) {
  const auto arena = testing::make_arena(kHostileLayout);
  const auto server = TcpServer::open(*arena, {.secret = kSecret, .readers_max = 8}).value();
  std::vector<std::unique_ptr<TcpLink>> links;
  while (links.size() < 8) {
    links.push_back(TcpLink::connect(tcp_address(server->port())).value());
  }
  const auto refused = TcpLink::connect(tcp_address(server->port()));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Code::kOverloaded);
  EXPECT_EQ(server->refused(), 1U);
  links.pop_back();
  while (!TcpLink::connect(tcp_address(server->port()))) std::this_thread::yield();
}

bool ask(const TcpLink& link, GrantId grant, std::uint32_t blocks, std::uint32_t position) {
  const wire::Request request{blocks, 0, 1, grant};
  const std::vector<std::uint32_t> take(blocks, position);
  wire::Pieces pieces;
  pieces.add(&request, sizeof request);
  pieces.add(take.data(), take.size() * sizeof take[0]);
  return send_all(link.socket(), pieces, never);
}

TEST(Hostile, AReaderThatTricklesHoldsUpNeitherARevocationNorTheEnd) {
  const auto arena = testing::make_arena(Layout::by_block(1, 1, 4 << 20));
  arena->reserve(0);
  arena->sum_and_commit(0, testing::key_of(0));
  const std::vector<BlockRef> refs{*arena->ref(0)};
  for (const bool server_ends : {false, true}) {
    const GrantId grant = *arena->grants().open(refs, kClock.now() + 1h);
    auto server = TcpServer::open(*arena, {.secret = kSecret}).value();
    const auto link = TcpLink::connect(tcp_address(server->port())).value();
    const int little = 256 << 10;  // at a time, 50 MB a second: something moves in every tick
    setsockopt(link->socket(), SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
    ASSERT_TRUE(ask(*link, grant, wire::kBlocksMax, 0));  // one block, again and again: 1 GiB
    std::atomic<bool> begun{false};
    const std::jthread reader([&](const std::stop_token& stop) {
      std::vector<std::byte> taken(little);
      pollfd hang_up{link->socket(), POLLRDHUP, 0};
      do {
        if (recv(link->socket(), taken.data(), taken.size(), MSG_WAITALL) > 0) begun = true;
      } while (!stop.stop_requested() && poll(&hang_up, 1, 5) == 0);
    });
    while (!begun) std::this_thread::yield();
    const TimePoint asked = kClock.now();
    if (server_ends) {
      server.reset();
    } else {
      EXPECT_TRUE(arena->grants().close(grant, testing::in(5s), kClock).has_value());
    }
    EXPECT_LT(kClock.now() - asked, 5s);
  }
}

TEST(Hostile, AnOwnerEndsThoughItIsAskedAllTheTime) {
  const auto arena = testing::make_arena(kHostileLayout);
  auto server = TcpServer::open(*arena, {.secret = kSecret}).value();
  const auto link = TcpLink::connect(tcp_address(server->port())).value();
  std::atomic<bool> begun{false};
  std::atomic<bool> cut_off{false};
  std::jthread reader([&, until = testing::in(5s)] {
    wire::BlockAnswer answer;  // that there is no such block, and so no bytes
    while (!cut_off && !until.passed(kClock.now())) {
      cut_off = !ask(*link, {0, 1}, 1, 0) || !receive_object(link->socket(), answer, never);
      begun = true;
    }
  });
  while (!begun) std::this_thread::yield();
  server.reset();
  reader.join();
  EXPECT_TRUE(cut_off);
}

TEST(Hostile, ConnectingToAnOwnerThatTakesNobodyInStopsWhenAskedAndGoesOnWhenNot) {
  const Fd listener = listen_tcp("127.0.0.1", 0).value();
  ASSERT_EQ(listen(listener.get(), 0), 0);  // room for one
  const Fd first = connect_tcp("127.0.0.1", port_of(listener), never).value();
  const auto stopped = connect_tcp("127.0.0.1", port_of(listener), [] { return true; });
  ASSERT_FALSE(stopped.has_value());
  EXPECT_EQ(stopped.error().code, Code::kDeadlineExceeded);
  Fd taken;
  int ticks = 0;
  const auto connected = connect_tcp("127.0.0.1", port_of(listener), [&] {
    if (++ticks == 2) taken = Fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    return false;
  });
  EXPECT_TRUE(connected.has_value());
  EXPECT_GE(ticks, 2);
}

/// An owner at a local socket that answers with whatever a test likes.
Result<std::unique_ptr<Peer>> connect_to_liar(
    const std::function<std::vector<int>(wire::Welcome&)>& lie) {
  const sockaddr_un address = local(hostile_path());
  unlink(hostile_path().c_str());
  const Fd listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  CHECK_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  CHECK_EQ(listen(listener.get(), 1), 0);
  const std::jthread owner([&] {
    const Fd reader(accept(listener.get(), nullptr, nullptr));
    wire::Hello hello;
    CHECK(wire::receive_message(reader.get(), std::as_writable_bytes(std::span(&hello, 1)), {}, 5s)
              .has_value());
    wire::Welcome welcome;
    const std::vector<int> descriptors = lie(welcome);
    CHECK(wire::send_message(reader.get(), std::as_bytes(std::span(&welcome, 1)), descriptors)
              .has_value());
  });
  CopyPool pool;
  PeerAddress there;
  there.socket_path = hostile_path();
  auto connected = Peer::connect(there, pool, kClock);
  if (connected) connected->reset();
  unlink(hostile_path().c_str());
  return connected;
}

TEST(Hostile, OwnersThatOfferWhatIsNotThere) {
  const auto arena = testing::make_arena(kHostileLayout, MemoryKind::kShared);
  const auto page = Memory::create(MemoryKind::kShared, sizeof(ReaderPage)).value();
  const Fd unsealed(memfd_create("unsealed", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(unsealed.get(), static_cast<off_t>(arena->memory().size_bytes())), 0);
  const auto honest = [&](wire::Welcome& welcome) {
    welcome.offer = {arena->table().epoch(), arena->layout()};
    welcome.memory_bytes = arena->memory().size_bytes();
    welcome.table_bytes = arena->table().memory().size_bytes();
    return std::vector<int>{arena->table().memory().fd(), page.fd(), arena->memory().fd()};
  };
  EXPECT_TRUE(connect_to_liar(honest).has_value());
  using Lie = std::function<void(wire::Welcome&, std::vector<int>&)>;
  const std::vector<Lie> lies{
      [](wire::Welcome& welcome, auto&) { welcome.magic = 7; },
      [](wire::Welcome& welcome, auto&) { ++welcome.version; },
      [](wire::Welcome& welcome, auto&) { welcome.answer = wire::Answer{99}; },
      [](wire::Welcome& welcome, auto&) { ++welcome.offer.epoch; },
      [](wire::Welcome& welcome, auto&) { welcome.offer.layout.slots = 1 << 30; },
      [](wire::Welcome& welcome, auto&) { welcome.offer.layout.slots = 8; },  // not the table's
      [](wire::Welcome& welcome, auto&) { welcome.offer.layout.part_bytes = 0; },
      [](wire::Welcome& welcome, auto&) { welcome.memory_bytes += 4096; },
      [](wire::Welcome& welcome, auto&) { welcome.table_bytes = 64; },
      [](wire::Welcome& welcome, auto&) { welcome.table_bytes += 4096; },
      [](wire::Welcome& welcome, auto&) { welcome.kind = MemoryKind::kForeign; },
      [](wire::Welcome&, std::vector<int>& fds) { fds.pop_back(); },
      [](wire::Welcome&, std::vector<int>& fds) { fds.clear(); },
      [](wire::Welcome&, std::vector<int>& fds) { std::swap(fds[0], fds[1]); },
      [&](wire::Welcome&, std::vector<int>& fds) { fds[2] = unsealed.get(); },
  };
  for (std::size_t i = 0; i < lies.size(); ++i) {
    const auto connected = connect_to_liar([&](wire::Welcome& welcome) {
      auto descriptors = honest(welcome);
      lies[i](welcome, descriptors);
      return descriptors;
    });
    EXPECT_FALSE(connected.has_value()) << "lie " << i;
  }
}

/// A TCP owner that proves the secret and then answers each request as a test likes.
class Liar final {
 public:
  using Answer = std::function<bool(int socket, const wire::Request&)>;
  explicit Liar(Answer answer, const Layout& layout = kHostileLayout)
      : listener_(listen_tcp("127.0.0.1", 0).value()),
        thread_([this, layout, answer = std::move(answer)](const std::stop_token& stop) {
          std::vector<std::jthread> readers;
          while (!stop.stop_requested()) {
            Fd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (!socket.valid()) {
              std::this_thread::yield();
              continue;
            }
            tune_tcp(socket.get());
            readers.emplace_back([&answer, layout, stop, mine = std::move(socket)] {
              serve(mine.get(), answer, layout, stop);
            });
          }
        }) {}

  [[nodiscard]] std::uint16_t port() const { return port_of(listener_); }

 private:
  static void serve(int socket, const Answer& answer, const Layout& layout,
                    const std::stop_token& stop) {
    const auto over = [&] { return stop.stop_requested(); };
    const wire::Challenge challenge;
    wire::Response response;
    if (!send_object(socket, challenge, over) || !receive_object(socket, response, over)) return;
    wire::Verdict verdict;
    verdict.offer = {42, layout};
    verdict.proof = wire::owner_proof(kSecret, challenge, response, verdict);
    if (!send_object(socket, verdict, over)) return;
    wire::Request request;
    std::vector<std::uint32_t> take;
    while (receive_object(socket, request, over)) {
      take.resize(request.blocks);
      wire::Pieces pieces;
      pieces.add(take.data(), take.size() * sizeof take[0]);
      if (!receive_all(socket, pieces, over) || !answer(socket, request)) return;
    }
  }

  Fd listener_;
  std::jthread thread_;
};

TEST(Hostile, OwnersWhoseAnswersAreWrongGiveMisses) {
  const std::vector<BlockRef> refs = hostile_refs();
  const auto answer_all = [](int socket, const wire::Request& request,
                             const wire::BlockAnswer& answer) {
    std::vector<wire::BlockAnswer> answers(request.blocks, answer);
    std::vector<std::byte> rest(request.blocks *
                                (2 * sizeof(Checksum) + 2 * 500ULL));  // sums, then bytes: zeros
    wire::Pieces pieces;
    pieces.add(answers.data(), answers.size() * sizeof answers[0]);
    pieces.add(rest.data(), rest.size());
    return send_all(socket, pieces, never);
  };
  const auto right = [](wire::BlockAnswer answer) {
    answer.key = testing::key_of(0);
    answer.length_bytes = 1000;
    answer.generation = 2;
    return answer;
  };
  const std::vector<Liar::Answer> lies{
      [](int, const wire::Request&) { return false; },  // hangs up
      [&](int socket, const wire::Request& request) {   // the wrong key, and the wrong bytes
        return answer_all(socket, request, right({}));
      },
      [&](int socket, const wire::Request& request) {
        auto answer = right({});
        answer.status = BlockStatus::kArrived;  // not the owner's to say
        return answer_all(socket, request, answer);
      },
      [&](int socket, const wire::Request& request) {
        auto answer = right({});
        answer.status = static_cast<BlockStatus>(200);
        return answer_all(socket, request, answer);
      },
      [&](int socket, const wire::Request& request) {
        auto answer = right({});
        answer.generation = 4;
        return answer_all(socket, request, answer);
      },
  };
  for (std::size_t i = 0; i < lies.size(); ++i) {
    const Liar liar(lies[i]);
    CopyPool pool;
    const auto peer = Peer::connect(tcp_address(liar.port()), pool, kClock).value();
    EXPECT_EQ(arrived(*peer, refs, {0, 1}), 0U) << "lie " << i;
  }
}

/// A byte now and then, until the reader hangs up.
bool trickle(int socket) {
  pollfd hang_up{socket, POLLRDHUP, 0};
  constexpr std::byte kNext{};
  while (send_object(socket, kNext, never) && poll(&hang_up, 1, 5) == 0) {
  }
  return false;
}
bool say_of_each(int socket, const wire::Request& request, BlockStatus status) {
  std::vector<wire::BlockAnswer> answers(request.blocks);
  for (wire::BlockAnswer& answer : answers) answer.status = status;
  wire::Pieces pieces;
  pieces.add(answers.data(), answers.size() * sizeof answers[0]);
  return send_all(socket, pieces, never);
}

/// Asks a liar for every slot.
struct Puller {
  explicit Puller(const Liar& liar)
      : peer(Peer::connect(tcp_address(liar.port()), pool, kClock).value()) {
    order.granted = hostile_refs();
  }
  Result<void> pull(const Pull& pull) { return peer->pull(transfer, pull, *to); }

  CopyPool pool;
  const std::unique_ptr<Peer> peer;
  const std::unique_ptr<Arena> to = testing::make_arena(kHostileLayout);
  testing::Order order{kHostileLayout.slots};
  Transfer transfer;
};

TEST(Hostile, WhoHasNoDescriptorLeftDoesNotTakeItsOwnerForDead) {
  std::atomic<bool> hangs_up{true};
  const Liar liar([&](int socket, const wire::Request& request) {
    return !hangs_up && say_of_each(socket, request, BlockStatus::kStale);
  });
  Puller puller(liar);
  for (const bool descriptors : {true, false}) {
    std::optional<testing::NoDescriptors> none;
    if (!descriptors) {
      none.emplace();
      EXPECT_EQ(connect_tcp("127.0.0.1", liar.port(), never).error().code, Code::kOverloaded);
    }
    ASSERT_TRUE(puller.pull(puller.order.pull({0, 1})).has_value());
    ASSERT_TRUE(puller.transfer.wait(testing::in(20s), kClock));
    EXPECT_EQ(puller.order.count(BlockStatus::kPathFailed), kHostileLayout.slots);
  }
  hangs_up = false;
  ASSERT_TRUE(puller.pull(puller.order.pull({0, 1})).has_value());
  ASSERT_TRUE(puller.transfer.wait(testing::in(20s), kClock));
  EXPECT_EQ(puller.order.count(BlockStatus::kStale), kHostileLayout.slots);
}

TEST(Hostile, BlocksThatCameWholeStayThoughTheConnectionBreaksInTheNext) {
  constexpr std::uint32_t kWhole = 6;  // blocks of an answer, then half of another one
  std::atomic<int> asked{0};
  const Liar liar([&](int socket, const wire::Request& request) {
    ++asked;
    const std::vector<std::byte> zeros(kHostileLayout.block_bytes() * request.blocks);
    wire::BlockAnswer answer;
    answer.key = testing::key_of(0);
    answer.generation = 2;
    answer.length_bytes = static_cast<std::uint32_t>(kHostileLayout.block_bytes());
    const std::vector<wire::BlockAnswer> answers(request.blocks, answer);
    const std::vector<Checksum> sums(std::size_t{2} * request.blocks,
                                     checksum(zeros.data(), kHostileLayout.part_bytes));
    wire::Pieces pieces;
    pieces.add(answers.data(), answers.size() * sizeof answers[0]);
    pieces.add(sums.data(), sums.size() * sizeof sums[0]);
    pieces.add(zeros.data(), std::min(zeros.size(), kWhole * kHostileLayout.block_bytes() + 600));
    return send_all(socket, pieces, never) && request.blocks <= kWhole;
  });
  Puller puller(liar);
  std::ranges::fill(puller.order.keys, testing::key_of(0));
  ASSERT_TRUE(puller.pull(puller.order.pull({0, 1})).has_value());
  ASSERT_TRUE(puller.transfer.wait(testing::in(20s), kClock));
  // 6, 6 and 4: a chunk may see two connections break.
  EXPECT_EQ(puller.order.count(BlockStatus::kArrived), kHostileLayout.slots) << asked;
  for (std::uint32_t slot = 0; slot < kHostileLayout.slots; ++slot) {
    EXPECT_TRUE(puller.to->verify(slot, testing::key_of(0)));
  }
}

TEST(Hostile, ALargeBlockThatComesSteadilyAndTooSlowlyCostsTheDeadline) {
  const Layout layout = Layout::by_block(1, 1, 32 << 20);
  const Liar liar(
      [&](int socket, const wire::Request& request) {
        const std::vector<std::byte> piece(64 << 10);
        pollfd hang_up{socket, POLLRDHUP, 0};
        if (!say_of_each(socket, request, BlockStatus::kPending)) return false;
        for (std::size_t at = 0; at <= layout.part_bytes; at += piece.size()) {  // and its sum
          wire::Pieces pieces;
          pieces.add(piece.data(), piece.size());
          if (poll(&hang_up, 1, 1) != 0 || !send_all(socket, pieces, never)) return false;
        }
        return true;
      },
      layout);
  CopyPool pool;
  const auto peer = Peer::connect(tcp_address(liar.port()), pool, kClock).value();
  const auto to = testing::make_arena(layout);
  testing::Order order(1);
  const std::vector<BlockRef> refs{{0, 2}};
  order.granted = refs;
  Pull pull = order.pull({0, 1});
  pull.deadline = testing::in(50ms);  // of half a second and more
  Transfer transfer;
  ASSERT_TRUE(peer->pull(transfer, pull, *to).has_value());
  ASSERT_TRUE(transfer.wait(testing::in(20s), kClock));
  EXPECT_EQ(order.status[0], BlockStatus::kDeadline);
}

TEST(Hostile, AnOwnerThatTricklesCostsTheDeadline) {
  for (const bool answers_first : {false, true}) {
    std::atomic<int> asked{0};
    const Liar liar([&](int socket, const wire::Request& request) {
      ++asked;
      if (answers_first) say_of_each(socket, request, BlockStatus::kPending);
      return trickle(socket);
    });
    Puller puller(liar);
    Pull pull = puller.order.pull({0, 1});
    pull.deadline = testing::in(100ms);
    ASSERT_TRUE(puller.pull(pull).has_value());
    ASSERT_TRUE(puller.transfer.wait(testing::in(10s), kClock));
    EXPECT_EQ(puller.order.count(BlockStatus::kDeadline), kHostileLayout.slots);
    const int before = asked;
    ASSERT_TRUE(puller.pull(puller.order.pull({0, 1})).has_value());
    while (asked == before) std::this_thread::yield();
    puller.transfer.cancel();
    ASSERT_TRUE(puller.transfer.wait(testing::in(10s), kClock));
    EXPECT_EQ(puller.order.count(BlockStatus::kCancelled), kHostileLayout.slots);
  }
}

TEST(Hostile, WhatIsCancelledBehindATrickleEndsAndTheRestIsAskedForAgain) {
  std::atomic<int> asked{0};
  std::atomic<bool> all_wait{false};
  const Liar liar([&](int socket, const wire::Request& request) {
    pollfd another{socket, POLLIN, 0};
    if (asked == 1) poll(&another, 1, -1);  // the last is under way as well
    if (++asked > 1) return trickle(socket);
    while (!all_wait) std::this_thread::yield();
    return say_of_each(socket, request, BlockStatus::kStale);
  });
  CopyPool pool;
  PeerAddress address = tcp_address(liar.port());
  address.tcp_streams = 1;
  const auto peer = Peer::connect(address, pool, kClock).value();
  std::vector<testing::Order> orders(3, testing::Order(16));  // answered; slow; behind that
  std::array<std::unique_ptr<Arena>, 3> to;
  std::array<Transfer, 3> transfers;
  for (std::size_t i = 0; i < 3; ++i) {
    orders[i].granted = hostile_refs();
    to[i] = testing::make_arena(kHostileLayout);
    ASSERT_TRUE(peer->pull(transfers[i], orders[i].pull({0, 1}), *to[i]).has_value());
  }
  all_wait = true;
  while (asked < 2) std::this_thread::yield();
  transfers[2].cancel();
  ASSERT_TRUE(transfers[2].wait(testing::in(10s), kClock));
  EXPECT_EQ(orders[2].count(BlockStatus::kCancelled), 16U);
  EXPECT_FALSE(transfers[1].done());
  while (asked < 3) std::this_thread::yield();
  transfers[1].cancel();
  ASSERT_TRUE(transfers[1].wait(testing::in(10s), kClock));
  EXPECT_EQ(orders[1].count(BlockStatus::kCancelled), 16U);
}

TEST(Hostile, AnOwnerThatDoesNotKnowTheSecretIsNotBelieved) {
  const auto arena = testing::make_arena(kHostileLayout);
  const Fd listener = listen_tcp("127.0.0.1", 0).value();
  const std::jthread owner([&] {
    Fd socket;
    while (!socket.valid()) socket = Fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const wire::Challenge challenge;
    wire::Response response;
    wire::Verdict verdict;
    verdict.offer = {42, kHostileLayout};
    // It sends the reader's own proof back.
    if (send_object(socket.get(), challenge, never) &&
        receive_object(socket.get(), response, never)) {
      verdict.proof = response.proof;
      send_object(socket.get(), verdict, never);
    }
  });
  CopyPool pool;
  const auto connected = Peer::connect(tcp_address(port_of(listener)), pool, kClock);
  ASSERT_FALSE(connected.has_value());
  EXPECT_EQ(connected.error().code, Code::kUnauthorized);
}

}  // namespace
}  // namespace penstock::transfer
