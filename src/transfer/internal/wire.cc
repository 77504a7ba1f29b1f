#include "transfer/internal/wire.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace penstock::transfer::wire {
namespace {

constexpr std::size_t kDescriptorsMax = 3;

}  // namespace

Result<Compatibility> compatibility(std::string_view text) {
  Compatibility made;
  if (text.size() > made.text.size()) {
    return fail(Code::kInvalidArgument, fmt::format("a compatibility key of {} bytes: at most {}",
                                                    text.size(), made.text.size()));
  }
  std::ranges::copy(text, made.text.begin());
  made.size = text.size();
  return made;
}

Error refusal(Answer answer) {
  switch (answer) {
    case Answer::kOtherBuild:
      return {Code::kUnprocessable, "the peer's blocks are of another build, model or cache type"};
    case Answer::kFull: return {Code::kOverloaded, "the peer has as many readers as it takes"};
    case Answer::kNotAllowed: return {Code::kUnauthorized, "the peer's secret is another one"};
    case Answer::kWelcome: break;
  }
  return {Code::kUnprocessable, "the peer does not speak our protocol"};
}

Result<void> send_message(int socket, std::span<const std::byte> message,
                          std::span<const int> descriptors) {
  CHECK_LE(descriptors.size(), kDescriptorsMax);
  iovec piece{const_cast<std::byte*>(message.data()), message.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kDescriptorsMax * sizeof(int))> control{};
  msghdr header{};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  if (!descriptors.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  if (sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) !=
      static_cast<ssize_t>(message.size())) {
    return fail(Code::kUnavailable, fmt::format("sending to a peer: {}", errno_text(errno)));
  }
  return {};
}

Result<std::size_t> receive_message(int socket, std::span<std::byte> message,
                                    std::span<Fd> descriptors, std::chrono::milliseconds timeout) {
  pollfd ready{socket, POLLIN, 0};
  if (poll(&ready, 1, static_cast<int>(timeout.count())) != 1) {
    return fail(Code::kDeadlineExceeded, "the peer does not answer");
  }
  iovec piece{message.data(), message.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kDescriptorsMax * sizeof(int))> control{};
  msghdr header{};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const ssize_t size = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  std::size_t count = 0;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t sent = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < sent; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      Fd mine(fd);  // closed if there is no room for it
      if (count < descriptors.size()) descriptors[count++] = std::move(mine);
    }
  }
  if (size != static_cast<ssize_t>(message.size()) ||
      (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return fail(Code::kUnprocessable, "the peer does not speak our protocol");
  }
  return count;
}

}  // namespace penstock::transfer::wire
