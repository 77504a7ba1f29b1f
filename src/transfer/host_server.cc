#include "transfer/host_server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>

#include "base/check.h"
#include "transfer/internal/wire.h"

namespace penstock::transfer {
namespace {

struct Reader {
  Fd socket;
  Memory page;  // empty until it was greeted
  TimePoint since;
};
constexpr auto kHelloWithin = std::chrono::seconds(5);
constexpr int kTickMs = 1000;
constexpr int kNoDescriptorMs = 100;  // then asks again whether there is one

/// At its path there is never a socket at which nobody listens yet: others may take it for one that
/// was left over.
Result<Fd> listen_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string unready = path + "~";
  if (path.empty() || unready.size() >= sizeof address.sun_path) {
    return fail(Code::kInvalidArgument,
                fmt::format("a socket path has 1 to {} bytes", sizeof address.sun_path - 2));
  }
  std::memcpy(address.sun_path, unready.data(), unready.size());
  Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  unlink(unready.c_str());
  if (!fd.valid() ||
      bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      chmod(unready.c_str(), 0600) != 0 || listen(fd.get(), 64) != 0 ||
      rename(unready.c_str(), path.c_str()) != 0) {
    auto failed =
        fail(Code::kUnavailable, fmt::format("listening at {}: {}", path, errno_text(errno)));
    unlink(unready.c_str());
    return failed;
  }
  return fd;
}

}  // namespace

struct HostServer::State {
  Arena* arena = nullptr;
  std::string path;
  wire::Compatibility compatibility;
  Fd listener;
  Fd stop;
  std::vector<Reader> readers;
};

HostServer::HostServer(std::unique_ptr<State> state) : state_(std::move(state)) {
  thread_ = std::jthread([this] { work(); });
}

Result<std::unique_ptr<HostServer>> HostServer::open(Arena& arena, const std::string& socket_path,
                                                     const std::string& compatibility) {
  auto key = wire::compatibility(compatibility);
  if (!key) return std::unexpected(key.error());
  auto listener = listen_at(socket_path);
  if (!listener) return std::unexpected(listener.error());
  auto state = std::make_unique<State>();
  state->arena = &arena;
  state->path = socket_path;
  state->compatibility = *key;
  state->listener = std::move(*listener);
  state->stop = Fd(eventfd(0, EFD_CLOEXEC));
  if (!state->stop.valid()) return fail(Code::kUnavailable, "no eventfd");
  return std::unique_ptr<HostServer>(new HostServer(std::move(state)));
}

HostServer::~HostServer() {
  const std::uint64_t one = 1;
  CHECK_EQ(write(state_->stop.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  thread_.join();
  while (!state_->readers.empty()) drop(state_->readers.size() - 1);
  unlink(state_->path.c_str());
}

void HostServer::drop(std::size_t at) {
  Reader& reader = state_->readers[at];
  if (reader.page.data() != nullptr) {
    state_->arena->grants().detach(reinterpret_cast<const ReaderPage*>(reader.page.data()));
    readers_.fetch_sub(1);
  }
  state_->readers.erase(state_->readers.begin() + static_cast<std::ptrdiff_t>(at));
}

void HostServer::greet(std::size_t at) {
  Reader& reader = state_->readers[at];
  wire::Hello hello;
  const auto got = wire::receive_message(reader.socket.get(),
                                         std::as_writable_bytes(std::span(&hello, 1)), {}, {});
  wire::Welcome welcome;
  const bool known = got && hello.magic == wire::kMagic && hello.version == wire::kVersion &&
                     hello.compatibility == state_->compatibility;
  auto page = known ? Memory::create(MemoryKind::kShared, sizeof(ReaderPage)) : Memory();
  if (!known || !page) {
    welcome.answer = known ? wire::Answer::kFull : wire::Answer::kOtherBuild;
    refused_.fetch_add(1);
    // If even this does not reach it, it learns from the hang-up.
    [[maybe_unused]] const auto sent =
        wire::send_message(reader.socket.get(), std::as_bytes(std::span(&welcome, 1)), {});
    return drop(at);
  }
  Arena& arena = *state_->arena;
  const Memory& memory = arena.memory();
  welcome.offer = {arena.table().epoch(), arena.layout()};
  welcome.memory_bytes = memory.size_bytes();
  welcome.memory_address = reinterpret_cast<std::uint64_t>(memory.data());
  welcome.table_bytes = arena.table().memory().size_bytes();
  welcome.kind = memory.kind();
  const std::array<int, 3> descriptors{arena.table().memory().fd(), page->fd(), memory.fd()};
  const std::size_t count = memory.kind() == MemoryKind::kShared ? 3 : 2;
  arena.grants().attach(new (page->data()) ReaderPage);
  reader.page = std::move(*page);
  readers_.fetch_add(1);
  if (!wire::send_message(reader.socket.get(), std::as_bytes(std::span(&welcome, 1)),
                          std::span(descriptors).first(count))) {
    drop(at);
  }
}

void HostServer::work() {
  std::vector<pollfd> waiting;
  bool accepts = true;
  for (;;) {
    auto& readers = state_->readers;
    waiting.clear();
    waiting.push_back({state_->stop.get(), POLLIN, 0});
    waiting.push_back({accepts ? state_->listener.get() : -1, POLLIN, 0});
    for (const Reader& reader : readers) waiting.push_back({reader.socket.get(), POLLIN, 0});
    poll(waiting.data(), waiting.size(), accepts ? kTickMs : kNoDescriptorMs);
    accepts = true;
    if (waiting[0].revents != 0) return;
    const TimePoint now = std::chrono::steady_clock::now();
    for (std::size_t at = readers.size(); at-- > 0;) {  // backwards: `drop` moves those behind
      const bool greeted = readers[at].page.data() != nullptr;
      const bool spoke = waiting[at + 2].revents != 0;
      if (!greeted && spoke) {
        greet(at);
      } else if (spoke || (!greeted && now - readers[at].since > kHelloWithin)) {
        drop(at);  // a greeted reader has nothing more to say: it is gone
      }
    }
    if (waiting[1].revents == 0) continue;
    Fd accepted(accept4(state_->listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    accepts = accepted.valid();
    if (!accepts) continue;
    if (readers.size() == kReadersMax) {
      refused_.fetch_add(1);
      continue;  // closed: the reader sees the hang-up
    }
    readers.push_back({std::move(accepted), Memory(), now});
  }
}

}  // namespace penstock::transfer
