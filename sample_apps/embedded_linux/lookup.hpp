// How the tables of unicode_tables.hpp are read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "unicode_tables.hpp"

// The row of a sorted table whose first..last holds `code`, or null.
template <typename Row, std::size_t Count>
const Row* row_of(const Row (&table)[Count], char32_t code) {
  const Row* next = std::upper_bound(std::begin(table), std::end(table), code, [](char32_t wanted, const Row& row) { return wanted < row.first; });
  return next != std::begin(table) && code <= std::prev(next)->last ? std::prev(next) : nullptr;
}

// The row of a sorted table that is `code`'s, or null.
template <typename Row, std::size_t Count>
const Row* entry_of(const Row (&table)[Count], char32_t code) {
  const Row* found = std::lower_bound(std::begin(table), std::end(table), code, [](const Row& row, char32_t wanted) { return row.from < wanted; });
  return found != std::end(table) && found->from == code ? found : nullptr;
}

int order_of(char32_t code);  // canonical combining class
