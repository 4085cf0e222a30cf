#include <algorithm>
#include <map>
#include <sstream>
#include <tuple>

#include "arbiter/error.hpp"
#include "compile_coverage.hpp"
#include "numbers.hpp"

namespace arbiter::cli {
namespace {

constexpr std::string_view heading = "# registers, spilled bytes and static shared bytes of compiled kernels; NVRTC ";

std::string line_of(const RecordedKernel& kernel) {
  return kernel.target + "\t" + std::to_string(kernel.resources.registers) + "\t" +
         std::to_string(kernel.resources.spill_bytes) + "\t" + std::to_string(kernel.resources.shared_bytes) + "\t" +
         kernel.variant + "\n";
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
    throw Error("line " + std::to_string(number) +
                " of the record is not 'target, registers, spilled bytes, shared bytes, variant' with tabs between: " +
                line.substr(0, 120));
  }
  const std::string where = "line " + std::to_string(number) + " of the record";
  kernel.resources.registers = static_cast<int>(parse_integer(registers, where, 0, 1024));
  kernel.resources.spill_bytes = static_cast<int>(parse_integer(spills, where, 0, 1 << 30));
  kernel.resources.shared_bytes = static_cast<int>(parse_integer(shared, where, 0, 1 << 30));
  return kernel;
}

}  // namespace

std::string write_record(const std::string& nvrtc, std::vector<RecordedKernel> kernels) {
  std::sort(kernels.begin(), kernels.end(), [](const RecordedKernel& a, const RecordedKernel& b) {
    return std::tie(a.target, a.variant) < std::tie(b.target, b.variant);
  });
  std::string text = std::string(heading) + nvrtc + "\n";
  for (const RecordedKernel& kernel : kernels) text += line_of(kernel);
  return text;
}

ResourceRecord read_record(const std::string& text) {
  ResourceRecord record;
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (number == 1) {
      if (!line.starts_with(heading))
        throw Error("line 1 of the record does not start with '" + std::string(heading) + "'");
      record.nvrtc = line.substr(heading.size());
    } else {
      record.kernels.push_back(parse_line(line, number));
    }
  }
  if (record.nvrtc.empty()) throw Error("the record is empty");
  return record;
}

std::vector<std::string> new_spills(const ResourceRecord& before, const std::vector<RecordedKernel>& now) {
  std::map<std::pair<std::string, std::string>, int> spilled;
  for (const RecordedKernel& kernel : before.kernels) {
    spilled[{kernel.target, kernel.variant}] = kernel.resources.spill_bytes;
  }
  std::vector<std::string> found;
  for (const RecordedKernel& kernel : now) {
    if (kernel.resources.spill_bytes <= 0) continue;
    const auto known = spilled.find({kernel.target, kernel.variant});
    if (known != spilled.end() && known->second > 0) continue;
    found.push_back(kernel.variant + " for " + kernel.target + " spills " +
                    std::to_string(kernel.resources.spill_bytes) + " bytes; " +
                    (known == spilled.end() ? "it is not in the record" : "it did not before"));
  }
  return found;
}

}  // namespace arbiter::cli
