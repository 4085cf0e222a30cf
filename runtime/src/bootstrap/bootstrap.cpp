// What every bootstrap offers on top of its own allgather and broadcast.
#include "arbiter/bootstrap.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

namespace arbiter {
namespace {

// Set-up exchanges are small; more than this is a rank that talks about something else.
constexpr std::uint64_t largest_text = std::uint64_t{1} << 30;

void check_length(std::uint64_t length, int rank) {
  if (length > largest_text) {
    throw Disagreement(fmt::format(
        "rank {} announced a text of {} bytes; at most {} are allowed. The ranks probably issue different calls", rank,
        length, largest_text));
  }
}

}  // namespace

std::vector<std::string> Bootstrap::allgather(const std::string& mine) {
  const auto ranks = static_cast<std::size_t>(size());
  const std::uint64_t length = mine.size();
  std::vector<std::uint64_t> lengths(ranks);
  allgather(&length, sizeof(length), lengths.data());
  for (std::size_t r = 0; r < ranks; ++r) check_length(lengths[r], static_cast<int>(r));
  const auto longest = static_cast<std::size_t>(*std::max_element(lengths.begin(), lengths.end()));
  std::vector<std::string> texts(ranks);
  if (longest == 0) return texts;
  std::string padded = mine;
  padded.resize(longest);
  std::string all_padded(ranks * longest, '\0');
  allgather(padded.data(), longest, all_padded.data());
  for (std::size_t r = 0; r < ranks; ++r)
    texts[r] = all_padded.substr(r * longest, static_cast<std::size_t>(lengths[r]));
  return texts;
}

std::string Bootstrap::broadcast(const std::string& root_text, int root) {
  std::uint64_t length = rank() == root ? root_text.size() : 0;
  broadcast(&length, sizeof(length), root);
  check_length(length, root);
  std::string text = rank() == root ? root_text : std::string(static_cast<std::size_t>(length), '\0');
  if (length != 0) broadcast(text.data(), text.size(), root);
  return text;
}

bool Bootstrap::all(bool mine) {
  const std::uint8_t vote = mine ? 1 : 0;
  std::vector<std::uint8_t> votes(static_cast<std::size_t>(size()));
  allgather(&vote, sizeof(vote), votes.data());
  return std::all_of(votes.begin(), votes.end(), [](std::uint8_t v) { return v != 0; });
}

}  // namespace arbiter
