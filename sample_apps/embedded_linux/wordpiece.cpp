#include "wordpiece.hpp"

#include <algorithm>
#include <stdexcept>

#include "characters.hpp"
#include "lookup.hpp"

namespace {

using nlohmann::json;

// --- characters -------------------------------------------------------------------------------------------------------------------------

bool is_space(char32_t code) { return row_of(unicode::SPACE, code) != nullptr; }

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

Tokens WordPiece::encode(const std::string& text) const {
  const std::u32string chars = decoded(text);
  // Added tokens are looked for in the bare text; what lies between them is normalized and cut into words, each stretch for itself.
  Tokens out;
  std::size_t begin = 0, at = 0;
  while (at < chars.size()) {
    const Added* token = added_at(chars, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t start = at, stop = at + token->content.size();
    while (token->eats_left && start > begin && is_space(chars[start - 1])) --start;
    while (token->eats_right && stop < chars.size() && is_space(chars[stop])) ++stop;
    cut_into_words(normalized(chars, begin, start), out);
    out.ids.push_back(token->id);
    out.offsets.emplace_back(start, stop);
    begin = at = stop;
  }
  cut_into_words(normalized(chars, begin, chars.size()), out);

  const int room = max_tokens_ - static_cast<int>(before_.size() + after_.size());
  const std::size_t kept = std::min(out.ids.size(), static_cast<std::size_t>(std::max(0, room)));
  out.ids.resize(kept);
  out.offsets.resize(kept);
  out.ids.insert(out.ids.begin(), before_.begin(), before_.end());
  out.ids.insert(out.ids.end(), after_.begin(), after_.end());
  out.offsets.insert(out.offsets.begin(), before_.size(), {0, 0});
  out.offsets.insert(out.offsets.end(), after_.size(), {0, 0});
  return out;
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

WordPiece::Signs WordPiece::normalized(const std::u32string& text, std::size_t begin, std::size_t end) const {
  Signs spread;
  for (std::size_t at = begin; at < end; ++at) {
    char32_t code = text[at];
    if (clean_) {
      if (row_of(unicode::DROPPED, code) != nullptr) continue;
      if (row_of(unicode::CLEANED_TO_SPACE, code) != nullptr) code = U' ';
    }
    const bool alone = ideographs_ && row_of(unicode::IDEOGRAPH, code) != nullptr;
    if (alone) spread.push_back({U' ', at});
    spread.push_back({code, at});
    if (alone) spread.push_back({U' ', at});
  }

  Signs bare;
  if (strip_) {
    // Marks that stay come into canonical order (The Unicode Standard, 3.11): by class, within a run that any character of class 0 ends.
    std::size_t run = 0;
    const auto settle = [&] {
      std::stable_sort(bare.begin() + static_cast<std::ptrdiff_t>(run), bare.end(),
                       [](const Sign& one, const Sign& other) { return order_of(one.code) < order_of(other.code); });
      run = bare.size();
    };
    for (const Sign& sign : spread) {
      const std::u32string parts = stripped(sign.code);
      if (parts.empty() && order_of(sign.code) == 0) settle();
      for (const char32_t part : parts) {
        if (order_of(part) == 0) settle();
        bare.push_back({part, sign.from});
        if (order_of(part) == 0) run = bare.size();
      }
    }
    settle();
  } else {
    bare = std::move(spread);
  }
  if (!lowercase_) return bare;
  Signs out;
  for (const Sign& sign : bare) {
    if (sign.code == 0x130) {  // İ: the one capital whose small form is two characters
      out.push_back({U'i', sign.from});
      out.push_back({U'\u0307', sign.from});
    } else {
      out.push_back({small(sign.code), sign.from});
    }
  }
  return out;
}

void WordPiece::cut_into_words(const Signs& text, Tokens& out) const {
  std::size_t word = 0;
  for (std::size_t place = 0; place <= text.size(); ++place) {
    const bool end = place == text.size(), alone = !end && row_of(unicode::PUNCTUATION, text[place].code) != nullptr;
    if (!end && !alone && !is_space(text[place].code)) continue;
    if (place > word) add_word(text.data() + word, place - word, out);
    if (alone) add_word(text.data() + place, 1, out);
    word = place + 1;
  }
}

// Takes the longest piece of the vocabulary from the front, again and again; a word of which any part is in no piece is unknown as a whole.
void WordPiece::add_word(const Sign* word, std::size_t size, Tokens& out) const {
  const std::size_t before = out.ids.size();
  const auto add = [&](std::int64_t id, std::size_t start, std::size_t end) {
    out.ids.push_back(id);
    out.offsets.emplace_back(word[start].from, word[end - 1].from + 1);
  };
  const auto give_up = [&] {
    out.ids.resize(before);
    out.offsets.resize(before);
    add(unknown_, 0, size);
  };
  if (size > static_cast<std::size_t>(longest_word_)) return give_up();
  for (std::size_t start = 0; start < size;) {
    std::string piece = start == 0 ? "" : continuing_;
    std::vector<std::size_t> sizes;  // bytes of the piece with one character more each
    for (std::size_t place = start; place < size && piece.size() < longest_; ++place) {
      append(piece, word[place].code);
      sizes.push_back(piece.size());
    }
    for (; !sizes.empty(); sizes.pop_back()) {
      piece.resize(sizes.back());
      const auto found = vocabulary_.find(piece);
      if (found == vocabulary_.end()) continue;
      add(found->second, start, start + sizes.size());
      break;
    }
    if (sizes.empty()) return give_up();
    start += sizes.size();
  }
}
