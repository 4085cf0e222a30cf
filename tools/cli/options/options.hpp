// The options of one command: declared once, used for parsing, for --help and for suggestions.
// Values are kept as text and read by the strict readers of numbers.hpp.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arbiter/error.hpp"

namespace arbiter::cli {

using Arguments = std::span<const std::string>;

/// The command line was used wrongly: exit code 2, with a pointer to the command's --help.
class UsageError : public Error {
 public:
  using Error::Error;
};

class UnknownCommand : public UsageError {
 public:
  using UsageError::UsageError;
};

/// An option as it was declared.
struct OptionDescription {
  enum class Kind : std::uint8_t { flag, value, list };
  std::string name;         ///< without dashes
  std::string placeholder;  ///< of its value; empty for a flag. FILE: the name of a file
  std::string help;         ///< one or more lines
  Kind kind{};
  bool shown = true;
  std::vector<std::string> choices;  ///< the values that there are; empty: any
};

/// The words without dashes that a command takes.
struct WordsDescription {
  std::string placeholder;
  std::string help;
  int most = 0;
  std::vector<std::string> choices;  ///< of the first word; empty: any
  bool files = false;                ///< each names a file
};

class Options {
 public:
  /// `description`: what the command does, one or more sentences. `example`: complete commands, one per line.
  Options(std::string command, std::string description, std::string example);

  Options& flag(const std::string& name, const std::string& help);
  /// An option with a value, given at most once.
  Options& value(const std::string& name, const std::string& placeholder, const std::string& help);
  /// --output FILE, also spelled -o: a file for write_output().
  Options& output(const std::string& help);
  /// An option that may be repeated and whose values may be lists: --tokens 1,16 --tokens 64.
  Options& list(const std::string& name, const std::string& placeholder, const std::string& help);
  /// Parsed, but not shown: how the program calls itself.
  Options& internal(const std::string& name);
  /// Up to `most` words without dashes.
  Options& words(const std::string& placeholder, const std::string& help, int most);
  /// The values of the option, or the words, declared last: for the shells' completion. They are not enforced here.
  Options& choices(std::vector<std::string> values);
  /// The words declared last name files.
  Options& files();

  const std::string& command() const noexcept { return command_; }
  const std::string& description() const noexcept { return description_; }
  const std::string& example() const noexcept { return example_; }
  const WordsDescription& words_description() const noexcept { return words_description_; }
  std::vector<OptionDescription> shown() const;  ///< in the order in which they were declared

  /// False when --help was asked for; it has been printed then. Throws UsageError with the nearest valid option.
  bool parse(Arguments arguments);
  const std::vector<std::string>& arguments() const noexcept { return arguments_; }  ///< as they were typed

  bool has(const std::string& name) const;
  std::string text(const std::string& name, const std::string& otherwise = "") const;
  std::vector<std::string> texts(const std::string& name) const;  ///< the values of a list, each once, in order
  std::int64_t integer(const std::string& name, std::int64_t min, std::int64_t max, std::int64_t otherwise) const;
  /// Ascending, without duplicates; ranges such as 1-4 allowed.
  std::vector<int> integers(const std::string& name, int min, int max, std::vector<int> otherwise) const;
  std::optional<std::chrono::milliseconds> duration(const std::string& name) const;
  const std::vector<std::string>& words() const noexcept { return words_; }

 private:
  using Kind = OptionDescription::Kind;

  Options& declare(const std::string& name, const std::string& placeholder, const std::string& help, Kind, bool shown);
  void print_help() const;

  std::string command_;
  std::string description_;
  std::string example_;
  std::vector<OptionDescription> declarations_;
  WordsDescription words_description_;
  bool words_last_ = false;  ///< what choices() is about
  std::vector<std::string> arguments_;
  std::map<std::string, std::vector<std::string>> values_;
  std::vector<std::string> words_;
};

}  // namespace arbiter::cli
