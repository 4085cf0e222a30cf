// What people read: aligned tables, short units, and progress on a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace arbiter::cli {

std::string format_microseconds(double microseconds);  ///< "2.31", "14.9", "1203"
std::string format_bytes(std::uint64_t bytes);         ///< "512 B", "16 KiB", "1.5 MiB"
/// "1 run", "2 runs"
std::string plural(std::size_t count, const std::string& what);
std::string format_seconds(double seconds);  ///< "0.4 s", "1 min 12 s"

/// "2026-03-01 14:05", in UTC: runs may come from hosts in several time zones. `seconds` since 1970.
std::string format_date(std::int64_t seconds);

/// "trtllm/oneshot_push:threads=256,..." -> "trtllm/oneshot_push" and "threads=256,...". Tables show the second last,
/// where its length does no harm. An unfused candidate's epilogue stays with the first: "nccl/classic+epilogue".
struct CandidateText {
  std::string algorithm;
  std::string parameters;
};
CandidateText split_candidate(const std::string& name);

/// One line on standard error that is rewritten; nothing at all unless that is a terminal.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  void update(const std::string& line);
  void clear();

 private:
  bool enabled_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point last_{};
};

}  // namespace arbiter::cli
