// Questions: what serves a problem, how often it did, and whether the group still works.
#include <fmt/format.h>
#include <llvm/Support/JSON.h>
#include <llvm/Support/raw_ostream.h>

#include <algorithm>

#include "handles.hpp"
#include "structs.hpp"

using namespace arbiter;
using namespace arbiter::c;

namespace {

llvm::StringRef ref(std::string_view text) { return {text.data(), text.size()}; }

/// Text that is not valid UTF-8 (a path in a reason) must not break the JSON.
std::string readable(std::string_view text) {
  return llvm::json::isUTF8(ref(text)) ? std::string(text) : llvm::json::fixUTF8(ref(text));
}

Problem problem_of(const Communicator& communicator, const arbiter_family* given, std::int64_t tokens) {
  const ProblemFamily family = read_family(given);
  return {family.pattern, family.dtype, family.hidden, tokens, communicator.size(), family.mode, false};
}

/// Writes JSON, then hands it over as arbiter.h says.
template <class Fill>
arbiter_status answer(const arbiter_communicator* communicator, const char* function, char* buffer, std::size_t bytes,
                      std::size_t* needed, const Fill& fill) {
  bool fits = true;
  const arbiter_status status = with(communicator, function, [&](const Communicator& target) {
    if (buffer == nullptr && bytes > 0) throw InvalidArgument(std::string(function) + ": the buffer is NULL");
    std::string text;
    llvm::raw_string_ostream stream(text);
    llvm::json::OStream json(stream);
    fill(json, target);
    json.flush();
    stream.flush();
    if (needed != nullptr) *needed = text.size() + 1;
    fits = text.size() < bytes;
    if (bytes == 0) return;
    const std::size_t copied = std::min(text.size(), bytes - 1);
    text.copy(buffer, copied);
    buffer[copied] = '\0';
  });
  if (status != ARBITER_SUCCESS || fits || (buffer == nullptr && needed != nullptr)) return status;
  remember_error(
      communicator,
      fmt::format("{}: the text does not fit into {} bytes; *needed says how many it takes", function, bytes).c_str());
  return ARBITER_BUFFER_TOO_SMALL;
}

}  // namespace

extern "C" {

int arbiter_can_use(const arbiter_communicator* communicator, const arbiter_family* family, int64_t tokens) {
  bool can = false;
  const arbiter_status status = with(communicator, "arbiter_can_use", [&](const Communicator& target) {
    can = target.can_use(problem_of(target, family, tokens));
  });
  return status == ARBITER_SUCCESS && can ? 1 : 0;
}

arbiter_status arbiter_explain(const arbiter_communicator* communicator, const arbiter_family* family, int64_t tokens,
                               char* buffer, size_t bytes, size_t* needed) {
  return answer(communicator, "arbiter_explain", buffer, bytes, needed,
                [&](llvm::json::OStream& json, const Communicator& target) {
                  const Explanation why = target.explain(problem_of(target, family, tokens));
                  json.object([&] {
                    json.attribute("rule", ref(to_string(why.rule)));
                    json.attribute("reason", readable(why.reason));
                    json.attribute("backend", ref(to_string(why.candidate.backend)));
                    json.attribute("algorithm", readable(why.candidate.algorithm));
                    json.attribute("candidate", readable(why.candidate.name));
                    json.attribute("numerics", ref(to_string(why.candidate.numerics)));
                  });
                });
}

arbiter_status arbiter_stats(const arbiter_communicator* communicator, char* buffer, size_t bytes, size_t* needed) {
  return answer(communicator, "arbiter_stats", buffer, bytes, needed,
                [](llvm::json::OStream& json, const Communicator& target) {
                  json.object([&] {
                    json.attribute("version", ref(version()));
                    json.attribute("rank", target.rank());
                    json.attribute("size", target.size());
                    json.attribute("device", readable(target.environment().gpu_name));
                    json.attributeArray("calls", [&] {
                      for (const CallCount& count : target.call_counts()) {
                        json.object([&] {
                          json.attribute("pattern", readable(count.family.pattern));
                          json.attribute("dtype", ref(to_string(count.family.dtype)));
                          json.attribute("hidden", count.family.hidden);
                          json.attribute("max_tokens", count.family.max_tokens);
                          json.attribute("mode", ref(to_string(count.family.mode)));
                          json.attribute("candidate", readable(count.candidate));
                          json.attribute("rule", ref(to_string(count.rule)));
                          json.attribute("count", static_cast<std::int64_t>(count.calls));
                        });
                      }
                    });
                  });
                });
}

size_t arbiter_workspace_bytes(const arbiter_communicator* communicator) {
  return communicator == nullptr ? 0 : communicator->communicator->workspace_bytes();
}

arbiter_status arbiter_check(const arbiter_communicator* communicator) {
  return with(communicator, "arbiter_check", [](const Communicator& target) { target.check(); });
}

void arbiter_abort(arbiter_communicator* communicator) {
  if (communicator != nullptr) communicator->communicator->abort();
}

arbiter_status arbiter_quant_out_bytes(const char* pattern, int hidden, int64_t tokens, size_t* bytes) {
  return guarded(nullptr, [&] {
    if (pattern == nullptr || bytes == nullptr) throw InvalidArgument("arbiter_quant_out_bytes: an argument is NULL");
    *bytes = quant_out_bytes(pattern, hidden, tokens);
  });
}

arbiter_status arbiter_scale_out_bytes(const char* pattern, int hidden, int64_t tokens, size_t* bytes) {
  return guarded(nullptr, [&] {
    if (pattern == nullptr || bytes == nullptr) throw InvalidArgument("arbiter_scale_out_bytes: an argument is NULL");
    *bytes = scale_out_bytes(pattern, hidden, tokens);
  });
}

}  // extern "C"
