// Characters of a text: UTF-8 to code points and back, and the words that taggers answer for.
#pragma once

#include <string>
#include <utility>
#include <vector>

std::u32string decoded(const std::string& text);  // of valid UTF-8
std::string encoded(const std::u32string& text);
void append(std::string& out, char32_t code);

// (start, end) of each word in characters, by the rule of edgedistill/tasks/tag.py: a run of letters, digits and their combining marks; one character of a
// script that writes no spaces; or one other sign.
std::vector<std::pair<std::size_t, std::size_t>> words_of(const std::u32string& text);

// NFC, The Unicode Standard, 3.11: composed as far as canonical equivalence goes.
std::u32string composed(const std::u32string& text);
