// The one copy of what fmt/format.h leaves to a library: this source is compiled with FMT_HEADER_ONLY, all others
// without.
#include <fmt/format.h>

#include <string>

namespace arbiter {
namespace {

[[gnu::used]] std::string (*const needed)(fmt::string_view, fmt::format_args) = &fmt::vformat;

}  // namespace
}  // namespace arbiter
