// Decisions in the formats that people and engines read. Byte sizes are those of one rank's message.
#pragma once

#include <string>
#include <vector>

#include "arbiter/db/contents.hpp"

namespace arbiter {

/// One row a decision, RFC 4180, with a header row. Commas and quotes in names are quoted.
std::string decisions_csv(const std::vector<DecisionSet>&);

/// A heading and a table for each environment.
std::string decisions_markdown(const std::vector<DecisionSet>&);

/// A self-contained C++17 header: a constexpr array of the decisions, and find(). Throws DatabaseError without
/// decisions.
std::string decisions_header(const DecisionSet&);

/// What is lost by forcing measurements into a table that cannot express them.
struct Loss {
  std::string what;         ///< "one-shot ceiling, compute capability 90, 4 ranks: 2097152 bytes"
  double mean_percent = 0;  ///< over the measured sizes, against the fastest that the engine could have chosen
  double worst_percent = 0;
  std::size_t points = 0;      ///< measured sizes, all dtypes and hidden sizes together
  std::size_t unmeasured = 0;  ///< where the table chooses something that was not measured: no loss is known there
};

struct EngineExport {
  std::string text;
  std::vector<Loss> losses;  ///< one for each number, or table, of the text
};

/// Two Python dictionaries: {compute capability: {ranks: MiB}}, the largest fused message, and the largest one-shot
/// one. From graph mode, or eager if nothing was measured in graph mode.
EngineExport export_vllm(const Contents&, const std::string& key);

/// A Python dictionary {compute capability: {ranks: {"graph" or "eager": {name: bytes}}}}. A message of less than
/// `one_shot_push_threshold` bytes goes one-shot by push, else below `one_shot_pull_threshold` one-shot by pull, else
/// below `two_shot_pull_threshold` two-shot, else to NCCL.
EngineExport export_sglang(const Contents&, const std::string& key);

/// The C++ table [TP 2, 4, 8][plain, residual + RMSNorm][hidden 128 ... 8192][tokens 1 ... 16384] of strategies: 0
/// NCCL, 4 one-shot, 5 two-shot. A row of sizes between two powers of two is looked up at the lower one.
EngineExport export_tensorrt_llm(const Contents&, const std::string& key);

/// The table of NCCL's tuner plugins in CSV, for allreduce: for each number of ranks the best configuration that names
/// algorithm, protocol and (if one was measured) channels, by message size. Where NCCL's own choice was faster, which a
/// row cannot say, the loss says by how much. Lines that begin with '#' are comments of at most 202 bytes.
EngineExport export_nccl(const Contents&, const std::string& key);

// `key` is that of an environment. The four above throw DatabaseError when there is nothing in the environment that
// the format could hold.

}  // namespace arbiter
