#include "text/completion.hpp"

#include <sstream>
#include <vector>

#include "arbiter/generator/joined.hpp"

namespace arbiter::cli {
namespace {

using Kind = OptionDescription::Kind;

bool names_file(const OptionDescription& option) { return option.placeholder == "FILE"; }

// ---- bash ----

/// "  'show --dtype')": what follows when the value of one option is asked for.
void bash_values(std::ostream& out, const std::string& command, const OptionDescription& option) {
  if (option.kind == Kind::flag) return;
  out << "    '" << command << " --" << option.name << "') ";
  if (names_file(option)) {
    out << "files=1 ;;\n";
  } else {
    // Nothing to offer is an answer too: an option's name would be wrong there.
    out << (option.kind == Kind::list ? "list" : "values") << "='" << joined(option.choices, " ") << "' ;;\n";
  }
}

void bash_command(std::ostream& out, const Options& options) {
  out << "    " << options.command() << ") options='";
  for (const OptionDescription& option : options.shown()) out << "--" << option.name << ' ';
  out << "' words='" << joined(options.words_description().choices, " ") << "'";
  if (options.words_description().files) out << " files=1";
  out << " ;;\n";
}

// ---- zsh ----

/// Inside single quotes, in a specification of _arguments: there brackets and colons mean something.
std::string zsh_text(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\'') {
      escaped += "'\\''";
      continue;
    }
    if (c == '[' || c == ']' || c == ':' || c == '\\') escaped += '\\';
    escaped += c == '\n' ? ' ' : c;
  }
  return escaped;
}

void zsh_option(std::ostream& out, const OptionDescription& option) {
  out << " \\\n        '" << (option.kind == Kind::list ? "*" : "") << "--" << option.name << "["
      << zsh_text(option.help) << "]";
  if (option.kind != Kind::flag) {
    out << ":" << zsh_text(option.placeholder) << ":";
    if (names_file(option)) {
      out << "_files";
    } else if (!option.choices.empty()) {
      out << (option.kind == Kind::list ? "_sequence compadd - " : "(") << joined(option.choices, " ")
          << (option.kind == Kind::list ? "" : ")");
    } else {
      out << " ";
    }
  }
  out << "'";
}

}  // namespace

std::string bash_completion(std::span<const Command> commands) {
  std::ostringstream out;
  std::vector<std::string> names;
  for (const Command& command : commands) names.emplace_back(command.name);
  out << "# bash completion for arbiter. Made by: arbiter completion bash\n"
         "_arbiter() {\n"
         "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n"
         "  local options='' words='' values='' list='' files=''\n"
         "  local commands='"
      << joined(names, " ")
      << "'\n"
         "  COMPREPLY=()\n"
         "  if ((COMP_CWORD == 1)); then\n"
         "    COMPREPLY=($(compgen -W \"$commands help --help --version\" -- \"$cur\"))\n"
         "    return\n"
         "  fi\n"
         "  # --option=value comes as three words.\n"
         "  if [[ $cur == = ]]; then\n"
         "    cur=''\n"
         "  elif [[ $prev == = ]]; then\n"
         "    prev=${COMP_WORDS[COMP_CWORD-2]}\n"
         "  fi\n"
         "  local value=1\n"
         "  case \"$command $prev\" in\n";
  for (const Command& command : commands) {
    const Options options = command.options();
    for (const OptionDescription& option : options.shown()) bash_values(out, options.command(), option);
  }
  out << "    *) value='' ;;\n"
         "  esac\n"
         "  if [[ -z $value ]]; then\n"
         "    case \"$command\" in\n";
  for (const Command& command : commands) {
    std::ostringstream line;
    bash_command(line, command.options());
    out << "  " << line.str();
  }
  out << "      help) words=$commands ;;\n"
         "    esac\n"
         "    if [[ $cur == -* ]]; then\n"
         "      values=$options files=''\n"
         "    else\n"
         "      values=$words\n"
         "    fi\n"
         "  fi\n"
         "  if [[ -n $files ]]; then\n"
         "    compopt -o filenames 2>/dev/null\n"
         "    mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
         "  elif [[ -n $list ]]; then\n"
         "    # What stands behind the last comma is completed.\n"
         "    COMPREPLY=($(compgen -P \"${cur%\"${cur##*,}\"}\" -W \"$list\" -- \"${cur##*,}\"))\n"
         "    compopt -o nospace 2>/dev/null\n"
         "  else\n"
         "    COMPREPLY=($(compgen -W \"$values\" -- \"$cur\"))\n"
         "  fi\n"
         "}\n"
         "complete -F _arbiter arbiter\n";
  return out.str();
}

std::string zsh_completion(std::span<const Command> commands) {
  std::ostringstream out;
  out << "#compdef arbiter\n"
         "# zsh completion for arbiter. Made by: arbiter completion zsh\n"
         "_arbiter() {\n"
         "  local -a commands=(\n";
  for (const Command& command : commands) {
    out << "    '" << command.name << ":" << zsh_text(std::string(command.summary)) << "'\n";
  }
  out << "    'help:what a command does'\n"
         "  )\n"
         "  if ((CURRENT == 2)); then\n"
         "    _describe -t commands command commands\n"
         "    return\n"
         "  fi\n"
         "  local command=$words[2]\n"
         "  shift words\n"
         "  ((CURRENT--))\n"
         "  case $command in\n"
         "    help) _describe -t commands command commands ;;\n";
  for (const Command& command : commands) {
    const Options options = command.options();
    out << "    " << command.name << ")\n      _arguments";
    for (const OptionDescription& option : options.shown()) zsh_option(out, option);
    const WordsDescription& words = options.words_description();
    if (words.files) {
      out << " \\\n        '*:" << zsh_text(words.placeholder) << ":_files'";
    } else if (!words.choices.empty()) {
      out << " \\\n        '1:" << zsh_text(words.placeholder) << ":(" << joined(words.choices, " ") << ")'";
    }
    // Nothing stands for other words: a message about them would keep zsh from completing options.
    out << "\n      ;;\n";
  }
  out << "  esac\n"
         "}\n"
         "# Loaded by the completion system, this file is the function; sourced, it makes itself known.\n"
         "if [[ $funcstack[1] == _arbiter ]]; then\n"
         "  _arbiter \"$@\"\n"
         "else\n"
         "  compdef _arbiter arbiter\n"
         "fi\n";
  return out.str();
}

}  // namespace arbiter::cli
