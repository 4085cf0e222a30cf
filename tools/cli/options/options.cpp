#include "options/options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cstdio>
#include <iterator>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>

#include "arbiter/vocabulary.hpp"
#include "text/numbers.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/terminal.hpp"

namespace arbiter::cli {

namespace po = boost::program_options;

Options::Options(std::string command, std::string description, std::string example)
    : command_(std::move(command)), description_(std::move(description)), example_(std::move(example)) {
  flag("help", "print this");
}

Options& Options::declare(const std::string& name, const std::string& placeholder, const std::string& help, Kind kind,
                          bool shown) {
  declarations_.push_back({name, placeholder, help, kind, shown, {}});
  words_last_ = false;
  return *this;
}

Options& Options::flag(const std::string& name, const std::string& help) {
  return declare(name, "", help, Kind::flag, true);
}

Options& Options::value(const std::string& name, const std::string& placeholder, const std::string& help) {
  return declare(name, placeholder, help, Kind::value, true);
}

Options& Options::output(const std::string& help) { return value("output", "FILE", help + "\n-o FILE is the same"); }

Options& Options::list(const std::string& name, const std::string& placeholder, const std::string& help) {
  return declare(name, placeholder, help, Kind::list, true);
}

Options& Options::internal(const std::string& name) { return declare(name, "", "", Kind::flag, false); }

Options& Options::words(const std::string& placeholder, const std::string& help, int most) {
  words_description_ = {placeholder, help, most, {}, false};
  words_last_ = true;
  return *this;
}

Options& Options::choices(std::vector<std::string> values) {
  (words_last_ ? words_description_.choices : declarations_.back().choices) = std::move(values);
  return *this;
}

Options& Options::files() {
  words_description_.files = true;
  return *this;
}

std::vector<OptionDescription> Options::shown() const {
  std::vector<OptionDescription> all;
  std::copy_if(declarations_.begin(), declarations_.end(), std::back_inserter(all),
               [](const OptionDescription& option) { return option.shown; });
  return all;
}

namespace {

/// "--tokens": how an option is named in messages, whatever Boost kept of it.
std::string dashed(const std::string& name) { return name.starts_with("-") ? name : "--" + name; }

}  // namespace

bool Options::parse(Arguments arguments) {
  arguments_.assign(arguments.begin(), arguments.end());
  po::options_description described;
  std::vector<std::string_view> names;
  std::set<std::string> names_with_value;
  for (const OptionDescription& declaration : declarations_) {
    std::string spelling = declaration.name;
    if (spelling == "help") spelling = "help,h";
    if (spelling == "output") spelling = "output,o";
    if (declaration.kind == Kind::flag) {
      described.add_options()(spelling.c_str(), "");
    } else {
      described.add_options()(spelling.c_str(), po::value<std::vector<std::string>>()->composing(), "");
      names_with_value.insert(declaration.name);
    }
    if (declaration.shown) names.push_back(declaration.name);
  }
  // Abbreviations are not accepted: a script that relies on one breaks when an option is added.
  const auto style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing &
                     ~po::command_line_style::allow_sticky;
  try {
    const auto parsed = po::command_line_parser(std::vector<std::string>(arguments.begin(), arguments.end()))
                            .options(described)
                            .style(style)
                            .run();
    for (const auto& option : parsed.options) {
      if (option.position_key >= 0) {
        words_.insert(words_.end(), option.value.begin(), option.value.end());
        continue;
      }
      auto& values = values_[option.string_key];
      values.insert(values.end(), option.value.begin(), option.value.end());
      if (names_with_value.contains(option.string_key) && (option.value.empty() || option.value.front().empty())) {
        throw UsageError(dashed(option.string_key) + " needs a value");
      }
    }
  } catch (const po::unknown_option& error) {
    std::string name = error.get_option_name();
    name.erase(0, name.find_first_not_of('-'));
    throw UsageError("unknown option '" + dashed(error.get_option_name()) + "' of 'arbiter " + command_ +
                     "'; did you mean '--" + nearest(name, names) + "'?");
  } catch (const po::error& error) {
    throw UsageError(error.what());
  }
  if (has("help")) {
    print_help();
    return false;
  }
  for (const OptionDescription& declaration : declarations_) {
    const auto found = values_.find(declaration.name);
    if (declaration.kind == Kind::value && found != values_.end() && found->second.size() > 1) {
      throw UsageError(
          fmt::format("{} is given {} times; it takes one value", dashed(declaration.name), found->second.size()));
    }
  }
  if (words_.size() > static_cast<std::size_t>(words_description_.most)) {
    throw UsageError("unexpected '" + words_[static_cast<std::size_t>(words_description_.most)] + "'" +
                     (words_description_.most == 0 ? "; this command takes options only" : ""));
  }
  return true;
}

namespace {

/// Text is written for the source's width. What is one paragraph fills the columns there are; what begins with a space
/// or a dash stays a line of its own.
std::vector<std::string> paragraphs(const std::string& text) {
  std::vector<std::string> all;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const bool own = line.empty() || line.front() == ' ' || line.front() == '-';
    if (own || all.empty() || all.back().empty() || all.back().front() == ' ') {
      all.push_back(line);
    } else {
      all.back() += " " + line;
    }
  }
  return all;
}

std::string filled(const std::string& text, int columns) {
  std::string all;
  for (const std::string& paragraph : paragraphs(text)) {
    // A table's second column goes on below itself.
    const std::size_t gap = paragraph.find("  ", std::min(paragraph.find_first_not_of(' '), paragraph.size()));
    const std::size_t column = gap == std::string::npos ? std::string::npos : paragraph.find_first_not_of(' ', gap);
    const bool table = paragraph.starts_with(' ') && column != std::string::npos;
    all += paragraph.empty() ? "\n" : wrapped(paragraph, columns, table ? static_cast<int>(column) : 0);
  }
  return all;
}

}  // namespace

void Options::print_help() const {
  constexpr int widest = 100;  // longer lines are hard to read
  const int columns = std::min(TerminalStyle::of_stdout().columns, widest);
  print("usage: arbiter %s%s [options]\n\n%s\n", command_.c_str(),
        words_description_.placeholder.empty() ? "" : (" " + words_description_.placeholder).c_str(),
        filled(description_, columns).c_str());
  if (!words_description_.help.empty()) print("%s\n", filled(words_description_.help, columns).c_str());
  std::size_t width = 0;
  const auto spelled = [](const OptionDescription& declaration) {
    return "--" + declaration.name + (declaration.placeholder.empty() ? "" : " " + declaration.placeholder);
  };
  for (const OptionDescription& declaration : declarations_) {
    if (declaration.shown) width = std::max(width, spelled(declaration).size());
  }
  print("options:\n");
  for (const OptionDescription& declaration : declarations_) {
    if (!declaration.shown) continue;
    const int beside = static_cast<int>(width) + 4;
    std::istringstream lines(filled(declaration.help, columns - beside));
    std::string left = spelled(declaration);
    for (std::string line; std::getline(lines, line); left.clear()) {
      print("  %-*s  %s\n", static_cast<int>(width), left.c_str(), line.c_str());
    }
  }
  print("\nexample:\n");
  std::istringstream lines(example_);
  for (std::string line; std::getline(lines, line);) print("  %s\n", line.c_str());
}

bool Options::has(const std::string& name) const { return values_.contains(name); }

std::string Options::text(const std::string& name, const std::string& otherwise) const {
  const auto found = values_.find(name);
  return found == values_.end() ? otherwise : found->second.front();
}

std::vector<std::string> Options::texts(const std::string& name) const {
  std::vector<std::string> all;
  const auto found = values_.find(name);
  if (found == values_.end()) return all;
  for (const std::string& value : found->second) {
    for (std::string& part : split_list(value, name)) {
      if (std::find(all.begin(), all.end(), part) == all.end()) all.push_back(std::move(part));
    }
  }
  return all;
}

std::int64_t Options::integer(const std::string& name, std::int64_t min, std::int64_t max,
                              std::int64_t otherwise) const {
  return has(name) ? parse_integer(text(name), name, min, max) : otherwise;
}

std::vector<int> Options::integers(const std::string& name, int min, int max, std::vector<int> otherwise) const {
  const auto found = values_.find(name);
  if (found == values_.end()) return otherwise;
  std::set<int> numbers;
  for (const std::string& value : found->second) {
    for (const int number : parse_integer_ranges(value, name, min, max)) numbers.insert(number);
  }
  return {numbers.begin(), numbers.end()};
}

std::optional<std::chrono::milliseconds> Options::duration(const std::string& name) const {
  if (!has(name)) return std::nullopt;
  return parse_duration(text(name), name);
}

}  // namespace arbiter::cli
