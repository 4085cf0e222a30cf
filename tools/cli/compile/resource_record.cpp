#include "compile/resource_record.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <tuple>
#include <utility>

#include "arbiter/error.hpp"
#include "text/numbers.hpp"

namespace arbiter::cli {
namespace {

constexpr std::string_view heading = "# registers, spilled bytes and static shared bytes of compiled kernels; NVRTC ";

std::string line_of(const RecordedKernel& kernel) {
  return fmt::format("{}\t{}\t{}\t{}\t{}\n", kernel.target, kernel.resources.registers, kernel.resources.spill_bytes,
                     kernel.resources.shared_bytes, kernel.variant);
}

RecordedKernel parse_line(const std::string& line, int number) {
  std::istringstream fields(line);
  RecordedKernel kernel;
  std::string registers, spills, shared;
  const bool whole = static_cast<bool>(std::getline(fields, kernel.target, '\t')) &&
                     static_cast<bool>(std::getline(fields, registers, '\t')) &&
                     static_cast<bool>(std::getline(fields, spills, '\t')) &&
                     static_cast<bool>(std::getline(fields, shared, '\t')) &&
                     static_cast<bool>(std::getline(fields, kernel.variant)) && !kernel.variant.empty();
  if (!whole) {
    throw Error(fmt::format(
        "line {} of the record is not 'target, registers, spilled bytes, shared bytes, variant' with tabs between: {}",
        number, line.substr(0, 120)));
  }
  const std::string where = fmt::format("line {} of the record", number);
  kernel.resources.registers = static_cast<int>(parse_integer(registers, where, 0, 1024));
  kernel.resources.spill_bytes = static_cast<int>(parse_integer(spills, where, 0, 1 << 30));
  kernel.resources.shared_bytes = static_cast<int>(parse_integer(shared, where, 0, 1 << 30));
  return kernel;
}

std::string counted(std::size_t kernels) { return std::to_string(kernels) + (kernels == 1 ? " kernel" : " kernels"); }

using Key = std::pair<std::string, std::string>;  // target, variant

Key key_of(const RecordedKernel& kernel) { return {kernel.target, kernel.variant}; }

/// "Not in FILE: 2 kernels", and the first few by name; nothing if there are none.
std::string list_of(const std::vector<std::string>& kernels, const std::string& what) {
  constexpr std::size_t most = 5;
  if (kernels.empty()) return "";
  std::string text = what + ": " + counted(kernels.size()) + "\n";
  for (std::size_t i = 0; i < std::min(most, kernels.size()); ++i) text += "  " + kernels[i] + "\n";
  if (kernels.size() > most) text += fmt::format("  ... and {} more\n", kernels.size() - most);
  return text;
}

std::string name_of(const RecordedKernel& kernel) { return kernel.variant + " for " + kernel.target; }

}  // namespace

std::string write_record(const ResourceRecord& record) {
  std::vector<RecordedKernel> kernels = record.kernels;
  std::sort(kernels.begin(), kernels.end(), [](const RecordedKernel& a, const RecordedKernel& b) {
    return std::tie(a.target, a.variant) < std::tie(b.target, b.variant);
  });
  std::string text = std::string(heading) + record.nvrtc + "\n";
  for (const RecordedKernel& kernel : kernels) text += line_of(kernel);
  return text;
}

ResourceRecord read_record(const std::string& text) {
  ResourceRecord record;
  std::set<Key> seen;
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (number == 1) {
      if (!line.starts_with(heading))
        throw Error("line 1 of the record does not start with '" + std::string(heading) + "': " + line.substr(0, 120));
      record.nvrtc = line.substr(heading.size());
      if (record.nvrtc.empty()) throw Error("line 1 of the record does not say which NVRTC made it");
    } else {
      record.kernels.push_back(parse_line(line, number));
      if (!seen.insert(key_of(record.kernels.back())).second) {
        throw Error(fmt::format("line {} of the record repeats a kernel: {}", number, name_of(record.kernels.back())));
      }
    }
  }
  if (record.nvrtc.empty()) throw Error("the record is empty");
  return record;
}

RecordComparison compare(const ResourceRecord& before, const ResourceRecord& now) {
  std::map<Key, KernelResources> recorded;
  for (const RecordedKernel& kernel : before.kernels) recorded.emplace(key_of(kernel), kernel.resources);
  RecordComparison result;
  result.recorded_nvrtc = before.nvrtc;
  result.nvrtc = now.nvrtc;
  const bool same_nvrtc = before.nvrtc == now.nvrtc;
  std::set<std::string> targets;
  std::set<Key> compiled;
  for (const RecordedKernel& kernel : now.kernels) {
    targets.insert(kernel.target);
    compiled.insert(key_of(kernel));
    const int spills = kernel.resources.spill_bytes;
    const auto known = recorded.find(key_of(kernel));
    if (known == recorded.end()) {
      if (spills <= 0) result.unrecorded.push_back(name_of(kernel));
    } else {
      if (known->second.spill_bytes > 0 && spills <= 0) result.recovered.push_back(name_of(kernel));
      if (same_nvrtc && known->second.registers != kernel.resources.registers) ++result.other_registers;
    }
    if (spills > 0 && (known == recorded.end() || known->second.spill_bytes == 0)) {
      const bool tolerated = !same_nvrtc && spills <= other_nvrtc_spill_bytes;
      (tolerated ? result.tolerated_spills : result.new_spills)
          .push_back(fmt::format("{} spills {} bytes; {}", name_of(kernel), spills,
                                 (known == recorded.end() ? "it is not in the record" : "it did not before")));
    }
  }
  for (const RecordedKernel& kernel : before.kernels) {
    if (targets.contains(kernel.target) && !compiled.contains(key_of(kernel)))
      result.not_compiled.push_back(name_of(kernel));
  }
  return result;
}

std::string describe(const RecordComparison& comparison, const std::string& file) {
  const bool same_nvrtc = comparison.recorded_nvrtc == comparison.nvrtc;
  const std::string renew = "arbiter compile --coverage --record " + file + "\n";
  std::string text = list_of(comparison.unrecorded, "Not in " + file);
  text += list_of(comparison.not_compiled, "In " + file + ", but not compiled any more");
  text += list_of(comparison.recovered, "No longer spilling");
  if (!same_nvrtc) {
    text += fmt::format(
        "{} was made with NVRTC {}; this is {}, which allocates registers in another way: they are not compared, and "
        "new spills of up to {} bytes do not fail\n",
        file, comparison.recorded_nvrtc, comparison.nvrtc, other_nvrtc_spill_bytes);
    text += list_of(comparison.tolerated_spills, "New spills of that size");
  } else if (comparison.other_registers > 0) {
    text += "With another number of registers: " + counted(comparison.other_registers) + "\n";
  }
  for (const std::string& spill : comparison.new_spills) text += "New spill: " + spill + "\n";
  if (!comparison.new_spills.empty()) {
    text += "Spilling costs time. ";
    if (!same_nvrtc) text += "If no kernel was changed, this NVRTC does it. ";
    text += "If it is meant, record it: " + renew;
  } else if (!comparison.unrecorded.empty() || !comparison.not_compiled.empty()) {
    text += "Renew the record: " + renew;
  }
  return text;
}

}  // namespace arbiter::cli
