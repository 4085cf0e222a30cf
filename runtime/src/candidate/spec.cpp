// The text form of a candidate:
// "backend/algorithm:axis=value,...,blocks=16+prologue:axis=value,...+epilogue:axis=value,...", and
// "nccl/classic:algo=ring,channels=8,proto=ll128".
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "arbiter/error.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "candidate/abi.hpp"

namespace arbiter {
namespace {

constexpr std::string_view plain_pattern = "allreduce";
constexpr std::string_view prologue_word = "prologue";
constexpr std::string_view epilogue_word = "epilogue";
constexpr std::string_view copy_name = "copy";
constexpr std::array<std::string_view, 2> nccl_kind_names = {"classic", "symmetric"};  // in the order of NcclKind

std::string parameters_of(const Variant& variant) {
  const std::string name = variant.name();
  const std::size_t colon = name.find(':');
  return colon == std::string::npos ? std::string() : name.substr(colon + 1);
}

[[noreturn]] void refuse(std::string_view name, const std::string& why) {
  throw InvalidArgument("candidate '" + std::string(name) + "': " + why);
}

/// "threads=256,vectors=1" as a map; refuses duplicates and anything that is not a number.
std::map<std::string, int, std::less<>> parse_parameters(std::string_view text, std::string_view name) {
  std::map<std::string, int, std::less<>> parameters;
  while (!text.empty()) {
    const std::string_view item = text.substr(0, text.find(','));
    const std::size_t equals = item.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      refuse(name, "expected axis=value instead of '" + std::string(item) + "'");
    }
    const std::string_view digits = item.substr(equals + 1);
    int value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size()) {
      refuse(name, "'" + std::string(digits) + "' is not a number");
    }
    if (!parameters.emplace(std::string(item.substr(0, equals)), value).second) {
      refuse(name, "axis '" + std::string(item.substr(0, equals)) + "' is given twice");
    }
    if (item.size() == text.size()) break;
    text.remove_prefix(item.size() + 1);
    if (text.empty()) refuse(name, "it ends with a comma");
  }
  return parameters;
}

/// Every compile-time axis exactly once, with a value the catalogue lists; "blocks" goes to `max_blocks`.
Variant make_variant(const AlgorithmEntry& algorithm, std::map<std::string, int, std::less<>> parameters,
                     std::string_view name, const ProblemFamily& family, bool rows, int world, int* max_blocks) {
  Variant variant;
  variant.backend = algorithm.backend;
  variant.algorithm = algorithm.name;
  variant.dtype = family.dtype;
  variant.hidden = rows ? family.hidden : 0;
  variant.world = world;
  if (const auto blocks = parameters.find("blocks"); blocks != parameters.end()) {
    const Axis* axis = algorithm.axis("blocks");
    if (max_blocks == nullptr || axis == nullptr || !axis->launch) {
      refuse(name, "'" + algorithm.name + "' has no launch axis 'blocks'");
    }
    if (blocks->second < 0 || blocks->second > static_cast<int>(arbiter_abi::max_blocks)) {
      refuse(name, fmt::format("blocks={} is not between 0 and {}", blocks->second, arbiter_abi::max_blocks));
    }
    *max_blocks = blocks->second;
    parameters.erase(blocks);
  }
  for (const Axis& axis : algorithm.axes) {
    if (axis.launch) continue;
    const auto given = parameters.find(axis.name);
    if (given == parameters.end()) refuse(name, "axis '" + axis.name + "' of '" + algorithm.name + "' is missing");
    if (std::find(axis.values.begin(), axis.values.end(), given->second) == axis.values.end()) {
      refuse(name, fmt::format("{}={} is not in the catalogue any more", axis.name, given->second));
    }
    variant.parameters.emplace(axis.name, given->second);
    parameters.erase(given);
  }
  if (!parameters.empty()) {
    std::vector<std::string_view> valid;
    for (const Axis& axis : algorithm.axes) valid.push_back(axis.name);
    refuse(name, unknown_name_message("axis", parameters.begin()->first, valid));
  }
  return variant;
}

}  // namespace

std::string_view to_string(NcclKind kind) noexcept { return nccl_kind_names[static_cast<std::size_t>(kind)]; }

CandidateSpec CandidateSpec::classic_nccl() {
  CandidateSpec spec;
  spec.nccl = NcclKind::classic;
  return spec;
}

Backend CandidateSpec::backend() const noexcept {
  if (kernel) return kernel->backend;
  return nccl ? Backend::nccl : Backend::automatic;
}

std::string CandidateSpec::algorithm() const {
  if (kernel) return kernel->algorithm;
  return std::string(nccl ? to_string(*nccl) : copy_name);
}

std::string CandidateSpec::name() const {
  std::string text = std::string(to_string(backend())) + "/" + algorithm();
  if (kernel) {
    std::string parameters = parameters_of(*kernel);
    if (max_blocks > 0) {
      if (!parameters.empty()) parameters += ",";
      parameters += fmt::format("blocks={}", max_blocks);
    }
    if (!parameters.empty()) text += ":" + parameters;
  }
  if (forced.forces()) text += ":" + forced.text();
  const auto append = [&](std::string_view word, const std::optional<Variant>& alone) {
    if (!alone) return;
    const std::string parameters = parameters_of(*alone);
    text.append("+").append(word).append(parameters.empty() ? "" : ":" + parameters);
  };
  append(prologue_word, prologue);
  append(epilogue_word, epilogue);
  return text;
}

CandidateSpec CandidateSpec::parse(const Catalogue& catalogue, std::string_view name, const ProblemFamily& family,
                                   int world) {
  const Pattern pattern = catalogue.pattern(family.pattern);
  CandidateSpec spec;
  const std::string_view exchange = name.substr(0, name.find('+'));
  for (std::string_view tails = name.substr(exchange.size()); !tails.empty();) {
    tails.remove_prefix(1);
    std::string_view tail = tails.substr(0, tails.find('+'));
    tails.remove_prefix(tail.size());
    const std::string_view word = tail.substr(0, tail.find(':'));
    tail.remove_prefix(std::min(tail.size(), word.size() + 1));
    const auto alone = [&](std::string part) {
      Variant variant =
          make_variant(catalogue.standalone(), parse_parameters(tail, name), name, family, true, 1, nullptr);
      variant.pattern = std::move(part);
      return variant;
    };
    if (word == prologue_word && !spec.prologue && !spec.epilogue) {
      if (!pattern.has(PartKind::prologue)) refuse(name, "'" + family.pattern + "' has no prologue");
      spec.prologue = alone(pattern.prologue_alone());
    } else if (word == epilogue_word && !spec.epilogue) {
      if (!pattern.has_stages()) refuse(name, "'" + family.pattern + "' has no epilogue");
      spec.epilogue = alone(pattern.without_prologue());
    } else {
      refuse(name, "expected '+prologue', then '+epilogue', instead of '+" + std::string(word) + "'");
    }
  }

  const std::size_t slash = exchange.find('/');
  if (slash == std::string_view::npos) refuse(name, "expected backend/algorithm");
  const Backend backend = parse_backend(exchange.substr(0, slash));
  const std::string_view rest = exchange.substr(slash + 1);
  const std::size_t colon = rest.find(':');
  const std::string_view algorithm = rest.substr(0, colon);
  const std::string_view parameters = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);

  const bool plain_exchange = backend == Backend::nccl || backend == Backend::automatic || !spec.fused();
  if (plain_exchange && pattern.has(PartKind::prologue) && !spec.prologue) {
    refuse(name, "'" + family.pattern + "' needs '+prologue:...' with it");
  }
  if (plain_exchange && pattern.has_stages() && !spec.epilogue) {
    refuse(name, "'" + family.pattern + "' needs '+epilogue:...' behind it");
  }
  if (backend == Backend::nccl || backend == Backend::automatic) {
    const std::span<const std::string_view> valid =
        backend == Backend::nccl ? std::span<const std::string_view>(nccl_kind_names) : std::span(&copy_name, 1);
    const auto found = std::find(valid.begin(), valid.end(), algorithm);
    if (found == valid.end()) refuse(name, unknown_name_message("algorithm", algorithm, valid));
    if (backend == Backend::nccl) spec.nccl = static_cast<NcclKind>(found - valid.begin());
    if (colon != std::string_view::npos && spec.nccl != NcclKind::classic) {
      refuse(name, "'" + std::string(algorithm) + "' has no parameters");
    }
    if (colon != std::string_view::npos && parameters.empty()) refuse(name, "there are no parameters behind its colon");
    try {
      spec.forced = NcclConfiguration::parse(parameters);
    } catch (const InvalidArgument& error) {
      refuse(name, error.what());
    }
    if (backend == Backend::automatic && world != 1) refuse(name, "a copy reduces nothing over several ranks");
    return spec;
  }

  const AlgorithmEntry& entry = catalogue.algorithm(backend, algorithm);
  if (!entry.exchange && (world != 1 || !spec.fused())) {
    refuse(name, "the stand-alone kernel exchanges no data; it can only stand behind an allreduce");
  }
  const bool rows = pattern.rows && spec.fused();
  Variant kernel = make_variant(entry, parse_parameters(parameters, name), name, family, rows, world, &spec.max_blocks);
  kernel.pattern = spec.fused() ? family.pattern : std::string(plain_pattern);
  spec.kernel = std::move(kernel);
  return spec;
}

}  // namespace arbiter
