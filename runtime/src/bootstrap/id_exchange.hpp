// The only transport of our own: rank 0 gives the 128 bytes of an NCCL id to every rank, by TCP or through files.
// Everything after that goes through NCCL. Knows nothing of CUDA.
#pragma once

#include <poll.h>

#include <chrono>
#include <cstdint>
#include <span>
#include <string>

#include "arbiter/bootstrap.hpp"
#include "nccl/library.hpp"

namespace arbiter {

/// Time, and waiting for it to pass. Tests have one of their own, in which nobody sits a deadline out.
class ExchangeTime {
 public:
  using Point = std::chrono::steady_clock::time_point;
  ExchangeTime() = default;
  ExchangeTime(const ExchangeTime&) = delete;
  ExchangeTime& operator=(const ExchangeTime&) = delete;
  virtual ~ExchangeTime() = default;
  virtual Point now();
  /// Until something happens at one of the descriptors, as poll() has it, or until `end`. Returns what poll() returns.
  virtual int wait(std::span<pollfd> descriptors, Point end);
  std::chrono::milliseconds left_until(Point end);  ///< never negative
  static ExchangeTime& real();
};

struct IdExchange {
  std::string rendezvous;  ///< "tcp://host:port" or "file:///path"
  std::string job;         ///< text that only this run's ranks know the same: keeps strangers and stale files out
  int rank = 0;
  int size = 1;
  std::chrono::milliseconds deadline{60'000};
  std::string secret;  ///< job_secret(); when set, both ends of a TCP connection prove that they know it
  ExchangeTime* time = &ExchangeTime::real();
};

/// Returns rank 0's `mine` on every rank. Throws InvalidArgument for a malformed rendezvous, Disagreement when a rank
/// has another world size or the same rank as another, Poisoned when not all ranks arrive within the deadline,
/// Unavailable when the folder or port cannot be used.
///
/// TCP: rank 0 listens, the others connect. If the port is taken, the next ones are tried (id_exchange_ports). The
/// listener speaks first and shows a magic word, so nothing is ever sent to a stranger's server. It listens on the
/// address of the rendezvous where that is this host's. Strangers do not end the exchange: a connection that does not
/// get on in two seconds is closed, a rank that was claimed and not taken is free again, their number is bounded, and a
/// wrong world size is an error only if the ranks are still missing at the deadline (or at once, with the secret).
/// Files: in a private folder beside the path, every rank writes a greeting with a random word; rank 0 answers with a
/// file that repeats all words. A file left by an earlier run repeats other words, and is ignored. All files and the
/// folder are removed at the end.
NcclId exchange_id(const IdExchange&, const NcclId& mine);

/// The ports that are tried, in order, for the port that a rendezvous names. All are in 1024..65535.
inline constexpr int id_exchange_port_count = 8;
int id_exchange_port(int port, int attempt) noexcept;

/// A number for `job` and the world size: what travels instead of the text.
std::uint64_t job_number(const std::string& job) noexcept;

// The two transports; exchange_id picks one.
NcclId exchange_id_by_tcp(const IdExchange&, const NcclId& mine);
NcclId exchange_id_by_file(const IdExchange&, const NcclId& mine);

}  // namespace arbiter
