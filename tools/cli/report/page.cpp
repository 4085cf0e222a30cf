// Puts the pieces of the report's page together. They are built into the program by tools/CMakeLists.txt.
#include <cstddef>
#include <string>
#include <string_view>

#include "arbiter/error.hpp"
#include "report/data.hpp"

namespace arbiter::embedded {
extern const char report_html[], report_css[], report_js[], d3_js[], d3_licence[];
extern const std::size_t report_html_size, report_css_size, report_js_size, d3_js_size, d3_licence_size;
}  // namespace arbiter::embedded

namespace arbiter::cli {
namespace {

std::string escaped_html(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

}  // namespace

std::string report_page(const std::string& data) {
  const std::string licence = escaped_html({embedded::d3_licence, embedded::d3_licence_size});
  const std::pair<std::string_view, std::string_view> parts[] = {
      {"@css@", {embedded::report_css, embedded::report_css_size}},
      {"@licence@", licence},
      {"@data@", data},
      {"@d3@", {embedded::d3_js, embedded::d3_js_size}},
      {"@js@", {embedded::report_js, embedded::report_js_size}},
  };
  // In the order in which they occur, so that nothing is looked for in what was put in.
  const std::string_view page(embedded::report_html, embedded::report_html_size);
  std::string text;
  std::size_t at = 0;
  for (const auto& [mark, part] : parts) {
    const std::size_t found = page.find(mark, at);
    if (found == std::string_view::npos) throw Error("the report's page has no place for " + std::string(mark));
    text += page.substr(at, found - at);
    text += part;
    at = found + mark.size();
  }
  return text += page.substr(at);
}

}  // namespace arbiter::cli
