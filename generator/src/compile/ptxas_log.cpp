#include "compile/ptxas_log.hpp"

#include <charconv>

#include "text/quote.hpp"

namespace arbiter {
namespace {

// The number in front of `what`: 30 in "Used 30 registers" for " registers"; -1 if it is not there.
int number_before(std::string_view text, std::string_view what) {
  const std::size_t end = text.find(what);
  if (end == std::string_view::npos) return -1;
  std::size_t begin = end;
  while (begin > 0 && text[begin - 1] >= '0' && text[begin - 1] <= '9') --begin;
  int value = -1;
  std::from_chars(text.data() + begin, text.data() + end, value);
  return value;
}

}  // namespace

KernelResources parse_ptxas_log(std::string_view log, std::string_view entry) {
  KernelResources resources{-1, -1, -1, -1};
  // One paragraph per entry function: its properties, then what it used.
  const std::size_t begin = log.find("entry function " + quote(entry));
  if (begin == std::string_view::npos) return resources;
  const std::string_view paragraph = log.substr(begin, log.find("entry function ", begin + 1) - begin);
  resources.registers = number_before(paragraph, " registers");
  resources.stack_bytes = number_before(paragraph, " bytes stack frame");
  const int stores = number_before(paragraph, " bytes spill stores");
  const int loads = number_before(paragraph, " bytes spill loads");
  if (stores >= 0 && loads >= 0) resources.spill_bytes = stores + loads;
  const int shared = number_before(paragraph, " bytes smem");
  resources.shared_bytes = shared < 0 ? 0 : shared;  // not mentioned when there is none
  return resources;
}

}  // namespace arbiter
