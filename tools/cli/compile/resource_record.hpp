// The record of registers, spills and shared memory that git keeps, and what a run of today says against it.
#pragma once

#include <string>
#include <vector>

#include "arbiter/generator/compile.hpp"

namespace arbiter::cli {

/// One line of the record.
struct RecordedKernel {
  std::string target;
  std::string variant;  ///< Variant::full_name()
  KernelResources resources;
  bool operator==(const RecordedKernel&) const = default;
};

struct ResourceRecord {
  std::string nvrtc;  ///< the version that compiled them: "13.0"
  std::vector<RecordedKernel> kernels;
};

/// The record: a text that git can diff, one kernel a line, sorted. Its first line names the NVRTC that made it.
std::string write_record(const ResourceRecord&);
/// Throws Error naming the line that write_record() did not write, or that repeats a kernel.
ResourceRecord read_record(const std::string& text);

/// Spilled bytes that another NVRTC than the record's may add to a kernel: it allocates registers in another way. NVRTC
/// 13.5 gives up to 144 to 11 of the 630 kernels, 12.8 up to 66 to 8, that have none with 13.0.
inline constexpr int other_nvrtc_spill_bytes = 256;

/// What differs from the record. A kernel is named as "VARIANT for TARGET".
struct RecordComparison {
  std::string recorded_nvrtc, nvrtc;
  std::vector<std::string> new_spills;        ///< sentences: kernels that spill and did not
  std::vector<std::string> tolerated_spills;  ///< the same, but few bytes by another NVRTC
  std::vector<std::string> unrecorded;        ///< kernels that the record does not have, and that do not spill
  std::vector<std::string> not_compiled;      ///< kernels of the record, for targets that were compiled, that were not
  std::vector<std::string> recovered;         ///< kernels that spilled and no longer do
  std::size_t other_registers = 0;            ///< kernels with another number of registers; 0 with another NVRTC
};
/// A kernel that the record does not have counts as one without spills: a record that nobody renewed hides none.
RecordComparison compare(const ResourceRecord& before, const ResourceRecord& now);

/// What to tell people, in lines; empty if nothing differs. `file` is the record's.
std::string describe(const RecordComparison&, const std::string& file);

}  // namespace arbiter::cli
