// What NCCL can be told to do: the parameters of candidates "nccl/classic:algo=ring,channels=8,proto=ll128".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "arbiter/db/records.hpp"

namespace arbiter {

// The numbers are NCCL's own (rows and columns of the cost table that it shows to tuner plugins).
enum class NcclAlgorithm : std::int8_t { unset = -1, tree, ring, collnet_direct, collnet_chain, nvls, nvls_tree };
enum class NcclProtocol : std::int8_t { unset = -1, ll, ll128, simple };

/// The spelling of NCCL_ALGO and NCCL_PROTO in lower case, with underscores ("nvls_tree"); "" for unset.
std::string_view to_string(NcclAlgorithm) noexcept;
std::string_view to_string(NcclProtocol) noexcept;

/// NCCL's upper limit of channels.
inline constexpr int nccl_max_channels = 64;

struct NcclConfiguration {
  NcclAlgorithm algorithm = NcclAlgorithm::unset;  ///< set together with the protocol, or neither
  NcclProtocol protocol = NcclProtocol::unset;
  int channels = 0;  ///< at most this many; 0: as NCCL chooses

  /// Whether it asks anything of NCCL.
  bool forces() const noexcept { return algorithm != NcclAlgorithm::unset || channels != 0; }
  /// Whether it leaves NCCL nothing to choose.
  bool complete() const noexcept { return algorithm != NcclAlgorithm::unset && channels != 0; }

  /// "algo=ring,channels=8,proto=ll128": what is set, by name; empty for nothing. And its inverse: throws
  /// InvalidArgument saying what is wrong.
  std::string text() const;
  static NcclConfiguration parse(std::string_view);
  bool operator==(const NcclConfiguration&) const = default;
};

/// What a candidate of a plain allreduce asks of NCCL. Empty unless it is "nccl/classic", alone or with parameters.
std::optional<NcclConfiguration> nccl_configuration(const Candidate&);

/// Over how many nodes a group of this many ranks was spread where it was measured.
int nodes_of(const Environment&, int world) noexcept;

}  // namespace arbiter
