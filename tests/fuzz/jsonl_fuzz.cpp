// JSON lines: an error that names the line, or contents that export to text which reads back as the same.
#include <cstdlib>
#include <sstream>
#include <string>

#include "arbiter/db/contents.hpp"
#include "arbiter/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  try {
    std::istringstream text(std::string(reinterpret_cast<const char*>(data), size));
    const arbiter::Contents contents = arbiter::parse_jsonl(text, "fuzzed");
    std::ostringstream exported;
    arbiter::write_jsonl(exported, contents);
    std::istringstream again(exported.str());
    if (arbiter::parse_jsonl(again, "exported") != contents) std::abort();
  } catch (const arbiter::DatabaseError&) {
  }
  return 0;
}
