#include "arbiter/vocabulary.hpp"

#include <llvm/ADT/StringRef.h>

#include <algorithm>
#include <array>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/generator/catalogue.hpp"
#include "arbiter/generator/joined.hpp"

namespace arbiter {
namespace {

template <typename Enum, std::size_t count>
using Spellings = std::array<std::pair<Enum, std::string_view>, count>;

constexpr Spellings<Dtype, 3> dtypes{{{Dtype::bf16, "bf16"}, {Dtype::fp16, "fp16"}, {Dtype::fp32, "fp32"}}};
constexpr Spellings<Mode, 2> modes{{{Mode::graph, "graph"}, {Mode::eager, "eager"}}};
constexpr Spellings<Backend, 6> backends{{{Backend::automatic, "auto"},
                                          {Backend::trtllm, "trtllm"},
                                          {Backend::mnnvl, "mnnvl"},
                                          {Backend::custom, "custom"},
                                          {Backend::nvls, "nvls"},
                                          {Backend::nccl, "nccl"}}};
constexpr Spellings<Numerics, 4> numerics_classes{{{Numerics::rank_order_fp32, "rank_order_fp32"},
                                                   {Numerics::multimem, "multimem"},
                                                   {Numerics::nccl, "nccl"},
                                                   {Numerics::fp8_transport, "fp8_transport"}}};
constexpr Spellings<Transport, 4> transports{{{Transport::push, "push"},
                                              {Transport::pull, "pull"},
                                              {Transport::staged, "staged"},
                                              {Transport::multicast, "multicast"}}};

template <typename Enum, std::size_t count>
std::string_view spell(const Spellings<Enum, count>& spellings, Enum value) noexcept {
  for (const auto& [candidate, spelling] : spellings)
    if (candidate == value) return spelling;
  return "invalid";
}

template <typename Enum, std::size_t count>
Enum parse(const Spellings<Enum, count>& spellings, std::string_view kind, std::string_view word) {
  std::array<std::string_view, count> valid;
  for (std::size_t i = 0; i < count; ++i) {
    if (spellings[i].second == word) return spellings[i].first;
    valid[i] = spellings[i].second;
  }
  throw InvalidArgument(unknown_name_message(kind, word, valid));
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  return llvm::StringRef(a.data(), a.size()).edit_distance(llvm::StringRef(b.data(), b.size()));
}

// Words that a person did not type by hand are cut, so that a message stays readable.
std::string shown(std::string_view word) {
  constexpr std::size_t longest = 80;
  return word.size() <= longest ? std::string(word) : std::string(word.substr(0, longest)) + "...";
}

}  // namespace

std::string_view to_string(Dtype value) noexcept { return spell(dtypes, value); }
std::string_view to_string(Mode value) noexcept { return spell(modes, value); }
std::string_view to_string(Backend value) noexcept { return spell(backends, value); }
std::string_view to_string(Numerics value) noexcept { return spell(numerics_classes, value); }
std::string_view to_string(Transport value) noexcept { return spell(transports, value); }

Dtype parse_dtype(std::string_view word) { return parse(dtypes, "dtype", word); }
Mode parse_mode(std::string_view word) { return parse(modes, "mode", word); }
Backend parse_backend(std::string_view word) { return parse(backends, "backend", word); }
Transport parse_transport(std::string_view word) { return parse(transports, "transport", word); }
Numerics parse_numerics(std::string_view word) { return parse(numerics_classes, "numerics class", word); }

std::string nearest(std::string_view word, std::span<const std::string_view> valid) {
  const std::string_view start = word.substr(0, 256);  // bounds the work on hostile input
  std::string_view best;
  std::size_t best_distance = std::string_view::npos;
  for (const std::string_view candidate : valid) {
    const std::size_t distance = edit_distance(start, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return std::string(best);
}

std::string unknown_name_message(std::string_view kind, std::string_view word,
                                 std::span<const std::string_view> valid) {
  std::string message = "unknown " + std::string(kind) + " '" + shown(word) + "'; valid: ";
  if (valid.empty()) return message + "none";
  message += joined(valid, ", ");
  const std::string best = nearest(word, valid);
  // A suggestion that shares nothing with the word would only distract.
  if (!word.empty() && edit_distance(word.substr(0, 256), best) < std::max(word.size(), best.size()))
    message += "; did you mean '" + best + "'?";
  return message;
}

}  // namespace arbiter
