#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/generator/digest.hpp"
#include "arbiter/generator/file_descriptor.hpp"
#include "arbiter/generator/joined.hpp"
#include "bootstrap/id_exchange.hpp"
#include "environment/process_identity.hpp"

namespace arbiter {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

constexpr Milliseconds patience{2000};  // with one connection, before the next port is tried
constexpr std::size_t strangers = 64;   // connections at once beyond one of each rank

constexpr std::array<char, 16> magic{'A', 'R', 'B', 'I', 'T', 'E', 'R', '-', 'R', 'A', 'N', 'K', '-', '0', '-', '2'};

// Messages, in order: Banner from the server, Greeting from the client, Reply, one byte of thanks from the client.
using Nonce = std::array<char, 32>;
using Proof = std::array<char, 64>;
struct Banner {
  std::array<char, 16> word = magic;
  Nonce nonce{};
};
struct Greeting {
  std::array<char, 16> word = magic;
  Nonce nonce{};
  Proof proof{};
  std::uint64_t job = 0;
  std::int32_t rank = 0;
  std::int32_t size = 0;
};
enum class Answer : std::int32_t { accepted = 1, wrong_size = 2, rank_taken = 3 };
struct Reply {
  Answer answer = Answer::accepted;
  std::int32_t size = 0;
  Proof proof{};
  NcclId id;
};

Nonce make_nonce() {
  const std::string token = random_token(Nonce().size() / 2);
  Nonce nonce{};
  std::copy_n(token.begin(), std::min(token.size(), nonce.size()), nonce.begin());
  return nonce;
}

// HMAC with SHA-256, whose inner and outer digests are hexadecimal text. Zeros where the job has no secret.
Proof prove(const std::string& secret, const std::string& message) {
  Proof proof{};
  if (secret.empty()) return proof;
  constexpr std::size_t block = 64;
  std::string key = secret.size() > block ? sha256_hex(secret) : secret;
  key.resize(block, '\0');
  std::string inner = key, outer = key;
  for (char& c : inner) c = static_cast<char>(c ^ 0x36);
  for (char& c : outer) c = static_cast<char>(c ^ 0x5c);
  const std::string text = sha256_hex(outer + sha256_hex(inner + message));
  std::copy_n(text.begin(), proof.size(), proof.begin());
  return proof;
}

// Each end proves it over both nonces, so that nothing of another connection or of the other end fits.
Proof proof_of(const Greeting& greeting, const Nonce& banner, const std::string& secret) {
  std::string message = "rank ";
  message.append(banner.data(), banner.size()).append(greeting.nonce.data(), greeting.nonce.size());
  return prove(secret, fmt::format("{}{} {} {}", message, greeting.job, greeting.rank, greeting.size));
}

Proof proof_of(const Reply& reply, const Nonce& banner, const Nonce& greeting, const std::string& secret) {
  std::string message = "root ";
  message.append(banner.data(), banner.size()).append(greeting.data(), greeting.size());
  message += fmt::format("{} {} ", static_cast<int>(reply.answer), reply.size);
  return prove(secret, message.append(reply.id.bytes.data(), reply.id.bytes.size()));
}

// In a time that says nothing about where they differ.
bool same(const Proof& a, const Proof& b) {
  int difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference |= a[i] ^ b[i];
  return difference == 0;
}

struct Place {
  std::string host;
  int port = 0;
};

Place parse(const std::string& rendezvous) {
  const std::string rest = rendezvous.substr(std::string("tcp://").size());
  const std::size_t colon = rest.rfind(':');
  Place place;
  bool good = colon != std::string::npos && colon > 0;
  if (good) {
    place.host = rest.substr(0, colon);
    if (place.host.size() > 2 && place.host.front() == '[' && place.host.back() == ']') {
      place.host = place.host.substr(1, place.host.size() - 2);
    }
    const char* end = rest.data() + rest.size();
    const auto parsed = std::from_chars(rest.data() + colon + 1, end, place.port);
    good = parsed.ec == std::errc() && parsed.ptr == end && place.port > 0 && place.port < 65536;
  }
  if (!good)
    throw InvalidArgument("'" + rendezvous + "' is no address; expected tcp://host:port with a port from 1 to 65535");
  return place;
}

void set_nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

class Addresses {
 public:
  explicit Addresses(const std::string& host) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    error_ = getaddrinfo(host.c_str(), nullptr, &hints, &list_);
  }
  ~Addresses() {
    if (error_ == 0) freeaddrinfo(list_);
  }
  Addresses(const Addresses&) = delete;
  Addresses& operator=(const Addresses&) = delete;
  int error() const noexcept { return error_; }
  const addrinfo* first() const noexcept { return error_ == 0 ? list_ : nullptr; }

 private:
  addrinfo* list_ = nullptr;
  int error_ = 0;
};

sockaddr_storage with_port(const addrinfo& address, int port) {
  sockaddr_storage target{};
  std::memcpy(&target, address.ai_addr, address.ai_addrlen);
  const std::uint16_t network_port = htons(static_cast<std::uint16_t>(port));
  if (address.ai_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&target)->sin6_port = network_port;
  } else {
    reinterpret_cast<sockaddr_in*>(&target)->sin_port = network_port;
  }
  return target;
}

bool is_loopback(const addrinfo& address) {
  if (address.ai_family == AF_INET6)
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address.ai_addr)->sin6_addr) != 0;
  return ntohl(reinterpret_cast<const sockaddr_in*>(address.ai_addr)->sin_addr.s_addr) >> 24U == 127;
}

enum class Listening { yes, taken, not_here };

Listening try_listen(FileDescriptor& listener, int family, const sockaddr* address, socklen_t length) {
  FileDescriptor fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return Listening::not_here;
  const int on = 1;
  const int off = 0;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  if (bind(fd.get(), address, length) == 0 && listen(fd.get(), 1024) == 0) {
    listener = std::move(fd);
    return Listening::yes;
  }
  return errno == EADDRINUSE ? Listening::taken : Listening::not_here;
}

// On the rendezvous address, so that other networks of the host do not reach it. A name may mean another address to
// this host than to the others (a loopback address in /etc/hosts, a forwarded one): then on all, with IPv6 if the host
// has it. Empty if the port is taken.
FileDescriptor try_listen(const Place& place, const Addresses& addresses, int port) {
  FileDescriptor listener;
  for (const addrinfo* address = addresses.first(); address != nullptr; address = address->ai_next) {
    if (address->ai_family != AF_INET && address->ai_family != AF_INET6) continue;
    const bool meant = place.host == "localhost" || place.host == "::1" || place.host.starts_with("127.");
    if (is_loopback(*address) && !meant) continue;
    const sockaddr_storage target = with_port(*address, port);
    switch (try_listen(listener, address->ai_family, reinterpret_cast<const sockaddr*>(&target), address->ai_addrlen)) {
      case Listening::yes:
      case Listening::taken:
        return listener;
      case Listening::not_here:
        break;
    }
  }
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_addr = in6addr_any;
  six.sin6_port = htons(static_cast<std::uint16_t>(port));
  if (try_listen(listener, AF_INET6, reinterpret_cast<const sockaddr*>(&six), sizeof(six)) != Listening::not_here)
    return listener;
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_addr.s_addr = htonl(INADDR_ANY);
  four.sin_port = htons(static_cast<std::uint16_t>(port));
  try_listen(listener, AF_INET, reinterpret_cast<const sockaddr*>(&four), sizeof(four));
  return listener;
}

struct Connection {
  FileDescriptor fd;
  std::array<char, sizeof(Greeting)> buffer{};
  std::size_t filled = 0;
  int rank = -1;  // once greeted
  Nonce nonce{};  // of the banner
  Clock::time_point end;
  bool closing = false;
};

class Server {
 public:
  Server(const IdExchange& exchange, const NcclId& id)
      : exchange_(exchange), time_(*exchange.time), id_(id), done_(static_cast<std::size_t>(exchange.size), false) {
    done_[0] = true;
  }

  void run(const FileDescriptor& listener, Clock::time_point end) {
    while (std::find(done_.begin(), done_.end(), false) != done_.end()) {
      if (time_.now() >= end) {
        if (!other_size_.empty()) throw Disagreement(other_size_);
        throw Poisoned(missing());
      }
      look(listener, std::min(time_.left_until(end), Milliseconds(200)));
    }
  }

  /// Take what has arrived, or arrives in this time.
  void look(const FileDescriptor& listener, Milliseconds time) {
    std::vector<pollfd> waits{{listener.get(), POLLIN, 0}};
    for (const Connection& connection : connections_) waits.push_back({connection.fd.get(), POLLIN, 0});
    time_.wait(waits, time_.now() + time);
    const Clock::time_point now = time_.now();
    for (std::size_t i = 1; i < waits.size(); ++i) {
      if (waits[i].revents != 0) serve(connections_[i - 1]);
      // Also of one that claims a rank and does not take the id: the real one may still come.
      if (connections_[i - 1].end <= now) connections_[i - 1].closing = true;
    }
    std::erase_if(connections_, [](const Connection& connection) { return connection.closing; });
    for (int i = 0; waits[0].revents != 0 && i < 64 && accept_one(listener); ++i) {
    }
    std::erase_if(connections_, [](const Connection& connection) { return connection.closing; });
  }

 private:
  bool accept_one(const FileDescriptor& listener) {
    Connection connection;
    connection.end = time_.now() + patience;
    connection.fd = FileDescriptor(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection.fd) return false;
    // Whoever said nothing for longest makes room.
    if (connections_.size() >= done_.size() + strangers) {
      const auto silent = std::find_if(connections_.begin(), connections_.end(),
                                       [](const Connection& other) { return other.rank < 0; });
      connections_.erase(silent != connections_.end() ? silent : connections_.begin());
    }
    Banner banner;
    banner.nonce = connection.nonce = make_nonce();
    if (send(connection.fd.get(), &banner, sizeof(banner), MSG_NOSIGNAL) != sizeof(banner)) return true;
    connections_.push_back(std::move(connection));
    return true;
  }

  void serve(Connection& connection) {
    const bool greeted = connection.rank >= 0;
    char thanks = 0;
    char* target = greeted ? &thanks : connection.buffer.data() + connection.filled;
    const std::size_t wanted = greeted ? 1 : connection.buffer.size() - connection.filled;
    const ssize_t got = recv(connection.fd.get(), target, wanted, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
      connection.closing = true;  // the rank will connect again; a stranger will not be missed
      return;
    }
    if (greeted) {
      done_[static_cast<std::size_t>(connection.rank)] = true;
      connection.closing = true;
      return;
    }
    connection.filled += static_cast<std::size_t>(got);
    if (connection.filled == connection.buffer.size()) answer(connection);
  }

  void answer(Connection& connection) {
    Greeting greeting;
    std::memcpy(&greeting, connection.buffer.data(), sizeof(greeting));
    if (greeting.word != magic || greeting.job != job_number(exchange_.job)) {
      connection.closing = true;
      return;
    }
    if (!same(greeting.proof, proof_of(greeting, connection.nonce, exchange_.secret))) {
      ++unproven_;
      connection.closing = true;
      return;
    }
    Reply reply;
    reply.size = exchange_.size;
    const auto reply_to = [&] { send_reply(connection, reply, greeting.nonce); };
    if (greeting.size != exchange_.size || greeting.rank < 1 || greeting.rank >= exchange_.size) {
      reply.answer = Answer::wrong_size;
      reply_to();
      connection.closing = true;
      other_size_ = fmt::format(
          "a rank says it is rank {} of {}, but rank 0 was started with {} ranks; start all ranks with the same world "
          "size",
          greeting.rank, greeting.size, exchange_.size);
      if (!exchange_.secret.empty()) throw Disagreement(other_size_);
      return;
    }
    const auto claims_it = [&](const Connection& other) {
      return &other != &connection && other.rank == greeting.rank && !other.closing;
    };
    if (done_[static_cast<std::size_t>(greeting.rank)] ||
        std::any_of(connections_.begin(), connections_.end(), claims_it)) {
      reply.answer = Answer::rank_taken;
      reply_to();
      connection.closing = true;
      return;
    }
    reply.id = id_;
    connection.rank = greeting.rank;
    connection.end = time_.now() + patience;
    reply_to();
  }

  // A reply fits any socket buffer, so a connection that does not take it whole is broken.
  void send_reply(Connection& connection, Reply& reply, const Nonce& greeting) const {
    reply.proof = proof_of(reply, connection.nonce, greeting, exchange_.secret);
    if (send(connection.fd.get(), &reply, sizeof(reply), MSG_NOSIGNAL) != sizeof(reply)) connection.closing = true;
  }

  std::string missing() const {
    std::vector<std::size_t> ranks;
    for (std::size_t rank = 0; rank < done_.size(); ++rank) {
      if (!done_[rank]) ranks.push_back(rank);
    }
    return fmt::format(
        "rank 0 waited {} ms at {} for rank(s) {}; check that they were started and can reach this host{}",
        exchange_.deadline.count(), exchange_.rendezvous, joined(ranks, ", "),
        (unproven_ == 0
             ? ""
             : fmt::format(" and have the same ARBITER_JOB_SECRET: {} greetings did not prove that they know it",
                           unproven_)));
  }

  const IdExchange& exchange_;
  ExchangeTime& time_;
  const NcclId& id_;
  std::vector<bool> done_;
  std::vector<Connection> connections_;
  int unproven_ = 0;
  std::string other_size_;  // what to say if the ranks never come
};

void serve_id(const IdExchange& exchange, const Place& place, const NcclId& mine, Clock::time_point end) {
  FileDescriptor listener;
  const Addresses addresses(place.host);
  while (true) {
    for (int attempt = 0; attempt < id_exchange_port_count && !listener; ++attempt) {
      listener = try_listen(place, addresses, id_exchange_port(place.port, attempt));
    }
    if (listener) break;
    if (exchange.time->now() >= end) {
      throw Unavailable(fmt::format("rank 0 found no free port: {} and {} more are taken; choose another MASTER_PORT",
                                    id_exchange_port(place.port, 0), id_exchange_port_count - 1));
    }
    exchange.time->wait({}, exchange.time->now() + Milliseconds(50));
  }
  Server(exchange, mine).run(listener, end);
}

bool wait_for(ExchangeTime& time, int fd, short events, Clock::time_point end) {
  pollfd descriptor{fd, events, 0};
  return time.wait({&descriptor, 1}, end) == 1;
}

template <typename T>
bool receive(ExchangeTime& time, int fd, T& value, Clock::time_point end) {
  std::array<char, sizeof(T)> bytes{};
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    if (!wait_for(time, fd, POLLIN, end)) return false;
    const ssize_t got = recv(fd, bytes.data() + filled, bytes.size() - filled, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got <= 0) return false;
    filled += static_cast<std::size_t>(got);
  }
  std::memcpy(static_cast<void*>(&value), bytes.data(), sizeof(T));
  return true;
}

FileDescriptor try_connect(ExchangeTime& time, const addrinfo& address, int port, Clock::time_point end) {
  FileDescriptor fd(socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return {};
  set_nonblocking(fd.get());
  const sockaddr_storage target = with_port(address, port);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&target), address.ai_addrlen) == 0) return fd;
  if (errno != EINPROGRESS || !wait_for(time, fd.get(), POLLOUT, end)) return {};
  int error = 0;
  socklen_t length = sizeof(error);
  getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  return error == 0 ? std::move(fd) : FileDescriptor();
}

class Client {
 public:
  explicit Client(const IdExchange& exchange) : exchange_(exchange), time_(*exchange.time) {}

  NcclId run(const Place& place, Clock::time_point end) {
    while (true) {
      if (ask_host(place, end)) return id_;
      const Clock::time_point now = time_.now();
      if (now >= end) break;
      time_.wait({}, std::min(now + Milliseconds(50), end));
    }
    throw Poisoned(fmt::format("rank {} did not get an id from rank 0 at {} within {} ms: {}", exchange_.rank,
                               exchange_.rendezvous, exchange_.deadline.count(), reason_));
  }

 private:
  bool ask_host(const Place& place, Clock::time_point end) {
    const Addresses addresses(place.host);
    if (addresses.error() != 0) {
      reason_ = "the host name '" + place.host + "' cannot be resolved: " + gai_strerror(addresses.error());
      return false;
    }
    bool got = false;
    for (const addrinfo* address = addresses.first(); address != nullptr && !got; address = address->ai_next) {
      for (int attempt = 0; attempt < id_exchange_port_count && !got; ++attempt) {
        const Clock::time_point now = time_.now();
        if (now >= end) break;
        got = ask(*address, id_exchange_port(place.port, attempt), std::min(end, now + patience));
      }
    }
    return got;
  }

  bool ask(const addrinfo& address, int port, Clock::time_point end) {
    const FileDescriptor fd = try_connect(time_, address, port, end);
    return fd && talk(fd, port, end);
  }

 public:
  /// True if whoever is at the other end gave the id.
  bool talk(const FileDescriptor& fd, int port, Clock::time_point end) {
    Banner banner;
    if (!receive(time_, fd.get(), banner, end) || banner.word != magic) {
      reason_ = fmt::format("port {} belongs to another program", port);
      return false;
    }
    Greeting greeting;
    greeting.job = job_number(exchange_.job);
    greeting.rank = exchange_.rank;
    greeting.size = exchange_.size;
    greeting.nonce = make_nonce();
    greeting.proof = proof_of(greeting, banner.nonce, exchange_.secret);
    Reply reply;
    if (send(fd.get(), &greeting, sizeof(greeting), MSG_NOSIGNAL) != sizeof(greeting) ||
        !receive(time_, fd.get(), reply, end)) {
      reason_ = fmt::format("rank 0 of another job answers on port {}", port);
      return false;
    }
    if (!same(reply.proof, proof_of(reply, banner.nonce, greeting.nonce, exchange_.secret))) {
      reason_ = fmt::format("what answers on port {} does not prove that it knows ARBITER_JOB_SECRET", port);
      return false;
    }
    if (reply.answer == Answer::wrong_size) {
      throw Disagreement(fmt::format(
          "this is rank {} of {}, but rank 0 was started with {} ranks; start all ranks with the same world size",
          exchange_.rank, exchange_.size, reply.size));
    }
    if (reply.answer != Answer::accepted) {
      reason_ = fmt::format("another process has taken rank {}", exchange_.rank);
      return false;
    }
    const char thanks = 1;
    send(fd.get(), &thanks, 1, MSG_NOSIGNAL);
    id_ = reply.id;
    return true;
  }

 private:
  const IdExchange& exchange_;
  ExchangeTime& time_;
  NcclId id_;
  std::string reason_ = "nothing listens there";
};

}  // namespace

NcclId exchange_id_by_tcp(const IdExchange& exchange, const NcclId& mine) {
  const Place place = parse(exchange.rendezvous);
  const Clock::time_point end = exchange.time->now() + exchange.deadline;
  if (exchange.rank != 0) return Client(exchange).run(place, end);
  serve_id(exchange, place, mine, end);
  return mine;
}

}  // namespace arbiter
