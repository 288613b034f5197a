#include "characters.hpp"

#include <algorithm>

#include "lookup.hpp"

std::u32string decoded(const std::string& text) {
  std::u32string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const auto lead = static_cast<unsigned char>(text[at]);
    const int more = lead < 0x80 ? 0 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
    char32_t code = more == 0 ? lead : lead & (0x3F >> more);
    for (int next = 1; next <= more; ++next) code = code << 6 | (static_cast<unsigned char>(text[at + next]) & 0x3F);
    out.push_back(code);
    at += 1 + more;
  }
  return out;
}

void append(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
  } else if (code < 0x10000) {
    out += {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 0x3F)), static_cast<char>(0x80 | (code & 0x3F))};
  } else {
    out += {static_cast<char>(0xF0 | code >> 18), static_cast<char>(0x80 | (code >> 12 & 0x3F)), static_cast<char>(0x80 | (code >> 6 & 0x3F)),
            static_cast<char>(0x80 | (code & 0x3F))};
  }
}

std::string encoded(const std::u32string& text) {
  std::string out;
  for (const char32_t code : text) append(out, code);
  return out;
}

namespace {

// Of the scripts that write no spaces: Thai and Lao, kana, ideographs.
bool stands_alone(char32_t code) {
  return (code >= 0x0E00 && code <= 0x0EFF) || (code >= 0x3040 && code <= 0x30FF) || (code >= 0x3400 && code <= 0x4DBF) ||
         (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0xF900 && code <= 0xFAFF);
}

bool is_mark(char32_t code) { return code >= 0x300 && code <= 0x36F; }

bool is_letter(char32_t code) { return row_of(unicode::LETTER, code) != nullptr && !stands_alone(code); }

}  // namespace

std::vector<std::pair<std::size_t, std::size_t>> words_of(const std::u32string& text) {
  std::vector<std::pair<std::size_t, std::size_t>> found;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at++;
    if (!stands_alone(text[start]) && is_letter(text[start])) {
      while (at < text.size() && is_letter(text[at])) ++at;
      while (at < text.size() && is_mark(text[at])) ++at;
    } else if (!stands_alone(text[start]) && row_of(unicode::BLANK, text[start]) != nullptr) {
      continue;
    }
    found.emplace_back(start, at);
  }
  return found;
}

int order_of(char32_t code) {
  const auto* row = row_of(unicode::ORDER, code);
  return row == nullptr ? 0 : row->order;
}

namespace {

constexpr char32_t SYLLABLES = 0xAC00, LEADING = 0x1100, VOWELS = 0x1161, TRAILING = 0x11A7;  // Hangul: The Unicode Standard, 3.12

// One character of two, or 0.
char32_t joined(char32_t one, char32_t other) {
  if (one >= LEADING && one < LEADING + 19 && other >= VOWELS && other < VOWELS + 21) return SYLLABLES + ((one - LEADING) * 21 + other - VOWELS) * 28;
  if (one >= SYLLABLES && one < SYLLABLES + 11172 && (one - SYLLABLES) % 28 == 0 && other > TRAILING && other < TRAILING + 28) return one + other - TRAILING;
  const auto* found = std::lower_bound(std::begin(unicode::COMPOSED), std::end(unicode::COMPOSED), std::pair{one, other},
                                       [](const unicode::Joined& row, const std::pair<char32_t, char32_t>& wanted) {
                                         return std::pair{row.first, row.second} < wanted;
                                       });
  return found != std::end(unicode::COMPOSED) && found->first == one && found->second == other ? found->to : 0;
}

}  // namespace

std::u32string composed(const std::u32string& text) {
  std::u32string apart;  // Hangul stays whole: taken apart and joined again it is what it was
  for (const char32_t code : text) {
    if (const auto* parts = entry_of(unicode::DECOMPOSED, code)) {
      for (int place = 0; place < 4 && parts->to[place] != 0; ++place) apart += parts->to[place];
    } else {
      apart += code;
    }
  }
  for (std::size_t run = 0; run < apart.size();) {
    std::size_t end = run;
    while (end < apart.size() && order_of(apart[end]) != 0) ++end;
    std::stable_sort(apart.begin() + static_cast<std::ptrdiff_t>(run), apart.begin() + static_cast<std::ptrdiff_t>(end),
                     [](char32_t one, char32_t other) { return order_of(one) < order_of(other); });
    run = end + 1;
  }
  std::u32string out;
  std::size_t starter = std::u32string::npos;
  int last = 0;  // class of the character before, counted from the starter
  for (const char32_t code : apart) {
    const int order = order_of(code);
    const bool beside = starter != std::u32string::npos && starter + 1 == out.size();
    if (starter != std::u32string::npos && (beside || (last != 0 && last < order))) {
      if (const char32_t one = joined(out[starter], code)) {
        out[starter] = one;
        continue;
      }
    }
    out += code;
    last = order;
    if (order == 0) starter = out.size() - 1;
  }
  return out;
}
