// NCCL's own tuner table.
#include <fmt/format.h>

#include <limits>
#include <map>

#include "arbiter/db/export.hpp"
#include "arbiter/db/nccl_configuration.hpp"
#include "arbiter/error.hpp"
#include "arbiter/generator/plain_text.hpp"
#include "exports/curves.hpp"

namespace arbiter {
namespace {

/// A row can say neither "as NCCL chooses" nor "channels only".
struct Row {
  std::uint64_t bytes_min = 0, bytes_max = 0;
  NcclConfiguration configuration;
};

std::optional<NcclConfiguration> with_a_pair(const std::optional<Candidate>& candidate) {
  if (!candidate) return std::nullopt;
  const std::optional<NcclConfiguration> configuration = nccl_configuration(*candidate);
  if (!configuration || configuration->algorithm == NcclAlgorithm::unset) return std::nullopt;
  return configuration;
}

struct Chosen {
  NcclConfiguration configuration;
  double median_us = 0;
};

/// The winner if a row can say it completely, else the fastest that one can.
std::optional<Chosen> chosen(const NcclChoice& choice) {
  const std::optional<NcclConfiguration> winner = with_a_pair(choice.candidate);
  const std::optional<NcclConfiguration> forced = with_a_pair(choice.forced);
  if (winner && (winner->complete() || !forced)) return Chosen{*winner, choice.median_us};
  if (forced) return Chosen{*forced, choice.forced_median_us};
  return std::nullopt;
}

/// Readers cut lines at 255 bytes and would take the rest of a comment for a row.
std::string comment(const std::string& text) {
  constexpr std::size_t longest = 200;
  return "# " + visible(text).substr(0, longest) + "\n";
}

std::string row_text(const Row& row, int world, int nodes) {
  const NcclConfiguration& c = row.configuration;
  return fmt::format("allreduce,{},{},{},{},{},{},{},-1,-1\n", row.bytes_min, row.bytes_max, to_string(c.algorithm),
                     to_string(c.protocol), c.channels == 0 ? -1 : c.channels, nodes, world);
}

}  // namespace

EngineExport export_nccl(const Contents& contents, const std::string& key) {
  const auto environment = contents.environments.find(key);
  if (environment == contents.environments.end()) throw DatabaseError("there is no environment " + key);
  const auto found = contents.nccl.find(key);
  if (found == contents.nccl.end() || found->second.empty()) {
    throw DatabaseError(
        "there is nothing in it for the format 'nccl', which needs a plain allreduce of NCCL on at least 2 ranks. Tune "
        "that first, or choose another environment.");
  }
  const Environment& here = environment->second;
  EngineExport result;
  result.text = comment("NCCL tuner table of " + here.gpu_name + ", measured with NCCL " + here.nccl_version + ".") +
                comment(
                    "The first row that matches counts; -1 is any. The last row of each number of ranks also stands "
                    "for larger messages.") +
                comment(
                    "NCCL's symmetric kernels (registered windows) do not ask tuner plugins: this changes nothing "
                    "for them.") +
                comment(
                    "NCCL's example tuner uses one channel where no row matches, other collectives included; "
                    "libarbiter-nccl-tuner.so leaves those to NCCL.") +
                comment(
                    "collective_type,min_bytes,max_bytes,algorithm,protocol,channels,nNodes,nRanks,numPipeOps,"
                    "regBuff");
  std::map<int, std::vector<NcclChoice>> worlds;
  for (const NcclChoice& choice : found->second) worlds[choice.world].push_back(choice);
  for (const auto& [world, choices] : worlds) {
    std::vector<Row> rows;
    std::string left_out;
    Loss loss;
    for (const NcclChoice& choice : choices) {
      const std::optional<Chosen> best = chosen(choice);
      db::add_loss(loss, best ? std::optional(best->median_us) : std::nullopt, choice.median_us);
      const auto first = static_cast<std::uint64_t>(choice.bytes_min);
      const auto last = static_cast<std::uint64_t>(choice.bytes_max);
      if (!best) {
        left_out += comment(fmt::format("{} ranks, {} to {} bytes: no row, because only NCCL's own choice was measured",
                                        world, first, last));
      } else if (!rows.empty() && rows.back().configuration == best->configuration &&
                 rows.back().bytes_max + 1 == first) {
        rows.back().bytes_max = last;
      } else {
        rows.push_back({first == 1 ? 0 : first, last, best->configuration});
      }
    }
    db::finish_loss(loss);
    loss.what = fmt::format("NCCL table, compute capability {}, {} ranks: {} rows", here.compute_capability, world,
                            rows.size());
    result.losses.push_back(loss);
    const bool reaches_the_end =
        !rows.empty() && rows.back().bytes_max == static_cast<std::uint64_t>(choices.back().bytes_max);
    if (reaches_the_end) rows.back().bytes_max = std::numeric_limits<std::uint64_t>::max();
    result.text += left_out;
    for (const Row& row : rows) result.text += row_text(row, world, nodes_of(here, world));
  }
  return result;
}

}  // namespace arbiter
