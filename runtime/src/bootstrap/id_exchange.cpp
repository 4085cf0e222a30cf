#include "bootstrap/id_exchange.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "arbiter/error.hpp"

namespace arbiter {

ExchangeTime::Point ExchangeTime::now() { return std::chrono::steady_clock::now(); }

int ExchangeTime::wait(std::span<pollfd> descriptors, Point end) {
  return poll(descriptors.data(), descriptors.size(), static_cast<int>(left_until(end).count()));
}

std::chrono::milliseconds ExchangeTime::left_until(Point end) {
  return std::max(std::chrono::milliseconds(0), std::chrono::ceil<std::chrono::milliseconds>(end - now()));
}

ExchangeTime& ExchangeTime::real() {
  static ExchangeTime time;
  return time;
}

NcclId exchange_id(const IdExchange& exchange, const NcclId& mine) {
  if (exchange.size < 1 || exchange.rank < 0 || exchange.rank >= exchange.size) {
    throw InvalidArgument(
        fmt::format("rank {} of {} ranks; expected a rank from 0 to size - 1", exchange.rank, exchange.size));
  }
  if (exchange.size == 1) return mine;
  if (exchange.rendezvous.starts_with("tcp://")) return exchange_id_by_tcp(exchange, mine);
  if (exchange.rendezvous.starts_with("file://")) return exchange_id_by_file(exchange, mine);
  throw InvalidArgument(exchange.rendezvous.empty()
                            ? "the launcher does not say where the ranks meet; set MASTER_ADDR and MASTER_PORT to a "
                              "host and a free port of rank 0"
                            : "'" + exchange.rendezvous +
                                  "' is no meeting point; expected tcp://host:port or file:///path");
}

int id_exchange_port(int port, int attempt) noexcept {
  constexpr int first = 1024;
  constexpr int count = 65536 - first;
  // Steps that no neighbouring job's MASTER_PORT is likely to have used too.
  const int offset = port - first + 17 * attempt;
  return first + ((offset % count) + count) % count;
}

std::uint64_t job_number(const std::string& job) noexcept {
  std::uint64_t hash = 14695981039346656037ULL;  // FNV-1a
  for (const char c : job) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 1099511628211ULL;
  }
  return hash;
}

}  // namespace arbiter
