#include "memory/descriptor_exchange.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <csignal>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <set>

#include "arbiter/error.hpp"
#include "environment/process_identity.hpp"
#include "runtime/ranks.hpp"

namespace arbiter {
namespace {

FileDescriptor memory_with(int value) {
  FileDescriptor fd(memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(write(fd.get(), &value, sizeof(value)), static_cast<ssize_t>(sizeof(value)));
  return fd;
}

int value_of(const FileDescriptor& fd) {
  int value = -1;
  EXPECT_EQ(pread(fd.get(), &value, sizeof(value), 0), static_cast<ssize_t>(sizeof(value)));
  return value;
}

std::size_t open_descriptors() {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator()));
}

TEST(DescriptorExchange, EveryProcessGetsEveryOthersMemory) {
  const std::vector<int> codes = test::run_processes(4, [](Bootstrap& bootstrap) {
    DescriptorMailbox mailbox;
    const auto sockets = bootstrap.allgather(mailbox.address().socket);
    const auto tokens = bootstrap.allgather(mailbox.address().token);
    const auto folders = bootstrap.allgather(mailbox.address().folder);
    std::vector<DescriptorMailbox::Peer> peers;
    for (int rank = 0; rank < bootstrap.size(); ++rank) {
      const auto index = static_cast<std::size_t>(rank);
      if (rank != bootstrap.rank()) peers.push_back({rank, {sockets[index], tokens[index], folders[index]}});
    }
    const FileDescriptor mine = memory_with(100 + bootstrap.rank());
    const auto received = mailbox.exchange(bootstrap.rank(), mine.get(), peers, std::chrono::seconds(20));
    for (std::size_t i = 0; i < peers.size(); ++i) {
      if (value_of(received[i]) != 100 + peers[i].rank) return 1;
    }
    bootstrap.barrier();
    return 0;
  });
  EXPECT_EQ(codes, (std::vector<int>{0, 0, 0, 0}));
}

// Sends bytes and a descriptor from a socket that is no peer's. False if they did not get there.
bool intrude(const std::string& name, const std::string& bytes, int descriptor, int flags = 0, bool abstract = true) {
  const FileDescriptor stranger(socket(AF_UNIX, SOCK_DGRAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + (abstract ? 1 : 0), name.data(), name.size());
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  std::string data = bytes;
  iovec part{data.data(), data.size()};
  msghdr header{};
  header.msg_name = &address;
  header.msg_namelen = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(rights), &descriptor, sizeof(int));
  return sendmsg(stranger.get(), &header, flags) >= 0;
}

/// A message as a peer would send it.
std::string message_with(const std::string& token, char from) {
  std::string message(44, '\0');
  message.replace(0, 8, "ARBTfd01");
  message.replace(8, token.size(), token);
  message[40] = from;
  return message;
}

TEST(DescriptorExchange, StrangersAreDroppedAndTheirDescriptorsClosed) {
  DescriptorMailbox a;
  DescriptorMailbox b;
  const FileDescriptor bad = memory_with(666);
  const FileDescriptor mine = memory_with(1);
  const FileDescriptor theirs = memory_with(2);
  const std::size_t before = open_descriptors();
  EXPECT_TRUE(intrude(a.address().socket, "hello", bad.get()));
  // Well-formed, but without the secret.
  EXPECT_TRUE(intrude(a.address().socket, message_with("", 1), bad.get()));
  auto other = std::async(std::launch::async, [&] {
    return b.exchange(1, theirs.get(), {{0, a.address()}}, std::chrono::seconds(10));
  });
  {
    const auto received = a.exchange(0, mine.get(), {{1, b.address()}}, std::chrono::seconds(10));
    const auto at_b = other.get();
    ASSERT_EQ(received.size(), 1U);
    EXPECT_EQ(value_of(received[0]), 2);
    EXPECT_EQ(value_of(at_b[0]), 1);
  }
  EXPECT_EQ(open_descriptors(), before);
}

/// Runs `body` as another user; false if it returns false or does not return.
bool as_another_user(const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(setgid(65534) == 0 && setuid(65534) == 0 && body() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(DescriptorExchange, AnotherUserReachesNoMailboxAndIsNotBelieved) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  DescriptorMailbox a, b;
  const FileDescriptor mine = memory_with(1), theirs = memory_with(2), bad = memory_with(666);
  ASSERT_FALSE(a.address().folder.empty());
  // Even with the secret, which would have to leak first.
  const std::string forged = message_with(a.address().token, 1);
  EXPECT_TRUE(as_another_user([&] { return intrude(a.address().socket, forged, bad.get()); }));
  EXPECT_TRUE(as_another_user(
      [&] { return !intrude(a.address().folder + "/mailbox", forged, bad.get(), 0, false) && errno == EACCES; }));
  auto other = std::async(std::launch::async, [&] {
    return b.exchange(1, theirs.get(), {{0, a.address()}}, std::chrono::seconds(10));
  });
  EXPECT_EQ(value_of(a.exchange(0, mine.get(), {{1, b.address()}}, std::chrono::seconds(10))[0]), 2);
  EXPECT_EQ(value_of(other.get()[0]), 1);
}

/// Somebody keeps the socket that everybody can list full.
TEST(DescriptorExchange, AFloodDelaysNeitherTheExchangeNorItsDeadline) {
  DescriptorMailbox a, b, silent;
  const FileDescriptor mine = memory_with(1), theirs = memory_with(2), bad = memory_with(666);
  std::vector<pid_t> flood;
  for (const std::string& name : {a.address().socket, b.address().socket, a.address().socket, b.address().socket}) {
    flood.push_back(fork());
    if (flood.back() == 0) {
      while (getppid() != 1 && intrude(name, std::string(44, 'x'), bad.get())) {
      }
      _exit(0);
    }
  }
  auto other = std::async(std::launch::async, [&] {
    return b.exchange(1, theirs.get(), {{0, a.address()}}, std::chrono::seconds(20));
  });
  EXPECT_EQ(value_of(a.exchange(0, mine.get(), {{1, b.address()}}, std::chrono::seconds(20))[0]), 2);
  EXPECT_EQ(value_of(other.get()[0]), 1);
  EXPECT_THROW(a.exchange(0, mine.get(), {{7, silent.address()}}, std::chrono::milliseconds(100)), Unavailable);
  for (const pid_t child : flood) kill(child, SIGKILL);
  for (const pid_t child : flood) waitpid(child, nullptr, 0);
}

/// Ranks in containers that share a network and no files.
TEST(DescriptorExchange, WithoutACommonFolderTheAbstractSocketServes) {
  DescriptorMailbox a, b;
  const FileDescriptor mine = memory_with(1), theirs = memory_with(2);
  DescriptorMailbox::Address to_a = a.address(), to_b = b.address();
  to_a.folder = "";
  to_b.folder = "/nowhere/arbiter.tmp-123456";
  auto other = std::async(std::launch::async, [&] {
    return b.exchange(1, theirs.get(), {{0, to_a}}, std::chrono::seconds(10));
  });
  EXPECT_EQ(value_of(a.exchange(0, mine.get(), {{1, to_b}}, std::chrono::seconds(10))[0]), 2);
  EXPECT_EQ(value_of(other.get()[0]), 1);
}

TEST(DescriptorExchange, AMissingPeerIsNamedWhenItsTimeIsOver) {
  DescriptorMailbox a;
  DescriptorMailbox silent;
  const FileDescriptor mine = memory_with(1);
  try {
    a.exchange(0, mine.get(), {{7, silent.address()}}, std::chrono::milliseconds(100));
    FAIL() << "expected Unavailable";
  } catch (const Unavailable& error) {
    EXPECT_NE(std::string(error.what()).find("rank 7"), std::string::npos) << error.what();
  }
}

TEST(DescriptorExchange, APeerThatIsGoneIsAnError) {
  DescriptorMailbox a;
  DescriptorMailbox::Address gone;
  {
    DescriptorMailbox b;
    gone = b.address();
  }
  const FileDescriptor mine = memory_with(1);
  EXPECT_THROW(a.exchange(0, mine.get(), {{1, gone}}, std::chrono::seconds(5)), DeviceError);
}

TEST(ProcessIdentity, TellsProcessesApart) {
  const ProcessIdentity mine = process_identity();
  EXPECT_TRUE(same_process(mine, process_identity()));
  EXPECT_TRUE(same_host(mine, process_identity()));
  const std::vector<int> codes = test::run_processes(1, [&](Bootstrap&) {
    const ProcessIdentity child = process_identity();
    return !same_process(mine, child) && same_host(mine, child) && mine.network_namespace == child.network_namespace
               ? 0
               : 1;
  });
  EXPECT_EQ(codes, std::vector<int>{0});
}

TEST(ProcessIdentity, WhatCannotBeReadIsNotTheSame) {
  EXPECT_FALSE(same_process({}, {}));
  EXPECT_FALSE(same_host({}, {}));
}

TEST(RandomToken, IsHexadecimalAndUnique) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string token = random_token();
    EXPECT_EQ(token.size(), 32U);
    EXPECT_EQ(token.find_first_not_of("0123456789abcdef"), std::string::npos);
    EXPECT_TRUE(seen.insert(token).second);
  }
}

}  // namespace
}  // namespace arbiter
