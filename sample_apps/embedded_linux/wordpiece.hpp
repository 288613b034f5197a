// WordPiece, as BERT cuts text (arXiv:1609.08144): reads the tokenizer.json of a bundle and gives the ids that the tokenizers library gives.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

class WordPiece {
 public:
  // `file`: the content of tokenizer.json. Throws std::runtime_error for a tokenizer of another kind: wrong ids would look like answers.
  WordPiece(const nlohmann::json& file, int max_tokens);

  // Token ids. `text`: valid UTF-8. Cut off so that it has at most max_tokens ids, its special tokens included.
  std::vector<std::int64_t> encode(const std::string& text) const;

 private:
  struct Added {
    std::u32string content;
    std::int64_t id;
    bool eats_left, eats_right;  // spaces beside it belong to it
  };

  const Added* added_at(const std::u32string& text, std::size_t place) const;
  std::u32string normalized(std::u32string_view text) const;
  void cut_into_words(const std::u32string& text, std::vector<std::int64_t>& ids) const;
  void add_word(std::u32string_view word, std::vector<std::int64_t>& ids) const;

  std::unordered_map<std::string, std::int64_t> vocabulary_;
  std::vector<Added> added_;
  std::vector<std::int64_t> before_, after_;  // the special tokens around every text
  std::string continuing_;
  std::int64_t unknown_ = 0;
  std::size_t longest_ = 0;  // bytes of the longest piece
  int longest_word_ = 100, max_tokens_;
  bool clean_ = true, ideographs_ = true, strip_ = true, lowercase_ = true;
};
