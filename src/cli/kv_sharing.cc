#include "cli/kv_sharing.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/host_port.h"
#include "base/log.h"
#include "engine/derived_secret.h"
#include "transfer/memory.h"
#include "transfer/tcp_server.h"

namespace penstock::cli {
namespace {

/// Nobody listens at this socket any more.
bool is_left_over(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.native().size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, path.c_str(), path.native().size());
  const transfer::Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return fd.valid() &&
         connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
         errno == ECONNREFUSED;
}

/// What a process was killed over before anybody listened at it (transfer::HostServer). One that
/// is being made refuses connections too, but not for so long.
bool is_unfinished(const std::filesystem::path& path) {
  constexpr auto kMadeWithin = std::chrono::minutes(1);
  std::error_code failed;
  const auto made = std::filesystem::last_write_time(path, failed);
  return !failed && std::filesystem::file_time_type::clock::now() - made > kMadeWithin;
}

/// Of this user's alone, for the sockets at which memory is handed out. Empty: there is no place.
std::string socket_folder() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  std::error_code failed;
  const std::filesystem::path base = runtime != nullptr && *runtime != '\0'
                                         ? std::filesystem::path(runtime)
                                         : std::filesystem::temp_directory_path(failed);
  return failed ? std::string() : (base / fmt::format("penstock-{}", getuid())).string();
}

Result<void> make_folder(const std::string& folder) {
  if (folder.empty()) return fail(Code::kUnavailable, "there is no folder for temporary files");
  struct stat status{};
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail(Code::kUnavailable, fmt::format("cannot make the folder {}", folder));
  }
  if (lstat(folder.c_str(), &status) != 0 || !S_ISDIR(status.st_mode) ||
      status.st_uid != getuid() || (status.st_mode & 077) != 0) {
    return fail(Code::kUnavailable, fmt::format("{} is not this user's alone", folder));
  }
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failed)) {
    const std::filesystem::path extension = entry.path().extension();
    if ((extension == ".sock" && is_left_over(entry.path())) ||
        (extension == ".sock~" && is_unfinished(entry.path()))) {
      std::filesystem::remove(entry.path(), failed);
    }
  }
  return {};
}

}  // namespace

Result<engine::KvSharing> kv_sharing(const std::string& transfer, const std::string& listen,
                                     const std::string& secret) {
  engine::KvSharing sharing{.socket_folder = {},
                            .tcp_listen = {},
                            .tcp_advertise = {},
                            .secret = engine::derived_secret(secret, "penstock KV over TCP")};
  if (transfer == "auto" || transfer == "shm") sharing.socket_folder = socket_folder();
  const bool proves = secret.size() >= transfer::TcpServer::kSecretBytesMin;
  if (transfer == "tcp" && !proves) {
    return fail(Code::kInvalidArgument,
                fmt::format("--kv-transfer tcp: --join-secret must have {} characters at least",
                            transfer::TcpServer::kSecretBytesMin));
  }
  if ((transfer == "auto" || transfer == "tcp") && proves) sharing.tcp_listen = bare_host(listen);
  return sharing;
}

Result<void> open_kv_sharing(const std::string& transfer, engine::KvSharing& sharing) {
  if (transfer != "shm" && sharing.socket_folder.empty()) return {};
  const Result<void> made = make_folder(sharing.socket_folder);
  if (made) return {};
  if (transfer == "shm") {
    return fail(Code::kInvalidArgument, "--kv-transfer shm: " + made.error().message);
  }
  log::warn("KV is not shared by memory: {}", made.error().message);
  sharing.socket_folder.clear();
  return {};
}

}  // namespace penstock::cli
