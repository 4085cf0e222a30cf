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

/// What differs from the record. A kernel is named as "VARIANT for TARGET".
struct RecordComparison {
  std::vector<std::string> new_spills;  ///< sentences: kernels that spill and did not, or that the record does not have
  std::vector<std::string> unrecorded;  ///< kernels that the record does not have, and that do not spill
  std::vector<std::string> not_compiled;  ///< kernels of the record, for targets that were compiled, that were not
  std::vector<std::string> recovered;     ///< kernels that spilled and no longer do
  std::size_t other_registers = 0;        ///< kernels with another number of registers; says nothing across NVRTCs
};
/// A kernel that the record does not have counts as one without spills: a record that nobody renewed hides none.
RecordComparison compare(const ResourceRecord& before, const std::vector<RecordedKernel>& now);

/// What to tell people, in lines; empty if nothing differs. `file` is the record's; the NVRTCs are those of the record
/// and of today.
std::string describe(const RecordComparison&, const std::string& file, const std::string& recorded_nvrtc,
                     const std::string& nvrtc);

}  // namespace arbiter::cli
