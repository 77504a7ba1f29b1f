#include "cli/load/words.h"

#include <array>
#include <string_view>

#include "base/rng.h"

namespace penstock::cli::load {
namespace {

// Eight words come out of one 64-bit number, a byte each. As the first number of a stream is a
// bijection of the stream's id, two streams differ within eight words.
constexpr std::array<std::string_view, 256> kWords = {
    "time",       "year",        "people",     "way",        "day",          "man",
    "thing",      "woman",       "life",       "child",      "world",        "school",
    "state",      "family",      "group",      "country",    "problem",      "hand",
    "part",       "place",       "case",       "week",       "company",      "system",
    "program",    "question",    "work",       "government", "number",       "night",
    "point",      "home",        "water",      "room",       "mother",       "area",
    "money",      "story",       "fact",       "month",      "lot",          "right",
    "study",      "book",        "eye",        "job",        "word",         "business",
    "issue",      "side",        "kind",       "head",       "house",        "service",
    "friend",     "father",      "power",      "hour",       "game",         "line",
    "end",        "member",      "law",        "car",        "city",         "community",
    "name",       "president",   "team",       "minute",     "idea",         "kid",
    "body",       "information", "back",       "parent",     "face",         "others",
    "level",      "office",      "door",       "health",     "person",       "art",
    "war",        "history",     "party",      "result",     "change",       "morning",
    "reason",     "research",    "girl",       "guy",        "moment",       "air",
    "teacher",    "force",       "education",  "foot",       "boy",          "age",
    "policy",     "music",       "market",     "sense",      "nation",       "plan",
    "college",    "interest",    "death",      "experience", "effect",       "use",
    "class",      "control",     "care",       "field",      "development",  "role",
    "effort",     "rate",        "heart",      "drug",       "show",         "leader",
    "light",      "voice",       "wife",       "police",     "mind",         "price",
    "report",     "decision",    "son",        "view",       "relationship", "town",
    "road",       "arm",         "difference", "value",      "building",     "action",
    "season",     "society",     "tax",        "director",   "position",     "player",
    "record",     "paper",       "space",      "ground",     "form",         "event",
    "official",   "matter",      "center",     "couple",     "site",         "project",
    "activity",   "star",        "table",      "need",       "court",        "oil",
    "situation",  "cost",        "industry",   "figure",     "street",       "image",
    "phone",      "data",        "picture",    "practice",   "piece",        "land",
    "product",    "doctor",      "wall",       "patient",    "worker",       "news",
    "test",       "movie",       "north",      "love",       "support",      "technology",
    "step",       "baby",        "computer",   "type",       "attention",    "film",
    "tree",       "source",      "hair",       "look",       "window",       "culture",
    "chance",     "brother",     "energy",     "period",     "course",       "summer",
    "plant",      "opportunity", "term",       "letter",     "condition",    "choice",
    "rule",       "south",       "husband",    "floor",      "campaign",     "material",
    "population", "call",        "economy",    "hospital",   "church",       "risk",
    "fire",       "future",      "bank",       "west",       "sport",        "board",
    "subject",    "officer",     "rest",       "behavior",   "performance",  "fight",
    "top",        "goal",        "second",     "bed",        "order",        "author",
    "blood",      "agency",      "nature",     "color",      "store",        "sound",
    "movement",   "page",        "race",       "concern"};
constexpr std::size_t kWordsANumber = 8;

}  // namespace

void append_words(std::string& out, std::uint64_t stream, std::size_t count) {
  Rng random(stream);
  std::uint64_t number = 0;
  for (std::size_t i = 0; i < count; ++i) {
    number = i % kWordsANumber == 0 ? random.next() : number >> 8;
    out += ' ';
    out += kWords[number & 0xff];
  }
}

std::string words_of_size(std::uint64_t stream, std::size_t size_bytes) {
  constexpr std::size_t kBytesAWordMin = 4;  // three letters and a space
  std::string text;
  append_words(text, stream, size_bytes / kBytesAWordMin + 1);
  text.resize(size_bytes);
  return text;
}

std::uint64_t stream_of(std::uint64_t seed, Stream kind, std::uint64_t session,
                        std::uint32_t turn) noexcept {
  return mix64(seed) ^ (static_cast<std::uint64_t>(kind) << 56 |
                        static_cast<std::uint64_t>(turn) << 40 | session);
}

}  // namespace penstock::cli::load
