// Which kernels to compile so that every variant, and every pair of choices that could trouble a compiler, is seen.
// The whole product of the catalogue is millions of kernels; this is a few hundred.
#pragma once

#include <string>
#include <vector>

#include "arbiter/generator/catalogue.hpp"
#include "compile_jobs.hpp"

namespace arbiter::cli {

/// Tasks such that, over the given targets: every algorithm with every combination of its parameters that the targets'
/// requirements allow is compiled for every target; every prologue, norm and quantisation meets every algorithm, dtype,
/// target and each other; every algorithm meets every dtype, world size and hidden size in use.
/// A pure function of its arguments, in a fixed order.
std::vector<CompileTask> covering_tasks(const Catalogue&, const std::vector<std::string>& targets);

/// One line of the record of resources.
struct RecordedKernel {
  std::string target;
  std::string variant;  ///< Variant::full_name()
  KernelResources resources;
  bool operator==(const RecordedKernel&) const = default;
};

/// The record: a text that git can diff, one kernel a line, sorted. Its first line names the NVRTC that made it.
std::string write_record(const std::string& nvrtc, std::vector<RecordedKernel> kernels);
struct ResourceRecord {
  std::string nvrtc;
  std::vector<RecordedKernel> kernels;
};
/// Throws Error naming the line that write_record() did not write.
ResourceRecord read_record(const std::string& text);

/// Kernels that spill and did not: in the record without spills, or not in it at all. One sentence each.
std::vector<std::string> new_spills(const ResourceRecord& before, const std::vector<RecordedKernel>& now);

}  // namespace arbiter::cli
