// What a snapshot says about one communicator.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arbiter/db/database.hpp"
#include "arbiter/db/nccl_configuration.hpp"

namespace arbiter::nccl_plugin {

class ServingTable {
 public:
  /// Chooses the environment (see choose_environment) and its rows for this many ranks and nodes. Throws DatabaseError
  /// saying why there is nothing to serve.
  ServingTable(const std::vector<DecisionSet>&, const std::string& environment, std::size_t ranks, std::size_t nodes);
  ServingTable() = default;

  /// Null where nothing was measured, or where NCCL's own choice was the fastest.
  const NcclConfiguration* find(std::uint64_t bytes) const noexcept;

  bool empty() const noexcept { return rows_.empty(); }
  /// For the log: how many intervals, up to which size, from which environment, and a digest that must be equal on
  /// all ranks.
  std::string describe() const;

 private:
  struct Row {
    std::uint64_t bytes_max = 0;  // a row begins where the one before ends
    NcclConfiguration configuration;
  };
  std::vector<Row> rows_;
  std::string source_;
};

/// The environment of GPUs whose key begins with `environment` (anything, if empty). Measurements of one machine
/// repeated with other versions of the software count as the newest of them; several machines are an error.
const DecisionSet& choose_environment(const std::vector<DecisionSet>&, const std::string& environment);

/// The table of the snapshot ARBITER_DB names. Throws DatabaseError; also for a work database, which may change between
/// the moments at which the ranks read it.
ServingTable read_serving_table(const std::string& path, const std::string& environment, std::size_t ranks,
                                std::size_t nodes);

}  // namespace arbiter::nccl_plugin
