// What programs read. Shapes are promised in docs/cli.md: they are extended, never changed.
#pragma once

#include <llvm/Support/JSON.h>

#include <functional>
#include <string_view>

#include "arbiter/db/json_fields.hpp"

namespace arbiter::cli {

/// Schema number of every JSON document the program prints.
inline constexpr int json_schema = 1;

/// Print one object to standard output, attributes in the order `body` writes them.
void print_json(const std::function<void(llvm::json::OStream&)>& body);

/// The same, starting with "schema" and "environment".
void print_json(const Environment& environment, const std::function<void(llvm::json::OStream&)>& body);

/// "environment": every field of the fingerprint, and its key.
void write_environment(llvm::json::OStream& json, std::string_view name, const Environment& environment);

/// Six significant digits; null when it is not finite. As an attribute, or as an element of an array.
void write_number(llvm::json::OStream& json, std::string_view name, double number);
void write_number(llvm::json::OStream& json, double number);

}  // namespace arbiter::cli
