#include "cli/kv_sharing.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "engine/derived_secret.h"
#include "transfer/memory.h"

namespace penstock::cli {
namespace {

/// A socket at a path, as a process has it that listens there, or not yet.
transfer::Fd socket_at(const std::string& path, bool listens) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::ranges::copy(path, address.sun_path);
  transfer::Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_TRUE(!listens || listen(fd.get(), 1) == 0);
  return fd;
}

TEST(KvSharing, WhatKilledWorkersLeftIsClearedAndNothingElse) {
  const std::string base = ::testing::TempDir() + "penstock-sharing-" + std::to_string(getpid());
  mkdir(base.c_str(), 0700);
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nobody else is here
  setenv("XDG_RUNTIME_DIR", base.c_str(), 1);
  engine::KvSharing sharing = kv_sharing("shm", "127.0.0.1:1", "").value();
  ASSERT_TRUE(open_kv_sharing("shm", sharing).has_value());
  const std::string folder = sharing.socket_folder;
  ASSERT_EQ(folder.find(base), 0U);
  const auto in = [&](const char* name) { return folder + "/" + name; };

  const transfer::Fd live = socket_at(in("live.sock"), true);
  const transfer::Fd being_made = socket_at(in("new.sock~"), false);
  socket_at(in("killed.sock"), true);
  socket_at(in("killed.sock~"), false);
  std::ofstream(in("a-file")).close();
  timespec hours_ago[2]{{.tv_sec = time(nullptr) - 7200, .tv_nsec = 0}, {}};
  hours_ago[1] = hours_ago[0];
  for (const char* name : {"killed.sock~", "live.sock", "a-file"}) {
    ASSERT_EQ(utimensat(AT_FDCWD, in(name).c_str(), hours_ago, 0), 0);
  }
  ASSERT_TRUE(open_kv_sharing("shm", sharing).has_value());
  for (const char* name : {"live.sock", "new.sock~", "a-file"}) {
    EXPECT_TRUE(std::filesystem::exists(in(name))) << name;
  }
  for (const char* name : {"killed.sock", "killed.sock~"}) {
    EXPECT_FALSE(std::filesystem::exists(in(name))) << name;
  }
  std::filesystem::remove_all(base);
}

TEST(KvSharing, WhatIsProvedOverTcpIsNotWhatAnybodyCouldHear) {
  const std::string secret = "sixteen letters!";
  const engine::KvSharing sharing = kv_sharing("tcp", "127.0.0.1:1", secret).value();
  EXPECT_NE(sharing.secret, secret);
  EXPECT_NE(sharing.secret, engine::derived_secret(secret, "penstock gRPC"));
  EXPECT_EQ(sharing.secret, kv_sharing("auto", "127.0.0.1:2", secret)->secret);
  EXPECT_FALSE(kv_sharing("tcp", "127.0.0.1:1", "fifteen letters").has_value());
}

}  // namespace
}  // namespace penstock::cli
