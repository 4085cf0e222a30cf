// Databases made to hang or crash who reads them.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "db/fixtures.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter::test {

inline constexpr std::size_t page_bytes = 4096;  // SQLite's default

inline void put(std::string& bytes, std::size_t at, std::uint64_t value, int count) {
  for (int i = 0; i < count; ++i)
    bytes[at + static_cast<std::size_t>(i)] = static_cast<char>(value >> 8 * (count - 1 - i));
}

inline std::size_t get(const std::string& bytes, std::size_t at, std::size_t count) {
  std::size_t value = 0;
  for (std::size_t i = 0; i < count; ++i) value = value << 8U | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

/// The leaf of a table becomes the leaf of a tree whose every inner page points to the next one with each of its cells:
/// a handful of pages that read as more rows than could ever be read.
inline std::string with_shared_pages(const std::filesystem::path& snapshot, const std::string& table) {
  constexpr std::size_t levels = 18, cells = 3;  // few enough errors that a check goes on
  std::string bytes = read_file(snapshot);
  db::Connection raw = db::Connection::open(snapshot, db::Access::read, "raw");
  const auto root =
      static_cast<std::size_t>(raw.integer("SELECT rootpage FROM sqlite_schema WHERE name = '" + table + "'"));
  const std::string leaf = bytes.substr((root - 1) * page_bytes, page_bytes);
  EXPECT_EQ(leaf[0], 10) << "the table was expected to have one page";
  const std::size_t cell_at = get(leaf, 8, 2);
  std::size_t header = 1, payload = get(leaf, cell_at, 1);
  if (payload >= 128) {
    payload = (payload - 128) * 128 + get(leaf, cell_at + 1, 1);
    header = 2;
  }
  const std::string cell = leaf.substr(cell_at, header + payload);
  const std::size_t first_new = bytes.size() / page_bytes + 1;
  for (std::size_t level = 0; level <= levels; ++level) {
    std::string page(page_bytes, '\0');
    if (level == levels) {
      page = leaf;
    } else {
      const std::size_t child = first_new + level;
      page[0] = 2;  // an inner page of an index
      put(page, 3, cells, 2);
      std::size_t at = page_bytes;
      for (std::size_t i = 0; i < cells; ++i) {
        at -= 4 + cell.size();
        put(page, at, child, 4);
        page.replace(at + 4, cell.size(), cell);
        put(page, 12 + 2 * i, at, 2);
      }
      put(page, 5, at, 2);
      put(page, 8, child, 4);
    }
    if (level == 0) {
      bytes.replace((root - 1) * page_bytes, page_bytes, page);
    } else {
      bytes += page;
    }
  }
  put(bytes, 28, bytes.size() / page_bytes, 4);
  return bytes;
}

/// A copy of a database whose environments have `json` where an object of names and values belongs.
inline void write_with_json(const std::filesystem::path& database, const std::filesystem::path& evil,
                            const std::string& json) {
  std::filesystem::copy_file(database, evil, std::filesystem::copy_options::overwrite_existing);
  db::Connection raw = db::Connection::open(evil, db::Access::write, "raw");
  db::Statement(raw, "UPDATE environment SET nccl_variables = ?").bind(std::string_view(json)).run();
}

}  // namespace arbiter::test
