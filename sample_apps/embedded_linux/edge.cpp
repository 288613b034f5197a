// The app: answers texts with a bundle, one JSON line each.
//
//   ./edge "Who wrote Hamlet ?"          texts as arguments, or one a line on standard input
//   ./edge --bundle DIR --golden         checks the bundle's golden vectors on this device; exit code 1 when one differs
//   ./edge --ids                         each line of standard input is a JSON string; gives its token ids
//
// The bundle is the folder "bundle" beside the program unless --bundle says otherwise. Exit codes: 0 done, 1 a golden vector differs, 2 wrong input.

#include <filesystem>
#include <iostream>

#include "bundle.hpp"

using nlohmann::json;

namespace {

void say(const json& line) { std::cout << line.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl; }

}  // namespace

int main(int count, char** words) try {
  std::string bundle = (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "bundle").string();
  std::vector<std::string> texts;
  bool golden = false, ids = false;
  for (int place = 1; place < count; ++place) {
    const std::string word = words[place];
    if (word == "--golden") {
      golden = true;
    } else if (word == "--ids") {
      ids = true;
    } else if (word == "--bundle" && place + 1 < count) {
      bundle = words[++place];
    } else if (word.rfind("--", 0) == 0) {
      std::cerr << "usage: edge [--bundle DIR] [--golden | --ids] [TEXT]...\n";
      return 2;
    } else {
      texts.push_back(word);
    }
  }
  Bundle opened(bundle);
  if (golden) {
    const json seen = opened.check();
    say(seen);
    return seen.at("golden") == "equal" ? 0 : 1;
  }
  if (ids) {
    for (std::string line; std::getline(std::cin, line);) say(opened.encode(json::parse(line).get<std::string>()).ids);
    return 0;
  }
  for (const std::string& text : texts) say(opened.ask(text));
  if (texts.empty())
    for (std::string line; std::getline(std::cin, line);) say(opened.ask(line));
  return 0;
} catch (const std::exception& problem) {
  std::cerr << "edge: " << problem.what() << "\n";
  return 2;
}
