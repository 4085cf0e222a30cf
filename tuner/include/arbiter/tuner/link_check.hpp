// Proving the exchange algorithms under the link model: one seed is one sequence of calls, one order of all threads and
// one order of everything that arrives.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "arbiter/runtime/candidate.hpp"
#include "arbiter/runtime/cpu_link.hpp"

namespace arbiter {

struct LinkCheckOptions {
  Backend backend{};
  std::string algorithm;
  int world = 2;                   ///< 2 to max_world
  EnvironmentVariables variables;  ///< for the kernel cache; the deadline of waits is the check's own
  std::shared_ptr<KernelCache> cache = nullptr;
  std::shared_ptr<const TemplateMap> templates = nullptr;  ///< null: those that are built in
  std::shared_ptr<const Catalogue> catalogue = nullptr;    ///< null: the one that is built in
  bool alone = false;  ///< no other algorithm between its calls: fewer kernels to compile

  std::string name() const { return std::string(to_string(backend)) + "/" + algorithm; }
};

/// The algorithms of the built-in catalogue that exchange data, in its order.
std::vector<LinkCheckOptions> link_check_algorithms();

/// All ranks of a small world in one thread. A seed decides how many calls there are, of which sizes and grids, with
/// which variants of the algorithm and, between them, with which other algorithms; whether a call works in place or on
/// the output of the one before; which launches begin early; and everything that the link model decides. Counters of
/// the protocols wrap around on the way. Half of the seeds run with rotating buffers of the smallest size.
class LinkCheck {
 public:
  /// Compiles and loads. Throws Unsupported when the algorithm cannot run on the CPU device with so many ranks, and
  /// what loading a candidate throws.
  explicit LinkCheck(const LinkCheckOptions&);
  ~LinkCheck();
  LinkCheck(const LinkCheck&) = delete;
  LinkCheck& operator=(const LinkCheck&) = delete;

  /// Empty if every result was right; otherwise what was wrong, and which stores were seen too early, too late or
  /// never: by which rank, call, block and thread, and where. The same seed always gives the same text.
  std::string run(std::uint64_t seed);

  const CpuLinkStatistics& statistics() const noexcept;  ///< `runs`: seeds so far

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace arbiter
