// The 128 bytes that travel before NCCL does: between processes, past strangers and leftovers.
#include "bootstrap/id_exchange.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/generator/file_descriptor.hpp"
#include "meeting_time.hpp"

namespace arbiter {
namespace {

using namespace std::chrono_literals;

namespace fs = std::filesystem;

NcclId sample_id() {
  NcclId id;
  for (std::size_t i = 0; i < id.bytes.size(); ++i) id.bytes[i] = static_cast<char>(i * 7 + 3);
  return id;
}

int listen_on(int port, FileDescriptor& out) {
  out = FileDescriptor(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  if (bind(out.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return 0;
  if (listen(out.get(), 8) != 0) return 0;
  socklen_t length = sizeof(address);
  getsockname(out.get(), reinterpret_cast<sockaddr*>(&address), &length);
  return ntohs(address.sin_port);
}

FileDescriptor connect_to(int port, const char* host = "127.0.0.1") {
  FileDescriptor fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  inet_pton(AF_INET, host, &address.sin_addr);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return {};
  return fd;
}

int free_port() {
  FileDescriptor fd;
  return listen_on(0, fd);
}

/// What a rank is started with, and when.
struct Rank {
  Rank(IdExchange the_exchange, std::chrono::milliseconds the_delay = {})  // NOLINT(google-explicit-constructor)
      : exchange(std::move(the_exchange)), delay(the_delay) {}
  IdExchange exchange;
  std::chrono::milliseconds delay;
};

class IdExchangeTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("arbiter-exchange-" + std::to_string(getpid()));
    fs::create_directories(folder_);
    base_.rendezvous = GetParam() == "tcp" ? "tcp://127.0.0.1:" + std::to_string(free_port())
                                           : "file://" + (folder_ / "meet").string();
    base_.job = "job 1";
    base_.deadline = 1s;
    base_.time = &time_;
  }
  void TearDown() override { fs::remove_all(folder_); }

  IdExchange of(int rank, int size) const {
    IdExchange exchange = base_;
    exchange.rank = rank;
    exchange.size = size;
    return exchange;
  }
  int port() const { return std::stoi(base_.rendezvous.substr(base_.rendezvous.rfind(':') + 1)); }

  // One process per rank; code 0: got the id, 1: got something else, 2: Poisoned, 3: Disagreement, 4: other error.
  // No time passes before `meanwhile` is over.
  std::vector<int> run(const std::vector<Rank>& ranks, const std::function<void()>& meanwhile = {}) {
    const int held = time_.take_seat();
    std::vector<int> seats;
    for (std::size_t i = 0; i < ranks.size(); ++i) seats.push_back(time_.take_seat());
    std::vector<pid_t> children;
    for (std::size_t i = 0; i < ranks.size(); ++i) {
      const pid_t child = fork();
      if (child == 0) _exit(run_here(ranks[i], seats[i]));
      children.push_back(child);
    }
    if (meanwhile) meanwhile();
    time_.leave(held);
    std::vector<int> codes(children.size(), -1);
    for (std::size_t left = children.size(); left > 0; usleep(50)) {
      for (std::size_t i = 0; i < children.size(); ++i) {
        int status = 0;
        if (children[i] <= 0 || waitpid(children[i], &status, WNOHANG) != children[i]) continue;
        if (WIFEXITED(status)) codes[i] = WEXITSTATUS(status);
        time_.leave(seats[i]);
        children[i] = 0;
        --left;
      }
    }
    return codes;
  }

  int run_here(const Rank& rank, int seat) {
    time_.sit(seat);
    if (rank.delay.count() > 0) time_.wait({}, time_.now() + rank.delay);
    const NcclId mine = rank.exchange.rank == 0 ? sample_id() : NcclId{};
    try {
      return exchange_id(rank.exchange, mine).bytes == sample_id().bytes ? 0 : 1;
    } catch (const Poisoned&) {
      return 2;
    } catch (const Disagreement&) {
      return 3;
    } catch (const std::exception&) {
      return 4;
    }
  }

  /// Where the ranks of `exchange` meet.
  fs::path place_of(const IdExchange& exchange) const {
    std::array<char, 32> job{};
    std::snprintf(job.data(), job.size(), "%016llx", static_cast<unsigned long long>(job_number(exchange.job)));
    return folder_ / ("meet." + std::string(job.data()) + "." + std::to_string(exchange.size));
  }
  /// Made by somebody who gets there first.
  fs::path occupied_place(const IdExchange& exchange) const {
    fs::create_directories(place_of(exchange));
    fs::permissions(place_of(exchange), fs::perms::owner_all);
    return place_of(exchange);
  }

  std::size_t files_left() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  fs::path folder_;
  MeetingTime time_;
  IdExchange base_;
};

TEST_P(IdExchangeTest, EveryRankGetsTheIdOfRankZero) {
  EXPECT_EQ(run({of(0, 5), of(1, 5), of(2, 5), of(3, 5), of(4, 5)}), (std::vector<int>{0, 0, 0, 0, 0}));
  EXPECT_EQ(files_left(), 0U);
}

TEST_P(IdExchangeTest, RunsTwiceInARow) {
  for (int round = 0; round < 2; ++round) EXPECT_EQ(run({of(2, 3), of(1, 3), of(0, 3)}), (std::vector<int>{0, 0, 0}));
}

TEST_P(IdExchangeTest, ALateRankIsWaitedFor) {
  EXPECT_EQ(run({of(0, 2), {of(1, 2), 900ms}}), (std::vector<int>{0, 0}));
  EXPECT_GE(time_.passed(), 900ms);
  EXPECT_LT(time_.passed(), base_.deadline);
}

TEST_P(IdExchangeTest, AMissingRankEndsInPoisonedForTheOthers) {
  EXPECT_EQ(run({of(0, 3), of(1, 3)})[0], 2);
  EXPECT_EQ(time_.passed(), base_.deadline) << "neither before the deadline nor later";
  EXPECT_EQ(files_left(), 0U);
}

TEST_P(IdExchangeTest, WithoutRankZeroTheOthersAreSentAway) {
  EXPECT_EQ(run({of(1, 2)}), std::vector<int>{2});
  EXPECT_EQ(time_.passed(), base_.deadline);
  EXPECT_EQ(files_left(), 0U);
}

TEST_P(IdExchangeTest, AnotherJobGetsNothing) {
  IdExchange stranger = of(1, 2);
  stranger.job = "job 2";
  EXPECT_EQ(run({of(0, 2), stranger}), (std::vector<int>{2, 2}));
}

TEST_P(IdExchangeTest, ASingleRankTalksToNobody) {
  IdExchange alone = of(0, 1);
  alone.rendezvous = "";
  EXPECT_EQ(exchange_id(alone, sample_id()).bytes, sample_id().bytes);
}

INSTANTIATE_TEST_SUITE_P(Transports, IdExchangeTest, testing::Values("tcp", "file"),
                         [](const auto& transport) { return transport.param; });

class TcpExchangeTest : public IdExchangeTest {
 protected:
  /// To rank 0, as soon as it listens.
  FileDescriptor connected() const {
    for (int attempt = 0; attempt < 10'000; ++attempt) {
      if (FileDescriptor fd = connect_to(port())) return fd;
      usleep(1000);
    }
    return {};
  }
};
INSTANTIATE_TEST_SUITE_P(Tcp, TcpExchangeTest, testing::Values("tcp"));

TEST_P(TcpExchangeTest, ATakenPortIsSteppedOver) {
  FileDescriptor stranger;  // accepts connections and never says a word
  const int port = listen_on(0, stranger);
  ASSERT_NE(port, 0);
  base_.rendezvous = "tcp://127.0.0.1:" + std::to_string(port);
  base_.deadline = 20s;
  EXPECT_EQ(run({of(0, 2), of(1, 2)}), (std::vector<int>{0, 0}));
}

TEST_P(TcpExchangeTest, StrangersDoNotDisturb) {
  const auto strangers = [&] {
    for (int i = 0; i < 20; ++i) {
      const std::string garbage(static_cast<std::size_t>(i * 5), 'G');
      const FileDescriptor fd = connected();
      ASSERT_TRUE(fd);
      send(fd.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
    }
  };
  EXPECT_EQ(run({of(0, 2), {of(1, 2), 200ms}}, strangers), (std::vector<int>{0, 0}));
}

TEST_P(TcpExchangeTest, AnotherWorldSizeIsSaidOnBothSides) {
  EXPECT_EQ(run({of(0, 2), of(1, 3)}), (std::vector<int>{3, 3}));
}

TEST_P(TcpExchangeTest, AStrangerWithAnotherSizeDoesNotStopTheJob) {
  EXPECT_EQ(run({of(0, 2), of(5, 7), {of(1, 2), 500ms}}), (std::vector<int>{0, 3, 0}));
}

TEST_P(TcpExchangeTest, AThousandIdleConnectionsAreNoObstacle) {
  std::vector<FileDescriptor> idle;
  const auto strangers = [&] {
    for (int i = 0; i < 1000; ++i) {
      idle.push_back(connected());
      ASSERT_TRUE(idle.back());
    }
  };
  EXPECT_EQ(run({of(0, 2), {of(1, 2), 10ms}}, strangers), (std::vector<int>{0, 0}));
  EXPECT_LT(time_.passed(), 500ms) << "the rank waited until the idle ones were closed";
}

TEST_P(TcpExchangeTest, AClaimOfARankExpires) {
  base_.deadline = 12s;
  FileDescriptor fd;
  const auto claim = [&] {  // takes its id, and never says thanks
    fd = connected();
    struct {
      char word[16];
      char nonce[32];
      char proof[64];
      std::uint64_t job;
      std::int32_t rank, size;
    } greeting{};
    char banner[48], reply[72 + nccl_id_bytes];
    ASSERT_EQ(recv(fd.get(), banner, sizeof(banner), MSG_WAITALL), static_cast<ssize_t>(sizeof(banner)));
    std::memcpy(greeting.word, banner, sizeof(greeting.word));
    greeting.job = job_number(base_.job);
    greeting.rank = 1;
    greeting.size = 2;
    ASSERT_EQ(send(fd.get(), &greeting, sizeof(greeting), MSG_NOSIGNAL), static_cast<ssize_t>(sizeof(greeting)));
    ASSERT_EQ(recv(fd.get(), reply, sizeof(reply), MSG_WAITALL), static_cast<ssize_t>(sizeof(reply)));
  };
  EXPECT_EQ(run({of(0, 2), {of(1, 2), 500ms}}, claim), (std::vector<int>{0, 0}));
  EXPECT_GE(time_.passed(), 2s) << "whoever claimed the rank was given no time";
  EXPECT_LE(time_.passed(), 3s);
}

TEST_P(TcpExchangeTest, WithASecretBothEndsProveIt) {
  base_.secret = "of this job";
  EXPECT_EQ(run({of(0, 3), of(1, 3), of(2, 3)}), (std::vector<int>{0, 0, 0}));
  for (const char* theirs : {"", "of another", "of this job "}) {
    IdExchange stranger = of(1, 2);
    stranger.secret = theirs;
    EXPECT_EQ(run({of(0, 2), stranger}), (std::vector<int>{2, 2})) << "a rank with '" << theirs << "'";
    IdExchange root = of(0, 2);
    root.secret = theirs;
    EXPECT_EQ(run({root, of(1, 2)}), (std::vector<int>{2, 2})) << "a root with '" << theirs << "'";
  }
}

TEST_P(TcpExchangeTest, ListensOnlyOnTheRendezvousAddress) {
  const auto look = [&] {
    ASSERT_TRUE(connected());
    EXPECT_FALSE(connect_to(port(), "127.0.0.2")) << "another address of this host is served too";
  };
  EXPECT_EQ(run({of(0, 2), {of(1, 2), 100ms}}, look), (std::vector<int>{0, 0}));
}

TEST_P(TcpExchangeTest, OneRankTwiceLeavesOneOfThemOut) {
  const std::vector<int> codes = run({of(0, 3), of(1, 3), of(1, 3)});
  EXPECT_EQ(codes[0], 2);
  EXPECT_EQ(codes[1] + codes[2], 2) << "one got the id, the other nothing";
}

TEST_P(TcpExchangeTest, MalformedAddressesAreRefused) {
  for (const char* bad : {"tcp://", "tcp://host", "tcp://host:", "tcp://host:0", "tcp://host:65536", "tcp://host:12x",
                          "tcp://:5000", "udp://host:5000", "host:5000"}) {
    IdExchange exchange = of(1, 2);
    exchange.rendezvous = bad;
    EXPECT_THROW(exchange_id(exchange, {}), InvalidArgument) << bad;
  }
  EXPECT_THROW(exchange_id(of(2, 2), {}), InvalidArgument);
}

TEST_P(TcpExchangeTest, AnUnknownHostIsNamed) {
  IdExchange exchange = of(1, 2);
  exchange.rendezvous = "tcp://no-such-host.invalid:5000";
  exchange.deadline = 100ms;  // every look at a name takes its real time
  try {
    exchange_id(exchange, {});
    FAIL() << "expected Poisoned";
  } catch (const Poisoned& error) {
    EXPECT_NE(std::string(error.what()).find("no-such-host.invalid"), std::string::npos) << error.what();
  }
}

class FileExchangeTest : public IdExchangeTest {};
INSTANTIATE_TEST_SUITE_P(File, FileExchangeTest, testing::Values("file"));

TEST_P(FileExchangeTest, LeftoversOfACrashedRunAreIgnored) {
  // A first run whose rank 2 never came leaves, when killed, a greeting; and an answer with another id.
  const pid_t crashed = fork();
  if (crashed == 0) {
    try {
      IdExchange exchange = of(1, 3);
      exchange.time = &ExchangeTime::real();
      exchange_id(exchange, {});
    } catch (const std::exception&) {
    }
    _exit(0);
  }
  const fs::path place = place_of(of(1, 3));
  while (!fs::exists(place / "rank1")) usleep(500);
  kill(crashed, SIGKILL);
  waitpid(crashed, nullptr, 0);
  ASSERT_GE(files_left(), 1U);
  std::ofstream(place / "id") << "arbiter rendezvous 2\n" << std::string(3 * 32 + 128, 'x');
  // Rank 0 answers the leftover before the others are there.
  EXPECT_EQ(run({of(0, 3), {of(1, 3), 100ms}, {of(2, 3), 100ms}}), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(files_left(), 0U);
}

TEST_P(FileExchangeTest, GarbageInTheAnswerIsNoAnswer) {
  IdExchange exchange = of(1, 2);
  for (const std::string& content : {std::string(), std::string("arbiter rendezvous 2\n"), std::string(5000, 'z'),
                                     // complete, but an answer to the ranks of another run
                                     "arbiter rendezvous 2\n" + std::string(2 * 32 + 128, 'x')}) {
    std::ofstream(occupied_place(exchange) / "id") << content;
    EXPECT_THROW(exchange_id(exchange, {}), Poisoned);
  }
}

TEST_P(FileExchangeTest, AFolderThatDoesNotExistIsNamed) {
  IdExchange exchange = of(1, 2);
  exchange.rendezvous = "file://" + (folder_ / "nowhere" / "meet").string();
  try {
    exchange_id(exchange, {});
    FAIL() << "expected Unavailable";
  } catch (const Unavailable& error) {
    EXPECT_NE(std::string(error.what()).find("nowhere"), std::string::npos) << error.what();
  }
  exchange.rendezvous = "file://relative/path";
  EXPECT_THROW(exchange_id(exchange, {}), InvalidArgument);
  exchange.rendezvous = "file:///";
  EXPECT_THROW(exchange_id(exchange, {}), InvalidArgument);
}

class FolderExchangeTest : public IdExchangeTest {};
INSTANTIATE_TEST_SUITE_P(Folder, FolderExchangeTest, testing::Values("file"));

TEST_P(FolderExchangeTest, AFolderOfOthersIsNoMeetingPlace) {
  fs::permissions(folder_, fs::perms::all);
  EXPECT_THROW(exchange_id(of(0, 2), sample_id()), Unavailable);
  fs::permissions(folder_, fs::perms::owner_all);
  if (geteuid() != 0) return;
  ASSERT_EQ(chown(folder_.c_str(), 65534, 65534), 0);
  EXPECT_THROW(exchange_id(of(1, 2), {}), Unavailable);
}

TEST_P(FolderExchangeTest, APlaceThatSomebodyElseMadeIsNotUsed) {
  const fs::path place = place_of(of(0, 2));
  fs::create_directories(folder_ / "elsewhere");
  fs::create_directory_symlink(folder_ / "elsewhere", place);
  EXPECT_THROW(exchange_id(of(0, 2), sample_id()), Unavailable);
  EXPECT_TRUE(fs::is_empty(folder_ / "elsewhere"));
  fs::remove(place);
  occupied_place(of(0, 2));
  fs::permissions(place, fs::perms::all);
  EXPECT_THROW(exchange_id(of(0, 2), sample_id()), Unavailable);
  if (geteuid() != 0) return;
  fs::permissions(place, fs::perms::owner_all);
  ASSERT_EQ(chown(place.c_str(), 65534, 65534), 0);
  EXPECT_THROW(exchange_id(of(1, 2), {}), Unavailable);
}

TEST_P(FolderExchangeTest, LinksAndFilesOfOthersAreNoMessages) {
  const fs::path place = occupied_place(of(0, 2));
  std::ofstream(folder_ / "greeting") << "arbiter rendezvous 2\n" << std::string(32, 'x');
  fs::create_symlink(folder_ / "greeting", place / "rank1");
  EXPECT_EQ(run({of(0, 2)}), std::vector<int>{2});
  EXPECT_TRUE(fs::exists(folder_ / "greeting"));
  if (geteuid() != 0) return;
  fs::rename(folder_ / "greeting", occupied_place(of(0, 2)) / "rank1");
  ASSERT_EQ(chown((place / "rank1").c_str(), 65534, 65534), 0);
  EXPECT_EQ(run({of(0, 2)}), std::vector<int>{2}) << "a greeting of another user was answered";
}

TEST_P(FolderExchangeTest, APipeInTheWayDoesNotOutlastTheDeadline) {
  ASSERT_EQ(mkfifo((occupied_place(of(0, 2)) / "rank1").c_str(), 0600), 0);  // rank 0 looks for this while it waits
  EXPECT_EQ(run({of(0, 2)}), std::vector<int>{2});                           // opening it would last for good
}

}  // namespace
}  // namespace arbiter
