// WordPiece, as BERT cuts text (arXiv:1609.08144): reads the tokenizer.json of a bundle and gives the ids that the tokenizers library gives.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "model.hpp"

class WordPiece {
 public:
  // `file`: the content of tokenizer.json. Throws std::runtime_error for a tokenizer of another kind: wrong ids would look like answers.
  WordPiece(const nlohmann::json& file, int max_tokens);

  // Token ids and where they stand. `text`: valid UTF-8. Cut off so that it has at most max_tokens ids, its special tokens included.
  Tokens encode(const std::string& text) const;

 private:
  struct Added {
    std::u32string content;
    std::int64_t id;
    bool eats_left, eats_right;  // spaces beside it belong to it
  };

  // A character after normalization, and which character of the text it comes from.
  struct Sign {
    char32_t code;
    std::size_t from;
  };
  using Signs = std::vector<Sign>;

  const Added* added_at(const std::u32string& text, std::size_t place) const;
  Signs normalized(const std::u32string& text, std::size_t begin, std::size_t end) const;
  void cut_into_words(const Signs& text, Tokens& out) const;
  void add_word(const Sign* word, std::size_t size, Tokens& out) const;

  std::unordered_map<std::string, std::int64_t> vocabulary_;
  std::vector<Added> added_;
  std::vector<std::int64_t> before_, after_;  // the special tokens around every text
  std::string continuing_;
  std::int64_t unknown_ = 0;
  std::size_t longest_ = 0;  // bytes of the longest piece
  int longest_word_ = 100, max_tokens_;
  bool clean_ = true, ideographs_ = true, strip_ = true, lowercase_ = true;
};
