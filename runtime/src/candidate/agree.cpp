// What all ranks must know before a candidate may run: that it is loaded everywhere, from the same sources, and how
// large its grid may be.
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "group/collective.hpp"

namespace arbiter {
namespace {

constexpr std::size_t fields_of_a_report = 5;

/// What a rank says about one loaded candidate.
std::vector<std::string> report_of(const RunnableCandidate* candidate, const std::string& reason) {
  if (candidate == nullptr) return {"failed", reason, "", "", ""};
  const KernelUse use = candidate->use();
  return {"loaded", std::to_string(candidate->block_limit()), candidate->record().source_hash,
          std::to_string(use.registers), std::to_string(use.spill_bytes)};
}

/// One exchange for all candidates; results[i].candidate is dropped where any rank failed.
void agree_on(Group& group, std::vector<LoadResult>& results, std::vector<RunnableCandidate*>& candidates) {
  std::vector<std::string> mine;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    for (std::string& field : report_of(candidates[i], results[i].reason)) mine.push_back(std::move(field));
  }
  std::vector<std::vector<std::string>> all;
  for (const std::string& text : group.bootstrap().allgather(pack(mine))) {
    all.push_back(unpack(text));
    if (all.back().size() != mine.size()) {
      throw Disagreement(
          fmt::format("loading candidates: rank {} loads {} candidates, rank {} loads {}. Pass the same on every rank.",
                      all.size() - 1, all.back().size() / fields_of_a_report, group.rank(), candidates.size()));
    }
  }
  struct Accepted {
    RunnableCandidate* candidate;
    int limit;
    KernelUse use;
  };
  std::vector<Accepted> accepted;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    std::string failure;
    std::string hash;
    int limit = 0;
    KernelUse use;
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      const std::string* report = &all[rank][fields_of_a_report * i];
      if (report[0] != "loaded") {
        if (failure.empty()) failure = fmt::format("rank {}: {}", rank, report[1]);
        continue;
      }
      if (hash.empty()) hash = report[2];
      if (failure.empty() && report[2] != hash) {
        throw Disagreement(
            fmt::format("loading candidates: the sources of candidate {} differ between ranks; are all ranks running "
                        "the same build?",
                        i));
      }
      const int theirs = std::stoi(report[1]);
      limit = rank == 0 ? theirs : std::min(limit, theirs);
      const KernelUse its_use{std::stoi(report[3]), std::stoi(report[4])};
      use = rank == 0 ? its_use : most_of(use, its_use);
    }
    results[i].reason = failure;
    if (failure.empty()) accepted.push_back({candidates[i], limit, use});
  }
  everywhere(group.bootstrap(), "reserve memory for a candidate", [&] {
    for (const auto& [candidate, limit, use] : accepted) {
      candidate->agreed_use(use);
      candidate->agreed(limit);
    }
  });
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (results[i].reason.empty()) results[i].reason = candidates[i]->refusal();
  }
}

}  // namespace

bool agree(Group& group, RunnableCandidate* candidate) {
  std::vector<LoadResult> results(1);
  std::vector<RunnableCandidate*> candidates = {candidate};
  if (candidate == nullptr) results[0].reason = "not loaded";
  agree_on(group, results, candidates);
  return results[0].reason.empty();
}

std::vector<LoadResult> load_on_all_ranks(Group& group, std::span<const LoadRequest> requests) {
  std::vector<LoadResult> results(requests.size());
  std::vector<RunnableCandidate*> candidates;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    try {
      results[i].candidate = load_candidate(group, requests[i].spec, requests[i].family);
    } catch (const std::exception& error) {
      results[i].reason = error.what();
      if (results[i].reason.empty()) results[i].reason = "unknown error";
    }
    candidates.push_back(results[i].candidate.get());
  }
  agree_on(group, results, candidates);
  for (LoadResult& result : results) {
    if (!result.reason.empty()) result.candidate.reset();
  }
  return results;
}

}  // namespace arbiter
