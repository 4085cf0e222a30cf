#include "arbiter/db/nccl_configuration.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <span>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

constexpr std::array<std::string_view, 6> algorithms = {"tree",          "ring", "collnet_direct",
                                                        "collnet_chain", "nvls", "nvls_tree"};
constexpr std::array<std::string_view, 3> protocols = {"ll", "ll128", "simple"};
constexpr std::array<std::string_view, 3> parameters = {"algo", "channels", "proto"};
constexpr std::string_view classic = "nccl/classic";

[[noreturn]] void refuse(const std::string& why) { throw InvalidArgument("NCCL configuration: " + why); }

template <typename Value>
Value one_of(const char* what, std::string_view text, std::span<const std::string_view> names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == text) return static_cast<Value>(i);
  }
  refuse(unknown_name_message(what, text, names));
}

int parse_channels(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > nccl_max_channels) {
    refuse(fmt::format("channels={} is not between 1 and {}", text, nccl_max_channels));
  }
  return value;
}

}  // namespace

std::string_view to_string(NcclAlgorithm algorithm) noexcept {
  const auto index = static_cast<std::size_t>(algorithm);
  return index < algorithms.size() ? algorithms[index] : "";
}

std::string_view to_string(NcclProtocol protocol) noexcept {
  const auto index = static_cast<std::size_t>(protocol);
  return index < protocols.size() ? protocols[index] : "";
}

std::string NcclConfiguration::text() const {
  std::string text;
  const auto add = [&](std::string_view name, std::string_view value) {
    text.append(text.empty() ? "" : ",").append(name).append("=").append(value);
  };
  if (algorithm != NcclAlgorithm::unset) add("algo", to_string(algorithm));
  if (channels != 0) add("channels", std::to_string(channels));
  if (protocol != NcclProtocol::unset) add("proto", to_string(protocol));
  return text;
}

NcclConfiguration NcclConfiguration::parse(std::string_view text) {
  NcclConfiguration result;
  std::string_view last;
  while (!text.empty()) {
    const std::string_view item = text.substr(0, text.find(','));
    const std::size_t equals = item.find('=');
    if (equals == std::string_view::npos) refuse("expected parameter=value instead of '" + std::string(item) + "'");
    const std::string_view name = item.substr(0, equals);
    const std::string_view value = item.substr(equals + 1);
    const auto index = one_of<std::size_t>("parameter", name, parameters);
    // In order, so that a configuration has one spelling.
    if (!last.empty() && name <= last) {
      refuse("'" + std::string(name) + "' comes twice or after '" + std::string(last) +
             "'; expected each once, in the order algo, channels, proto");
    }
    last = name;
    if (index == 0) result.algorithm = one_of<NcclAlgorithm>("algorithm", value, algorithms);
    if (index == 1) result.channels = parse_channels(value);
    if (index == 2) result.protocol = one_of<NcclProtocol>("protocol", value, protocols);
    if (item.size() == text.size()) break;
    text.remove_prefix(item.size() + 1);
    if (text.empty()) refuse("it ends with a comma");
  }
  if ((result.algorithm == NcclAlgorithm::unset) != (result.protocol == NcclProtocol::unset)) {
    refuse("algo and proto can only be forced together: NCCL takes pairs");
  }
  return result;
}

int nodes_of(const Environment& environment, int world) noexcept {
  if (environment.nodes <= 1 || environment.ranks_per_node <= 0) return 1;
  return (world + environment.ranks_per_node - 1) / environment.ranks_per_node;
}

std::optional<NcclConfiguration> nccl_configuration(const Candidate& candidate) {
  const std::string_view name = candidate.name;
  if (candidate.backend != Backend::nccl || !name.starts_with(classic)) return std::nullopt;
  if (name.find('+') != std::string_view::npos) return std::nullopt;
  std::string_view rest = name.substr(classic.size());
  if (rest.empty()) return NcclConfiguration{};
  if (rest.front() != ':' || rest.size() == 1) return std::nullopt;
  try {
    return NcclConfiguration::parse(rest.substr(1));
  } catch (const InvalidArgument&) {
    return std::nullopt;  // of another version, or edited: nothing to rely on
  }
}

}  // namespace arbiter
