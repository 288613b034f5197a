#include "wordpiece.hpp"

#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "unicode_tables.hpp"

namespace {

using nlohmann::json;

// --- characters -------------------------------------------------------------------------------------------------------------------------

// The row of a sorted table whose first..last holds `code`, or null.
template <typename Row, std::size_t Count>
const Row* row_of(const Row (&table)[Count], char32_t code) {
  const Row* next = std::upper_bound(std::begin(table), std::end(table), code, [](char32_t wanted, const Row& row) { return wanted < row.first; });
  return next != std::begin(table) && code <= std::prev(next)->last ? std::prev(next) : nullptr;
}

template <typename Row, std::size_t Count>
const Row* entry_of(const Row (&table)[Count], char32_t code) {
  const Row* found = std::lower_bound(std::begin(table), std::end(table), code, [](const Row& row, char32_t wanted) { return row.from < wanted; });
  return found != std::end(table) && found->from == code ? found : nullptr;
}

bool is_space(char32_t code) { return row_of(unicode::SPACE, code) != nullptr; }

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

// What stripping accents leaves of one character: canonical decomposition without its non-spacing marks.
std::u32string stripped(char32_t code) {
  constexpr char32_t syllables = 0xAC00, leading = 0x1100, vowels = 0x1161, trailing = 0x11A7;  // The Unicode Standard, 3.12
  if (code >= syllables && code < syllables + 11172) {
    const char32_t index = code - syllables;
    std::u32string parts{leading + index / 588, vowels + index % 588 / 28};
    if (index % 28 != 0) parts += trailing + index % 28;
    return parts;
  }
  if (row_of(unicode::MARK, code) != nullptr) return {};
  if (const auto* one = entry_of(unicode::STRIPPED, code)) return {one->to};
  if (const auto* some = entry_of(unicode::STRIPPED_TO_SEVERAL, code)) {
    std::u32string parts{some->to[0], some->to[1]};
    if (some->to[2] != 0) parts += some->to[2];
    return parts;
  }
  return {code};
}

int order(char32_t code) {
  const auto* row = row_of(unicode::ORDER, code);
  return row == nullptr ? 0 : row->order;
}

char32_t small(char32_t code) {
  const auto* run = row_of(unicode::SMALL, code);
  return run == nullptr || (code - run->first) % run->step != 0 ? code : code + run->shift;
}

// --- tokenizer.json ---------------------------------------------------------------------------------------------------------------------

[[noreturn]] void refuse(const std::string& what) {
  throw std::runtime_error("the tokenizer has " + what + ", which this program does not know: it reads BERT's WordPiece");
}

std::string type_of(const json& part) { return part.is_object() ? part.value("type", "?") : "none"; }

bool flag(const json& part, const char* name, bool otherwise) {
  const auto found = part.find(name);
  return found == part.end() || found->is_null() ? otherwise : found->get<bool>();
}

}  // namespace

WordPiece::WordPiece(const json& file, int max_tokens) : max_tokens_(max_tokens) {
  const json &model = file.at("model"), &normalizer = file.at("normalizer"), &cutter = file.at("pre_tokenizer"), &ends = file.at("post_processor");
  if (type_of(model) != "WordPiece") refuse("a model of type " + type_of(model));
  if (type_of(normalizer) != "BertNormalizer") refuse("a normalizer of type " + type_of(normalizer));
  if (type_of(cutter) != "BertPreTokenizer") refuse("a pre-tokenizer of type " + type_of(cutter));
  clean_ = flag(normalizer, "clean_text", true);
  ideographs_ = flag(normalizer, "handle_chinese_chars", true);
  lowercase_ = flag(normalizer, "lowercase", true);
  strip_ = flag(normalizer, "strip_accents", lowercase_);

  continuing_ = model.at("continuing_subword_prefix").get<std::string>();
  longest_word_ = model.at("max_input_chars_per_word").get<int>();
  vocabulary_.reserve(model.at("vocab").size());
  for (const auto& [piece, id] : model.at("vocab").items()) {
    vocabulary_.emplace(piece, id.get<std::int64_t>());
    longest_ = std::max(longest_, piece.size());
  }
  unknown_ = vocabulary_.at(model.at("unk_token").get<std::string>());

  for (const json& token : file.at("added_tokens")) {
    if (token.at("normalized").get<bool>()) refuse("an added token that is looked for in normalized text (" + token.at("content").dump() + ")");
    if (token.at("single_word").get<bool>()) refuse("an added token that must be a word (" + token.at("content").dump() + ")");
    added_.push_back({decoded(token.at("content").get<std::string>()), token.at("id").get<std::int64_t>(), token.at("lstrip").get<bool>(),
                      token.at("rstrip").get<bool>()});
  }

  if (type_of(ends) == "BertProcessing") {
    before_ = {ends.at("cls").at(1).get<std::int64_t>()};
    after_ = {ends.at("sep").at(1).get<std::int64_t>()};
  } else if (type_of(ends) == "TemplateProcessing") {
    auto* side = &before_;
    for (const json& part : ends.at("single")) {
      if (part.contains("Sequence")) {
        side = &after_;
        continue;
      }
      const auto name = part.at("SpecialToken").at("id").get<std::string>();
      for (const json& id : ends.at("special_tokens").at(name).at("ids")) side->push_back(id.get<std::int64_t>());
    }
  } else if (!ends.is_null()) {
    refuse("a post-processor of type " + type_of(ends));
  }
}

std::vector<std::int64_t> WordPiece::encode(const std::string& text) const {
  const std::u32string chars = decoded(text);
  // Added tokens are looked for in the bare text; what lies between them is normalized and cut into words, each stretch for itself.
  std::vector<std::int64_t> ids;
  std::size_t begin = 0, at = 0;
  const auto stretch = [&](std::size_t end) { cut_into_words(normalized(std::u32string_view(chars).substr(begin, end - begin)), ids); };
  while (at < chars.size()) {
    const Added* token = added_at(chars, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t start = at, stop = at + token->content.size();
    while (token->eats_left && start > begin && is_space(chars[start - 1])) --start;
    while (token->eats_right && stop < chars.size() && is_space(chars[stop])) ++stop;
    stretch(start);
    ids.push_back(token->id);
    begin = at = stop;
  }
  stretch(chars.size());

  const int room = max_tokens_ - static_cast<int>(before_.size() + after_.size());
  ids.resize(std::min(ids.size(), static_cast<std::size_t>(std::max(0, room))));
  ids.insert(ids.begin(), before_.begin(), before_.end());
  ids.insert(ids.end(), after_.begin(), after_.end());
  return ids;
}

// The longest added token that begins at `place`, or null.
const WordPiece::Added* WordPiece::added_at(const std::u32string& text, std::size_t place) const {
  const Added* best = nullptr;
  for (const Added& token : added_) {
    const std::size_t size = token.content.size();
    if (size == 0 || (best != nullptr && size <= best->content.size())) continue;
    if (text.compare(place, size, token.content) == 0) best = &token;
  }
  return best;
}

std::u32string WordPiece::normalized(std::u32string_view text) const {
  std::u32string spread;
  for (char32_t code : text) {
    if (clean_) {
      if (row_of(unicode::DROPPED, code) != nullptr) continue;
      if (row_of(unicode::CLEANED_TO_SPACE, code) != nullptr) code = U' ';
    }
    const bool alone = ideographs_ && row_of(unicode::IDEOGRAPH, code) != nullptr;
    if (alone) spread += U' ';
    spread += code;
    if (alone) spread += U' ';
  }

  std::u32string bare;
  if (strip_) {
    // Marks that stay come into canonical order (The Unicode Standard, 3.11): by class, within a run that any character of class 0 ends.
    std::size_t run = 0;
    const auto settle = [&] {
      std::stable_sort(bare.begin() + static_cast<std::ptrdiff_t>(run), bare.end(), [](char32_t one, char32_t other) { return order(one) < order(other); });
      run = bare.size();
    };
    for (const char32_t code : spread) {
      const std::u32string parts = stripped(code);
      if (parts.empty() && order(code) == 0) settle();
      for (const char32_t part : parts) {
        if (order(part) == 0) settle();
        bare += part;
        if (order(part) == 0) run = bare.size();
      }
    }
    settle();
  } else {
    bare = std::move(spread);
  }
  if (!lowercase_) return bare;
  std::u32string out;
  for (const char32_t code : bare) {
    if (code == 0x130) {  // İ: the one capital whose small form is two characters
      out += U"i\u0307";
    } else {
      out += small(code);
    }
  }
  return out;
}

void WordPiece::cut_into_words(const std::u32string& text, std::vector<std::int64_t>& ids) const {
  const std::u32string_view whole(text);
  std::size_t word = 0;
  for (std::size_t place = 0; place <= text.size(); ++place) {
    const bool end = place == text.size(), alone = !end && row_of(unicode::PUNCTUATION, text[place]) != nullptr;
    if (!end && !alone && !is_space(text[place])) continue;
    if (place > word) add_word(whole.substr(word, place - word), ids);
    if (alone) add_word(whole.substr(place, 1), ids);
    word = place + 1;
  }
}

// Takes the longest piece of the vocabulary from the front, again and again; a word of which any part is in no piece is unknown as a whole.
void WordPiece::add_word(std::u32string_view word, std::vector<std::int64_t>& ids) const {
  const std::size_t before = ids.size();
  const auto give_up = [&] {
    ids.resize(before);
    ids.push_back(unknown_);
  };
  if (word.size() > static_cast<std::size_t>(longest_word_)) return give_up();
  for (std::size_t start = 0; start < word.size();) {
    std::string piece = start == 0 ? "" : continuing_;
    std::vector<std::size_t> sizes;  // bytes of the piece with one character more each
    for (std::size_t place = start; place < word.size() && piece.size() < longest_; ++place) {
      append(piece, word[place]);
      sizes.push_back(piece.size());
    }
    for (; !sizes.empty(); sizes.pop_back()) {
      piece.resize(sizes.back());
      const auto found = vocabulary_.find(piece);
      if (found == vocabulary_.end()) continue;
      ids.push_back(found->second);
      break;
    }
    if (sizes.empty()) return give_up();
    start += sizes.size();
  }
}
